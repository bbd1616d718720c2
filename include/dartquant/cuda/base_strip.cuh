// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <dartquant/cuda/hadamard_base.cuh>
#include <dartquant/cuda/row_strip.cuh>

namespace dartquant::cuda {

namespace detail {

/// The signs of the bases that dartquant_hadamard_base gives for orders 12, 20 and 28: bit i of row j is set
/// where the entry is -1. Kernels that find them in memory know every sign while they are compiled.
inline constexpr std::uint32_t base_signs_12[12] = {0x000, 0x475, 0x8E9, 0x1D3, 0x3A5, 0x749,
                                                    0xE91, 0xD23, 0xA47, 0x48F, 0x91D, 0x23B};
inline constexpr std::uint32_t base_signs_20[20] = {
    0x00000, 0x615E5, 0xC2BC9, 0x85793, 0x0AF27, 0x15E4D, 0x2BC99, 0x57931, 0xAF261, 0x5E4C3,
    0xBC985, 0x7930B, 0xF2615, 0xE4C2B, 0xC9857, 0x930AF, 0x2615F, 0x4C2BD, 0x98579, 0x30AF3};
inline constexpr std::uint32_t base_signs_28[28] = {
    0x0000000, 0x4A37785, 0x90ECF89, 0x255BB83, 0x513AC2F, 0x866784F, 0x28DD41F,
    0x8956D71, 0x323DA71, 0x44EB4F1, 0x6EF0929, 0xD9F1243, 0xB770495, 0x7585D45,
    0xCF09E19, 0xBA83CA3, 0xADAE225, 0x7B4E0C9, 0xD69E113, 0xE1251BB, 0xE248767,
    0xE092ADD, 0x0BA89D7, 0x13C333D, 0x07946EB, 0x5C44AB7, 0x9C191ED, 0x3C2275B};

template <int Order>
[[nodiscard]] constexpr std::uint32_t base_signs(int row) {
  return Order == 12   ? base_signs_12[row % 12]
         : Order == 20 ? base_signs_20[row % 20]
                       : base_signs_28[row % 28];
}
/// Whether an entry is -1, in device code.
template <int Order, int Row>
DARTQUANT_HD constexpr bool base_negative(int output) {
  constexpr std::uint32_t signs = base_signs<Order>(Row);
  return (signs >> output & 1u) != 0;
}

}  // namespace detail

/// The transform of strips of whole blocks of order * 2^m channels, base (x) Sylvester, 6 <= m <= 10:
///
///   unit     a thread holds 64 consecutive channels: stages 1 .. 32
///   middle   16 vectors of 2^(m-6) units: the other stages
///   base     a thread forms `Outputs` outputs of a vector of columns, row after row of the base. They stay
///   in
///            registers.
///
/// A value costs m additions, 16 bytes of shared memory, and 4 more for every further thread that reads it,
/// order / Outputs in all. The base adds order / 4 + 3 Outputs / order additions where the signs are known
/// while this is compiled, Order 12, 20 or 28 and the library's base: the eight sums of four rows are formed
/// once (see hadamard_base.cuh). Else, and for Order 0, a sign is a byte in shared memory and becomes a
/// factor: order FMAs. -0 + x is x for every x.
template <class T, int Order, int Outputs, int Threads>
struct BaseStrip {
  static_assert(Order % Outputs == 0 && Outputs % 2 == 0);
  static constexpr int threads = Threads;  ///< at most
  static constexpr bool whole_warps = true, wide = false;
  static constexpr int held = Outputs, run_lanes = 32;
  static constexpr int sign_bytes =
      (Outputs + 3) / 4 * 4;  ///< of the outputs of a thread in a row of the base

  StripRows rows;
  float factor = 1;
  std::int8_t const* base = nullptr;
  int order = 0, log_length = 0;
  int groups = 0;  ///< ceil(order / Outputs)
  int signs_at = 0;

  template <class Thread>
  DARTQUANT_DEVICE float factor_of(Thread const&) const {
    return factor;
  }
  /// From a thread's vector to the next.
  [[nodiscard]] DARTQUANT_HD int offset(int i) const { return i << (log_length - 2); }

  /// The block of the strip that a thread works on, its column there, in vectors, and its first output.
  struct Work {
    int block, column, output;
  };
  [[nodiscard]] DARTQUANT_HD Work work(int thread) const {
    int const item = thread >> (log_length - 2), block = item / groups;
    return {block, thread & ((1 << (log_length - 2)) - 1), (item - block * groups) * Outputs};
  }
  [[nodiscard]] DARTQUANT_HD int first_vector(int thread) const {
    Work const w = work(thread);
    return offset(w.block * order + w.output) + w.column;
  }
  /// Whether a thread has outputs at all, the same for a warp up from 2^7 channels.
  [[nodiscard]] DARTQUANT_HD bool holds(int thread) const {
    return 4 * offset((work(thread).block + 1) * order) <= rows.values;
  }
  /// Whether vector i of a thread lies in a strip of `count` channels.
  [[nodiscard]] DARTQUANT_HD bool has(int thread, int i, int count) const {
    Work const w = work(thread);
    bool const inside = 4 * offset((w.block + 1) * order) <= count;
    return Order != 0 ? inside : inside && w.output + i < order;
  }

  [[nodiscard]] DARTQUANT_HD int all_sign_bytes() const { return order * groups * sign_bytes; }
  /// The base, once per block of threads: its signs, and behind them whether they are not the library's.
  template <class Thread>
  DARTQUANT_DEVICE void prepare(Thread const& thread) const {
    auto* const signs = reinterpret_cast<std::uint8_t*>(thread.shared() + signs_at);
    auto* const other = reinterpret_cast<std::uint32_t*>(signs + all_sign_bytes());
    int const width = groups * Outputs;
    if (thread.index() == 0) *other = Order == 0 ? 1 : 0;
    thread.synchronize();
    for (int i = thread.index(); i < order * width; i += thread.count()) {
      int const row = i / width, output = i - row * width;
      bool const negative = output < order && base[row * order + output] < 0;
      int const group = output / Outputs;
      signs[(row * groups + group) * sign_bytes + (output - group * Outputs)] =
          output < order && detail::base_factor_negative(base, order, row, output) ? 0xBF : 0x3F;
      unrolled<Order>([&](auto known) {
        if (row == known && negative != detail::base_negative<Order, known>(output))
          thread.atomic_max(other, 1u);
      });
    }
    thread.synchronize();
  }

  template <class Thread>
  DARTQUANT_DEVICE void fetch(Thread const& thread, std::uint32_t strip) const {
    constexpr int each = 16 / static_cast<int>(sizeof(T)), chunks = 64 / each;
    StripPlace const at = rows.place(thread, strip);
    int const index = thread.here(thread.index()), lane = index % 32, warp = index / 32;
    int const first = 2048 * warp + each * lane;
    T const* const from = static_cast<T const*>(rows.x) + at.row * rows.stride + at.first + first;
    std::byte* const to = thread.shared();
    int const place = thread.here(rows.fetched_at + 16 * detail::staged<T>(2048 / each * warp + lane));
    for (int k = 0; k < chunks; ++k)
      if (first + 32 * each * k < at.count)
        thread.template copy_async<16>(to + detail::staged_at<T>(place, 32 * k), from + 32 * each * k);
    thread.commit_copies();
  }

  template <class Thread>
  DARTQUANT_DEVICE void run(Thread const& thread, std::uint32_t, std::uint32_t next, bool wait,
                            float (&v)[Outputs][4]) const {
    thread.template wait_copies<0>();
    thread.synchronize_warp();
    int const units = rows.values / 64;
    bool const works = thread.index() < units;
    float x[64];  // of the last unit where there is none
    detail::load_staged<T>(thread, rows.fetched_at, units - 1, x);
    detail::butterfly_stage<1>(x);
    detail::butterfly_stage<2>(x);
    detail::butterfly_stage<4>(x);
    detail::butterfly_stage<8>(x);
    detail::butterfly_stage<16>(x);
    detail::butterfly_stage<32>(x);
    thread.synchronize_warp();
    if (next < rows.rows) fetch(thread, next);
    if (wait) thread.synchronize();
    if (works) detail::store_unit64(thread, x);
    thread.synchronize_warp();
    if (log_length > 6) {  // up to 16 threads hold the channels of a length, in one warp
      if (works) {
        if (log_length == 7) middle<1>(thread);
        else if (log_length == 8) middle<2>(thread);
        else if (log_length == 9) middle<3>(thread);
        else middle<4>(thread);
      }
    }
    thread.synchronize();
    if (!holds(thread.index())) {
      for (int i = 0; i < Outputs; ++i)
        for (int e = 0; e < 4; ++e) v[i][e] = 0;
      return;
    }
    Work const w = work(thread.index());
    std::byte const* const column = thread.shared() + detail::strip_at(offset(w.block * order) + w.column);
    std::byte const* const signs = thread.shared() + signs_at;
    std::byte const* const own = signs + w.output / Outputs * sign_bytes;
    if constexpr (Order == 0) {
      multiply(thread, column, own, v);
      for (int i = 0; i < Outputs; ++i)
        for (int e = 0; e < 4; ++e) v[i][e] = w.output + i < order ? v[i][e] : 0;
    } else {
      if (*reinterpret_cast<std::uint32_t const*>(signs + all_sign_bytes()) != 0)
        multiply(thread, column, own, v);
      else multiply_known<0>(column, w.output, v);
    }
  }

 private:
  /// A row of the base is so many bytes of a strip: 16 of 17 vectors.
  [[nodiscard]] DARTQUANT_HD int row_bytes() const { return 17 << (log_length - 2); }

  template <class Thread>
  DARTQUANT_DEVICE void multiply(Thread const& thread, std::byte const* x_at, std::byte const* sign_at,
                                 float (&v)[Outputs][4]) const {
    int const step = groups * sign_bytes;
    std::uint32_t const rest = thread.opaque(0x80u);
    for (int i = 0; i < Outputs; ++i)
      for (int e = 0; e < 4; ++e) v[i][e] = -0.0f;
    for (int row = 0; row < order; row += 4, sign_at += 4 * step, x_at += 4 * row_bytes()) {
      Float4 x[4];
      std::uint32_t bytes[4][sign_bytes / 4];
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        x[r] = *reinterpret_cast<Float4 const*>(x_at + r * row_bytes());
        load_signs(sign_at + r * step, bytes[r]);
      }
#pragma unroll
      for (int i = 0; i < Outputs; ++i) {
        float s[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) s[r] = thread.sign_of_byte(bytes[r][i / 4], i % 4, rest);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float const four =
              detail::sum_of_four(x[0].x[e], x[1].x[e], x[2].x[e], x[3].x[e], s[1], s[2], s[3]);
          v[i][e] = std::fmaf(s[0], four, v[i][e]);
        }
      }
    }
  }
  DARTQUANT_DEVICE static void load_signs(std::byte const* from, std::uint32_t (&bytes)[sign_bytes / 4]) {
    if constexpr (sign_bytes == 16) {
      Words4 const words = *reinterpret_cast<Words4 const*>(from);
      for (int i = 0; i < 4; ++i) bytes[i] = words.x[i];
    } else {
      for (int i = 0; i < sign_bytes / 4; ++i) bytes[i] = reinterpret_cast<std::uint32_t const*>(from)[i];
    }
  }

  /// With outputs from First on.
  template <int First>
  DARTQUANT_DEVICE void multiply_known(std::byte const* x_at, int first, float (&v)[Outputs][4]) const {
    if constexpr (First + Outputs < Order) {
      if (first > First) return multiply_known<First + Outputs>(x_at, first, v);
    }
    unrolled<Order / 4>([&](auto index) {
      constexpr int row = 4 * index;
      Float4 x[4];
      for (int r = 0; r < 4; ++r) x[r] = *reinterpret_cast<Float4 const*>(x_at + (row + r) * row_bytes());
      for (int e = 0; e < 4; ++e) {
        float const a = x[0].x[e] + x[1].x[e], b = x[0].x[e] - x[1].x[e], c = x[2].x[e] + x[3].x[e],
                    d = x[2].x[e] - x[3].x[e];
        unrolled<Outputs>([&](auto output) {
          constexpr int i = output;
          constexpr bool n0 = detail::base_negative<Order, row>(First + i),
                         n1 = detail::base_negative<Order, row + 1>(First + i),
                         n2 = detail::base_negative<Order, row + 2>(First + i),
                         n3 = detail::base_negative<Order, row + 3>(First + i);
          float const left = n0 == n1 ? a : b, right = n2 == n3 ? c : d,
                      four = n0 == n2 ? left + right : left - right;
          if constexpr (row == 0) v[i][e] = n0 ? -four : four;
          else if constexpr (n0) v[i][e] -= four;
          else v[i][e] += four;
        });
      }
    });
  }

  /// Stages 2^6 .. 2^(5+Hops): a thread holds vectors of 2^Hops units, of each every 2^Hops-th.
  template <int Hops, class Thread>
  DARTQUANT_DEVICE static void middle(Thread const& thread) {
    int const t = thread.here(thread.index());
    detail::StripVectors const mine(thread, ((t >> Hops) << (4 + Hops)) + (t & ((1 << Hops) - 1)));
    float v[16][4];
    unrolled<16>([&](auto index) {
      constexpr int j = index;
      Float4 const f = mine[offset_of<Hops>(j)];
      for (int e = 0; e < 4; ++e) v[j][e] = f.x[e];
    });
    detail::stages_of<(1 << Hops) - 1>(v);
    unrolled<16>([&](auto index) {
      constexpr int j = index;
      mine[offset_of<Hops>(j)] = {{v[j][0], v[j][1], v[j][2], v[j][3]}};
    });
  }
  template <int Hops>
  [[nodiscard]] DARTQUANT_HD static constexpr int offset_of(int j) {
    return ((j & ((1 << Hops) - 1)) << 4) + ((j >> Hops) << Hops);
  }
};

/// Y <- transform(X) by strips with a base; x and y have the same type.
template <class Transform_, class T, int Blocks>
struct HadamardBaseStrips {
  using Transform = Transform_;
  static constexpr int threads = Transform::threads, blocks = Blocks;
  Transform transform;
  T* y = nullptr;
  index_t y_stride = 0;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    auto strip = static_cast<std::uint32_t>(thread.block_x());
    auto const step = static_cast<std::uint32_t>(thread.blocks_x());
    transform.fetch(thread, strip);
    transform.prepare(thread);
    for (bool again = false; strip < transform.rows.rows; strip += step, again = true) {
      float v[Transform::held][4];
      transform.run(thread, strip, strip + step, again, v);
      StripPlace const at = transform.rows.place(thread, strip);
      int const index = thread.here(thread.index());
      T* to = y + at.row * y_stride + at.first + 4 * transform.first_vector(index);
      float const factor = transform.factor_of(thread);
      for (int i = 0; i < Transform::held; ++i, to += 4 * transform.offset(1)) {
        if (!transform.has(index, i, at.count)) continue;
        if constexpr (sizeof(T) == 4) {
          *reinterpret_cast<Float4*>(to) = {
              {v[i][0] * factor, v[i][1] * factor, v[i][2] * factor, v[i][3] * factor}};
        } else {
          auto const low = thread.template from_floats<T>(v[i][0] * factor, v[i][1] * factor);
          auto const high = thread.template from_floats<T>(v[i][2] * factor, v[i][3] * factor);
          *reinterpret_cast<std::uint64_t*>(to) = low | static_cast<std::uint64_t>(high) << 32;
        }
      }
    }
  }
};

}  // namespace dartquant::cuda
