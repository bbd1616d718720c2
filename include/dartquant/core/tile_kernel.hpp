// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <dartquant/core/aligned_bytes.hpp>
#include <dartquant/core/backend.hpp>
#include <dartquant/core/cpu_kernels.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant::detail {

/// The kernel that takes a tile, or null: vectors, very small products and types without a kernel are for
/// Eigen. The choice is the same for every instruction set, so that their bytes are.
template <class T>
[[nodiscard]] TileKernel<T> const* tile_kernel(CpuKernels const* kernels, index_t rows, index_t cols,
                                               index_t depth) {
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
    if (kernels == nullptr || kernels->tiles == nullptr) return nullptr;
    if (rows < 2 || cols < 4 || depth < 8 || rows * cols < 32 || rows * cols * depth < 2048) return nullptr;
    if constexpr (std::is_same_v<T, float>) return &kernels->tiles->float32;
    else return &kernels->tiles->float64;
  } else {
    return nullptr;
  }
}

/// One tile of a product, see Cpu::gemm.
template <class T>
void kernel_tile(TileKernel<T> const& kernel, T alpha, MatrixView<T const> A, Op op_a, MatrixView<T const> B,
                 Op op_b, T beta, MatrixView<T> C) {
  bool const plain_a = op_a == Op::none, plain_b = op_b == Op::none;
  index_t const depth = plain_a ? A.cols() : A.rows();
  AlignedBytes scratch(kernel.scratch_bytes(C.rows(), depth));
  TileProduct<T> const product{.rows = C.rows(),
                               .cols = C.cols(),
                               .depth = depth,
                               .alpha = alpha,
                               .a = A.data(),
                               .a_row = plain_a ? A.stride() : 1,
                               .a_depth = plain_a ? 1 : A.stride(),
                               .b = B.data(),
                               .b_depth = plain_b ? B.stride() : 1,
                               .b_col = plain_b ? 1 : B.stride(),
                               .beta = beta,
                               .c = C.data(),
                               .c_row = C.stride(),
                               .scratch = scratch.data()};
  kernel.multiply(&product);
}

}  // namespace dartquant::detail
