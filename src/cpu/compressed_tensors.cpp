// SPDX-License-Identifier: Apache-2.0
// compressed-tensors, format pack-quantized, to and from the plain row-major form.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <dartquant/kernels.h>

#include "cpu/formats.hpp"
#include "cpu/status.hpp"

namespace dartquant::cpu {
namespace {

void check_tensors(Checks& checks, dartquant_compressed_tensors const* tensors, dartquant_quantized const* q,
                   std::int64_t part, std::int64_t parts) {
  check(checks, q);
  checks.pointer(tensors, alignof(dartquant_compressed_tensors), dartquant_arg_packed);
  if (!checks.ok()) return;
  Size const bytes = Size(q->rows) * words_of_row(*q) * 4;
  checks.require(bytes.ok(), dartquant_arg_packed, dartquant_overflow);
  checks.pointer(tensors->weight_packed, alignof(std::int32_t), dartquant_arg_packed);
  check(checks, &tensors->weight_scale, dartquant_arg_scales);
  checks.require(tensors->weight_scale.rows == q->rows && tensors->weight_scale.cols == groups_of(*q),
                 dartquant_arg_scales, dartquant_bad_size);
  if (q->symmetry == dartquant_asymmetric)
    checks.pointer(tensors->weight_zero_point, alignof(std::int32_t), dartquant_arg_zero_points);
  else checks.require(tensors->weight_zero_point == nullptr, dartquant_arg_zero_points, dartquant_bad_value);
  checks.part(part, parts);
}

/// Calls visit(first row, rows, group, index of the word) for each word of zero points of these rows.
template <class Visit>
void for_each_zero_word(dartquant_quantized const& q, Share rows, Visit const& visit) {
  std::int64_t const codes = codes_of_word(q), groups = groups_of(q);
  for (std::int64_t row = rows.first; row < rows.last; row += codes)
    for (std::int64_t g = 0; g < groups; ++g)
      visit(row, std::min(rows.last - row, codes), g, row / codes * groups + g);
}

}  // namespace
}  // namespace dartquant::cpu

using namespace dartquant::cpu;

dartquant_status dartquant_to_compressed_tensors(dartquant_quantized const* q,
                                                 dartquant_compressed_tensors const* tensors,
                                                 std::int64_t part, std::int64_t parts) {
  Checks checks;
  check_tensors(checks, tensors, q, part, parts);
  if (checks.ok()) checks.require(zero_points_in_range(*q), dartquant_arg_zero_points, dartquant_bad_value);
  if (!checks.ok()) return checks.result();
  Share const rows = share_rows(q->rows, part, parts);
  std::int64_t const words = words_of_row(*q), groups = groups_of(*q);
  bool finite = true;
  for (std::int64_t i = rows.first; i < rows.last; ++i) {
    load_words(*q, i, 0, words, reinterpret_cast<std::uint32_t*>(tensors->weight_packed + i * words));
    for (std::int64_t g = 0; g < groups; ++g)
      finite = store_value(tensors->weight_scale, i, g, q->scales[i * q->scale_stride + g]) && finite;
  }
  if (q->symmetry == dartquant_asymmetric)
    for_each_zero_word(*q, rows, [&](std::int64_t row, std::int64_t count, std::int64_t g, std::int64_t at) {
      std::uint32_t word = 0;
      for (std::int64_t t = 0; t < count; ++t) word |= zero_code(*q, row + t, g) << (q->bits * t);
      tensors->weight_zero_point[at] = static_cast<std::int32_t>(word);
    });
  return finite ? 0 : status(dartquant_arg_scales, dartquant_not_finite);
}

dartquant_status dartquant_from_compressed_tensors(dartquant_compressed_tensors const* tensors,
                                                   dartquant_quantized const* q, std::int64_t part,
                                                   std::int64_t parts) {
  Checks checks;
  check_tensors(checks, tensors, q, part, parts);
  if (!checks.ok()) return checks.result();
  Share const rows = share_rows(q->rows, part, parts);
  std::int64_t const words = words_of_row(*q), groups = groups_of(*q);
  bool finite = true;
  for (std::int64_t i = rows.first; i < rows.last; ++i) {
    store_words(*q, i, 0, words, reinterpret_cast<std::uint32_t const*>(tensors->weight_packed + i * words));
    for (std::int64_t g = 0; g < groups; ++g) {
      float const scale = load_value(tensors->weight_scale, i, g);
      q->scales[i * q->scale_stride + g] = scale;
      finite = finite && std::isfinite(scale);
    }
  }
  if (q->symmetry == dartquant_asymmetric)
    for_each_zero_word(*q, rows, [&](std::int64_t row, std::int64_t count, std::int64_t g, std::int64_t at) {
      auto const word = static_cast<std::uint32_t>(tensors->weight_zero_point[at]);
      for (std::int64_t t = 0; t < count; ++t)
        q->zero_points[(row + t) * q->zero_point_stride + g] =
            static_cast<std::int32_t>(word >> (q->bits * t) & ((1u << q->bits) - 1));
    });
  return finite ? 0 : status(dartquant_arg_scales, dartquant_not_finite);
}
