// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/cuda/sums.cuh>

/// The checked fallback of triangle_block.cuh, plain and slow: Householder reflections of one small matrix by
/// one block of threads, and the condition number of the triangle that they leave.
namespace dartquant::cuda {

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
