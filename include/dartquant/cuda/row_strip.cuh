// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include <dartquant/cuda/row_transform.cuh>

namespace dartquant::cuda {

// The fast way through rows of whole Hadamard blocks of 2^m channels, 6 <= m <= 15: a block of threads works
// on one *strip* after another, 64 * threads consecutive channels, and the next strip is on its way to shared
// memory (cp.async, in the element type) while it does. Everything that a value's instructions depend on is
// a constant: element type, m, threads.
//
//   unit     a thread holds 64 consecutive channels: stages 1 .. 32
//   middle   16 vectors of 4 channels, 64 (1024) channels apart: 4 stages, none up to m = 10, one up to 14
//   last     16 vectors of 4 channels, or where at most 3 stages are left, 8 of 8 channels; they stay in
//            registers.
// A value costs one addition per stage and per exchange between two steps 8 bytes of shared memory. Up to
// m = 11 a warp's channels are whole blocks, so that only the warp waits for itself.

/// A strip: its row, its first channel there and how many channels it has.
struct StripPlace {
  std::uint32_t row = 0;
  int first = 0, count = 0;
};

/// Where strips lie in a matrix and in shared memory: floats | as fetched | scratch. Blocks of threads
/// (x, y) work on columns y * values .. of rows x, x + blocks_x, ... A matrix without gaps between its rows
/// may be passed as one with rows of `values` channels.
struct StripRows {
  void const* x = nullptr;
  index_t stride = 0;
  std::uint32_t rows = 0;
  int values = 0;               ///< channels of a strip: 64 per thread where they are a power of two
  std::uint32_t short_row = 0;  ///< from this row on strips have `short_count` channels
  int short_column = 0;         ///< and from this block_y on
  int short_count = 0;
  int fetched_at = 0, scratch_at = 0;

  template <class Thread>
  [[nodiscard]] DARTQUANT_DEVICE StripPlace place(Thread const& thread, std::uint32_t row) const {
    int const column = thread.block_y();
    return {row, column * values, row >= short_row || column >= short_column ? short_count : values};
  }
};

namespace detail {

/// Where vector v of a strip lies in shared memory, in bytes: one unused after every 16, so that threads that
/// hold units touch all banks evenly, and neighbours change places in every other 8, so that those do that
/// read every second vector.
[[nodiscard]] DARTQUANT_HD constexpr int strip_at(int v) { return 16 * ((v ^ ((v >> 3) & 1)) + (v >> 4)); }
/// Bytes of so many channels.
[[nodiscard]] DARTQUANT_HD constexpr int strip_bytes(int channels) { return 4 * channels + channels / 4; }

/// The vectors first + offset of a strip where the two share no bit, so that an address is one of two sums.
struct StripVectors {
  std::byte* shared;
  int even, odd;
  template <class Thread>
  DARTQUANT_DEVICE StripVectors(Thread const& thread, int first)
      : shared(thread.shared()), even(thread.here(strip_at(first))), odd(thread.here(strip_at(first ^ 1))) {}
  [[nodiscard]] DARTQUANT_HD Float4& operator[](int offset) const {
    bool const other = (((offset >> 3) ^ offset) & 1) != 0;
    return *reinterpret_cast<Float4*>(shared + (other ? odd : even) + 16 * ((offset & ~1) + (offset >> 4)));
  }
};

/// Where 16 bytes of a fetched strip lie, in 16 bytes: threads that read units, and threads that write
/// neighbours, touch all banks evenly. And in bytes, from where `at` says that others lie with which the
/// number shares no bit.
template <class T>
[[nodiscard]] DARTQUANT_HD constexpr int staged(int chunk) {
  return chunk ^ ((chunk / (4 * static_cast<int>(sizeof(T)))) & 7);
}
template <class T>
[[nodiscard]] DARTQUANT_HD constexpr int staged_at(int at, int offset) {
  return (at ^ (16 * staged<T>(offset) & 127)) + (16 * staged<T>(offset) & ~127);
}

/// The thread's unit of a fetched strip, but not one beyond `last`.
template <class T, class Thread>
DARTQUANT_DEVICE void load_staged(Thread const& thread, int fetched_at, int last, float (&x)[64]) {
  constexpr int each = 16 / static_cast<int>(sizeof(T)), chunks = 64 / each;
  int const index = thread.here(thread.index());
  int const unit = thread.here(fetched_at + 16 * staged<T>(chunks * (index < last ? index : last)));
  for (int k = 0; k < chunks; ++k) {
    Words4 const raw = *reinterpret_cast<Words4 const*>(thread.shared() + staged_at<T>(unit, k));
    for (int e = 0; e < 4; ++e) {
      if constexpr (sizeof(T) == 4) {
        x[4 * k + e] = std::bit_cast<float>(raw.x[e]);
      } else {
        x[8 * k + 2 * e] = thread.to_float(T{static_cast<std::uint16_t>(raw.x[e])});
        x[8 * k + 2 * e + 1] = thread.to_float(T{static_cast<std::uint16_t>(raw.x[e] >> 16)});
      }
    }
  }
}

/// And where it goes as floats.
template <class Thread>
DARTQUANT_DEVICE void store_unit64(Thread const& thread, float const (&x)[64]) {
  StripVectors const unit(thread, 16 * thread.here(thread.index()));
  for (int k = 0; k < 16; ++k) unit[k] = {{x[4 * k], x[4 * k + 1], x[4 * k + 2], x[4 * k + 3]}};
}

template <int Stages>
DARTQUANT_HD void stages_of(float (&v)[16][4]) {
  if constexpr ((Stages & 1) != 0) butterfly_stage<1>(v);
  if constexpr ((Stages & 2) != 0) butterfly_stage<2>(v);
  if constexpr ((Stages & 4) != 0) butterfly_stage<4>(v);
  if constexpr ((Stages & 8) != 0) butterfly_stage<8>(v);
}

}  // namespace detail

/// The transform of strips for one element type and block length; the first part of a kernel.
template <class T, int LogLength, int Threads>
struct StripTransform {
  static_assert(LogLength >= 6 && LogLength <= 15 && 64 * Threads >= 1 << LogLength);
  static constexpr int threads = Threads;  ///< at most
  static constexpr int held = 16;          ///< vectors of a thread in the end
  static constexpr bool whole_warps = false, warp_only = LogLength <= 11;

  /// The last step: the stages from `done` on, vectors first + offset(j).
  static constexpr int done = LogLength <= 10 ? 6 : LogLength <= 14 ? 10 : 14;
  static constexpr bool wide = LogLength - done <= 3;  ///< vectors are neighbours in pairs
  static constexpr int log_step = LogLength <= 6 ? 5 : LogLength - 6 > 4 - wide ? LogLength - 6 : 4 - wide;
  /// From a thread's vector j to the next, in vectors (in pairs of them where wide).
  [[nodiscard]] DARTQUANT_HD static constexpr int offset(int j) {
    return wide ? 2 * ((j >> 1) << log_step) + (j & 1) : j << log_step;
  }
  [[nodiscard]] DARTQUANT_HD static constexpr int stages() {
    int mask =
        0;  // stage 2^bit channels: 2^(bit - 2 - wide - log_step) times the step, twice as many vectors
    for (int bit = done; bit < LogLength; ++bit) mask |= 1 << (bit - 2 - log_step);
    return mask;
  }

  StripRows rows;
  float factor = 1;
  int norm = 0;  ///< 1: RMSNorm comes first, of the strip, which is a row
  double epsilon = 0;

  /// What values are multiplied with at the end.
  template <class Thread>
  DARTQUANT_DEVICE float factor_of(Thread const& thread) const {
    return norm == 0 ? factor : *reinterpret_cast<float const*>(thread.shared() + rows.scratch_at + 128);
  }

  /// The first vector of a thread in the last step.
  [[nodiscard]] DARTQUANT_HD static constexpr int first_vector(int thread) {
    int const low = thread & ((1 << log_step) - 1);
    return wide ? ((thread >> log_step) << (log_step + 4)) + 2 * low
                : ((thread >> log_step) << (log_step + 4)) + low;
  }

  template <class Thread>
  DARTQUANT_DEVICE static void exchange_barrier(Thread const& thread) {
    if constexpr (warp_only) thread.synchronize_warp();
    else thread.synchronize();
  }

  /// Lanes that hold consecutive vectors, or pairs of them.
  static constexpr int run_lanes = 1 << std::min(log_step, 5);
  /// Whether vector j of a thread lies in a strip of `count` channels.
  [[nodiscard]] DARTQUANT_HD static constexpr bool has(int thread, int j, int count) {
    return 4 * offset(j) < count - 4 * first_vector(thread);
  }
  template <class Thread>
  DARTQUANT_DEVICE void prepare(Thread const&) const {}

  /// Starts to fetch a strip, a warp its own 2048 channels; zeros beyond its end.
  template <class Thread>
  DARTQUANT_DEVICE void fetch(Thread const& thread, std::uint32_t strip) const {
    constexpr int each = 16 / static_cast<int>(sizeof(T)), chunks = 64 / each;  // 16 bytes
    StripPlace const at = rows.place(thread, strip);
    int const index = thread.here(thread.index()), lane = index % 32;
    int const first = index / 32 * 2048 + each * lane;
    T const* const from = static_cast<T const*>(rows.x) + at.row * rows.stride + at.first + first;
    std::byte* const to = thread.shared();
    int const place =
        thread.here(rows.fetched_at + 16 * detail::staged<T>(2048 / each * (index / 32) + lane));
    if (at.count == rows.values) {
      for (int k = 0; k < chunks; ++k)
        thread.template copy_async<16>(to + detail::staged_at<T>(place, 32 * k), from + 32 * each * k);
    } else {
      for (int k = 0; k < chunks; ++k) {
        if (first + 32 * each * k < at.count)
          thread.template copy_async<16>(to + detail::staged_at<T>(place, 32 * k), from + 32 * each * k);
        else *reinterpret_cast<Words4*>(to + detail::staged_at<T>(place, 32 * k)) = {};
      }
    }
    thread.commit_copies();
  }

  /// The strip that was fetched, transformed but for the factor, and the next one on its way. Threads of a
  /// strip may still read the floats of the one before when this begins if `wait`.
  template <class Thread>
  DARTQUANT_DEVICE void run(Thread const& thread, std::uint32_t, std::uint32_t next, bool wait,
                            float (&v)[16][4]) const {
    thread.template wait_copies<0>();
    thread.synchronize_warp();
    if (norm != 0) find_factor(thread);
    float x[64];
    detail::load_staged<T>(thread, rows.fetched_at, 511, x);
    detail::butterfly_stage<1>(x);
    detail::butterfly_stage<2>(x);
    detail::butterfly_stage<4>(x);
    detail::butterfly_stage<8>(x);
    detail::butterfly_stage<16>(x);
    detail::butterfly_stage<32>(x);
    thread.synchronize_warp();
    if (next < rows.rows) fetch(thread, next);
    if (wait) exchange_barrier(thread);
    detail::store_unit64(thread, x);
    if constexpr (done == 6) exchange_barrier(thread);
    if constexpr (done > 6) {
      thread.synchronize_warp();  // 16 threads hold the 1024 channels that they need next
      middle<4>(thread);
      exchange_barrier(thread);
    }
    if constexpr (done > 10) {
      middle<8>(thread);
      exchange_barrier(thread);
    }
    detail::StripVectors const mine(thread, first_vector(thread.here(thread.index())));
    for (int j = 0; j < 16; ++j) {
      Float4 const f = mine[offset(j)];
      for (int e = 0; e < 4; ++e) v[j][e] = f.x[e];
    }
    detail::stages_of<stages()>(v);
    if (norm != 0 && warp_only) thread.synchronize();  // else they have met
  }

 private:
  /// The norm's part of the factor, by one warp of the strip once all have handed in their sums of squares:
  /// of 32 squares in float, the rest in double, a relative error of the mean of at most 33 * 2^-24.
  template <class Thread>
  DARTQUANT_DEVICE void find_factor(Thread const& thread) const {
    float x[64];  // loaded twice, so that there is one way for x where there is no norm
    detail::load_staged<T>(thread, rows.fetched_at, 511, x);
    auto* const sums = reinterpret_cast<double*>(thread.shared() + rows.scratch_at);
    float half[2] = {0, 0};
    for (int k = 0; k < 32; ++k)
      for (int i = 0; i < 2; ++i) half[i] = std::fmaf(x[32 * i + k], x[32 * i + k], half[i]);
    double sum = static_cast<double>(half[0]) + static_cast<double>(half[1]);
    for (int mask = 16; mask > 0; mask /= 2) sum += thread.shuffle_xor(sum, mask);
    int const warps = thread.count() / 32;
    if (warps > 1) {
      if (thread.lane() == 0) sums[thread.warp()] = sum;
      thread.synchronize();
      if (thread.warp() > 0) return;
      sum = thread.lane() < warps ? sums[thread.lane()] : 0.0;
      for (int mask = 8; mask > 0; mask /= 2) sum += thread.shuffle_xor(sum, mask);
    }
    if (thread.lane() == 0)
      *reinterpret_cast<float*>(sums + 16) =
          factor * static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(rows.short_count) + epsilon));
  }

  template <int LogStep, class Thread>
  DARTQUANT_DEVICE static void middle(Thread const& thread) {
    detail::StripVectors const mine(thread, held_by(thread.here(thread.index()), LogStep).first);
    float v[16][4];
    for (int j = 0; j < 16; ++j) {
      Float4 const f = mine[j << LogStep];
      for (int e = 0; e < 4; ++e) v[j][e] = f.x[e];
    }
    detail::stages_of<15>(v);
    for (int j = 0; j < 16; ++j) mine[j << LogStep] = {{v[j][0], v[j][1], v[j][2], v[j][3]}};
  }
};

/// The same without a transform: straight to the registers of the threads that quantize them, 8 channels side
/// by side.
template <class T, int Threads>
struct PlainStrip {
  static constexpr int threads = Threads, held = 16, log_step = 5;
  static constexpr bool whole_warps = false, wide = true;
  [[nodiscard]] DARTQUANT_HD static constexpr int offset(int j) { return 64 * (j >> 1) + (j & 1); }
  [[nodiscard]] DARTQUANT_HD static constexpr int first_vector(int thread) {
    return 512 * (thread / 32) + 2 * (thread % 32);
  }

  StripRows rows;
  float factor = 1;

  template <class Thread>
  DARTQUANT_DEVICE float factor_of(Thread const&) const {
    return factor;
  }
  /// Lanes that hold consecutive vectors, or pairs of them.
  static constexpr int run_lanes = 1 << std::min(log_step, 5);
  /// Whether vector j of a thread lies in a strip of `count` channels.
  [[nodiscard]] DARTQUANT_HD static constexpr bool has(int thread, int j, int count) {
    return 4 * offset(j) < count - 4 * first_vector(thread);
  }
  template <class Thread>
  DARTQUANT_DEVICE void prepare(Thread const&) const {}

  template <class Thread>
  DARTQUANT_DEVICE void fetch(Thread const&, std::uint32_t) const {}

  template <class Thread>
  DARTQUANT_DEVICE void run(Thread const& thread, std::uint32_t strip, std::uint32_t, bool,
                            float (&v)[16][4]) const {
    constexpr int words = static_cast<int>(sizeof(T)) / 2;
    StripPlace const at = rows.place(thread, strip);
    int const first = 4 * first_vector(thread.index());
    T const* const from = static_cast<T const*>(rows.x) + at.row * rows.stride + at.first + first;
    Words4 raw[8][words];
    for (int i = 0; i < 8; ++i)
      for (int w = 0; w < words; ++w) {
        raw[i][w] = {};
        if (at.count == rows.values || first + 256 * i < at.count)
          raw[i][w] = reinterpret_cast<Words4 const*>(from + 256 * i)[w];
      }
    for (int i = 0; i < 8; ++i)
      for (int e = 0; e < 8; ++e) {
        if constexpr (sizeof(T) == 4) {
          v[2 * i + e / 4][e % 4] = std::bit_cast<float>(raw[i][e / 4].x[e % 4]);
        } else {
          v[2 * i + e / 4][e % 4] =
              thread.to_float(T{static_cast<std::uint16_t>(raw[i][0].x[e / 2] >> (16 * (e % 2)))});
        }
      }
  }
};

/// Y <- transform(X) by strips; x and y have the same type.
template <class T, int LogLength, int Threads, int Blocks>
struct HadamardStrips {
  using Transform = StripTransform<T, LogLength, Threads>;
  static constexpr int threads = Threads, blocks = Blocks;
  Transform transform;
  T* y = nullptr;
  index_t y_stride = 0;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    auto strip = static_cast<std::uint32_t>(thread.block_x());
    auto const step = static_cast<std::uint32_t>(thread.blocks_x());
    transform.fetch(thread, strip);
    for (bool again = false; strip < transform.rows.rows; strip += step, again = true) {
      float v[16][4];
      transform.run(thread, strip, strip + step, again, v);
      int const first = Transform::first_vector(thread.here(thread.index()));
      StripPlace const at = transform.rows.place(thread, strip);
      T* const to = y + at.row * y_stride + at.first + 4 * first;
      float const factor = transform.factor_of(thread);
      if (at.count == transform.rows.values) store<true>(thread, v, factor, to, 0);
      else store<false>(thread, v, factor, to, at.count - 4 * first);
    }
  }

 private:
  template <bool Whole, class Thread>
  DARTQUANT_DEVICE static void store(Thread const& thread, float const (&v)[16][4], float factor, T* to,
                                     int count) {
    if constexpr (Transform::wide && sizeof(T) == 2) {
      for (int i = 0; i < 16; i += 2) {
        int const at = 4 * Transform::offset(i);
        if (!Whole && at >= count) continue;
        Words4 words;
        for (int e = 0; e < 4; ++e)
          words.x[e] = thread.template from_floats<T>(v[i + e / 2][2 * (e & 1)] * factor,
                                                      v[i + e / 2][2 * (e & 1) + 1] * factor);
        *reinterpret_cast<Words4*>(to + at) = words;
      }
    } else {
      for (int j = 0; j < 16; ++j) {
        int const at = 4 * Transform::offset(j);
        if (!Whole && at >= count) continue;
        if constexpr (sizeof(T) == 4) {
          *reinterpret_cast<Float4*>(to + at) = {
              {v[j][0] * factor, v[j][1] * factor, v[j][2] * factor, v[j][3] * factor}};
        } else {
          auto const low = thread.template from_floats<T>(v[j][0] * factor, v[j][1] * factor);
          auto const high = thread.template from_floats<T>(v[j][2] * factor, v[j][3] * factor);
          *reinterpret_cast<std::uint64_t*>(to + at) = low | static_cast<std::uint64_t>(high) << 32;
        }
      }
    }
  }
};

}  // namespace dartquant::cuda
