// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>

#include <dartquant/cuda/block_rotation.cuh>
#include <dartquant/cuda/dequantize.cuh>
#include <dartquant/cuda/grid.hpp>
#include <dartquant/cuda/hadamard.cuh>
#include <dartquant/cuda/quantize.cuh>
#include <dartquant/cuda/stored_rows.hpp>

// How the kernels on rows are cut into tiles, for any device: plain functions, so that tests and queries need
// no device.

namespace dartquant::cuda {

/// What of a device decides how rows are cut.
struct RowDevice {
  int shared_bytes = 48 * 1024;  ///< of a block, at most (opt-in)
  int multiprocessors = 1;
};

/// A tile and how many threads and blocks work on tiles.
struct RowPlan {
  RowTile tile;
  int threads = 0;
  Grid grid;
};

namespace detail {

[[nodiscard]] constexpr index_t round_up(index_t n, index_t unit) { return (n + unit - 1) / unit * unit; }

/// The width that rows are cut to: whole blocks and groups, whole units and, for the way that spends least on
/// a level (row_join 16), 512 channels, where the width of the matrix allows it.
[[nodiscard]] inline index_t piece_of(index_t cols, index_t block, index_t group) {
  index_t const least = std::lcm(block, group);
  if (cols % least != 0) return cols;
  index_t piece = least;
  while (piece < 512 && cols % (2 * piece) == 0) piece *= 2;
  return piece % 32 == 0 ? piece : cols;
}

/// Of the vectors of a thread, the largest power of two of which consecutive ones never leave a row, and
/// where `width` is less, `width` channels.
[[nodiscard]] inline int join_of(RowTile const& tile, int width) {
  int const log_hop = tile.order > 1 ? 5 : std::max(5, tile.log_length - 4);
  int join = 1;
  while (join < 16 && tile.pitch % (2 * join << log_hop) == 0 &&
         (width == tile.cols || width % (2 * join << log_hop) == 0))
    join *= 2;
  return join;
}

/// The parts of shared memory: floats | maps | norms | signs | copy.
inline void place_parts(RowTile& tile, int threads, int norm, int quantizes) {
  int at = 4 * tile.floats;
  if (quantizes != 0) {
    tile.maps_at = at;
    at += 16 * tile.tile_rows * tile.row_groups;
  }
  if (norm != 0) {
    tile.sums_at = at;
    at += static_cast<int>(round_up(4 * (tile.floats / 32 + tile.tile_rows), 16));
  }
  tile.signs_at = tile.copy_at = tile.slab = 0;
  if (tile.order > 1) {
    int const width = (tile.order + 3) / 4 * 4, length = static_cast<int>(tile.block_columns.divisor);
    int const columns = tile.tile_rows * static_cast<int>(tile.row_blocks.divisor) * length;
    if (tile.log_length >= 2 && tile.order % 4 == 0 && (columns + 3) / 4 * (width / 4) <= threads) {
      tile.slab = std::min(tile.order, std::max(4, 8192 / tile.order / 4 * 4));
      tile.signs_at = at;
      at += tile.slab * tile.order;
    } else {
      tile.copy_at = at;
      at += 4 * tile.tile_rows * tile.cols;
    }
  }
  tile.shared_bytes = at;
}

}  // namespace detail

/// What is planned: rows [rows, cols], a checked transform, groups (0: the whole row; -1: nothing is
/// quantized), and whether an RMSNorm comes first.
struct RowWork {
  index_t rows = 0, cols = 0;
  RowTransform transform;
  index_t group = -1;
  int norm = 0;
};

/// The tiles of the work: as many rows as 128 threads hold (8192 values), else one row with 256 or 512
/// threads; fewer where rows are few, so that all multiprocessors have some. Nothing where a row (or a block
/// and group, where nothing needs whole rows) has more than 32768 channels or does not fit into the shared
/// memory of a block, or rows are 2^31 and more.
[[nodiscard]] inline std::optional<RowPlan> plan_rows(RowWork const& work, RowDevice const& device) {
  index_t const order = work.transform.base == nullptr ? 1 : work.transform.base_order;
  index_t const block = std::max<index_t>(work.transform.block, 1), length = block / order;
  bool const whole = work.transform.permutation != nullptr || work.norm != 0 || work.group == 0;
  index_t const cols =
      whole ? work.cols : detail::piece_of(work.cols, block, std::max<index_t>(work.group, 1));
  index_t const rows = work.rows * (work.cols / cols), pitch = detail::round_up(cols, 32);
  if (cols > 32768 || rows >= (index_t{1} << 31)) return std::nullopt;

  RowTile tile;
  tile.rows = static_cast<std::uint32_t>(rows);
  tile.cols = static_cast<int>(cols);
  tile.pitch = static_cast<int>(pitch);
  tile.chunks = Divider(static_cast<std::uint32_t>(work.cols / cols));
  tile.row_units = Divider(static_cast<std::uint32_t>(pitch / 32));
  tile.log_length = std::countr_zero(static_cast<std::uint64_t>(length));
  tile.order = static_cast<int>(order);
  tile.base = work.transform.base;
  tile.block_columns = Divider(static_cast<std::uint32_t>(std::max<index_t>(length / 4, 1)));
  tile.row_blocks = Divider(static_cast<std::uint32_t>(cols / block));
  bool const one_group = work.group <= 0 || work.group >= cols;
  tile.group = static_cast<int>(one_group ? cols : work.group);
  tile.row_groups = (tile.cols - 1) / tile.group + 1;
  tile.group_divider = Divider(static_cast<std::uint32_t>(tile.group));
  tile.join = detail::join_of(tile, tile.group);
  tile.row_join = detail::join_of(tile, tile.cols);

  index_t const span = std::max<index_t>(512, length);
  index_t const share = (rows - 1) / std::max(1, device.multiprocessors) + 1;
  for (int threads = 128; threads <= 512; threads *= 2) {
    index_t const most = threads == 128 ? std::max<index_t>(1, 64 * threads / pitch) : 1;
    for (index_t tile_rows = std::min(most, share); tile_rows >= 1; tile_rows /= 2) {
      tile.tile_rows = static_cast<int>(tile_rows);
      tile.floats = static_cast<int>(detail::round_up(tile_rows * pitch, span));
      detail::place_parts(tile, threads, work.norm, work.group >= 0 ? 1 : 0);
      bool const prefer_more_threads = tile.copy_at != 0 && tile.log_length >= 2 && threads < 512;
      if (tile.floats > 64 * threads || tile.shared_bytes > device.shared_bytes || prefer_more_threads)
        continue;
      Grid const grid{.blocks_x = static_cast<int>((rows - 1) / tile_rows + 1),
                      .shared_bytes = static_cast<std::size_t>(tile.shared_bytes)};
      return RowPlan{tile, threads, grid};
    }
  }
  return std::nullopt;
}

namespace detail {

[[nodiscard]] inline bool aligned_to(void const* data, index_t bytes) {
  return reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(bytes) == 0;
}

/// Rows as a kernel takes them, in accesses of `access` bytes where that is possible.
[[nodiscard]] inline StoredRows stored(void const* data, ElementType type, index_t stride, index_t cols,
                                       index_t access) {
  bool const vectors = aligned_to(data, access) && stride * element_bytes(type) % access == 0 &&
                       cols * element_bytes(type) % access == 0;
  return {const_cast<void*>(data), type, stride, vectors ? 1 : 0};
}

}  // namespace detail

/// The first part of the kernels on rows.
[[nodiscard]] inline RowTransformStep transform_step(RowPlan const& plan, RowTransform const& transform,
                                                     RowNorm const* norm, ConstRows const& x) {
  RowTransformStep step;
  step.tile = plan.tile;
  step.x = detail::stored(x.data, x.type, x.stride, plan.tile.cols, 16);
  if (plan.tile.cols % 32 != 0) step.x.vectors = 0;
  step.permutation = transform.permutation;
  if (norm != nullptr) {
    step.norm = 1;
    step.gain = norm->gain;
    step.gain_type = norm->gain_type;
    step.gain_vectors = detail::aligned_to(norm->gain, 16) && plan.tile.cols % 32 == 0 ? 1 : 0;
    step.epsilon = norm->epsilon;
  }
  if (transform.block != 0)
    step.factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(transform.block)));
  return step;
}

/// run<Threads>() with the threads of a plan, for the two below.
template <class Run>
void with_threads(int threads, Run const& run) {
  if (threads == 128) run.template operator()<128>();
  else if (threads == 256) run.template operator()<256>();
  else run.template operator()<512>();
}

/// The parameters of HadamardRows.
template <int Threads>
[[nodiscard]] HadamardRows<Threads> hadamard_rows(RowTransformStep const& step, Rows const& y) {
  StoredRows to = detail::stored(y.data, y.type, y.stride, step.tile.cols, 4 * element_bytes(y.type));
  return {step, to};
}

/// The parameters of QuantizeRows.
template <int Threads>
[[nodiscard]] QuantizeRows<Threads> quantize_rows(RowTransformStep const& step, QuantizedRows const& q,
                                                  float clip_ratio) {
  index_t const access = q.bits / 2;  // bytes of 4 channels
  bool const regular = step.tile.cols % 32 == 0 && step.tile.group % 32 == 0 &&
                       detail::aligned_to(q.levels, access) && q.level_stride % access == 0;
  return {step,
          {q.levels, q.level_stride, q.scales, q.scale_stride, q.zero_points, q.zero_point_stride, q.bits,
           q.symmetry, clip_ratio, regular ? 1 : 0}};
}

/// The parameters of DequantizeRows; nothing where rows have 2^31 pieces of 8 channels and more.
[[nodiscard]] inline std::optional<DequantizeRows> dequantize_rows(ConstQuantizedRows const& q,
                                                                   Rows const& y) {
  index_t const row_pieces = (q.cols - 1) / 8 + 1;
  if (q.cols >= (index_t{1} << 31) - 8 || row_pieces > ((index_t{1} << 31) - 256) / q.rows)
    return std::nullopt;
  index_t const group = q.group == 0 || q.group > q.cols ? q.cols : q.group;
  DequantizeRows body;
  body.q = q;
  body.y = detail::stored(y.data, y.type, y.stride, q.cols, 4 * element_bytes(y.type));
  body.pieces = static_cast<std::uint32_t>(row_pieces * q.rows);
  body.row_pieces = Divider(static_cast<std::uint32_t>(row_pieces));
  body.group = Divider(static_cast<std::uint32_t>(group));
  bool const whole = (group % 8 == 0 || group == q.cols) && detail::aligned_to(q.levels, q.bits) &&
                     q.level_stride % q.bits == 0;
  body.whole = whole ? 1 : 0;
  return body;
}

/// run(DequantizeOctets) of the same parameters, and true; false where rows do not allow it.
template <class Run>
bool with_octets(DequantizeRows const& body, Run const& run) {
  bool const fits = body.whole != 0 && body.q.cols % 8 == 0 && detail::aligned_to(body.y.data, 16) &&
                    body.y.stride * element_bytes(body.y.type) % 16 == 0;
  if (!fits) return false;
  auto const with_bits = [&]<class T>(T) {
    if (body.q.bits == 4) run(DequantizeOctets<T, 4, 4>{body});
    else run(DequantizeOctets<T, 8, 4>{body});
  };
  if (body.y.type == ElementType::float32) with_bits(float{});
  else if (body.y.type == ElementType::float16) with_bits(Half{});
  else with_bits(BFloat16{});
  return true;
}

/// The parameters of RotateBlocks.
[[nodiscard]] inline RotateBlocks rotate_blocks(BlockRotations const& rotation, ConstRows const& x,
                                                Rows const& y) {
  StoredRows to = detail::stored(y.data, y.type, y.stride, rotation.block, 4 * element_bytes(y.type));
  return {{const_cast<void*>(x.data), x.type, x.stride, 0},
          to,
          rotation.permutation,
          rotation.rotations,
          x.rows,
          static_cast<int>(x.cols),
          static_cast<int>(rotation.block),
          rotation.count == 1 ? 0 : 1};
}

}  // namespace dartquant::cuda
