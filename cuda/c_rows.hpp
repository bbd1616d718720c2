// SPDX-License-Identifier: Apache-2.0
#pragma once

// Rows as the C calls and as the C++ calls describe them.

#include <cstdint>

#include <dartquant/cuda/kernels.h>
#include <dartquant/cuda/stored_rows.hpp>

namespace dartquant::cuda {

[[nodiscard]] inline Rows rows_of(dartquant_matrix const& m) {
  return {m.data, static_cast<ElementType>(m.type), m.rows, m.cols, m.stride};
}
[[nodiscard]] inline dartquant_matrix c_matrix(ConstRows const& X) {
  return {const_cast<void*>(X.data), static_cast<dartquant_type>(X.type), X.rows, X.cols, X.stride};
}

/// Zero points that a symmetric matrix does not have are left out.
[[nodiscard]] inline QuantizedRows rows_of(dartquant_quantized const& q) {
  bool const zeros = q.symmetry == dartquant_asymmetric;
  return {q.rows,
          q.cols,
          q.bits,
          zeros ? Symmetry::asymmetric : Symmetry::symmetric,
          q.group,
          static_cast<std::uint8_t*>(q.levels),
          q.level_stride,
          q.scales,
          q.scale_stride,
          zeros ? q.zero_points : nullptr,
          q.zero_point_stride};
}
/// A call that only reads never writes through the pointers.
[[nodiscard]] inline dartquant_quantized c_quantized(ConstQuantizedRows const& q) {
  return {q.rows,
          q.cols,
          q.bits,
          static_cast<dartquant_symmetry>(q.symmetry),
          q.group,
          const_cast<std::uint8_t*>(q.levels),
          q.level_stride,
          const_cast<float*>(q.scales),
          q.scale_stride,
          const_cast<std::int32_t*>(q.zero_points),
          q.zero_point_stride};
}

[[nodiscard]] inline RowTransform transform_of(dartquant_transform const& t) {
  return {t.permutation, t.block, t.base, t.base_order};
}
[[nodiscard]] inline dartquant_transform c_transform(RowTransform const& t) {
  return {t.permutation, t.block, t.base, t.base == nullptr ? 1 : t.base_order};
}
[[nodiscard]] inline dartquant_norm c_norm(RowNorm const& norm) {
  return {norm.gain, static_cast<dartquant_type>(norm.gain_type), norm.epsilon};
}

}  // namespace dartquant::cuda
