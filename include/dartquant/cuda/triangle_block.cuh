// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>

#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/cuda/sums.cuh>

/// Factorisations of one small matrix by one block of threads. W is a square matrix [n, n] of floats, its
/// rows n + 1 apart (so that columns do not collide in the banks of shared memory); a triangle is packed by
/// rows. Both may lie in shared or in global memory. All threads of the block call each function; each begins
/// and ends with what it wrote or reads visible to all.
namespace dartquant::cuda {

/// Where L(i, j), j <= i, lies in a packed lower triangle.
[[nodiscard]] DARTQUANT_HD constexpr index_t packed(index_t i, index_t j) { return i * (i + 1) / 2 + j; }

/// G <- the lower triangle of W^T W, in FP64. Every thread holds the sums of an 8 x 8 pattern of elements,
/// n / 8 apart.
template <class Thread>
DARTQUANT_DEVICE void gram_block(Thread const& thread, index_t n, float const* W, double* G) {
  constexpr int side = 8;
  index_t const tiles = (n + side - 1) / side;
  thread.synchronize();
  for (index_t tile = thread.index(); tile < tiles * tiles; tile += thread.count()) {
    index_t const down = tile / tiles, across = tile % tiles;
    double sums[side][side] = {};
    for (index_t k = 0; k < n; ++k) {
      float const* const row = W + k * (n + 1);
      double left[side], right[side];
      for (int a = 0; a < side; ++a) {
        index_t const i = down + tiles * a, j = across + tiles * a;
        left[a] = i < n ? static_cast<double>(row[i]) : 0;
        right[a] = j < n ? static_cast<double>(row[j]) : 0;
      }
      for (int a = 0; a < side; ++a)
        for (int b = 0; b <= a; ++b) sums[a][b] += left[a] * right[b];
    }
    for (int a = 0; a < side; ++a)
      for (int b = 0; b <= a; ++b) {
        index_t const i = down + tiles * a, j = across + tiles * b;
        if (j <= i && i < n) G[packed(i, j)] = sums[a][b];
      }
  }
  thread.synchronize();
}

/// G <- its Cholesky factor. False, in all threads, when a pivot is not positive and finite. `column` holds n
/// values.
template <class Thread>
DARTQUANT_DEVICE bool cholesky_block(Thread const& thread, index_t n, double* G, double* column) {
  using std::sqrt;
  for (index_t j = 0; j < n; ++j) {
    thread.synchronize();
    double const pivot = G[packed(j, j)];
    if (!(pivot > 0) || pivot - pivot != 0) return false;
    double const root = sqrt(pivot), inverse = 1 / root;
    thread.synchronize();
    if (thread.index() == 0) G[packed(j, j)] = root;
    for (index_t i = j + 1 + thread.index(); i < n; i += thread.count())
      G[packed(i, j)] = column[i] = G[packed(i, j)] * inverse;
    thread.synchronize();
    for (index_t i = j + 1 + thread.warp(); i < n; i += thread.count() / 32)
      for (index_t k = j + 1 + thread.lane(); k <= i; k += 32) G[packed(i, k)] -= column[i] * column[k];
  }
  thread.synchronize();
  return true;
}

/// The condition number of a lower triangle L(i, j) as Cpu::condition_estimate finds it, in all threads. x
/// and y hold n values each. One warp works: the steps depend on one another.
template <class Thread, class Lower>
DARTQUANT_DEVICE double condition_block(Thread const& thread, index_t n, Lower const& L, double* x, double* y,
                                        double* result) {
  using std::cos, std::sqrt;
  thread.synchronize();
  if (thread.warp() == 0) {
    auto const each = [&](auto const& f) {
      for (index_t i = thread.lane(); i < n; i += 32) f(i);
      thread.synchronize_warp();
    };
    auto const normalize = [&](double* v) {
      double squares = 0;
      for (index_t i = thread.lane(); i < n; i += 32) squares += v[i] * v[i];
      double const norm = sqrt(warp_sum(thread, squares));
      each([&](index_t i) { v[i] /= norm; });
      return norm;
    };
    auto const restart = [&] {
      each([&](index_t i) { x[i] = 1 + 0.5 * cos(2.3 * static_cast<double>(i * i % 1009)); });
    };
    double largest = 0, inverse_smallest = 0;
    restart();
    for (int round = 0; round < 3; ++round) {
      normalize(x);
      each([&](index_t j) {
        y[j] = 0;
        for (index_t i = j; i < n; ++i) y[j] += x[i] * L(i, j);
      });
      largest = normalize(y);
      each([&](index_t i) {
        x[i] = 0;
        for (index_t j = 0; j <= i; ++j) x[i] += L(i, j) * y[j];
      });
    }
    restart();
    for (int round = 0; round < 2; ++round) {
      normalize(x);
      for (index_t j = 0; j < n; ++j) {  // y <- L^-1 x
        double const value = x[j] / L(j, j);
        if (thread.lane() == 0) y[j] = value;
        for (index_t i = j + 1 + thread.lane(); i < n; i += 32) x[i] -= L(i, j) * value;
        thread.synchronize_warp();
      }
      inverse_smallest = normalize(y);
      for (index_t j = n - 1; j >= 0; --j) {  // x <- L^-T y
        double const value = y[j] / L(j, j);
        if (thread.lane() == 0) x[j] = value;
        for (index_t i = thread.lane(); i < j; i += 32) y[i] -= L(j, i) * value;
        thread.synchronize_warp();
      }
    }
    if (thread.lane() == 0) *result = largest * inverse_smallest;
  }
  thread.synchronize();
  double const condition = *result;
  thread.synchronize();
  if (condition - condition != 0) return HUGE_VAL;
  return condition > 1 ? condition : 1;
}

/// A packed triangle of doubles becomes one of floats, in place: what a round of threads reads lies behind
/// all that it overwrites.
template <class Thread>
DARTQUANT_DEVICE float* narrow_block(Thread const& thread, index_t n, double* G) {
  index_t const size = packed(n, 0);
  auto* const narrow = reinterpret_cast<float*>(G);
  for (index_t first = 0; first < size; first += thread.count()) {
    index_t const i = first + thread.index();
    float const own = i < size ? static_cast<float>(G[i]) : 0;
    thread.synchronize();
    if (i < size) narrow[i] = own;
    thread.synchronize();
  }
  return narrow;
}

/// W <- W L^-T (transposed) or W L^-1, row by row; two threads share a row.
template <bool transposed, class Thread>
DARTQUANT_DEVICE void solve_block(Thread const& thread, index_t n, float const* L, float* W) {
  index_t const half = thread.index() % 2, pairs = thread.count() / 2;
  thread.synchronize();
  for (index_t base = 0; base < n; base += pairs) {
    index_t const row = base + thread.index() / 2;
    bool const active = row < n;
    float* const w = W + (active ? row : 0) * (n + 1);
    for (index_t step = 0; step < n; ++step) {
      index_t const j = transposed ? step : n - 1 - step;
      float sum = 0;
      if (active) {
        if constexpr (transposed) {
          for (index_t k = half; k < j; k += 2) sum += w[k] * L[packed(j, k)];
        } else {
          for (index_t k = j + 1 + half; k < n; k += 2) sum += w[k] * L[packed(k, j)];
        }
      }
      sum += thread.shuffle_xor(sum, 1);
      if (active && half == 0) w[j] = (w[j] - sum) / L[packed(j, j)];
      thread.synchronize_warp();
    }
  }
  thread.synchronize();
}

/// |(W^T W - I) v| for one vector v of signs. x holds n values.
template <class Thread>
DARTQUANT_DEVICE double probe_block(Thread const& thread, index_t n, float const* W, double* x,
                                    double* space) {
  using std::sqrt;
  auto const sign = [](index_t i) {
    return (static_cast<unsigned>(i + 1) * 2654435761u & 0x10000u) != 0 ? 1.0 : -1.0;
  };
  for (index_t i = thread.index(); i < n; i += thread.count()) {
    x[i] = 0;
    for (index_t j = 0; j < n; ++j) x[i] += static_cast<double>(W[i * (n + 1) + j]) * sign(j);
  }
  thread.synchronize();
  double squares = 0;
  for (index_t j = thread.index(); j < n; j += thread.count()) {
    double rest = -sign(j);
    for (index_t i = 0; i < n; ++i) rest += static_cast<double>(W[i * (n + 1) + j]) * x[i];
    squares += rest * rest;
  }
  return sqrt(block_sum(thread, squares, space));
}

/// A [n, n] = Q U by Householder reflections: U on and above the diagonal of A, the reflectors below, Q in Q.
/// Both in global memory, row after row. `tau` holds n values.
template <class Thread>
DARTQUANT_DEVICE void householder_block(Thread const& thread, index_t n, double* A, double* Q, double* tau,
                                        double* space) {
  using std::sqrt;
  for (index_t k = 0; k < n; ++k) {
    thread.synchronize();
    double below = 0;
    for (index_t i = k + 1 + thread.index(); i < n; i += thread.count()) below += A[i * n + k] * A[i * n + k];
    below = block_sum(thread, below, space);
    double const alpha = A[k * n + k];
    double const beta = alpha > 0 ? -sqrt(alpha * alpha + below) : sqrt(alpha * alpha + below);
    double const factor = below > 0 ? (beta - alpha) / beta : 0, scale = below > 0 ? 1 / (alpha - beta) : 0;
    thread.synchronize();
    for (index_t i = k + 1 + thread.index(); i < n; i += thread.count()) A[i * n + k] *= scale;
    if (thread.index() == 0) {
      tau[k] = factor;
      if (below > 0) A[k * n + k] = beta;
    }
    thread.synchronize();
    for (index_t j = k + 1 + thread.index(); j < n; j += thread.count()) {
      double sum = A[k * n + j];
      for (index_t i = k + 1; i < n; ++i) sum += A[i * n + k] * A[i * n + j];
      sum *= factor;
      A[k * n + j] -= sum;
      for (index_t i = k + 1; i < n; ++i) A[i * n + j] -= sum * A[i * n + k];
    }
  }
  thread.synchronize();
  for (index_t j = thread.index(); j < n; j += thread.count()) {  // each thread owns columns of Q
    for (index_t i = 0; i < n; ++i) Q[i * n + j] = i == j ? 1 : 0;
    for (index_t k = n - 1; k >= 0; --k) {
      double sum = Q[k * n + j];
      for (index_t i = k + 1; i < n; ++i) sum += A[i * n + k] * Q[i * n + j];
      sum *= tau[k];
      Q[k * n + j] -= sum;
      for (index_t i = k + 1; i < n; ++i) Q[i * n + j] -= sum * A[i * n + k];
    }
  }
  thread.synchronize();
}

}  // namespace dartquant::cuda
