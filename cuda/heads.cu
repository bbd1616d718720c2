// SPDX-License-Identifier: Apache-2.0
// Primitives of Gpu for many small matrices at once.
#include <limits>

#include <dartquant/cuda/gpu.hpp>
#include <dartquant/cuda/head_qr.cuh>
#include <dartquant/cuda/head_steps.cuh>
#include <dartquant/cuda/launch.cuh>
#include <dartquant/cuda/tensor_core.cuh>

namespace dartquant::cuda {
namespace {

/// The heads of a stack of square matrices, checked.
[[nodiscard]] index_t heads_of(char const* who, index_t rows, index_t n, index_t heads) {
  detail::require(n >= 1 && n <= Gpu::largest_head && heads >= 1 && rows == heads * n, "[", who, "] ", rows,
                  " x ", n, " for ", heads, " heads: square matrices of order 1 to ", Gpu::largest_head,
                  " are needed, one above the other");
  return heads;
}

}  // namespace

void Gpu::gather_heads(DeviceMatrixView<float const> X, VectorView<index_t const> numbers, index_t group,
                       DeviceMatrixView<float> Y) const {
  index_t const rows = numbers.size(), n = Y.cols();
  detail::require(rows >= 1 && group >= 1 && Y.rows() % rows == 0 && X.cols() == Y.rows() / rows * group * n,
                  "[gather_heads] ", rows, " rows of ", X.cols(), " channels into ", Y.rows(), " x ", n,
                  ": the shapes do not fit");
  DeviceMatrix<index_t> const indices = upload(numbers);
  auto const scope = enter();
  launch(stream(), element_grid(Y.rows(), n), GatherHeads<float>{X, indices.data(), rows, group, n, Y});
}

void Gpu::orthonormalize_heads(DeviceMatrixView<float> Z, DeviceMatrixView<float> R,
                               DeviceMatrixView<float> L, DeviceMatrixView<float> first,
                               DeviceMatrixView<float> second, QrLimits const& limits,
                               DeviceMatrixView<double> state) const {
  index_t const n = Z.cols(), heads = heads_of("orthonormalize_heads", Z.rows(), n, state.cols());
  int const blocks = static_cast<int>(heads);
  HeadStates<Space::device> const states{state};
  auto wide = matrix<double>(heads, MendHeads::wide_size(n));
  double const probe =
      20 * static_cast<double>(n) * static_cast<double>(std::numeric_limits<float>::epsilon());
  HeadLatents const latents{Z, first, second};
  auto const scope = enter();
  std::size_t const bytes = BlockSpace<true>::bytes(n);
  if (fits_shared_memory(bytes)) {
    launch(stream(), {.blocks_x = blocks, .shared_bytes = bytes},
           OrthonormalizeHeads<true>{limits, probe, {nullptr}, n, latents, R, L, states});
  } else {
    auto workspace = matrix<std::byte>(heads, static_cast<index_t>(bytes));
    launch(stream(), {.blocks_x = blocks},
           OrthonormalizeHeads<false>{limits, probe, {workspace.data()}, n, latents, R, L, states});
  }
  launch(stream(), {.blocks_x = blocks, .shared_bytes = MendHeads::shared_bytes},
         MendHeads{limits.restart, n, latents, R, L, wide.data(), states});
}

void Gpu::gradient_heads(DeviceMatrixView<float const> L, DeviceMatrixView<float> A,
                         DeviceMatrixView<double> state) const {
  index_t const n = A.cols(), heads = heads_of("gradient_heads", A.rows(), n, state.cols());
  int const blocks = static_cast<int>(heads);
  auto const scope = enter();
  std::size_t const bytes = BlockSpace<true>::bytes(n);
  if (fits_shared_memory(bytes)) {
    launch(stream(), {.blocks_x = blocks, .shared_bytes = bytes},
           GradientHeads<true>{{nullptr}, n, L, A, {state}});
  } else {
    auto workspace = matrix<std::byte>(heads, static_cast<index_t>(bytes));
    launch(stream(), {.blocks_x = blocks}, GradientHeads<false>{{workspace.data()}, n, L, A, {state}});
  }
}

void Gpu::close_epoch(DeviceMatrixView<double const> losses, DeviceMatrixView<float const> R,
                      DeviceMatrixView<float> best, DeviceMatrixView<double> state) const {
  index_t const n = R.cols(), heads = heads_of("close_epoch", R.rows(), n, state.cols());
  auto const scope = enter();
  launch(stream(), {.blocks_x = static_cast<int>(heads)}, CloseEpoch{n, losses, R, best, {state}});
}

}  // namespace dartquant::cuda
