// SPDX-License-Identifier: Apache-2.0
// The kernels in plain C++: the reference that every instruction set is compared with, and the kernels of
// processors without any of them. Compiled without special flags, so it may share the library's headers.

#include <cmath>
#include <cstdint>

#include <dartquant/core/butterfly.hpp>
#include <dartquant/core/half.hpp>
#include <dartquant/quant/int4.hpp>
#include <dartquant/quant/scale.hpp>

#include "cpu/digits.hpp"
#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {
namespace {

template <class T>
void load_as(T const* x, std::int32_t const* permutation, float* y, std::int64_t count) {
  if (permutation == nullptr)
    for (std::int64_t j = 0; j < count; ++j) y[j] = to_float(x[j]);
  else
    for (std::int64_t j = 0; j < count; ++j) y[j] = to_float(x[permutation[j]]);
}

void load(Type type, void const* x, std::int32_t const* permutation, float* y, std::int64_t count) {
  switch (type) {
    case Type::float32:
      return load_as(static_cast<float const*>(x), permutation, y, count);
    case Type::float16:
      return load_as(static_cast<Half const*>(x), permutation, y, count);
    case Type::bfloat16:
      return load_as(static_cast<BFloat16 const*>(x), permutation, y, count);
  }
}

template <class T>
void store_as(float const* x, float factor, T* y, std::int64_t count) {
  for (std::int64_t j = 0; j < count; ++j) y[j] = from_float<T>(x[j] * factor);
}

void store(Type type, float const* x, float factor, void* y, std::int64_t count) {
  switch (type) {
    case Type::float32:
      return store_as(x, factor, static_cast<float*>(y), count);
    case Type::float16:
      return store_as(x, factor, static_cast<Half*>(y), count);
    case Type::bfloat16:
      return store_as(x, factor, static_cast<BFloat16*>(y), count);
  }
}

void walsh(float* x, std::int64_t count, std::int64_t length) {
  walsh_hadamard(MatrixView<float>(x, 1, count * length), length);
}

/// s0 ((x0 + s0 s1 x1) + s0 s2 (x2 + s2 s3 x3)), of as many of the four as there are. Products with +-1 are
/// exact.
template <int rows>
void sum_rows(std::int8_t const* signs, std::int64_t order, std::int64_t length, float const* x, bool first,
              float* y) {
  auto const sign = [&](int row) { return row < rows ? static_cast<float>(signs[row * order]) : 0.0f; };
  float const s0 = sign(0), s01 = s0 * sign(1), s02 = s0 * sign(2), s23 = sign(2) * sign(3);
  for (std::int64_t k = 0; k < length; ++k) {
    float sum = x[k];
    if (rows > 1) sum += s01 * x[k + length];
    if (rows == 3) sum += s02 * x[k + 2 * length];
    if (rows == 4) sum += s02 * (x[k + 2 * length] + s23 * x[k + 3 * length]);
    y[k] = first ? s0 * sum : y[k] + s0 * sum;
  }
}

void multiply_base(std::int8_t const* signs, std::int64_t order, std::int64_t length, float* x,
                   float* buffer) {
  for (std::int64_t i = 0; i < order; ++i)
    for (std::int64_t j = 0; j < order; j += 4) {
      std::int8_t const* const own = signs + j * order + i;
      float const* const from = x + j * length;
      float* const y = buffer + i * length;
      std::int64_t const rows = order - j;
      if (rows == 1) sum_rows<1>(own, order, length, from, j == 0, y);
      else if (rows == 2) sum_rows<2>(own, order, length, from, j == 0, y);
      else if (rows == 3) sum_rows<3>(own, order, length, from, j == 0, y);
      else sum_rows<4>(own, order, length, from, j == 0, y);
    }
  for (std::int64_t k = 0; k < order * length; ++k) x[k] = buffer[k];
}

Range range(float const* x, std::int64_t count) {
  Range all{0, 0, true};
  for (std::int64_t j = 0; j < count; ++j) {
    all.min = x[j] < all.min ? x[j] : all.min;
    all.max = x[j] > all.max ? x[j] : all.max;
    all.finite = all.finite && std::isfinite(x[j]);
  }
  return all;
}

void quantize(float const* x, std::int64_t count, LevelMap const* map, std::int8_t* levels) {
  LevelMap const m = *map;
  for (std::int64_t j = 0; j < count; ++j) {
    float const quotient = x[j] * m.factor * m.inverse;
    levels[j] =
        static_cast<std::int8_t>(round_half_even(clamp_to(quotient, m.lowest, m.highest)) + m.zero_point);
  }
}

void pack_nibbles(std::int8_t const* levels, std::int64_t count, std::uint8_t* bytes) {
  for (std::int64_t j = 0; j + 1 < count; j += 2) bytes[j / 2] = pack_int4(levels[j], levels[j + 1]);
  if (count % 2 != 0) bytes[count / 2] = pack_int4(levels[count - 1], 0);
}

void unpack_nibbles(std::uint8_t const* bytes, std::int64_t count, bool is_signed, std::int8_t* levels) {
  int const flip = is_signed ? 8 : 0;
  for (std::int64_t j = 0; j < count; ++j) {
    int const nibble = j % 2 == 0 ? uint4_even(bytes[j / 2]) : uint4_odd(bytes[j / 2]);
    levels[j] = static_cast<std::int8_t>((nibble ^ flip) - flip);
  }
}

void dequantize(std::int8_t const* levels, std::int64_t count, bool is_signed, float scale,
                std::int32_t zero_point, float* y) {
  for (std::int64_t j = 0; j < count; ++j) {
    int const level = is_signed ? levels[j] : static_cast<std::uint8_t>(levels[j]);
    y[j] = scale * static_cast<float>(level - zero_point);
  }
}

std::int32_t sum(std::int8_t const* levels, std::int64_t count) {
  std::int32_t total = 0;
  for (std::int64_t j = 0; j < count; ++j) total += levels[j];
  return total;
}

/// Where a group of a panel lies.
struct Group {
  std::uint8_t const* lines;
  std::int64_t count;
  float const* scales;
  std::int64_t index;  ///< of the group's 16 zero points and sums, in groups
};

Group group_of(Panels const& w, std::int64_t panel, std::int64_t group) {
  std::int64_t const count = group + 1 < w.groups ? w.lines : w.last_lines;
  std::uint8_t const* const lines = w.data + panel * w.bytes + group * (w.lines + 1) * 64;
  return {lines, count, reinterpret_cast<float const*>(lines + count * 64), panel * w.groups + group};
}

/// sum[c] = sum over the group of x nibble.
void dot16(Group const& g, std::int8_t const* x, std::int32_t (&sum)[16]) {
  for (std::int32_t& s : sum) s = 0;
  for (std::int64_t line = 0; line < g.count; ++line)
    for (int c = 0; c < 16; ++c)
      for (int t = 0; t < 4; ++t) {
        std::uint8_t const byte = g.lines[line * 64 + 4 * c + t];
        sum[c] += uint4_even(byte) * x[line * 8 + t] + uint4_odd(byte) * x[line * 8 + 4 + t];
      }
}

void multiply_row(Product const& p, std::int64_t row, std::int64_t panel) {
  float sum[16] = {};
  std::int64_t first = 0;
  for (std::int64_t group = 0; group < p.w.groups; ++group) {
    Group const g = group_of(p.w, panel, group);
    std::int32_t dot[16];
    dot16(g, p.x + row * p.x_stride + first, dot);
    first += 8 * g.count;
    std::int64_t const at = row * p.w.groups + group;
    std::int32_t const x_zero = p.x_zero_points == nullptr ? 0 : p.x_zero_points[at];
    for (int c = 0; c < 16; ++c) {
      std::int32_t const w_zero = p.w.zero_points == nullptr ? 8 : p.w.zero_points[16 * g.index + c];
      std::int32_t n = dot[c] - w_zero * p.x_sums[at];
      if (x_zero != 0) n -= x_zero * p.w.sums[16 * g.index + c];
      float scale = g.scales[c];
      if (p.scales_per_group) scale *= p.x_scales[row * p.x_scale_stride + group];
      sum[c] = std::fma(static_cast<float>(n), scale, sum[c]);
    }
  }
  for (std::int64_t c = 0; c < 16 && 16 * panel + c < p.cols; ++c) {
    float const bias = p.bias == nullptr ? 0.0f : p.bias[16 * panel + c];
    p.y[row * p.y_stride + 16 * panel + c] =
        p.scales_per_group ? sum[c] + bias : std::fma(sum[c], p.x_scales[row * p.x_scale_stride], bias);
  }
}

void multiply(Product const* p) {
  for (std::int64_t panel = 0; panel < p->w.count; ++panel)
    for (std::int64_t row = 0; row < p->rows; ++row) multiply_row(*p, row, panel);
}

}  // namespace

RowKernels const portable_rows{load,         store,          walsh,      multiply_base, range, quantize,
                               pack_nibbles, unpack_nibbles, dequantize, sum,           digits};
ProductKernels const portable_products{multiply};

}  // namespace dartquant::cpu
