// SPDX-License-Identifier: Apache-2.0
// Row kernels with NEON. Ends of rows go through a short buffer, so that every value takes the same path.

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/base_sums.hpp"
#include "cpu/digits.hpp"
#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {
namespace {

std::size_t bytes_of(std::int64_t count, std::size_t each) { return static_cast<std::size_t>(count) * each; }

// ---- storage types ----------------------------------------------------------------------------------------

template <Type type>
void widen(std::uint16_t const* x, float* y) {  // 8 values
  uint16x8_t const bits = vld1q_u16(x);
  if constexpr (type == Type::float16) {
    float16x8_t const halves = vreinterpretq_f16_u16(bits);
    vst1q_f32(y, vcvt_f32_f16(vget_low_f16(halves)));
    vst1q_f32(y + 4, vcvt_high_f32_f16(halves));
  } else {
    vst1q_f32(y, vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(bits), 16)));
    vst1q_f32(y + 4, vreinterpretq_f32_u32(vshll_high_n_u16(bits, 16)));
  }
}

template <Type type>
void load_short(std::uint16_t const* x, std::int32_t const* permutation, float* y, std::int64_t count) {
  std::uint16_t in[8] = {};
  for (; count >= 8; count -= 8, y += 8) {
    if (permutation == nullptr) {
      widen<type>(x, y);
      x += 8;
    } else {
      for (int j = 0; j < 8; ++j) in[j] = x[*permutation++];
      widen<type>(in, y);
    }
  }
  if (count == 0) return;
  float out[8];
  for (std::int64_t j = 0; j < count; ++j) in[j] = permutation == nullptr ? x[j] : x[permutation[j]];
  widen<type>(in, out);
  std::memcpy(y, out, bytes_of(count, sizeof *y));
}

void load(Type type, void const* x, std::int32_t const* permutation, float* y, std::int64_t count) {
  if (type == Type::float16)
    return load_short<Type::float16>(static_cast<std::uint16_t const*>(x), permutation, y, count);
  if (type == Type::bfloat16)
    return load_short<Type::bfloat16>(static_cast<std::uint16_t const*>(x), permutation, y, count);
  auto const* const from = static_cast<float const*>(x);
  if (permutation == nullptr) std::memmove(y, from, bytes_of(count, sizeof *y));
  else
    for (std::int64_t j = 0; j < count; ++j) y[j] = from[permutation[j]];
}

/// Rounds to nearest even; a NaN becomes the one that core/half.hpp makes of it.
uint16x4_t to_half(float32x4_t x) {
  uint16x4_t const sign = vand_u16(vshrn_n_u32(vreinterpretq_u32_f32(x), 16), vdup_n_u16(0x8000));
  uint16x4_t const number = vmovn_u32(vceqq_f32(x, x));
  return vbsl_u16(number, vreinterpret_u16_f16(vcvt_f16_f32(x)), vorr_u16(sign, vdup_n_u16(0x7E00)));
}

uint16x4_t to_bfloat16(float32x4_t x) {
  uint32x4_t const bits = vreinterpretq_u32_f32(x);
  uint32x4_t const odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  uint16x4_t const rounded = vaddhn_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7FFF)));
  uint16x4_t const quiet = vorr_u16(vshrn_n_u32(bits, 16), vdup_n_u16(0x40));
  return vbsl_u16(vmovn_u32(vceqq_f32(x, x)), rounded, quiet);
}

template <Type type>
void store_short(float const* x, float factor, std::uint16_t* y, std::int64_t count) {
  auto const four = [factor](float const* from) {
    float32x4_t const scaled = vmulq_n_f32(vld1q_f32(from), factor);
    return type == Type::float16 ? to_half(scaled) : to_bfloat16(scaled);
  };
  for (; count >= 4; count -= 4, x += 4, y += 4) vst1_u16(y, four(x));
  if (count == 0) return;
  float in[4] = {};
  std::uint16_t out[4];
  std::memcpy(in, x, bytes_of(count, sizeof *x));
  vst1_u16(out, four(in));
  std::memcpy(y, out, bytes_of(count, sizeof *y));
}

void store(Type type, float const* x, float factor, void* y, std::int64_t count) {
  if (type == Type::float16)
    return store_short<Type::float16>(x, factor, static_cast<std::uint16_t*>(y), count);
  if (type == Type::bfloat16)
    return store_short<Type::bfloat16>(x, factor, static_cast<std::uint16_t*>(y), count);
  auto* const to = static_cast<float*>(y);
  std::int64_t j = 0;
  for (; j + 4 <= count; j += 4) vst1q_f32(to + j, vmulq_n_f32(vld1q_f32(x + j), factor));
  for (; j < count; ++j) to[j] = x[j] * factor;
}

// ---- Walsh-Hadamard ---------------------------------------------------------------------------------------

/// Stages of the butterfly over the index of the registers, distance 1 first.
template <int n>
void butterfly(float32x4_t (&v)[n]) {
  for (int h = 1; h < n; h *= 2)
    for (int first = 0; first < n; first += 2 * h)
      for (int i = first; i < first + h; ++i) {
        float32x4_t const sum = vaddq_f32(v[i], v[i + h]), difference = vsubq_f32(v[i], v[i + h]);
        v[i] = sum;
        v[i + h] = difference;
      }
}

/// The first log2(4 n) stages of 4 n values. A transposition brings distances 1 and 2 from the lanes to the
/// index.
template <int n>
void first_stages(float* x) {
  float32x4_t v[n];
  for (int i = 0; i < n; i += 4) {
    float32x4x4_t const four = vld4q_f32(x + 4 * i);  // register j: values j, j + 4, j + 8, j + 12
    float32x4_t t[4] = {four.val[0], four.val[1], four.val[2], four.val[3]};
    butterfly(t);
    float64x2_t const a = vreinterpretq_f64_f32(vtrn1q_f32(t[0], t[1]));
    float64x2_t const b = vreinterpretq_f64_f32(vtrn2q_f32(t[0], t[1]));
    float64x2_t const c = vreinterpretq_f64_f32(vtrn1q_f32(t[2], t[3]));
    float64x2_t const d = vreinterpretq_f64_f32(vtrn2q_f32(t[2], t[3]));
    v[i] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    v[i + 1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    v[i + 2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    v[i + 3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
  }
  butterfly(v);
  for (int i = 0; i < n; ++i) vst1q_f32(x + 4 * i, v[i]);
}

/// Stages h, 2 h, ..., n h / 2.
template <int n>
void later_stages(float* x, std::int64_t length, std::int64_t h) {
  for (std::int64_t first = 0; first < length; first += n * h)
    for (std::int64_t i = first; i < first + h; i += 4) {
      float32x4_t v[n];
      for (int k = 0; k < n; ++k) v[k] = vld1q_f32(x + i + k * h);
      butterfly(v);
      for (int k = 0; k < n; ++k) vst1q_f32(x + i + k * h, v[k]);
    }
}

void short_blocks(float* x, std::int64_t total, std::int64_t length) {
  for (std::int64_t h = 1; h < length; h *= 2)
    for (std::int64_t first = 0; first < total; first += 2 * h)
      for (std::int64_t i = first; i < first + h; ++i) {
        float const sum = x[i] + x[i + h], difference = x[i] - x[i + h];
        x[i] = sum;
        x[i + h] = difference;
      }
}

void walsh(float* x, std::int64_t count, std::int64_t length) {
  if (length < 16) return short_blocks(x, count * length, length);
  for (std::int64_t block = 0; block < count; ++block, x += length) {
    if (length == 16) first_stages<4>(x);
    else if (length == 32) first_stages<8>(x);
    else
      for (std::int64_t i = 0; i < length; i += 64) first_stages<16>(x + i);
    for (std::int64_t h = 64; h < length;) {
      std::int64_t const left = length / h;
      if (left >= 16) later_stages<16>(x, length, h), h *= 16;
      else if (left == 8) later_stages<8>(x, length, h), h *= 8;
      else if (left == 4) later_stages<4>(x, length, h), h *= 4;
      else later_stages<2>(x, length, h), h *= 2;
    }
  }
}

struct Four {
  static constexpr std::int64_t lanes = 4;
  using Type = float32x4_t;
  static Type load(float const* x) { return vld1q_f32(x); }
  static void store(float* x, Type v) { vst1q_f32(x, v); }
  static Type add(Type a, Type b) { return vaddq_f32(a, b); }
  static Type subtract(Type a, Type b) { return vsubq_f32(a, b); }
  static Type negative(Type a) { return vnegq_f32(a); }
};

void multiply_base(std::int8_t const* signs, std::int64_t order, std::int64_t length, float* x,
                   float* buffer) {
  if (length < 4) return portable_rows.multiply_base(signs, order, length, x, buffer);
  if (length < 16) BaseSums<Four, 1>::multiply(signs, order, length, x, buffer);
  else BaseSums<Four, 4>::multiply(signs, order, length, x, buffer);
  std::memcpy(x, buffer, bytes_of(order * length, sizeof *x));
}

// ---- quantization -----------------------------------------------------------------------------------------

Range range(float const* x, std::int64_t count) {
  float32x4_t low = vdupq_n_f32(0), high = low;
  uint32x4_t largest = vdupq_n_u32(0);  // magnitudes as integers: infinities and NaN are above all numbers
  auto const include = [&](float32x4_t four) {
    low = vbslq_f32(vcltq_f32(four, low), four, low);  // vminq would make a -0 of 0
    high = vbslq_f32(vcgtq_f32(four, high), four, high);
    largest = vmaxq_u32(largest, vreinterpretq_u32_f32(vabsq_f32(four)));
  };
  for (; count >= 4; count -= 4, x += 4) include(vld1q_f32(x));
  if (count > 0) {
    float last[4] = {};
    std::memcpy(last, x, bytes_of(count, sizeof *x));
    include(vld1q_f32(last));
  }
  return {vminvq_f32(low), vmaxvq_f32(high), vmaxvq_u32(largest) < 0x7F800000u};
}

int8x8_t levels_of(float const* x, LevelMap const& m) {  // 8 values
  int32x4_t four[2];
  for (int i = 0; i < 2; ++i) {
    float32x4_t const quotient = vmulq_n_f32(vmulq_n_f32(vld1q_f32(x + 4 * i), m.factor), m.inverse);
    float32x4_t const raised = vmaxnmq_f32(quotient, vdupq_n_f32(m.lowest));  // a NaN becomes lowest
    four[i] =
        vaddq_s32(vcvtnq_s32_f32(vminnmq_f32(raised, vdupq_n_f32(m.highest))), vdupq_n_s32(m.zero_point));
  }
  return vmovn_s16(vcombine_s16(vmovn_s32(four[0]), vmovn_s32(four[1])));
}

void quantize(float const* x, std::int64_t count, LevelMap const* map, std::int8_t* levels) {
  LevelMap const m = *map;
  for (; count >= 8; count -= 8, x += 8, levels += 8) vst1_s8(levels, levels_of(x, m));
  if (count == 0) return;
  float in[8] = {};
  std::int8_t out[8];
  std::memcpy(in, x, bytes_of(count, sizeof *x));
  vst1_s8(out, levels_of(in, m));
  std::memcpy(levels, out, bytes_of(count, 1));
}

uint8x16_t nibbles_of(std::int8_t const* levels) {  // 32 levels
  int8x16x2_t const pairs = vld2q_s8(levels);
  return vsliq_n_u8(vreinterpretq_u8_s8(pairs.val[0]), vreinterpretq_u8_s8(pairs.val[1]), 4);
}

void pack_nibbles(std::int8_t const* levels, std::int64_t count, std::uint8_t* bytes) {
  for (; count >= 32; count -= 32, levels += 32, bytes += 16) vst1q_u8(bytes, nibbles_of(levels));
  if (count == 0) return;
  std::int8_t in[32] = {};
  std::uint8_t out[16];
  std::memcpy(in, levels, bytes_of(count, 1));
  vst1q_u8(out, nibbles_of(in));
  std::memcpy(bytes, out, bytes_of((count + 1) / 2, 1));
}

void unpack_sixteen(std::uint8_t const* bytes, uint8x16_t flip, std::int8_t* levels) {
  uint8x16_t const packed = vld1q_u8(bytes);
  auto const level = [flip](uint8x16_t nibble) {
    return vreinterpretq_s8_u8(vsubq_u8(veorq_u8(nibble, flip), flip));
  };
  int8x16x2_t const pairs{{level(vandq_u8(packed, vdupq_n_u8(15))), level(vshrq_n_u8(packed, 4))}};
  vst2q_s8(levels, pairs);
}

void unpack_nibbles(std::uint8_t const* bytes, std::int64_t count, bool is_signed, std::int8_t* levels) {
  uint8x16_t const flip = vdupq_n_u8(is_signed ? 8 : 0);
  for (; count >= 32; count -= 32, levels += 32, bytes += 16) unpack_sixteen(bytes, flip, levels);
  if (count == 0) return;
  std::uint8_t in[16] = {};
  std::int8_t out[32];
  std::memcpy(in, bytes, bytes_of((count + 1) / 2, 1));
  unpack_sixteen(in, flip, out);
  std::memcpy(levels, out, bytes_of(count, 1));
}

void dequantize_eight(std::int8_t const* levels, bool is_signed, float scale, int32x4_t zero, float* y) {
  int8x8_t const eight = vld1_s8(levels);
  int16x8_t const wide =
      is_signed ? vmovl_s8(eight) : vreinterpretq_s16_u16(vmovl_u8(vreinterpret_u8_s8(eight)));
  vst1q_f32(y, vmulq_n_f32(vcvtq_f32_s32(vsubq_s32(vmovl_s16(vget_low_s16(wide)), zero)), scale));
  vst1q_f32(y + 4, vmulq_n_f32(vcvtq_f32_s32(vsubq_s32(vmovl_high_s16(wide), zero)), scale));
}

void dequantize(std::int8_t const* levels, std::int64_t count, bool is_signed, float scale,
                std::int32_t zero_point, float* y) {
  int32x4_t const zero = vdupq_n_s32(zero_point);
  for (; count >= 8; count -= 8, levels += 8, y += 8) dequantize_eight(levels, is_signed, scale, zero, y);
  if (count == 0) return;
  std::int8_t in[8] = {};
  float out[8];
  std::memcpy(in, levels, bytes_of(count, 1));
  dequantize_eight(in, is_signed, scale, zero, out);
  std::memcpy(y, out, bytes_of(count, sizeof *y));
}

/// A row of 4-bit levels to halves: the sixteen values of a group as two tables of bytes.
void look_up(NibbleRow const* row) {
  std::int8_t levels[16];
  bool const is_signed = row->zero_points == nullptr;
  for (int nibble = 0; nibble < 16; ++nibble)
    levels[nibble] = static_cast<std::int8_t>(is_signed ? (nibble ^ 8) - 8 : nibble);
  for (std::int64_t first = 0, group = 0; first < row->cols; first += row->width, ++group) {
    float values[16];
    std::uint16_t halves[16];
    dequantize(levels, 16, is_signed, row->scales[group], is_signed ? 0 : row->zero_points[group], values);
    if (row->type == Type::float16) store_short<Type::float16>(values, 1.0F, halves, 16);
    else store_short<Type::bfloat16>(values, 1.0F, halves, 16);
    uint8x16_t const left = vreinterpretq_u8_u16(vld1q_u16(halves));
    uint8x16_t const right = vreinterpretq_u8_u16(vld1q_u16(halves + 8));
    uint8x16_t const lower = vuzp1q_u8(left, right), upper = vuzp2q_u8(left, right);
    auto const looked_up = [&](uint8x16_t bytes, std::uint8_t* y) {
      uint8x16_t const even = vandq_u8(bytes, vdupq_n_u8(15)), odd = vshrq_n_u8(bytes, 4);
      uint8x16_t const some = vzip1q_u8(even, odd), rest = vzip2q_u8(even, odd);
      vst2q_u8(y, (uint8x16x2_t{vqtbl1q_u8(lower, some), vqtbl1q_u8(upper, some)}));
      vst2q_u8(y + 32, (uint8x16x2_t{vqtbl1q_u8(lower, rest), vqtbl1q_u8(upper, rest)}));
    };
    std::int64_t const end = first + row->width < row->cols ? first + row->width : row->cols;
    std::int64_t j = first;
    for (; j + 32 <= end; j += 32)
      looked_up(vld1q_u8(row->nibbles + j / 2), reinterpret_cast<std::uint8_t*>(row->y + j));
    if (j == end) continue;
    std::uint8_t in[16] = {}, out[64];
    std::memcpy(in, row->nibbles + j / 2, bytes_of((end - j + 1) / 2, 1));
    looked_up(vld1q_u8(in), out);
    std::memcpy(row->y + j, out, bytes_of(end - j, 2));
  }
}

std::int32_t sum(std::int8_t const* levels, std::int64_t count) {
  int32x4_t total = vdupq_n_s32(0);
  for (; count >= 16; count -= 16, levels += 16)
    total = vdotq_s32(total, vld1q_s8(levels), vdupq_n_s8(1));  // sdot: four levels per lane
  std::int32_t rest = 0;
  for (std::int64_t j = 0; j < count; ++j) rest += levels[j];
  return vaddvq_s32(total) + rest;
}

}  // namespace

RowKernels const neon_rows{load,     store,        walsh,          multiply_base, range,
                           quantize, pack_nibbles, unpack_nibbles, dequantize,    sum,
                           digits,   nullptr,      nullptr,        nullptr,       look_up};

}  // namespace dartquant::cpu
