// SPDX-License-Identifier: Apache-2.0
//
// An objective of your own: one struct with a call operator, handed to calibrate_rotation.
//
// This one charges for values beyond one root mean square, f(x) = max(|x| - 1, 0)^2, a smooth relative of
// the count of outliers that DartQuant's paper begins with (its eq. 1). It is compared with Whip and with a
// random Hadamard on synthetic activations in which every 32nd channel is large.
#include <dartquant/calibrate/calibrate.hpp>

#include <cmath>
#include <cstdio>

namespace dq = dartquant;

/// One value at a time: V is float on a device and a short array of floats on the CPU, so plain arithmetic
/// and functions called without std:: work for both.
struct Excess {
  template <class V>
  void operator()(V const& x, V& value, V& slope) const {
    using std::abs;
    V const above = (x - 1 + abs(x - 1)) / 2;  // max(x - 1, 0)
    V const below = (abs(x + 1) - x - 1) / 2;  // max(-x - 1, 0)
    value = above * above + below * below;
    slope = 2 * (above - below);
  }
};

static dq::RowMatrix<float> activations(dq::index_t tokens, dq::index_t channels) {
  dq::RowMatrix<float> X(tokens, channels);
  dq::Philox const random(7);
  for (dq::index_t i = 0; i < X.size(); ++i) {
    double const normal = random.normal(static_cast<std::uint64_t>(i));
    X.data()[i] = static_cast<float>(i % 32 == 3 ? 5 * normal + 10 : normal);
  }
  dq::Cpu(1).normalize_rows<float>(X);
  return X;
}

int main() {
  dq::Cpu const cpu;
  dq::RowMatrix<float> const X = activations(8192, 128);

  auto const report = [&](char const* name, dq::RowMatrix<double> const& R) {
    dq::RowMatrix<float> const O = dq::apply(cpu, R, X);
    double const size = static_cast<double>(O.size());
    double const outliers = static_cast<double>((O.array().abs() > 3).count()) / size;
    std::printf("%-16s largest %6.3f   beyond 3 RMS %.5f %%   4-bit error %.5f   Whip %.4f\n", name,
                static_cast<double>(O.cwiseAbs().maxCoeff()), 100 * outliers,
                dq::loss_per_channel(cpu, O, dq::QuantError{.bits = 4}), dq::loss_per_channel(cpu, O));
  };
  report("no rotation", dq::RowMatrix<double>::Identity(128, 128));
  report("random Hadamard", dq::random_hadamard(128, 1));
  report("Whip", dq::calibrate_rotation(cpu, X, {.seed = 1}).rotation);
  report("Excess (ours)", dq::calibrate_rotation(cpu, X, dq::CalibrationOptions<Excess>{.seed = 1}).rotation);
}
