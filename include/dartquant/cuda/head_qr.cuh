// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <dartquant/calibrate/head_state.hpp>
#include <dartquant/core/backend.hpp>
#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/cuda/grid.hpp>
#include <dartquant/cuda/triangle_block.cuh>

/// QR-Orth of many small matrices, one block each. Matrices of all heads lie one above the other, [heads n,
/// n].
namespace dartquant::cuda {

inline constexpr int head_threads = 256;

/// The memory of a block for one matrix of order n: a packed triangle of doubles, W, three vectors of doubles
/// and a word per warp. In shared memory where that suffices, else in global memory, `each` bytes per block.
struct BlockSpace {
  std::byte* global;  ///< null: shared memory

  [[nodiscard]] DARTQUANT_HD static std::size_t triangle_bytes(index_t n) {
    return (sizeof(double) * static_cast<std::size_t>(packed(n, 0)) + 15) / 16 * 16;
  }
  [[nodiscard]] DARTQUANT_HD static std::size_t square_bytes(index_t n) {
    return (sizeof(float) * static_cast<std::size_t>(n * (n + 1)) + 15) / 16 * 16;
  }
  [[nodiscard]] DARTQUANT_HD static std::size_t vector_bytes(index_t n) {
    return sizeof(double) * static_cast<std::size_t>(3 * n + head_threads / 32 + 2);
  }
  [[nodiscard]] DARTQUANT_HD static std::size_t bytes(index_t n) {
    return (triangle_bytes(n) + square_bytes(n) + vector_bytes(n) + 255) / 256 * 256;
  }

  /// The parts of the memory of a block.
  struct Parts {
    std::byte* triangle;
    float* W;  ///< rows of n + 1
    double* vectors;
  };
  template <class Thread>
  [[nodiscard]] DARTQUANT_DEVICE Parts of(Thread const& thread, index_t n) const {
    std::byte* const memory =
        global == nullptr ? thread.shared() : global + static_cast<std::size_t>(thread.block_x()) * bytes(n);
    std::byte *const square = memory + triangle_bytes(n), *const vectors = square + square_bytes(n);
    return {memory, reinterpret_cast<float*>(square), reinterpret_cast<double*>(vectors)};
  }
};

/// f(i, j) for every entry of a matrix of order n, the rows shared out among the warps of a block.
template <class Thread, class F>
DARTQUANT_DEVICE void for_each_entry(Thread const& thread, index_t n, F const& f) {
  for (index_t i = thread.warp(); i < n; i += head_threads / 32)
    for (index_t j = thread.lane(); j < n; j += 32) f(i, j);
}

/// R and L of Z = R L^T for every head that is going, by one or two passes of Cholesky QR with its Gram
/// matrix in FP64. Where that cannot keep its promise the head is marked failed: MendHeads follows. A latent
/// that is not finite stops its head.
struct OrthonormalizeHeads {
  static constexpr int threads = head_threads;
  QrLimits limits;
  double probe;  ///< the largest |(R^T R - I) v| of a good R
  BlockSpace space;
  index_t n;
  DeviceMatrixView<float const> Z;
  DeviceMatrixView<float> R, L;
  HeadStates<Space::device> state;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    index_t const head = thread.block_x(), first = head * n;
    if (state(head_state::going, head) == 0) return;
    auto const parts = space.of(thread, n);
    auto* const G = reinterpret_cast<double*>(parts.triangle);
    float* const W = parts.W;
    double *const x = parts.vectors, *const y = x + n, *const word = y + n,
                  *const result = word + head_threads / 32;
    double squares = 0;
    for_each_entry(thread, n, [&](index_t i, index_t j) {
      float const value = W[i * (n + 1) + j] = Z(first + i, j);
      squares += static_cast<double>(value) * static_cast<double>(value);
    });
    squares = block_sum(thread, squares, word);
    if (squares - squares != 0) {
      thread.synchronize();
      if (thread.index() == 0) state(head_state::going, head) = state(head_state::finite, head) = 0;
      return;
    }
    double condition = 0;
    bool good = pass(thread, first, limits.two_pass, 0, G, W, x, y, result, condition);
    if (good && condition > limits.one_pass) {
      double left = 0;
      good = pass(thread, first, limits.one_pass, 1, G, W, x, y, result, left);
    }
    good = good && probe_block(thread, n, W, x, word) <= probe;
    thread.synchronize();
    if (thread.index() == 0) {
      state(head_state::failed, head) = good ? 0 : 1;
      state(head_state::condition, head) = condition;
      if (good && condition > state(head_state::largest_condition, head))
        state(head_state::largest_condition, head) = condition;
    }
    if (!good) return;
    for_each_entry(thread, n, [&](index_t i, index_t j) { R(first + i, j) = W[i * (n + 1) + j]; });
  }

 private:
  /// One pass on W, its factor written to L, or multiplied to it from the right.
  template <class Thread>
  DARTQUANT_DEVICE bool pass(Thread const& thread, index_t first, double limit, int number, double* G,
                             float* W, double* x, double* y, double* result, double& condition) const {
    gram_block(thread, n, W, G);
    if (!cholesky_block(thread, n, G, x)) return false;
    condition = condition_block(
        thread, n, [G](index_t i, index_t j) { return G[packed(i, j)]; }, x, y, result);
    if (!(condition <= limit)) return false;
    float const* const lower = narrow_block(thread, n, G);
    if (number == 0) {
      for_each_entry(thread, n,
                     [&](index_t i, index_t j) { L(first + i, j) = j <= i ? lower[packed(i, j)] : 0; });
    } else {
      for (index_t i = thread.index(); i < n; i += threads)  // U^T = U1^T U2^T, a row at a time
        for (index_t j = 0; j <= i; ++j) {
          float sum = 0;
          for (index_t k = j; k <= i; ++k) sum += L(first + i, k) * lower[packed(k, j)];
          L(first + i, j) = sum;
        }
    }
    solve_block<true>(thread, n, lower, W);
    return true;
  }
};

/// The Householder path in FP64 for the heads that OrthonormalizeHeads marked. `wide` holds wide_size(n)
/// doubles per head.
struct MendHeads {
  static constexpr int threads = head_threads;
  static constexpr std::size_t shared_bytes = sizeof(double) * (threads / 32 + 1);
  index_t n;
  DeviceMatrixView<float const> Z;
  DeviceMatrixView<float> R, L;
  double* wide;
  HeadStates<Space::device> state;

  [[nodiscard]] DARTQUANT_HD static index_t wide_size(index_t n) { return 2 * n * n + 3 * n; }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    index_t const head = thread.block_x(), first = head * n;
    if (state(head_state::going, head) == 0 || state(head_state::failed, head) == 0) return;
    double* const A = wide + head * wide_size(n);
    double *const Q = A + n * n, *const tau = Q + n * n, *const x = tau + n, *const y = x + n;
    auto* const word = reinterpret_cast<double*>(thread.shared());
    for_each_entry(thread, n,
                   [&](index_t i, index_t j) { A[i * n + j] = static_cast<double>(Z(first + i, j)); });
    householder_block(thread, n, A, Q, tau, word);
    auto const sign = [A, this](index_t k) { return A[k * n + k] < 0 ? -1.0 : 1.0; };
    for_each_entry(thread, n, [&](index_t i, index_t j) {
      R(first + i, j) = static_cast<float>(sign(j) * Q[i * n + j]);
      L(first + i, j) = j <= i ? static_cast<float>(sign(j) * A[j * n + i]) : 0;
    });
    double const found = condition_block(
        thread, n, [&](index_t i, index_t j) { return sign(j) * A[j * n + i]; }, x, y, word + threads / 32);
    if (thread.index() == 0) {
      state(head_state::failed, head) = 0;
      state(head_state::householder, head) = 1;
      if (found > state(head_state::largest_condition, head))
        state(head_state::largest_condition, head) = found;
      state(head_state::condition, head) = found;
    }
  }
};

}  // namespace dartquant::cuda
