// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <dartquant/cuda/hadamard_base.cuh>
#include <dartquant/cuda/row_tile.cuh>

namespace dartquant::cuda {

// [RMSNorm ->] [permute ->] Hadamard of a tile of rows, from global memory to registers. The float operations
// of a value and their order are those of src/cpu/portable.cpp: stages h = 1, 2, 4, ..., then the base's sums
// from row 0 upwards, then one factor. They are only dealt to threads differently:
//   load       a thread holds 32 consecutive channels: stages 1 .. 16
//   pass       a thread holds 16 vectors of 4 channels, h channels apart: stages h .. 8 h, as many passes as
//              leave at most 4 stages to
//   hold       the same without storing the result; what follows works on these 64 values.
// Between them the values go through shared memory: 8 bytes per value up to 2^9 channels, 16 up to 2^13, 24
// up to 2^15, without bank conflicts. A value costs one addition per stage; a base costs `order` FMAs.

/// The parameters of a transform, the first part of a kernel.
struct RowTransformStep {
  RowTile tile;
  StoredRows x;
  std::int32_t const* permutation = nullptr;
  void const* gain = nullptr;
  ElementType gain_type = ElementType::float32;
  int gain_vectors = 0;  ///< as StoredRows::vectors
  int norm = 0;          ///< 1: RMSNorm comes first
  double epsilon = 0;
  float factor = 1;
};

/// The 16 vectors of a thread: `first` and further ones 2^log_step apart.
struct Held {
  int first = 0, log_step = 0;
  [[nodiscard]] DARTQUANT_HD int vector(int j) const { return first + (j << log_step); }
};
[[nodiscard]] DARTQUANT_HD inline Held held_by(int thread, int log_step) {
  return {((thread >> log_step) << (log_step + 4)) | (thread & ((1 << log_step) - 1)), log_step};
}

namespace detail {

template <int Distance, int Count>
DARTQUANT_HD void butterfly_stage(float (&x)[Count]) {
  for (int i = 0; i < Count; ++i)
    if ((i & Distance) == 0) {
      float const a = x[i], b = x[i + Distance];
      x[i] = a + b;
      x[i + Distance] = a - b;
    }
}

template <int Distance>
DARTQUANT_HD void butterfly_stage(float (&v)[16][4]) {
  for (int j = 0; j < 16; ++j)
    if ((j & Distance) == 0)
      for (int e = 0; e < 4; ++e) {
        float const a = v[j][e], b = v[j + Distance][e];
        v[j][e] = a + b;
        v[j + Distance][e] = a - b;
      }
}

/// Stages 1 .. 16 of 32 consecutive channels, as far as the transform reaches.
DARTQUANT_HD inline void unit_stages(float (&x)[32], int log_length) {
  if (log_length > 0) butterfly_stage<1>(x);
  if (log_length > 1) butterfly_stage<2>(x);
  if (log_length > 2) butterfly_stage<4>(x);
  if (log_length > 3) butterfly_stage<8>(x);
  if (log_length > 4) butterfly_stage<16>(x);
}

/// Of the stages h, 2h, 4h, 8h those whose bit is set.
DARTQUANT_HD inline void vector_stages(float (&v)[16][4], int stages) {
  if ((stages & 1) != 0) butterfly_stage<1>(v);
  if ((stages & 2) != 0) butterfly_stage<2>(v);
  if ((stages & 4) != 0) butterfly_stage<4>(v);
  if ((stages & 8) != 0) butterfly_stage<8>(v);
}

DARTQUANT_HD inline void load_held(TileFloats floats, Held const& held, float (&v)[16][4]) {
  for (int j = 0; j < 16; ++j) {
    Float4 const f = floats.vector(held.vector(j));
    for (int e = 0; e < 4; ++e) v[j][e] = f.x[e];
  }
}

DARTQUANT_HD inline void store_held(TileFloats floats, Held const& held, float const (&v)[16][4]) {
  for (int j = 0; j < 16; ++j) floats.vector(held.vector(j)) = {{v[j][0], v[j][1], v[j][2], v[j][3]}};
}

DARTQUANT_HD inline void store_unit(TileFloats floats, int unit, float const (&x)[32]) {
  for (int k = 0; k < 8; ++k)
    floats.vector(8 * unit + k) = {{x[4 * k], x[4 * k + 1], x[4 * k + 2], x[4 * k + 3]}};
}

/// Where a unit of the tile lies in a matrix of this stride; `gain` is its place in a row.
DARTQUANT_HD inline UnitPlace unit_place(RowTile const& tile, std::uint32_t first_row, int unit,
                                         index_t stride, UnitPlace& gain) {
  std::uint32_t const tile_row = tile.row_units.quotient(static_cast<std::uint32_t>(unit));
  std::uint32_t const row = first_row + tile_row;
  if (unit >= tile.floats / 32 || static_cast<int>(tile_row) >= tile.tile_rows || row >= tile.rows) return {};
  int const col = 32 * (unit - static_cast<int>(tile_row * tile.row_units.divisor));
  RowPlace const place = place_of(tile, row);
  int const count = tile.cols - col < 32 ? tile.cols - col : 32;
  gain = {col, count};
  return {place.row * stride + place.first + col, count};
}

DARTQUANT_HD inline float sum_of_squares(float const (&x)[32]) {
  float sum = 0;
  for (int e = 0; e < 32; ++e) sum += x[e] * x[e];
  return sum;
}

template <class Thread>
DARTQUANT_DEVICE void multiply_gain(Thread const& thread, RowTransformStep const& step,
                                    UnitPlace const& place, float (&x)[32]) {
  float gain[32], nothing[32];
  load_units(thread, step.gain, step.gain_type, place, {}, step.gain_vectors != 0, gain, nothing);
  for (int e = 0; e < 32; ++e) x[e] = x[e] * gain[e];
}

/// The rows of the tile from global to shared memory: times the gain, and through the first stages if
/// `stages`. A thread has at most two units.
template <class Thread>
DARTQUANT_DEVICE void load_rows(Thread const& thread, RowTransformStep const& step, std::uint32_t first_row,
                                TileFloats floats, bool stages) {
  RowTile const& tile = step.tile;
  int const units = tile.floats / 32, one = thread.index(), two = one + thread.count();
  UnitPlace one_gain, two_gain;
  UnitPlace const one_at = unit_place(tile, first_row, one, step.x.stride, one_gain),
                  two_at = unit_place(tile, first_row, two, step.x.stride, two_gain);
  float first[32], second[32];
  load_units(thread, step.x.data, step.x.type, one_at, two_at, step.x.vectors != 0, first, second);
  if (step.norm != 0) {
    auto* const squares = reinterpret_cast<float*>(thread.shared() + tile.sums_at);
    if (one < units) squares[one] = sum_of_squares(first);
    if (two < units) squares[two] = sum_of_squares(second);
    if (step.gain != nullptr) {
      multiply_gain(thread, step, one_gain, first);
      multiply_gain(thread, step, two_gain, second);
    }
  }
  int const log_length = stages ? tile.log_length : 0;
  unit_stages(first, log_length);
  if (one < units) store_unit(floats, one, first);
  unit_stages(second, log_length);
  if (two < units) store_unit(floats, two, second);
  thread.synchronize();
}

/// factors[row] = factor / sqrt(mean(x^2) + epsilon), a warp per row. Sums of 32 squares are formed in float,
/// the rest in double: a relative error of the mean of at most 33 * 2^-24.
template <class Thread>
DARTQUANT_DEVICE void norm_factors(Thread const& thread, RowTransformStep const& step) {
  RowTile const& tile = step.tile;
  auto* const squares = reinterpret_cast<float*>(thread.shared() + tile.sums_at);
  float* const factors = squares + tile.floats / 32;
  int const units = tile.pitch / 32;
  for (int row = thread.warp(); row < tile.tile_rows; row += thread.count() / 32) {
    double sum = 0;
    for (int u = thread.lane(); u < units; u += 32) sum += static_cast<double>(squares[row * units + u]);
    for (int mask = 16; mask > 0; mask /= 2) sum += thread.shuffle_xor(sum, mask);
    if (thread.lane() == 0)
      factors[row] = step.factor *
                     static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(tile.cols) + step.epsilon));
  }
  thread.synchronize();
}

/// The permuted channels of a unit.
DARTQUANT_HD inline void gather_unit(RowTransformStep const& step, TileFloats floats, int unit,
                                     float (&y)[32]) {
  RowTile const& tile = step.tile;
  std::uint32_t const tile_row = tile.row_units.quotient(static_cast<std::uint32_t>(unit));
  int const col = 32 * (unit - static_cast<int>(tile_row * tile.row_units.divisor));
  int const row_first = static_cast<int>(tile_row) * tile.pitch;
  int const count = static_cast<int>(tile_row) < tile.tile_rows ? tile.cols - col : 0;
  auto const last = static_cast<std::uint32_t>(tile.cols - 1);
  for (int e = 0; e < 32; ++e) {
    y[e] = 0;
    if (e >= count) continue;
    auto const source = static_cast<std::uint32_t>(step.permutation[col + e]);
    y[e] = floats[row_first + static_cast<int>(source < last ? source : last)];
  }
}

/// Channels of the tile's rows change places, and go through the first stages. A thread has at most two
/// units.
template <class Thread>
DARTQUANT_DEVICE void permute_rows(Thread const& thread, RowTransformStep const& step, TileFloats floats) {
  int const units = step.tile.floats / 32, one = thread.index(), two = one + thread.count();
  float first[32] = {}, second[32] = {};
  if (one < units) gather_unit(step, floats, one, first);
  if (two < units) gather_unit(step, floats, two, second);
  thread.synchronize();
  unit_stages(first, step.tile.log_length);
  if (one < units) store_unit(floats, one, first);
  unit_stages(second, step.tile.log_length);
  if (two < units) store_unit(floats, two, second);
  thread.synchronize();
}

/// Stages h .. 8 h of the whole tile, from and to shared memory.
template <class Thread>
DARTQUANT_DEVICE void pass(Thread const& thread, RowTile const& tile, TileFloats floats, int log_step,
                           int stages) {
  if (thread.index() < tile.floats / 64) {
    Held const held = held_by(thread.index(), log_step);
    float v[16][4];
    load_held(floats, held, v);
    vector_stages(v, stages);
    store_held(floats, held, v);
  }
  thread.synchronize();
}

}  // namespace detail

/// The tile of rows from first_row on, transformed but for the factor: `v` holds the vectors of the Held that
/// is returned. Threads from tile.floats / 64 on hold zeros.
template <class Thread>
DARTQUANT_DEVICE Held transform_rows(Thread const& thread, RowTransformStep const& step,
                                     std::uint32_t first_row, float (&v)[16][4]) {
  RowTile const& tile = step.tile;
  TileFloats const floats{reinterpret_cast<float*>(thread.shared())};
  detail::load_rows(thread, step, first_row, floats, step.permutation == nullptr);
  if (step.norm != 0) detail::norm_factors(thread, step);
  if (step.permutation != nullptr) detail::permute_rows(thread, step, floats);

  int done = tile.log_length < 5 ? tile.log_length : 5;
  for (; tile.log_length - done > 4; done += 4) detail::pass(thread, tile, floats, done - 2, 15);
  int log_hop = tile.log_length - 4 > 5 ? tile.log_length - 4 : 5;
  int stages = ((1 << (tile.log_length - done)) - 1) << (done > log_hop ? done - log_hop : 0);
  if (tile.order > 1) {
    if (stages != 0) detail::pass(thread, tile, floats, log_hop - 2, stages);
    if (tile.copy_at != 0) detail::multiply_base_plainly(thread, tile, floats);
    else detail::multiply_base(thread, tile, floats);
    log_hop = 5;
    stages = 0;
  }
  Held const held = held_by(thread.index(), log_hop - 2);
  if (thread.index() < tile.floats / 64) {
    detail::load_held(floats, held, v);
    detail::vector_stages(v, stages);
  } else {
    for (int j = 0; j < 16; ++j)
      for (int e = 0; e < 4; ++e) v[j][e] = 0;
  }
  return held;
}

/// What row `tile_row` of the tile is multiplied with at the end.
template <class Thread>
DARTQUANT_DEVICE float factor_of(Thread const& thread, RowTransformStep const& step, std::uint32_t tile_row) {
  if (step.norm == 0) return step.factor;
  auto const* const squares = reinterpret_cast<float const*>(thread.shared() + step.tile.sums_at);
  return squares[static_cast<std::uint32_t>(step.tile.floats / 32) + tile_row];
}

}  // namespace dartquant::cuda
