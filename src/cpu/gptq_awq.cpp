// SPDX-License-Identifier: Apache-2.0
// The int32 tensors of GPTQ and AWQ checkpoints to and from the plain row-major form. Both are stored
// transposed, [in, out]; they differ in what shares a word of weights, inputs (GPTQ) or outputs (AWQ), and in
// the order and the offset of zero points.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <dartquant/kernels.h>

#include "cpu/formats.hpp"
#include "cpu/status.hpp"

namespace dartquant::cpu {
namespace {

/// What both formats store beside the weights.
struct Beside {
  std::int32_t* qzeros;            ///< [groups, rows / 8]
  dartquant_matrix const* scales;  ///< [groups, rows]
  int const* shifts;               ///< of the nibble of each of 8 outputs
  std::uint32_t offset;            ///< stored nibble = (zero point - offset) mod 16
};

constexpr int gptq_shifts[8] = {0, 4, 8, 12, 16, 20, 24, 28};
constexpr int awq_shifts[8] = {0, 16, 4, 20, 8, 24, 12, 28};  // nibbles hold outputs 0 2 4 6 1 3 5 7

Beside beside(dartquant_gptq const& gptq) {
  return {gptq.qzeros, &gptq.scales, gptq_shifts, gptq.version == dartquant_gptq_v1 ? 1u : 0u};
}
Beside beside(dartquant_awq const& awq) { return {awq.qzeros, &awq.scales, awq_shifts, 0}; }

std::uint32_t stored_zero(Beside const& b, dartquant_quantized const& q, std::int64_t row,
                          std::int64_t group) {
  auto const word = static_cast<std::uint32_t>(b.qzeros[group * (q.rows / 8) + row / 8]);
  return ((word >> b.shifts[row % 8]) + b.offset) & 15;
}

/// Every stored zero point is that of a symmetric code.
bool zeros_are_symmetric(Beside const& b, dartquant_quantized const& q) {
  for (std::int64_t g = 0; g < groups_of(q); ++g)
    for (std::int64_t i = 0; i < q.rows; ++i)
      if (stored_zero(b, q, i, g) != 8) return false;
  return true;
}

/// Whether the scales are finite as stored.
bool write_beside(Beside const& b, dartquant_quantized const& q, Share rows) {
  bool finite = true;
  for (std::int64_t g = 0; g < groups_of(q); ++g) {
    for (std::int64_t i = rows.first; i < rows.last; ++i)
      finite = store_value(*b.scales, g, i, q.scales[i * q.scale_stride + g]) && finite;
    for (std::int64_t i = rows.first; i < rows.last; i += 8) {
      std::uint32_t word = 0;
      for (int t = 0; t < 8; ++t) word |= ((zero_code(q, i + t, g) - b.offset) & 15) << b.shifts[t];
      b.qzeros[g * (q.rows / 8) + i / 8] = static_cast<std::int32_t>(word);
    }
  }
  return finite;
}

bool read_beside(Beside const& b, dartquant_quantized const& q, Share rows) {
  bool finite = true;
  for (std::int64_t i = rows.first; i < rows.last; ++i)
    for (std::int64_t g = 0; g < groups_of(q); ++g) {
      float const scale = load_value(*b.scales, g, i);
      q.scales[i * q.scale_stride + g] = scale;
      finite = finite && std::isfinite(scale);
      if (q.symmetry == dartquant_asymmetric)
        q.zero_points[i * q.zero_point_stride + g] = static_cast<std::int32_t>(stored_zero(b, q, i, g));
    }
  return finite;
}

template <class Tensors>
void check_tensors(Checks& checks, Tensors const* tensors, dartquant_quantized const* q, std::int64_t part,
                   std::int64_t parts) {
  check(checks, q);
  checks.pointer(tensors, alignof(Tensors), dartquant_arg_packed);
  if (!checks.ok()) return;
  checks.require(q->bits == 4, dartquant_arg_bits, dartquant_unsupported);
  checks.require(q->rows % 8 == 0, dartquant_arg_rows, dartquant_bad_size);
  if (!checks.ok()) return;
  // qweight has the bytes of the levels and qzeros fewer than the scales, whose spans were checked
  checks.pointer(tensors->qweight, alignof(std::int32_t), dartquant_arg_packed);
  checks.pointer(tensors->qzeros, alignof(std::int32_t), dartquant_arg_zero_points);
  if (!checks.ok()) return;
  check(checks, &tensors->scales, dartquant_arg_scales);
  checks.require(tensors->scales.rows == groups_of(*q) && tensors->scales.cols == q->rows,
                 dartquant_arg_scales, dartquant_bad_size);
  checks.part(part, parts);
}

void check_gptq(Checks& checks, dartquant_gptq const* gptq, dartquant_quantized const* q, std::int64_t part,
                std::int64_t parts) {
  check_tensors(checks, gptq, q, part, parts);
  if (!checks.ok()) return;
  checks.require(q->cols % 8 == 0, dartquant_arg_cols, dartquant_bad_size);
  std::int32_t const version = number_of(gptq->version);
  checks.require(version == dartquant_gptq_v1 || version == dartquant_gptq_v2, dartquant_arg_packed,
                 dartquant_unsupported);
  checks.require(aligned(gptq->g_idx, alignof(std::int32_t)), dartquant_arg_order, dartquant_misaligned);
}

void check_awq(Checks& checks, dartquant_awq const* awq, dartquant_quantized const* q, std::int64_t part,
               std::int64_t parts) {
  check_tensors(checks, awq, q, part, parts);
  if (checks.ok()) checks.require(q->cols % group_width(*q) == 0, dartquant_arg_group, dartquant_bad_size);
}

/// What the data must hold before anything is written.
void check_written(Checks& checks, dartquant_quantized const* q) {
  if (checks.ok()) checks.require(zero_points_in_range(*q), dartquant_arg_zero_points, dartquant_bad_value);
}
void check_read(Checks& checks, Beside const& b, dartquant_quantized const& q) {
  if (q.symmetry == dartquant_symmetric)
    checks.require(zeros_are_symmetric(b, q), dartquant_arg_zero_points, dartquant_bad_value);
}

bool order_is_plain(dartquant_gptq const& gptq, dartquant_quantized const& q) {
  if (gptq.g_idx == nullptr) return true;
  for (std::int64_t j = 0; j < q.cols; ++j)
    if (gptq.g_idx[j] != j / group_width(q)) return false;
  return true;
}

dartquant_status finished(bool finite) {
  return finite ? 0 : status(dartquant_arg_scales, dartquant_not_finite);
}

/// Turns 8 words of 8 nibbles around: nibble s of the word t becomes nibble t of word s. `shifts`: where
/// output s lies in a word of outputs.
void outputs_to_inputs(std::uint32_t const (&outputs)[8], int const* shifts, std::uint32_t (&inputs)[8]) {
  for (int s = 0; s < 8; ++s) {
    inputs[s] = 0;
    for (int t = 0; t < 8; ++t) inputs[s] |= (outputs[t] >> shifts[s] & 15) << (4 * t);
  }
}
void inputs_to_outputs(std::uint32_t const (&inputs)[8], int const* shifts, std::uint32_t (&outputs)[8]) {
  for (int t = 0; t < 8; ++t) {
    outputs[t] = 0;
    for (int s = 0; s < 8; ++s) outputs[t] |= (inputs[s] >> (4 * t) & 15) << shifts[s];
  }
}

}  // namespace
}  // namespace dartquant::cpu

using namespace dartquant::cpu;

dartquant_status dartquant_to_gptq(dartquant_quantized const* q, dartquant_gptq const* gptq,
                                   std::int64_t part, std::int64_t parts) {
  Checks checks;
  check_gptq(checks, gptq, q, part, parts);
  check_written(checks, q);
  if (!checks.ok()) return checks.result();
  Share const rows = share_rows(q->rows, part, parts);
  for (std::int64_t first = rows.first; first < rows.last; first += 8)  // 8 neighbours share a cache line
    for (std::int64_t k = 0; k < q->cols / 8; ++k)
      for (std::int64_t i = first; i < first + 8; ++i)
        gptq->qweight[k * q->rows + i] = static_cast<std::int32_t>(load_word(*q, i, k));
  if (gptq->g_idx != nullptr && part == 0)
    for (std::int64_t j = 0; j < q->cols; ++j)
      gptq->g_idx[j] = static_cast<std::int32_t>(j / group_width(*q));
  return finished(write_beside(beside(*gptq), *q, rows));
}

dartquant_status dartquant_from_gptq(dartquant_gptq const* gptq, dartquant_quantized const* q,
                                     std::int64_t part, std::int64_t parts) {
  Checks checks;
  check_gptq(checks, gptq, q, part, parts);
  if (!checks.ok()) return checks.result();
  checks.require(order_is_plain(*gptq, *q), dartquant_arg_order, dartquant_unsupported);
  check_read(checks, beside(*gptq), *q);
  if (!checks.ok()) return checks.result();
  Share const rows = share_rows(q->rows, part, parts);
  for (std::int64_t first = rows.first; first < rows.last; first += 8)
    for (std::int64_t k = 0; k < q->cols / 8; ++k)
      for (std::int64_t i = first; i < first + 8; ++i)
        store_word(*q, i, k, static_cast<std::uint32_t>(gptq->qweight[k * q->rows + i]));
  return finished(read_beside(beside(*gptq), *q, rows));
}

dartquant_status dartquant_to_awq(dartquant_quantized const* q, dartquant_awq const* awq, std::int64_t part,
                                  std::int64_t parts) {
  Checks checks;
  check_awq(checks, awq, q, part, parts);
  check_written(checks, q);
  if (!checks.ok()) return checks.result();
  Share const rows = share_rows(q->rows, part, parts);
  for (std::int64_t i = rows.first; i < rows.last; i += 8)
    for (std::int64_t k = 0; k < words_of_row(*q); ++k) {
      std::uint32_t inputs[8], outputs[8];
      for (int s = 0; s < 8; ++s) inputs[s] = load_word(*q, i + s, k);
      inputs_to_outputs(inputs, awq_shifts, outputs);
      for (std::int64_t t = 0; t < std::min<std::int64_t>(8, q->cols - 8 * k); ++t)
        awq->qweight[(8 * k + t) * (q->rows / 8) + i / 8] = static_cast<std::int32_t>(outputs[t]);
    }
  return finished(write_beside(beside(*awq), *q, rows));
}

dartquant_status dartquant_from_awq(dartquant_awq const* awq, dartquant_quantized const* q, std::int64_t part,
                                    std::int64_t parts) {
  Checks checks;
  check_awq(checks, awq, q, part, parts);
  if (!checks.ok()) return checks.result();
  check_read(checks, beside(*awq), *q);
  if (!checks.ok()) return checks.result();
  Share const rows = share_rows(q->rows, part, parts);
  for (std::int64_t i = rows.first; i < rows.last; i += 8)
    for (std::int64_t k = 0; k < words_of_row(*q); ++k) {
      std::uint32_t inputs[8], outputs[8] = {};
      for (std::int64_t t = 0; t < std::min<std::int64_t>(8, q->cols - 8 * k); ++t)
        outputs[t] = static_cast<std::uint32_t>(awq->qweight[(8 * k + t) * (q->rows / 8) + i / 8]);
      outputs_to_inputs(outputs, awq_shifts, inputs);
      for (int s = 0; s < 8; ++s) store_word(*q, i + s, k, inputs[s]);
    }
  return finished(read_beside(beside(*awq), *q, rows));
}
