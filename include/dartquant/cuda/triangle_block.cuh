// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>

#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/cuda/sums.cuh>
#include <dartquant/cuda/tile_triangle.cuh>

/// Factorisations of one small matrix by one block of threads, by tiles of 16 x 16 (the blocked algorithms of
/// LAPACK: potrf, trtri, trmm), in FP64. W is a square matrix of floats whose rows lie `square_stride` apart;
/// a lower triangle is kept as tiles (TileTriangle). The order is rounded up to whole tiles: W has zeros
/// there, a triangle ones on its diagonal. All may lie in shared or in global memory. All threads of the
/// block call each function; each begins and ends with what it reads or wrote visible to all.
namespace dartquant::cuda {

/// G <- the lower triangle of W^T W, in FP64. A warp has several tiles at a time.
template <class Thread>
DARTQUANT_DEVICE void gram_block(Thread const& thread, float const* W, TileTriangle const& G) {
  constexpr int most = 3;
  int const order = G.count * tile_order, stride = square_stride(order), tiles = G.tiles(G.count),
            warps = thread.count() / 32, r = thread.lane() / 4, q = thread.lane() % 4;
  thread.synchronize();
#pragma unroll 1
  for (int first = thread.warp(); first < tiles; first += most * warps) {
    int top[most], left[most];
    for (int t = 0; t < most; ++t) {
      int const tile = first + t * warps;
      int down = 0;
      while ((down + 1) * (down + 2) / 2 <= tile && down + 1 < G.count) ++down;
      top[t] = down * tile_order;
      left[t] = tile < tiles ? (tile - down * (down + 1) / 2) * tile_order : 0;
    }
    TileSums sums[most] = {};
#pragma unroll 1
    for (int k = q; k < order; k += 4) {
      float const* const row = W + k * stride + r;
#pragma unroll
      for (int t = 0; t < most; ++t) {
        double const a[2] = {static_cast<double>(row[top[t]]), static_cast<double>(row[top[t] + 8])},
                     b[2] = {static_cast<double>(row[left[t]]), static_cast<double>(row[left[t] + 8])};
        add_products(thread, a, b, sums[t]);
      }
    }
    for (int t = 0; t < most; ++t) {
      if (first + t * warps >= tiles) break;
      double* const to = G.tile(top[t] / tile_order, left[t] / tile_order);
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j)
          *reinterpret_cast<Pair*>(to + (8 * i + r) * G.row + 8 * j + 2 * q) =
              Pair{{sums[t][i][j][0], sums[t][i][j][1]}};
    }
  }
  thread.synchronize();
}

/// The Cholesky factor of a tile by one warp, one lane per row, with zeros above its diagonal; lane i gets
/// 1 / L_ii. Returns the first row whose pivot is not positive and finite, or -1.
template <class Thread>
DARTQUANT_DEVICE int factor_tile(Thread const& thread, double* tile, double& inverse_diagonal) {
  constexpr int stride = TileTriangle::row;
  int const lane = thread.lane() % tile_order;
  double a[tile_order];
  for (int j = 0; j < tile_order; j += 2) {
    auto const two = load_pair(tile + lane * stride + j);
    a[j] = two[0];
    a[j + 1] = two[1];
  }
  int failed = -1;
#pragma unroll
  for (int j = 0; j < tile_order; ++j) {
    double const pivot = thread.shuffle(a[j], j);
    if (failed < 0 && !(pivot > 0 && pivot - pivot == 0)) failed = j;
    double const inverse = thread.inverse_root(pivot), scaled = a[j] * (inverse * inverse);
    if (lane == j) inverse_diagonal = inverse;
#pragma unroll
    for (int k = j + 1; k < tile_order; ++k)
      a[k] -= scaled * thread.shuffle(a[j], k);  // no wait for the root
    a[j] *= inverse;
  }
  thread.synchronize_warp();  // both halves have read
  if (thread.lane() < tile_order)
    for (int j = 0; j < tile_order; ++j) tile[lane * stride + j] = j <= lane ? a[j] : 0;
  return failed;
}

/// C -= A B^T for tiles, by one warp.
template <class Thread>
DARTQUANT_DEVICE void subtract_product(Thread const& thread, double const* A, double const* B, double* C) {
  constexpr int stride = TileTriangle::row;
  int const r = thread.lane() / 4, q = thread.lane() % 4, own = r * stride + q;
  TileSums sums = {};
#pragma unroll
  for (int k = 0; k < tile_order; k += 4) {
    double const a[2] = {A[own + k], A[own + 8 * stride + k]}, b[2] = {B[own + k], B[own + 8 * stride + k]};
    add_products(thread, a, b, sums);
  }
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j) {
      auto& two = *reinterpret_cast<Pair*>(C + (8 * i + r) * stride + 8 * j + 2 * q);
      for (int e = 0; e < 2; ++e) two[e] -= sums[i][j][e];
    }
}

/// G <- its Cholesky factor, right-looking: while the other warps update the rest of the triangle, the first
/// one has the next tile of the diagonal ready. Returns in all threads the first row whose pivot is not
/// positive and finite, or -1. `diagonal` holds tile_order + 1 values.
template <class Thread>
DARTQUANT_DEVICE int cholesky_block(Thread const& thread, TileTriangle const& G, double* diagonal) {
  constexpr int stride = TileTriangle::row;
  int const count = G.count, warps = thread.count() / 32;
#pragma unroll 1
  for (int step = 0; step < count; ++step) {
    int const left = count - step, updates = step > 0 ? left * (left + 1) / 2 : 0;
#pragma unroll 1
    for (int number = thread.warp(); number<updates; number += thread.warp()> 0 ? warps - 1 : updates) {
      int down = 0;
      while ((down + 1) * (down + 2) / 2 <= number) ++down;
      int const across = number - down * (down + 1) / 2 + step;
      down += step;
      subtract_product(thread, G.tile(down, step - 1), G.tile(across, step - 1), G.tile(down, across));
    }
    if (thread.warp() == 0) {
      thread.synchronize_warp();
      double inverse = 0;
      int const failed = factor_tile(thread, G.tile(step, step), inverse);
      if (thread.lane() < tile_order) diagonal[thread.lane()] = inverse;
      if (thread.lane() == 0) diagonal[tile_order] = failed;
    }
    thread.synchronize();
    if (diagonal[tile_order] >= 0) return step * tile_order + static_cast<int>(diagonal[tile_order]);
    double const* const L = G.tile(step, step);
#pragma unroll 1
    for (int i = (step + 1) * tile_order + thread.index(); i < count * tile_order; i += thread.count()) {
      double* const line = G.tile(i / tile_order, step) + i % tile_order * stride;  // a row of G L^-T
      double x[tile_order];
      for (int j = 0; j < tile_order; j += 2) {
        auto const two = load_pair(line + j);
        x[j] = two[0];
        x[j + 1] = two[1];
      }
#pragma unroll
      for (int j = 0; j < tile_order; ++j) {
        x[j] *= diagonal[j];
#pragma unroll
        for (int k = j + 1; k < tile_order; ++k) x[k] -= x[j] * L[k * stride + j];
      }
      for (int j = 0; j < tile_order; j += 2) *reinterpret_cast<Pair*>(line + j) = Pair{{x[j], x[j + 1]}};
    }
    thread.synchronize();
  }
  return -1;
}

/// L <- L^-1 in place, from the right: what lies right of a column of tiles is already inverted. A warp has
/// half a tile at a time. Precondition: L has zeros above its diagonal.
template <class Thread>
DARTQUANT_DEVICE void invert_block(Thread const& thread, TileTriangle const& L) {
  constexpr int stride = TileTriangle::row, half = tile_order / 2, most = 2;
  int const count = L.count, warps = thread.count() / 32, r = thread.lane() / 4, q = thread.lane() % 4;
  thread.synchronize();
#pragma unroll 1
  for (int step = thread.warp(); step < count; step += warps) {  // the tiles of the diagonal, a lane a column
    double* const tile = L.tile(step, step);
    int const lane = thread.lane() % tile_order;
    double const own = 1 / tile[lane * stride + lane];
    double x[tile_order];
    for (int i = 0; i < tile_order; ++i) x[i] = i == lane ? 1 : 0;
#pragma unroll
    for (int i = 0; i < tile_order; ++i) {
      x[i] *= thread.shuffle(own, i);
#pragma unroll
      for (int k = i + 1; k < tile_order; ++k) x[k] -= tile[k * stride + i] * x[i];
    }
    thread.synchronize_warp();
    if (thread.lane() < tile_order)
      for (int i = 0; i < tile_order; ++i) tile[i * stride + lane] = x[i];
  }
  thread.synchronize();
  // sums += (eight rows of a tile, from `a` on) B
  auto const add_product = [&](double const* a, double const* B, double(&sums)[2][2]) {
#pragma unroll
    for (int k = 0; k < tile_order; k += 4)
      for (int j = 0; j < 2; ++j)
        multiply_doubles(thread, sums[j], a[r * stride + k + q], B[(k + q) * stride + 8 * j + r]);
  };
  auto const store = [&](double* to, double const(&sums)[2][2], double factor) {
    for (int j = 0; j < 2; ++j)
      *reinterpret_cast<Pair*>(to + r * stride + 8 * j + 2 * q) =
          Pair{{factor * sums[j][0], factor * sums[j][1]}};
  };
#pragma unroll 1
  for (int across = count - 2; across >= 0; --across) {
    int const tasks = 2 * (count - 1 - across);
    double sums[most][2][2] = {};
#pragma unroll
    for (int t = 0; t < most; ++t) {
      int const task = thread.warp() + t * warps, down = across + 1 + task / 2;
      if (task >= tasks) continue;
#pragma unroll 1
      for (int k = across + 1; k <= down; ++k)
        add_product(L.tile(down, k) + task % 2 * half * stride, L.tile(k, across), sums[t]);
    }
    thread.synchronize();
#pragma unroll
    for (int t = 0; t < most; ++t) {
      int const task = thread.warp() + t * warps, down = across + 1 + task / 2;
      if (task >= tasks) continue;
      double* const rows = L.tile(down, across) + task % 2 * half * stride;
      store(rows, sums[t], 1);
      thread.synchronize_warp();
      double product[2][2] = {};
      add_product(rows, L.tile(across, across), product);
      thread.synchronize_warp();
      store(rows, product, -1);
    }
    thread.synchronize();
  }
}

/// L <- L K for triangles, L in global memory as n rows of floats, two passes of Cholesky QR into one. `rows`
/// has room for tile_order rows of L.
template <class Thread, class Matrix>
DARTQUANT_DEVICE void multiply_factors(Thread const& thread, int n, TileTriangle const& K, Matrix const& L,
                                       float* rows) {
  int const order = K.count * tile_order, stride = order + 4, r = thread.lane() / 4, q = thread.lane() % 4;
#pragma unroll 1
  for (int down = 0; down < K.count; ++down) {
    int const top = down * tile_order, cols = top + tile_order;
    for (int i = thread.warp(); i < tile_order; i += thread.count() / 32)
      for (int j = thread.lane(); j < cols; j += 32)
        rows[i * stride + j] = top + i < n && j < n ? L(top + i, j) : 0;
    thread.synchronize();
#pragma unroll 1
    for (int across = thread.warp(); across <= down; across += thread.count() / 32) {
      TileSums sums = {};
#pragma unroll 1
      for (int k = across; k <= down; ++k) {
        double const* const B = K.tile(k, across);
#pragma unroll
        for (int m = 0; m < tile_order; m += 4) {
          float const* const left = rows + r * stride + k * tile_order + m + q;
          double const *const right = B + (m + q) * K.row + r,
                              a[2] = {static_cast<double>(left[0]), static_cast<double>(left[8 * stride])},
                              b[2] = {right[0], right[8]};
          add_products(thread, a, b, sums);
        }
      }
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j)
          for (int e = 0; e < 2; ++e) {
            int const row = top + 8 * i + r, col = across * tile_order + 8 * j + 2 * q + e;
            if (row < n && col <= row) L(row, col) = static_cast<float>(sums[i][j][e]);
          }
    }
    thread.synchronize();
  }
}

/// y <- L x, or L^T x. Four lanes share a row, or two columns.
template <class Thread>
DARTQUANT_DEVICE void multiply_vector(Thread const& thread, bool transposed, TileTriangle const& L,
                                      double const* x, double* y) {
  constexpr int stride = TileTriangle::row;
  int const warps = thread.count() / 32, own = thread.lane() % 8, share = thread.lane() / 8;
  if (transposed) {
#pragma unroll 1
    for (int across = thread.warp(); across < L.count; across += warps) {
      double sums[2] = {};
#pragma unroll 1
      for (int down = across; down < L.count; ++down) {
        double const* const tile = L.tile(down, across) + 2 * own;
        for (int m = share; m < tile_order; m += 4) {
          auto const two = load_pair(tile + m * stride);
          double const factor = x[down * tile_order + m];
          for (int e = 0; e < 2; ++e) sums[e] += two[e] * factor;
        }
      }
      for (int e = 0; e < 2; ++e) {
        sums[e] += thread.shuffle_xor(sums[e], 8);
        sums[e] += thread.shuffle_xor(sums[e], 16);
        if (share == 0) y[across * tile_order + 2 * own + e] = sums[e];
      }
    }
  } else {
#pragma unroll 1
    for (int first = 8 * thread.warp(); first < L.count * tile_order; first += 8 * warps) {
      int const down = first / tile_order, row = first % tile_order + own;
      double sum = 0;
#pragma unroll 1
      for (int across = 0; across <= down; ++across) {
        double const* const line = L.tile(down, across) + row * stride;
        for (int m = 2 * share; m < tile_order; m += 8) {
          auto const two = load_pair(line + m), factors = load_pair(x + across * tile_order + m);
          for (int e = 0; e < 2; ++e) sum += two[e] * factors[e];
        }
      }
      sum += thread.shuffle_xor(sum, 8);
      sum += thread.shuffle_xor(sum, 16);
      if (share == 0) y[first + own] = sum;
    }
  }
  thread.synchronize();
}

/// An estimate of the largest singular value of L by two and a half rounds of power iteration on L L^T, or
/// with `inverse` by one and a half on L^T L, that is on (K K^T)^-1 for K = L^-1: the steps of
/// Cpu::condition_estimate. x and y hold as many values as L has rows.
template <class Thread>
DARTQUANT_DEVICE double largest_block(Thread const& thread, int n, bool inverse, TileTriangle const& L,
                                      double* x, double* y, double* space) {
  using std::cos, std::sqrt;
  int const order = L.count * tile_order, products = inverse ? 3 : 5;
  thread.synchronize();
  for (int i = thread.index(); i < order; i += thread.count())
    x[i] = i < n ? 1 + 0.5 * cos(2.3 * static_cast<double>(i * i % 1009)) : 0;
  thread.synchronize();
#pragma unroll 1
  for (int number = 0; number < products; ++number) {
    multiply_vector(thread, (number % 2 == 0) != inverse, L, x, y);
    double* const product = y;
    y = x;
    x = product;
  }
  double before = 0, after = 0;
  for (int i = thread.index(); i < order; i += thread.count()) {
    before += y[i] * y[i];
    after += x[i] * x[i];
  }
  before = block_sum(thread, before, space);
  after = block_sum(thread, after, space);
  thread.synchronize();
  return sqrt(after / before);
}

/// W <- W L^T, or with W lower triangular W <- W L, in FP64. A warp has eight rows, and their columns in such
/// an order that the result may take the place of W.
template <bool transposed, class Thread>
DARTQUANT_DEVICE void multiply_block(Thread const& thread, float* W, TileTriangle const& L) {
  constexpr int half = tile_order / 2;
  int const count = L.count, stride = square_stride(count * tile_order), r = thread.lane() / 4,
            q = thread.lane() % 4;
  thread.synchronize();
#pragma unroll 1
  for (int part = thread.warp(); part < 2 * count; part += thread.count() / 32) {
    float* const row = W + (part * half + r) * stride;
    int const columns = transposed ? count : part / 2 + 1;
#pragma unroll 1
    for (int step = 0; step < columns; ++step) {
      int const across = transposed ? count - 1 - step : step;
      int const first = transposed ? 0 : across, last = transposed ? across : part / 2;
      double sums[2][2] = {};
#pragma unroll 2
      for (int k = first; k <= last; ++k) {
        double const* const tile =
            transposed ? L.tile(across, k) + r * L.row + q : L.tile(k, across) + q * L.row + r;
#pragma unroll
        for (int m = 0; m < tile_order; m += 4) {
          double const a = static_cast<double>(row[k * tile_order + m + q]);
          for (int j = 0; j < 2; ++j)
            multiply_doubles(thread, sums[j], a,
                             transposed ? tile[j * half * L.row + m] : tile[m * L.row + j * half]);
        }
      }
      thread.synchronize_warp();
      for (int j = 0; j < 2; ++j)
        for (int e = 0; e < 2; ++e)
          row[across * tile_order + j * half + 2 * q + e] = static_cast<float>(sums[j][e]);
      thread.synchronize_warp();
    }
  }
  thread.synchronize();
}

/// |(W^T W - I) v| for one vector v of signs. x holds n values.
template <class Thread>
DARTQUANT_DEVICE double probe_block(Thread const& thread, int n, int order, float const* W, double* x,
                                    double* space) {
  using std::sqrt;
  auto const sign = [](int i) {
    return (static_cast<unsigned>(i + 1) * 2654435761u & 0x10000u) != 0 ? 1.0 : -1.0;
  };
  int const stride = square_stride(order), share = thread.index() % 4;
  thread.synchronize();
  for (int i = thread.index() / 4; i < order; i += thread.count() / 4) {  // four lanes share a row
    double sum = 0;
    for (int j = share; j < n; j += 4) sum += static_cast<double>(W[i * stride + j]) * sign(j);
    sum += thread.shuffle_xor(sum, 1);
    sum += thread.shuffle_xor(sum, 2);
    if (share == 0) x[i] = sum;
  }
  thread.synchronize();
  double squares = 0;
  for (int j = thread.index() / 4; j < order; j += thread.count() / 4) {  // and a column
    double rest = 0;
    for (int i = share; i < n; i += 4) rest += static_cast<double>(W[i * stride + j]) * x[i];
    rest += thread.shuffle_xor(rest, 1);
    rest += thread.shuffle_xor(rest, 2);
    rest -= sign(j);
    if (share == 0 && j < n) squares += rest * rest;
  }
  return sqrt(block_sum(thread, squares, space));
}

}  // namespace dartquant::cuda
