// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <dartquant/core/aligned_bytes.hpp>
#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/quant/fit.hpp>
#include <dartquant/quant/int4.hpp>
#include <dartquant/quant/options.hpp>

namespace dartquant {

/// A quantized matrix [rows, cols] that owns its levels, scales and zero points:
///   value(i, j) = scale (level(i, j) - zero_point),  scale and zero point of the block of (i, j).
/// StorageBits is 4 (two levels per byte, see pack_int4; 2..4 bits) or 8 (one level per byte, two's
/// complement if symmetric, unsigned if asymmetric; 2..8 bits). Rows start at whole bytes.
template <int StorageBits>
class IntMatrix {
  static_assert(StorageBits == 4 || StorageBits == 8);

 public:
  IntMatrix() = default;

  /// All levels and zero points 0, all scales 1; the search and the clip ratio of the options play no role.
  /// Errors: InvalidArgument for a negative size or bits that do not fit the storage.
  IntMatrix(index_t rows, index_t cols, QuantizeOptions const& options)
      : rows_(rows),
        cols_(cols),
        bits_(options.bits),
        symmetry_(options.symmetry),
        granularity_(options.granularity) {
    options.validate();
    detail::require(rows >= 0 && cols >= 0, "[IntMatrix] ", rows, " x ", cols, ": sizes cannot be negative");
    detail::require(bits_ <= StorageBits, "[IntMatrix] ", bits_, " bits do not fit a storage of ",
                    StorageBits, ": use quantize_int8");
    block_ = scale_block(granularity_, rows, cols);
    scale_rows_ = (rows + block_.rows - 1) / block_.rows;
    scale_cols_ = (cols + block_.cols - 1) / block_.cols;
    bytes_.assign(static_cast<std::size_t>(rows * row_bytes()), 0);
    scales_.assign(static_cast<std::size_t>(scale_rows_ * scale_cols_), 1.0f);
    zero_points_.assign(scales_.size(), 0);
  }

  [[nodiscard]] index_t rows() const { return rows_; }
  [[nodiscard]] index_t cols() const { return cols_; }
  [[nodiscard]] int bits() const { return bits_; }
  [[nodiscard]] Symmetry symmetry() const { return symmetry_; }
  [[nodiscard]] Granularity granularity() const { return granularity_; }
  /// The shape of the block of values that shares a scale.
  [[nodiscard]] ScaleBlock block() const { return block_; }

  /// The stored levels [rows, bytes of a row].
  [[nodiscard]] MatrixView<std::uint8_t const> bytes() const { return {bytes_.data(), rows_, row_bytes()}; }
  [[nodiscard]] MatrixView<std::uint8_t> bytes() { return {bytes_.data(), rows_, row_bytes()}; }
  /// The scales [ceil(rows / block rows), ceil(cols / block cols)].
  [[nodiscard]] MatrixView<float const> scales() const { return {scales_.data(), scale_rows_, scale_cols_}; }
  [[nodiscard]] MatrixView<float> scales() { return {scales_.data(), scale_rows_, scale_cols_}; }
  /// The zero points, shaped like the scales; all 0 if symmetric.
  [[nodiscard]] MatrixView<std::int32_t const> zero_points() const {
    return {zero_points_.data(), scale_rows_, scale_cols_};
  }
  [[nodiscard]] MatrixView<std::int32_t> zero_points() {
    return {zero_points_.data(), scale_rows_, scale_cols_};
  }

  /// The level of one value: in levels(bits, symmetry).
  [[nodiscard]] int level(index_t i, index_t j) const {
    assert(0 <= i && i < rows_ && 0 <= j && j < cols_);
    bool const is_signed = symmetry_ == Symmetry::symmetric;
    if constexpr (StorageBits == 4) {
      std::uint8_t const byte = bytes_[static_cast<std::size_t>(i * row_bytes() + j / 2)];
      if (j % 2 == 0) return is_signed ? int4_even(byte) : uint4_even(byte);
      return is_signed ? int4_odd(byte) : uint4_odd(byte);
    } else {
      std::uint8_t const byte = bytes_[static_cast<std::size_t>(i * row_bytes() + j)];
      return is_signed ? static_cast<int>(static_cast<std::int8_t>(byte)) : static_cast<int>(byte);
    }
  }

  /// Stores the level of one value. Precondition: it lies in levels(bits, symmetry).
  void set_level(index_t i, index_t j, int level) {
    assert(0 <= i && i < rows_ && 0 <= j && j < cols_);
    assert(levels(bits_, symmetry_).lowest <= level && level <= levels(bits_, symmetry_).highest);
    if constexpr (StorageBits == 4) {
      std::uint8_t& byte = bytes_[static_cast<std::size_t>(i * row_bytes() + j / 2)];
      byte = j % 2 == 0 ? pack_int4(level, uint4_odd(byte)) : pack_int4(uint4_even(byte), level);
    } else {
      bytes_[static_cast<std::size_t>(i * row_bytes() + j)] = static_cast<std::uint8_t>(level);
    }
  }

  /// The scale and the zero point that hold for one value; both together, as a quantizer.
  [[nodiscard]] float scale(index_t i, index_t j) const { return scales_[scale_index(i, j)]; }
  [[nodiscard]] int zero_point(index_t i, index_t j) const { return zero_points_[scale_index(i, j)]; }
  [[nodiscard]] Quantizer<float> quantizer(index_t i, index_t j) const {
    return make_quantizer(scale(i, j), zero_point(i, j), bits_, symmetry_);
  }

 private:
  [[nodiscard]] index_t row_bytes() const { return StorageBits == 4 ? int4_bytes(cols_) : cols_; }
  [[nodiscard]] std::size_t scale_index(index_t i, index_t j) const {
    assert(0 <= i && i < rows_ && 0 <= j && j < cols_);
    return static_cast<std::size_t>(i / block_.rows * scale_cols_ + j / block_.cols);
  }

  index_t rows_ = 0, cols_ = 0, scale_rows_ = 0, scale_cols_ = 0;
  int bits_ = StorageBits;
  Symmetry symmetry_ = Symmetry::symmetric;
  Granularity granularity_ = per_row;
  ScaleBlock block_;
  std::vector<std::uint8_t> bytes_;
  std::vector<float> scales_;
  std::vector<std::int32_t> zero_points_;
};

using Int4Matrix = IntMatrix<4>;
using Int8Matrix = IntMatrix<8>;

namespace detail {

/// Copies rows [from, from + count) of `source` to rows [to, to + count) of `target`: levels, scales and zero
/// points. Precondition: the rows exist; columns, bits, symmetry and granularity are the same, and scales lie
/// inside rows.
template <int StorageBits>
void copy_rows(IntMatrix<StorageBits> const& source, index_t from, IntMatrix<StorageBits>& target, index_t to,
               index_t count) {
  assert(source.block().rows == 1 && source.block().cols == target.block().cols);
  auto const copy = [&](auto const& read, auto const& write) {
    std::copy_n(read.data() + from * read.cols(), count * read.cols(), write.data() + to * write.cols());
  };
  copy(source.bytes(), target.bytes());
  copy(source.scales(), target.scales());
  copy(source.zero_points(), target.zero_points());
}

/// A matrix of `rows` rows with the columns and options of Q, all levels 0.
template <int StorageBits>
[[nodiscard]] IntMatrix<StorageBits> with_rows(IntMatrix<StorageBits> const& Q, index_t rows) {
  return {rows, Q.cols(), {.bits = Q.bits(), .granularity = Q.granularity(), .symmetry = Q.symmetry()}};
}

/// Whether kernels.h can describe Q: not empty, scales inside rows.
template <int StorageBits>
[[nodiscard]] bool fits_c_quantized(IntMatrix<StorageBits> const& Q) {
  return Q.rows() > 0 && Q.cols() > 0 && Q.block().rows == 1;
}

/// Rows [first, first + count) of Q as kernels.h describes them. A call that only reads never writes through
/// the pointers. Precondition: fits_c_quantized(Q).
template <int StorageBits>
[[nodiscard]] dartquant_quantized c_quantized(IntMatrix<StorageBits> const& Q, index_t first, index_t count) {
  auto const bytes = Q.bytes();
  auto const scales = Q.scales();
  auto const zero_points = Q.zero_points();
  bool const symmetric = Q.symmetry() == Symmetry::symmetric;
  return {.rows = count,
          .cols = Q.cols(),
          .bits = StorageBits,
          .symmetry = symmetric ? dartquant_symmetric : dartquant_asymmetric,
          .group = Q.block().cols,
          .levels = const_cast<std::uint8_t*>(bytes.data() + first * bytes.stride()),
          .level_stride = bytes.stride(),
          .scales = const_cast<float*>(scales.data() + first * scales.stride()),
          .scale_stride = scales.stride(),
          .zero_points = symmetric
                             ? nullptr
                             : const_cast<std::int32_t*>(zero_points.data() + first * zero_points.stride()),
          .zero_point_stride = zero_points.stride()};
}

/// X <- values of Q from row `first` on, with compiled kernels, on the calling thread. Precondition: both
/// fit.
template <int StorageBits>
void dequantize_rows(CpuKernels const& kernels, IntMatrix<StorageBits> const& Q, index_t first,
                     MatrixView<float> X) {
  std::size_t bytes = 0;
  require_done(kernels, "dequantize", kernels.rows_workspace_size(Q.cols(), &bytes));
  AlignedBytes workspace(bytes);
  dartquant_quantized const q = c_quantized(Q, first, X.rows());
  dartquant_matrix const y = c_matrix(X);
  require_done(kernels, "dequantize",
               kernels.dequantize(&kernels.cpu, &q, &y, workspace.data(), bytes, 0, 1));
}

/// X <- values of Q, which X has the shape of. Rows in parallel.
template <int StorageBits>
void dequantize(Cpu const& cpu, IntMatrix<StorageBits> const& Q, MatrixView<float> X) {
  if (cpu.kernels() != nullptr && fits_c_quantized(Q) && fits_c_matrix(X)) {
    cpu.parallel_for(Q.rows(), row_grain(Q.cols()), [&](index_t first, index_t last) {
      dequantize_rows(*cpu.kernels(), Q, first, X.rows(first, last - first));
    });
    return;
  }
  cpu.parallel_for(Q.rows(), row_grain(Q.cols()), [&](index_t first, index_t last) {
    for (index_t i = first; i < last; ++i)
      for (index_t start = 0; start < Q.cols(); start += Q.block().cols) {
        auto const quantizer = Q.quantizer(i, start);
        index_t const end = std::min(Q.cols(), start + Q.block().cols);
        for (index_t j = start; j < end; ++j) X(i, j) = quantizer.value(Q.level(i, j));
      }
  });
}

}  // namespace detail

/// scale (level - zero_point) for every value.
template <int StorageBits>
[[nodiscard]] RowMatrix<float> dequantize(Cpu const& cpu, IntMatrix<StorageBits> const& Q) {
  RowMatrix<float> X(Q.rows(), Q.cols());
  detail::dequantize(cpu, Q, MatrixView<float>(X));
  return X;
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template void detail::dequantize<4>(Cpu const&, IntMatrix<4> const&, MatrixView<float>);
DARTQUANT_COMPILED template void detail::dequantize<8>(Cpu const&, IntMatrix<8> const&, MatrixView<float>);
}  // namespace dartquant
#endif
