// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <type_traits>

#include <dartquant/core/backend.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// Products of matrices in host memory by another machine than the CPU: what Cpu::with_products carries. The
/// functions are called from any thread and return when C is written. Values, so that these headers link
/// nothing; cuda::host_products (cuda/host_products.hpp) fills them for a GPU.
struct HostProducts {
  /// C <- alpha op(A) op(B) + beta C, as Cpu::gemm, on checked shapes.
  template <class T>
  using Product = std::function<void(T alpha, MatrixView<T const> A, Op op_a, MatrixView<T const> B, Op op_b,
                                     T beta, MatrixView<T> C)>;

  Product<float> float32{};
  Product<double> float64{};  ///< empty where the machine has nothing to gain: the CPU computes them
  /// Operations per value that travels from which on a product is worth the way: a link that moves 2.5e9
  /// floats a second is even with a CPU of 250 GFLOP/s at 100.
  double least_intensity = 100;

  /// The machine's product for op(A) [rows, depth] and op(B) [depth, cols], null where the CPU takes it.
  template <class T>
  [[nodiscard]] Product<T> const* worth_it(index_t rows, index_t depth, index_t cols) const {
    auto const r = static_cast<double>(rows), d = static_cast<double>(depth), c = static_cast<double>(cols);
    if (2 * r * d * c < least_intensity * (r * d + d * c + r * c) || r * d * c == 0) return nullptr;
    if constexpr (std::is_same_v<T, float>) return float32 ? &float32 : nullptr;
    else return float64 ? &float64 : nullptr;
  }
};

}  // namespace dartquant
