// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include <dartquant/core/half.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/quant/scale.hpp>

// What the kernels on rows are told. All pointers are device pointers; nothing is owned or kept.

namespace dartquant::cuda {

/// How values are stored; arithmetic is in float. Numbered as dartquant_type of kernels.h.
enum class ElementType : std::int32_t { float32 = 0, float16 = 1, bfloat16 = 2 };

[[nodiscard]] constexpr int element_bytes(ElementType type) { return type == ElementType::float32 ? 4 : 2; }

/// The ElementType of a C++ type.
template <class T>
requires std::same_as<T, float> || std::same_as<T, Half> || std::same_as<T, BFloat16>
inline constexpr ElementType element_type = std::same_as<T, float>  ? ElementType::float32
                                            : std::same_as<T, Half> ? ElementType::float16
                                                                    : ElementType::bfloat16;

/// A row-major matrix [rows, cols] of any ElementType in device memory; Byte is void or void const.
template <class Byte>
struct BasicRows {
  Byte* data = nullptr;
  ElementType type = ElementType::float32;
  index_t rows = 0, cols = 0;
  index_t stride = 0;  ///< elements from row to row, at least cols

  BasicRows() = default;
  BasicRows(Byte* data_, ElementType type_, index_t rows_, index_t cols_, index_t stride_)
      : data(data_), type(type_), rows(rows_), cols(cols_), stride(stride_) {}
  template <class T>
  requires std::is_convertible_v<T*, Byte*> BasicRows(DeviceMatrixView<T> view)
      : BasicRows(view.data(), element_type<std::remove_const_t<T>>, view.rows(), view.cols(),
                  view.stride()) {}
  template <class Other>
  requires std::is_same_v<Byte, Other const> BasicRows(BasicRows<Other> const& r)
      : BasicRows(r.data, r.type, r.rows, r.cols, r.stride) {}
};
using Rows = BasicRows<void>;
using ConstRows = BasicRows<void const>;

/// RMSNorm in front of a transform: x_j <- x_j gain_j / sqrt(mean(x^2) + epsilon), before channels are
/// permuted.
struct RowNorm {
  void const* gain = nullptr;  ///< [cols], or null: 1
  ElementType gain_type = ElementType::float32;
  double epsilon = 0;
};

/// As dartquant_transform of kernels.h: channels are permuted, y_j = x_permutation[j], then every `block` of
/// channels is multiplied from the right by (base (x) Sylvester) / sqrt(block). On a device nothing that is
/// pointed to is checked: an entry of the permutation outside the channels counts as the last channel, of the
/// base only signs are read.
struct RowTransform {
  std::int32_t const* permutation = nullptr;  ///< [cols], or null: none
  index_t block = 0;                          ///< 0: no Hadamard transform
  std::int8_t const* base = nullptr;          ///< [base_order, base_order], or null: [1]
  index_t base_order = 1;
};

/// DuQuant's step: channels are permuted, y_j = x_permutation[j], then every `block` of them is multiplied
/// from the right by a dense matrix.
struct BlockRotations {
  std::int32_t const* permutation = nullptr;  ///< [cols], or null: none
  float const* rotations = nullptr;           ///< [count, block, block], row-major
  index_t block = 0;                          ///< at most 128
  index_t count = 1;                          ///< 1: one for all blocks, else one per block
};

/// Levels [rows, cols] with their scales, as dartquant_quantized of kernels.h. Byte is std::uint8_t or
/// std::uint8_t const.
template <class Byte>
struct BasicQuantizedRows {
  template <class T>
  using Part = std::conditional_t<std::is_const_v<Byte>, T const, T>;

  index_t rows = 0, cols = 0;
  int bits = 4;  ///< 4 or 8
  Symmetry symmetry = Symmetry::symmetric;
  index_t group = 0;  ///< channels under one scale; 0: the whole row
  Byte* levels = nullptr;
  index_t level_stride = 0;  ///< bytes
  Part<float>* scales = nullptr;
  index_t scale_stride = 0;                   ///< elements, as the next
  Part<std::int32_t>* zero_points = nullptr;  ///< null where symmetric; 0 .. 2^bits - 1, not checked
  index_t zero_point_stride = 0;

  template <class Other>
  requires(std::is_same_v<Other, Byte const> && !std::is_const_v<Byte>) operator BasicQuantizedRows<Other>()
      const {
    return {rows,   cols,         bits,        symmetry,         group, levels, level_stride,
            scales, scale_stride, zero_points, zero_point_stride};
  }
};
using QuantizedRows = BasicQuantizedRows<std::uint8_t>;
using ConstQuantizedRows = BasicQuantizedRows<std::uint8_t const>;

}  // namespace dartquant::cuda
