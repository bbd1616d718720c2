// SPDX-License-Identifier: Apache-2.0
// What an engine does: its own buffers in, a rotation learned, an INT4 matrix out.
#include <dartquant/dartquant.hpp>

#include <cstdio>

namespace dq = dartquant;

int main() {
  dq::Cpu const cpu(2);
  dq::Philox const random(1);
  dq::RowMatrix<float> X(512, 64), W(32, 64);
  for (dq::index_t i = 0; i < X.size(); ++i)
    X.data()[i] =
        static_cast<float>(random.normal(static_cast<std::uint64_t>(i))) * (i % 64 == 7 ? 20.0f : 1.0f);
  for (dq::index_t i = 0; i < W.size(); ++i)
    W.data()[i] = static_cast<float>(random.uniform(static_cast<std::uint64_t>(i))) - 0.5f;

  auto const found = dq::calibrate_rotation(cpu, X, {.objective = dq::Whip{}, .epochs = 10, .seed = 1});
  dq::RowMatrix<float> const before = X * W.transpose();
  dq::RowMatrix<float> const rotated = dq::apply(cpu, found.rotation, X);
  dq::rotate_inputs(cpu, W, found.rotation);
  dq::Int4Matrix const W4 = dq::quantize(cpu, W, {.granularity = dq::per_group(32)});
  dq::Int4Matrix const X4 = dq::quantize(cpu, rotated, {.granularity = dq::per_row});
  dq::RowMatrix<float> const Y = dq::matmul(cpu, X4, W4);

  float const error = (Y - before).norm() / before.norm();
  std::printf("DartQuant %s: relative error of the 4-bit product %.3f\n", dq::version().c_str(),
              static_cast<double>(error));
  return found.orthogonality < 30 && error < 0.3f ? 0 : 1;
}
