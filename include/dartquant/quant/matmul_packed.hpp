// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <dartquant/core/aligned_bytes.hpp>
#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/quant/int_matrix.hpp>
#include <dartquant/quant/packed.hpp>

namespace dartquant {
namespace detail {

inline void require_product(index_t rows, index_t cols, index_t out, index_t in,
                            VectorView<float const> bias) {
  require(cols == in, "[matmul] X is ", rows, " x ", cols, " and W is ", out, " x ", in,
          ": the channels must agree");
  require(bias.size() == 0 || bias.size() == out, "[matmul] bias of ", bias.size(), " values for ", out,
          " outputs: give one per output, or none");
}

/// call(workspace, bytes, part, parts) once for every part of a product. The bytes of the result do not
/// depend on their number: small products are not worth a second thread.
template <class Call>
void for_parts(Cpu const& cpu, PackedInt4 const& W, index_t tokens, int x_bits, Call const& call) {
  constexpr index_t small = 1 << 20;  // multiply-adds
  CpuKernels const& kernels = *cpu.kernels();
  std::size_t bytes = 0;
  require_done(kernels, "matmul", kernels.matmul_workspace_size(&W.shape(), tokens, x_bits, &bytes));
  index_t const parts = tokens * W.rows() * W.cols() < small ? 1 : cpu.threads();
  cpu.parallel_for(parts, 1, [&](index_t part, index_t) {
    AlignedBytes workspace(bytes);
    require_done(kernels, "matmul", call(workspace.data(), bytes, part, parts));
  });
}

/// Y <- X W^T + bias. Y may have any stride.
template <int BitsX>
void multiply(Cpu const& cpu, IntMatrix<BitsX> const& X, PackedInt4 const& W, VectorView<float const> bias,
              MatrixView<float> Y) {
  CpuKernels const& kernels = required_kernels(cpu, "matmul");
  require_product(X.rows(), X.cols(), W.rows(), W.cols(), bias);
  if (X.rows() == 0) return;
  require(BitsX == 4 || X.symmetry() == Symmetry::symmetric || W.shape().with_sums != 0,
          "[matmul] asymmetric 8-bit activations need weights that are packed with sums of levels");
  bool const whole_rows = X.block().cols == X.cols();
  require(whole_rows || X.block().rows == 1, "[matmul] X has one scale per column: quantize it per row");
  auto const group = product_group(X.cols(), X.block().cols, W.group());
  require(whole_rows || (group && *group == W.group()), "[matmul] scales of ", X.block().cols,
          " channels of X and of ", W.group(), " of the packed W: pack W in groups that divide those of X");
  FineScales const x(X, whole_rows ? X.cols() : W.group());
  dartquant_matrix const y = c_matrix(Y);
  for_parts(cpu, W, X.rows(), BitsX, [&](void* workspace, std::size_t bytes, index_t part, index_t parts) {
    return kernels.matmul(&kernels.cpu, &W.shape(), W.data(), W.bytes(), &x.described(),
                          bias.size() == 0 ? nullptr : bias.data(), &y, workspace, bytes, part, parts);
  });
}

inline void multiply(Cpu const& cpu, MatrixView<float const> X, PackedInt4 const& W,
                     VectorView<float const> bias, MatrixView<float> Y) {
  CpuKernels const& kernels = required_kernels(cpu, "matmul");
  require_product(X.rows(), X.cols(), W.rows(), W.cols(), bias);
  if (X.rows() == 0) return;
  require(fits_c_matrix(X), "[matmul] X has a stride of ", X.stride(), " and ", X.cols(), " columns");
  dartquant_matrix const x = c_matrix(X), y = c_matrix(Y);
  for_parts(cpu, W, X.rows(), 32, [&](void* workspace, std::size_t bytes, index_t part, index_t parts) {
    return kernels.matmul_float(&kernels.cpu, &W.shape(), W.data(), W.bytes(), &x,
                                bias.size() == 0 ? nullptr : bias.data(), &y, workspace, bytes, part, parts);
  });
}

}  // namespace detail

/// W4A4: Y = X W^T + bias [tokens, out] for X [tokens, in] and packed W, with compiled kernels. X has one
/// scale per token (or per tensor), or groups that W's divide; its bits may be any that its storage holds.
/// The integers under a pair of scales are exact, so every instruction set and number of threads gives the
/// same bytes; they are scaled and added in float (kernels.h has the formula), so Y is within
///   (groups + 3) 2^-24 sum_g |scale_x scale_w n_g|
/// of the exact product. Errors: InvalidArgument when the shapes or groups do not fit, or without kernels.
[[nodiscard]] inline RowMatrix<float> matmul(Cpu const& cpu, Int4Matrix const& X, PackedInt4 const& W,
                                             VectorView<float const> bias = {}) {
  RowMatrix<float> Y(X.rows(), W.rows());
  detail::multiply(cpu, X, W, bias, Y);
  return Y;
}

/// W4A8. Asymmetric X needs weights packed with sums.
[[nodiscard]] inline RowMatrix<float> matmul(Cpu const& cpu, Int8Matrix const& X, PackedInt4 const& W,
                                             VectorView<float const> bias = {}) {
  RowMatrix<float> Y(X.rows(), W.rows());
  detail::multiply(cpu, X, W, bias, Y);
  return Y;
}

/// W4A16: float activations, each row as integers of 24 bits under a scale of its own (kernels.h has the
/// formula): the same bytes on every instruction set and for any number of threads, within
///   2^-22 max |x| sum |w| + (groups + 4) 2^-22 sum |x||w|
/// of the exact product. A row of X that is not finite makes its row of Y NaN.
[[nodiscard]] inline RowMatrix<float> matmul(Cpu const& cpu, MatrixView<float const> X, PackedInt4 const& W,
                                             VectorView<float const> bias = {}) {
  RowMatrix<float> Y(X.rows(), W.rows());
  detail::multiply(cpu, X, W, bias, Y);
  return Y;
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template void detail::multiply<4>(Cpu const&, IntMatrix<4> const&, PackedInt4 const&,
                                                     VectorView<float const>, MatrixView<float>);
DARTQUANT_COMPILED template void detail::multiply<8>(Cpu const&, IntMatrix<8> const&, PackedInt4 const&,
                                                     VectorView<float const>, MatrixView<float>);
}  // namespace dartquant
#endif
