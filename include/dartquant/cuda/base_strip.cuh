// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <dartquant/cuda/row_strip.cuh>

namespace dartquant::cuda {

/// The transform of strips of whole blocks of order * 2^m channels, base (x) Sylvester, 6 <= m <= 10:
///
///   unit     a thread holds 64 consecutive channels: stages 1 .. 32
///   middle   16 vectors of 2^(m-6) units: the other stages
///   base     a thread forms `Outputs` outputs of one vector of columns, all of them where the order is not
///            larger: row after row of the base, a vector of values and one sign per output, the same for a
///            whole warp. They stay in registers.
///
/// A value costs m additions, `order` FMAs and 16 bytes of shared memory, of the base 4 / Outputs + 1 / 4 bytes
/// per FMA. A product with +-1 is exact, so the FMA is the addition of portable.cpp, and -0 + x is x for
/// every x.
template <class T, int LogLength, int Outputs, int Threads>
struct BaseStrip {
  static_assert(LogLength >= 6 && LogLength <= 10 && Outputs % 4 == 0);
  static constexpr int threads = Threads, length = (1 << LogLength) / 4;  ///< in vectors
  static constexpr bool exchanges = true, wide = false;
  static constexpr int held = Outputs;

  StripRows rows;
  std::int8_t const* base = nullptr;
  int order = 0, groups = 0;  ///< of outputs of one vector: ceil(order / Outputs)
  int values = 0;             ///< of a strip: whole blocks
  int staged_at = 0, signs_at = 0;

  [[nodiscard]] DARTQUANT_HD StripPlace place(std::uint32_t strip) const { return rows.place(strip, values); }
  [[nodiscard]] DARTQUANT_HD static constexpr int offset(int i) { return i * length; }

  /// The thread's block of the strip, its vector there and the first of its outputs.
  struct Work {
    int block, column, output;
  };
  [[nodiscard]] DARTQUANT_HD Work work(int thread) const {
    int const item = thread / length, block = item / groups;
    return {block, thread % length, (item - block * groups) * Outputs};
  }
  [[nodiscard]] DARTQUANT_HD int first_vector(int thread) const {
    Work const w = work(thread);
    return (w.block * order + w.output) * length + w.column;
  }

  /// Signs of the base, once per block of threads.
  template <class Thread>
  DARTQUANT_DEVICE void prepare(Thread const& thread) const {
    auto* const signs = reinterpret_cast<float*>(thread.shared() + signs_at);
    int const width = groups * Outputs;
    for (int i = thread.index(); i < order * width; i += thread.count()) {
      int const row = i / width, output = i - row * width;
      signs[i] = output < order && base[row * order + output] < 0 ? -1.0f : 1.0f;
    }
    thread.synchronize();
  }

  template <class Thread>
  DARTQUANT_DEVICE void fetch(Thread const& thread, std::uint32_t strip) const {
    constexpr int each = 16 / static_cast<int>(sizeof(T)), chunks = 64 / each;
    StripPlace const at = place(strip);
    int const index = thread.here(thread.index()), lane = index % 32, warp = index / 32;
    int const first = 2048 * warp + each * lane;
    T const* const from = static_cast<T const*>(rows.x) + at.row * rows.stride + at.first + first;
    std::byte* const to = thread.shared() + staged_at;
    int const place = 16 * detail::staged(2048 / each * warp + lane);
    for (int k = 0; k < chunks; ++k)
      if (first + 32 * each * k < at.count)
        thread.template copy_async<16>(to + detail::staged_at(place, 32 * k), from + 32 * each * k);
    thread.commit_copies();
  }

  template <class Thread>
  DARTQUANT_DEVICE void run(Thread const& thread, std::uint32_t, std::uint32_t next, bool wait,
                            float (&v)[Outputs][4]) const {
    thread.template wait_copies<0>();
    thread.synchronize_warp();
    bool const works = 64 * thread.index() < values;
    {
      float x[64];
      if (works) {
        detail::load_staged<T>(thread, staged_at, x);
        detail::butterfly_stage<1>(x);
        detail::butterfly_stage<2>(x);
        detail::butterfly_stage<4>(x);
        detail::butterfly_stage<8>(x);
        detail::butterfly_stage<16>(x);
        detail::butterfly_stage<32>(x);
      }
      thread.synchronize_warp();
      if (next < rows.strips) fetch(thread, next);
      if (wait) thread.synchronize();
      if (works) detail::store_unit64(thread, x);
    }
    thread.synchronize();
    if constexpr (LogLength > 6) {
      if (works) middle(thread);
      thread.synchronize();
    }
    for (int i = 0; i < Outputs; ++i)
      for (int e = 0; e < 4; ++e) v[i][e] = -0.0f;
    Work const w = work(thread.index());
    if ((w.block + 1) * order * length * 4 > values) return;
    auto const* sign = reinterpret_cast<float const*>(thread.shared() + signs_at) + w.output;
    int vector = w.block * order * length + w.column;
    for (int row = 0; row < order; ++row, vector += length, sign += groups * Outputs) {
      Float4 const x = *reinterpret_cast<Float4 const*>(thread.shared() + 16 * detail::strip_swizzle(vector));
      for (int i = 0; i < Outputs; i += 4) {
        Float4 const s = *reinterpret_cast<Float4 const*>(sign + i);
        for (int k = 0; k < 4; ++k)
          for (int e = 0; e < 4; ++e) v[i + k][e] = std::fmaf(s.x[k], x.x[e], v[i + k][e]);
      }
    }
  }

  /// Channels of v[i] that the strip has: 4 or none.
  [[nodiscard]] DARTQUANT_HD bool has(Work const& w, int i, int count) const {
    return w.output + i < order && (w.block + 1) * order * length * 4 <= count;
  }

 private:
  /// Stages 2^6 .. 2^(m-1): a thread holds vectors of 2^hops units, of each every 2^hops-th.
  template <class Thread>
  DARTQUANT_DEVICE static void middle(Thread const& thread) {
    constexpr int hops = LogLength - 6;
    int const t = thread.here(thread.index());
    int const first = 16 * detail::strip_swizzle(((t >> hops) << (4 + hops)) + (t & ((1 << hops) - 1)));
    auto const offset_of = [](int j) { return ((j & ((1 << hops) - 1)) << 4) + ((j >> hops) << hops); };
    float v[16][4];
    for (int j = 0; j < 16; ++j) {
      Float4 const f = detail::strip_vector(thread.shared(), first, offset_of(j));
      for (int e = 0; e < 4; ++e) v[j][e] = f.x[e];
    }
    detail::stages_of<(1 << hops) - 1>(v);
    for (int j = 0; j < 16; ++j)
      detail::strip_vector(thread.shared(), first, offset_of(j)) = {{v[j][0], v[j][1], v[j][2], v[j][3]}};
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
  float factor = 1;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    auto strip = static_cast<std::uint32_t>(thread.block_x());
    auto const step = static_cast<std::uint32_t>(thread.blocks_x());
    transform.fetch(thread, strip);
    transform.prepare(thread);
    for (bool again = false; strip < transform.rows.strips; strip += step, again = true) {
      float v[Transform::held][4];
      transform.run(thread, strip, strip + step, again, v);
      StripPlace const at = transform.place(strip);
      auto const w = transform.work(thread.index());
      T* const to = y + at.row * y_stride + at.first + 4 * transform.first_vector(thread.index());
      for (int i = 0; i < Transform::held; ++i)
        if (transform.has(w, i, at.count))
          store_vector_as(thread, v[i], factor, to + 4 * Transform::offset(i), 4, true);
    }
  }
};

}  // namespace dartquant::cuda
