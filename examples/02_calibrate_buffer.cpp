// SPDX-License-Identifier: Apache-2.0
// An engine's own buffers: activations arrive batch by batch in bfloat16 from its forward pass, a bounded
// sample of them is kept, a rotation is learned, folded into the weight, and the product runs on INT4.
#include <cstdint>
#include <cstdio>
#include <vector>

#include <dartquant/dartquant.hpp>

namespace dq = dartquant;

namespace {

constexpr dq::index_t channels = 128, outputs = 64, batch_tokens = 100, row_stride = 160;

/// Stands for a forward pass: `batch_tokens` rows of a wider buffer, some channels with outliers.
std::vector<dq::BFloat16> forward_pass(std::uint64_t batch) {
  dq::Philox const random(7);
  std::vector<dq::BFloat16> buffer(static_cast<std::size_t>(batch_tokens * row_stride));
  for (std::size_t i = 0; i < buffer.size(); ++i) {
    std::size_t const channel = i % row_stride;
    double const size = channel % 50 == 3 ? 12 : 1;
    buffer[i] = dq::to_bfloat16(static_cast<float>(size * random.normal(batch * buffer.size() + i)));
  }
  return buffer;
}

/// |Y - X W^T| / |X W^T| of the INT4 product of X and W.
double int4_error(dq::Cpu const& cpu, dq::RowMatrix<float> const& X, dq::RowMatrix<float> const& W) {
  dq::Int4Matrix const X4 = dq::quantize(cpu, X, {.granularity = dq::per_row});
  dq::Int4Matrix const W4 = dq::quantize(cpu, W, {.granularity = dq::per_group(32)});
  dq::RowMatrix<float> const exact = X * W.transpose();
  return static_cast<double>((dq::matmul(cpu, X4, W4) - exact).norm() / exact.norm());
}

}  // namespace

int main() {
  // Or dq::Cpu(executor, threads) on the engine's own threads; the kernels are optional.
  dq::Cpu const cpu = dq::Cpu().with_kernels(dq::compiled_kernels());
  dq::ActivationSample sample(channels, 1024, 1);  // 1024 rows at most, however many pass by; seed 1
  for (std::uint64_t batch = 0; batch < 30; ++batch) {
    std::vector<dq::BFloat16> const buffer = forward_pass(batch);
    dq::MatrixView<dq::BFloat16 const> const rows(buffer.data(), batch_tokens, channels, row_stride);
    sample.add(rows, batch * batch_tokens);  // ids name the rows, so the order of batches does not matter
  }

  dq::RowMatrix<float> const X = sample.rows();
  dq::Philox const random(8);
  dq::RowMatrix<float> W(outputs, channels);  // [out, in]
  for (dq::index_t i = 0; i < W.size(); ++i)
    W.data()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  double const before = int4_error(cpu, X, W);

  auto const found = dq::calibrate_rotation(
      cpu, X, {.objective = dq::Whip{}, .row_scale = dq::RowScale::unit_rms, .seed = 1});
  dq::rotate_inputs(cpu, W, found.rotation);  // W <- W R; at run time the input is X R, so X W^T stays
  double const after = int4_error(cpu, dq::apply(cpu, found.rotation, X), W);

  std::printf("%td of %llu rows kept; Whip per channel %.3f -> %.3f\n", X.rows(),
              static_cast<unsigned long long>(sample.seen()), found.initial_loss_per_channel(),
              found.best_loss_per_channel());
  std::printf("relative error of the INT4 product: %.3f as it is, %.3f rotated\n", before, after);
  return found.orthogonality < 30 && after < 0.7 * before ? 0 : 1;
}
