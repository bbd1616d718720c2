// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <dartquant/calibrate/objective.hpp>
#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/cuda/elements.cuh>
#include <dartquant/cuda/rows.cuh>
#include <dartquant/cuda/sums.cuh>
#include <dartquant/cuda/team.cuh>

/// Kernels that evaluate an objective and its derivative in one pass over the rotated values O. O may hold
/// several groups of `rows` rows (the heads of a layer), one above the other: block_z is the group, and the
/// mean is taken within it. Every block writes one partial sum; see SumPartials.
namespace dartquant::cuda {

/// The blocks of a group write their partial sums one after another, group after group.
template <class Thread>
DARTQUANT_DEVICE double* partial_of(Thread const& thread, double* partial) {
  return partial + static_cast<index_t>(thread.block_z()) * thread.blocks_x() * thread.blocks_y() +
         block_number(thread);
}

/// An ElementwiseObjective.
template <class T, class Objective>
struct ElementwiseRows {
  static constexpr int threads = element_threads;
  static constexpr std::size_t shared_bytes = sizeof(double) * threads / 32;
  Objective objective;
  index_t rows;
  DeviceMatrixView<T const> O;
  DeviceMatrixView<T> slope;
  double* partial;

  [[nodiscard]] static Grid grid(index_t rows, index_t cols) {
    Grid grid = element_grid(rows, cols);
    grid.shared_bytes = shared_bytes;
    return grid;
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    index_t const first = thread.block_z() * rows;
    T const weight = T(1) / static_cast<T>(rows);
    T sum = 0;  // of element_rows values at most
    for_each_element(thread, rows, O.cols(), [&](index_t row, index_t col) {
      T value, derivative;
      objective(O(first + row, col), value, derivative);
      sum += value;
      slope(first + row, col) = weight * derivative;
    });
    double const total =
        block_sum(thread, static_cast<double>(sum), reinterpret_cast<double*>(thread.shared()));
    if (thread.index() == 0) *partial_of(thread, partial) = total;
  }
};

/// A TokenObjective: a warp per row where the objective can be shared by a team, else a thread per row.
template <class T, class Objective>
struct TokenRows {
  static constexpr int threads = row_threads;
  static constexpr std::size_t shared_bytes = sizeof(double) * threads / 32;
  Objective objective;
  index_t rows;
  DeviceMatrixView<T const> O;
  DeviceMatrixView<T> slope;
  double* partial;

  static constexpr bool shared_by_team =
      requires(Objective const& f, detail::OneThread const& team, VectorView<T const> x, VectorView<T> y) {
    f(team, x, y);
  };

  [[nodiscard]] static Grid grid(index_t rows, index_t /*cols*/) {
    Grid grid = row_grid(shared_by_team ? rows : (rows + 31) / 32);
    grid.shared_bytes = shared_bytes;
    return grid;
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    index_t const first = thread.block_z() * rows, cols = O.cols();
    T const weight = T(1) / static_cast<T>(rows);
    index_t const warp = static_cast<index_t>(thread.block_x()) * rows_per_block + thread.warp();
    double value = 0;
    if constexpr (shared_by_team) {
      if (warp < rows) {
        VectorView<T const> const x(&O(first + warp, 0), cols);
        VectorView<T> const y(&slope(first + warp, 0), cols);
        WarpTeam<Thread> const team{thread};
        T const found = objective(team, x, y);
        if (thread.lane() == 0) value = static_cast<double>(found);
        team.for_each(cols, [&](index_t i) { y[i] *= weight; });
      }
    } else if (index_t const row = warp * 32 + thread.lane(); row < rows) {
      VectorView<T> const y(&slope(first + row, 0), cols);
      value = static_cast<double>(objective(VectorView<T const>(&O(first + row, 0), cols), y));
      for (index_t i = 0; i < cols; ++i) y[i] *= weight;
    }
    double const total = block_sum(thread, value, reinterpret_cast<double*>(thread.shared()));
    if (thread.index() == 0) *partial_of(thread, partial) = total;
  }
};

/// A RankedObjective of floats: a block per row sorts it in shared memory (bitonic; value, then channel),
/// then shares the objective where it can be shared.
template <class T, class Objective>
struct RankedRows {
  static_assert(sizeof(T) == 4, "rows of double are not sorted on a device");
  static constexpr int threads = 256;
  static constexpr std::size_t space_bytes = 128;  // of BlockTeam
  Objective objective;
  index_t rows;
  DeviceMatrixView<T const> O;
  DeviceMatrixView<T> slope;
  double* partial;

  [[nodiscard]] DARTQUANT_HD static index_t padded(index_t cols) {
    index_t size = 1;
    while (size < cols) size *= 2;
    return size;
  }
  [[nodiscard]] static Grid grid(index_t rows, index_t cols) {
    return {.blocks_x = static_cast<int>(rows),
            .shared_bytes = space_bytes + sizeof(std::uint64_t) * static_cast<std::size_t>(padded(cols))};
  }

  /// The order of floats as that of unsigned numbers (-0 equals 0), the channel below it: all keys differ.
  [[nodiscard]] DARTQUANT_HD static std::uint64_t key(T value, index_t channel) {
    T const x = value + T(0);
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits ^= (bits >> 31) != 0 ? 0xFFFFFFFFu : 0x80000000u;
    return (static_cast<std::uint64_t>(bits) << 32) | static_cast<std::uint64_t>(channel);
  }

  template <class Thread>
  DARTQUANT_DEVICE static void sort(Thread const& thread, std::uint64_t* keys, index_t size) {
    for (index_t run = 2; run <= size; run *= 2)
      for (index_t step = run / 2; step > 0; step /= 2) {
        thread.synchronize();
        for (index_t pair = thread.index(); pair < size / 2; pair += threads) {
          index_t const low = pair / step * 2 * step + pair % step, high = low + step;
          std::uint64_t const a = keys[low], b = keys[high];
          if ((a > b) == ((low & run) == 0)) {
            keys[low] = b;
            keys[high] = a;
          }
        }
      }
    thread.synchronize();
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    index_t const row = thread.block_z() * rows + thread.block_x(), cols = O.cols(), size = padded(cols);
    auto* const keys = reinterpret_cast<std::uint64_t*>(thread.shared() + space_bytes);
    for (index_t i = thread.index(); i < size; i += threads)
      keys[i] = i < cols ? key(O(row, i), i) : ~std::uint64_t(0);
    sort(thread, keys, size);
    // Keys to channels, in place: those of a round lie behind all that it overwrites.
    auto* const order = reinterpret_cast<std::int32_t*>(keys);
    for (index_t first = 0; first < size; first += threads) {
      index_t const i = first + thread.index();
      std::uint64_t const own = i < size ? keys[i] : 0;
      thread.synchronize();
      if (i < size) std::memcpy(order + i, &own, sizeof(std::int32_t));  // little endian: the channel
      thread.synchronize();
    }
    VectorView<T const> const x(&O(row, 0), cols);
    VectorView<T> const y(&slope(row, 0), cols);
    VectorView<std::int32_t const> const ranks(order, cols);
    T value = 0;
    T const weight = T(1) / static_cast<T>(rows);
    BlockTeam<Thread> const team{thread, reinterpret_cast<double*>(thread.shared())};
    if constexpr (requires { objective(detail::OneThread{}, x, ranks, y); }) {
      value = objective(team, x, ranks, y);
    } else {
      if (thread.index() == 0) value = objective(x, ranks, y);
      thread.synchronize();
    }
    team.for_each(cols, [&](index_t i) { y[i] *= weight; });
    if (thread.index() == 0) *partial_of(thread, partial) = static_cast<double>(value);
  }
};

/// The kernel of an objective.
template <class T, class Objective>
[[nodiscard]] constexpr auto* objective_kernel() {
  static_assert(
      ElementwiseObjective<Objective, T> || TokenObjective<Objective, T> || RankedObjective<Objective, T>,
      "an objective has one of the call operators described in core/backend.hpp");
  if constexpr (ElementwiseObjective<Objective, T>)
    return static_cast<ElementwiseRows<T, Objective>*>(nullptr);
  else if constexpr (RankedObjective<Objective, T>) return static_cast<RankedRows<T, Objective>*>(nullptr);
  else return static_cast<TokenRows<T, Objective>*>(nullptr);
}

}  // namespace dartquant::cuda
