// SPDX-License-Identifier: Apache-2.0
#include "end_to_end/tune.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <dartquant/core/random.hpp>
#include <dartquant/transform/rotation.hpp>

#include "end_to_end/output_divergence.hpp"

namespace dartquant::end_to_end {
namespace {

/// The moments of one rotation.
class SkewDescent {
 public:
  SkewDescent(index_t size, double momentum)
      : momentum_(momentum), mean_(RowMatrix<double>::Zero(size, size)) {}

  void step(Cpu const& cpu, RowMatrix<double> const& gradient, double rate, RowMatrix<double>& R) {
    constexpr double slow = 0.99;
    RowMatrix<double> A = R.transpose() * gradient;
    A = (A - A.transpose().eval()) / 2;
    ++taken_;
    mean_ = momentum_ * mean_ + (1 - momentum_) * A;
    power_ = slow * power_ + (1 - slow) * A.squaredNorm();
    double const m = 1 - std::pow(momentum_, taken_), v = power_ / (1 - std::pow(slow, taken_));
    if (!(v > 0)) return;
    RowMatrix<double> const turn =
        mean_ * (rate * std::sqrt(static_cast<double>(R.rows())) / (m * std::sqrt(v)));
    R -= (R * turn).eval();
    reorthonormalize(cpu, MatrixView<double>(R));
  }

 private:
  double momentum_, power_ = 0;
  RowMatrix<double> mean_;
  int taken_ = 0;
};

/// R1 and R2 in single precision.
FoldedRotations<float> single_precision(Rotations const& rotations) {
  FoldedRotations<float> at{rotations.r1.cast<float>(), {}};
  for (auto const& heads : rotations.r2) {
    at.r2.emplace_back();
    for (RowMatrix<double> const& R : heads) at.r2.back().push_back(R.cast<float>());
  }
  return at;
}

/// The windows of one step, and the original's hidden states there.
struct Batch {
  TokenWindows windows;
  RowMatrix<float> hidden;
};

Batch draw(Baseline const& original, std::vector<index_t> const& numbers) {
  index_t const tokens = original.windows.cols(), count = static_cast<index_t>(numbers.size());
  Batch batch{TokenWindows(count, tokens), RowMatrix<float>(count * tokens, original.hidden.cols())};
  for (index_t i = 0; i < count; ++i) {
    index_t const from = numbers[static_cast<std::size_t>(i)];
    batch.windows.row(i) = original.windows.row(from);
    batch.hidden.middleRows(i * tokens, tokens) = original.hidden.middleRows(from * tokens, tokens);
  }
  return batch;
}

}  // namespace

std::vector<double> tune(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                         TuneOptions const& options, std::uint64_t seed, Rotations& rotations) {
  OutputDivergence<float> divergence(cpu, model, rotations, options.quantization);
  Baseline const original = baseline_of(cpu, model, windows);
  index_t const batch_windows = std::min(options.batch_windows, windows.rows());
  SkewDescent r1(rotations.r1.rows(), options.momentum);
  std::vector<std::vector<SkewDescent>> r2;
  for (auto const& heads : rotations.r2) {
    r2.emplace_back();
    for (RowMatrix<double> const& R : heads) r2.back().emplace_back(R.rows(), options.momentum);
  }
  std::vector<double> losses;
  for (index_t step = 0; step < options.steps; ++step) {
    Philox const random(seed, 0x453245u + static_cast<std::uint64_t>(step));
    Batch const batch = draw(original, sample_without_replacement(windows.rows(), batch_windows, random));
    losses.push_back(divergence.forward(single_precision(rotations), batch.windows, batch.hidden));
    FoldedRotations<float> const gradient = divergence.backward();
    double const phase = static_cast<double>(step) / static_cast<double>(options.steps);
    double const rate = options.relative_step * (1 + std::cos(std::numbers::pi * phase)) / 2;
    r1.step(cpu, gradient.r1.cast<double>(), rate, rotations.r1);
    for (std::size_t layer = 0; layer < r2.size(); ++layer)
      for (std::size_t head = 0; head < r2[layer].size(); ++head)
        r2[layer][head].step(cpu, gradient.r2[layer][head].cast<double>(), rate, rotations.r2[layer][head]);
  }
  return losses;
}

}  // namespace dartquant::end_to_end
