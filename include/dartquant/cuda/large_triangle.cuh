// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>

#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/cuda/grid.hpp>
#include <dartquant/cuda/head_qr.cuh>
#include <dartquant/cuda/sums.cuh>
#include <dartquant/cuda/triangle_block.cuh>

/// What factorisations of a large matrix need beside products: the blocks on its diagonal, and products with
/// a vector. Vectors are doubles whatever the matrix holds.
namespace dartquant::cuda {

/// Order of the blocks that one block of threads factors or inverts.
inline constexpr int factor_order = 128;

/// A block of the diagonal, copied to tiles in shared memory and back.
struct DiagonalTiles {
  static constexpr int tiles = TileTriangle::tiles(factor_order / tile_order);
  static constexpr std::size_t bytes = sizeof(double) * tiles * TileTriangle::size;

  /// The lower triangle of A, an identity beyond its order.
  template <class T, class Thread>
  DARTQUANT_DEVICE static TileTriangle load(Thread const& thread, DeviceMatrixView<T const> A) {
    int const order = static_cast<int>(A.rows());
    TileTriangle const to{reinterpret_cast<double*>(thread.shared()), (order + tile_order - 1) / tile_order};
    for_each_entry(thread, to.count * tile_order, [&](int i, int j) {
      if (j / tile_order > i / tile_order) return;
      to(i, j) = j <= i && i < order ? static_cast<double>(A(i, j)) : (i == j ? 1 : 0);
    });
    thread.synchronize();
    return to;
  }
  template <class Thread>
  DARTQUANT_DEVICE static void store(Thread const& thread, TileTriangle const& from,
                                     DeviceMatrixView<double> A) {
    for_each_entry<1>(thread, A.rows(), [&](int i, int j) { A(i, j) = j <= i ? from(i, j) : 0; });
  }
};

/// G <- its Cholesky factor L and inverse <- L^-1, for one block of the diagonal that begins at row `first`
/// of the matrix. *info: 0, or 1 + the first row whose pivot was not positive and finite; after that nothing
/// is done. One block of threads.
struct FactorDiagonal {
  static constexpr int threads = head_threads;
  static constexpr std::size_t shared_bytes = DiagonalTiles::bytes + sizeof(double) * (tile_order + 1);
  DeviceMatrixView<double> G, inverse;
  index_t first;
  int* info;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    if (first > 0 && *info != 0) return;
    auto const tiles = DiagonalTiles::load<double>(thread, G);
    int const failed =
        cholesky_block(thread, tiles, reinterpret_cast<double*>(thread.shared() + DiagonalTiles::bytes));
    if (thread.index() == 0 && (first == 0 || failed >= 0))
      *info = failed < 0 ? 0 : static_cast<int>(first) + failed + 1;
    if (failed >= 0) return;
    DiagonalTiles::store(thread, tiles, G);
    invert_block(thread, tiles);
    DiagonalTiles::store(thread, tiles, inverse);
  }
};

/// The rows of V [n, width] <- the inverses of the blocks of order factor_order on the diagonal of L: that of
/// rows and columns from i on at V(i, i % width), zeros elsewhere. A block of threads each.
template <class T>
struct InvertDiagonal {
  static constexpr int threads = head_threads;
  static constexpr std::size_t shared_bytes = DiagonalTiles::bytes;
  DeviceMatrixView<T const> L;
  DeviceMatrixView<T> V;

  [[nodiscard]] static Grid grid(index_t n) {
    return {.blocks_x = static_cast<int>((n + factor_order - 1) / factor_order),
            .shared_bytes = shared_bytes};
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    index_t const first = static_cast<index_t>(thread.block_x()) * factor_order, left = L.rows() - first,
                  order = left < factor_order ? left : factor_order;
    auto const tiles = DiagonalTiles::load<T>(thread, L.block(first, first, order, order));
    invert_block(thread, tiles);
    int const width = static_cast<int>(V.cols()), own = static_cast<int>(first % width);
    for (int i = thread.warp(); i < order; i += threads / 32)
      for (int j = thread.lane(); j < width; j += 32)
        V(first + i, j) = j >= own && j - own <= i ? static_cast<T>(tiles(i, j - own)) : T(0);
  }
};

/// x_i = 1 + cos(2.3 (i^2 mod 1009)) / 2, the start of Cpu::condition_estimate.
struct StartVector {
  static constexpr int threads = 256;
  VectorView<double, Space::device> x;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    using std::cos;
    index_t const i = static_cast<index_t>(thread.block_x()) * threads + thread.index();
    if (i < x.size()) x[i] = 1 + 0.5 * cos(2.3 * static_cast<double>(i * i % 1009));
  }
};

/// y <- base + factor A x, or the lower triangle of A only. A warp per row. `base` null: zero.
template <class T>
struct RowDots {
  static constexpr int threads = 256;
  DeviceMatrixView<T const> A;
  bool lower;
  double const* x;
  double const* base;
  double factor;
  double* y;

  [[nodiscard]] static Grid grid(index_t rows) {
    return {.blocks_x = static_cast<int>((rows + threads / 32 - 1) / (threads / 32))};
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    index_t const row = static_cast<index_t>(thread.block_x()) * (threads / 32) + thread.warp();
    if (row >= A.rows()) return;
    int const cols = static_cast<int>(lower && row + 1 < A.cols() ? row + 1 : A.cols());
    T const* const a = &A(row, 0);
    double sum = 0;
#pragma unroll 8
    for (int j = thread.lane(); j < cols; j += 32) sum += static_cast<double>(a[j]) * x[j];
    sum = warp_sum(thread, sum);
    if (thread.lane() == 0) y[row] = (base == nullptr ? 0 : base[row]) + factor * sum;
  }
};

/// y <- base + factor A^T x, or with the lower triangle of A only. A block of threads per 8 columns.
template <class T>
struct ColumnSums {
  static constexpr int threads = 1024, side = 8;
  static constexpr std::size_t shared_bytes = sizeof(double) * side * threads / 32;
  DeviceMatrixView<T const> A;
  bool lower;
  double const* x;
  double const* base;
  double factor;
  double* y;

  [[nodiscard]] static Grid grid(index_t cols) {
    return {.blocks_x = static_cast<int>((cols + side - 1) / side), .shared_bytes = shared_bytes};
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    index_t const left = static_cast<index_t>(thread.block_x()) * side, col = left + thread.lane() % side;
    auto* const sums = reinterpret_cast<double*>(thread.shared());
    double sum = 0;
    if (col < A.cols()) {
      T const* const a = &A(0, col);
      int const stride = static_cast<int>(A.stride()), rows = static_cast<int>(A.rows());
      int const top = lower ? static_cast<int>(left) : 0;
#pragma unroll 4
      for (int i = top + thread.index() / side; i < rows; i += threads / side)
        if (!lower || i >= col) sum += static_cast<double>(a[static_cast<index_t>(i) * stride]) * x[i];
    }
    for (int mask = side; mask < 32; mask *= 2) sum += thread.shuffle_xor(sum, mask);
    if (thread.lane() < side) sums[thread.warp() * side + thread.lane()] = sum;
    thread.synchronize();
    if (thread.index() < side && col < A.cols()) {
      double total = 0;
      for (int warp = 0; warp < threads / 32; ++warp) total += sums[warp * side + thread.index()];
      y[col] = (base == nullptr ? 0 : base[col]) + factor * total;
    }
  }
};

}  // namespace dartquant::cuda
