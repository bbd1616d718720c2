// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <dartquant/calibrate/head_state.hpp>
#include <dartquant/core/backend.hpp>
#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/cuda/grid.hpp>
#include <dartquant/cuda/householder_block.cuh>
#include <dartquant/cuda/triangle_block.cuh>

/// QR-Orth of many small matrices, one block each. Matrices of all heads lie one above the other, [heads n,
/// n].
namespace dartquant::cuda {

inline constexpr int head_threads = 512;

/// The memory of a block for one matrix of order n: a triangle of doubles, W, some rows of L, two vectors of
/// doubles and a word per warp. In shared memory where that suffices, else in global memory,
/// `bytes` per block.
template <bool in_shared>
struct BlockSpace {
  std::byte* global;

  /// The parts of the memory of a block, in bytes from its begin.
  struct Layout {
    int count;  ///< tiles in a row
    std::size_t square, rows, vectors, bytes;
  };
  [[nodiscard]] DARTQUANT_HD static Layout layout(index_t n) {
    int const count = static_cast<int>((n + tile_order - 1) / tile_order), order = count * tile_order;
    auto const size = [](int values, std::size_t each) { return static_cast<std::size_t>(values) * each; };
    Layout parts{count, 0, 0, 0, 0};
    parts.square = size(TileTriangle::tiles(count) * TileTriangle::size, sizeof(double));
    parts.rows = parts.square + size(order * square_stride(order), sizeof(float));
    parts.vectors = parts.rows + size(tile_order * (order + 4), sizeof(float));
    parts.bytes =
        (parts.vectors + size(2 * order + head_threads / 32 + tile_order + 2, sizeof(double)) + 255) / 256 *
        256;
    return parts;
  }
  [[nodiscard]] static std::size_t bytes(index_t n) { return layout(n).bytes; }

  template <class Thread>
  [[nodiscard]] DARTQUANT_DEVICE std::byte* of(Thread const& thread, Layout const& parts) const {
    if constexpr (in_shared) return thread.shared();
    else return global + static_cast<std::size_t>(thread.block_x()) * parts.bytes;
  }
};

/// f(i, j) for every entry of a matrix of order n, the rows shared out among the warps of a block. A warp has
/// `rows` of its rows under way at a time.
template <int rows = 4, class Thread, class F>
DARTQUANT_DEVICE void for_each_entry(Thread const& thread, index_t n, F const& f) {
  int const order = static_cast<int>(n);
#pragma unroll rows
  for (int i = thread.warp(); i < order; i += thread.count() / 32)
    for (int j = thread.lane(); j < order; j += 32) f(i, j);
}

/// What is written beside R and L: the latent and the state of its optimizer.
struct HeadLatents {
  DeviceMatrixView<float> Z, first, second;

  /// Z <- R(i, j), L <- I and zeros in the optimizer's state for one head; R and L are written too.
  template <class Thread, class Rotation>
  DARTQUANT_DEVICE void restart(Thread const& thread, index_t top, index_t n, Rotation const& rotation,
                                DeviceMatrixView<float> const& L) const {
    for_each_entry<1>(thread, n, [&](int i, int j) {
      Z(top + i, j) = rotation(i, j);
      L(top + i, j) = i == j ? 1.0f : 0.0f;
      if (first.rows() > 0) first(top + i, j) = 0;
      if (second.rows() > 0) second(top + i, j) = 0;
    });
  }
};

/// R and L of Z = R L^T for every head that is going, by one or two passes of Cholesky QR with its Gram
/// matrix in FP64. Where that cannot keep its promise the head is marked failed: MendHeads follows. A latent
/// that is not finite stops its head. Where the latent's condition is above limits.restart, Z <- R, L <- I
/// and zeros in the optimizer's state.
template <bool in_shared>
struct OrthonormalizeHeads {
  static constexpr int threads = head_threads;
  QrLimits limits;
  double probe;  ///< the largest |(R^T R - I) v| of a good R
  BlockSpace<in_shared> space;
  index_t n;
  HeadLatents latents;
  DeviceMatrixView<float> R, L;
  HeadStates<Space::device> state;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    index_t const head = thread.block_x(), first = head * n;
    if (state(head_state::going, head) == 0) return;
    auto const parts = BlockSpace<in_shared>::layout(n);
    std::byte* const memory = space.of(thread, parts);
    int const order = parts.count * tile_order, stride = square_stride(order), size = static_cast<int>(n);
    Memory const m{{reinterpret_cast<double*>(memory), parts.count},
                   reinterpret_cast<float*>(memory + parts.square),
                   reinterpret_cast<float*>(memory + parts.rows),
                   reinterpret_cast<double*>(memory + parts.vectors)};
    float* const W = m.W;
    double* const word = m.vectors + 2 * order + tile_order + 1;
    double squares = 0;
    for_each_entry(thread, order, [&](int i, int j) {
      float const value = W[i * stride + j] = i < size && j < size ? latents.Z(first + i, j) : 0;
      squares += static_cast<double>(value) * static_cast<double>(value);
    });
    squares = block_sum(thread, squares, word);
    if (squares - squares != 0) {
      thread.synchronize();
      if (thread.index() == 0) state(head_state::going, head) = state(head_state::finite, head) = 0;
      return;
    }
    double condition = 0;
    bool good = true, restart = false, again = true;
#pragma unroll 1
    for (int number = 0; good && again; ++number) {  // one instance of the code
      double found = 0;
      good = pass(thread, first, number, restart, m, word, found);
      if (number == 0) condition = found;
      restart = condition > limits.restart;
      again = number == 0 && condition > limits.one_pass;
    }
    good = good && probe_block(thread, size, order, W, m.vectors, word) <= probe;
    thread.synchronize();
    if (thread.index() == 0) {
      state(head_state::failed, head) = good ? 0 : 1;
      state(head_state::condition, head) = good && restart ? 1 : condition;
      if (good && restart) state(head_state::steps, head) = 0;
      if (good && condition > state(head_state::largest_condition, head))
        state(head_state::largest_condition, head) = condition;
    }
    if (!good) return;
    for_each_entry<1>(thread, n, [&](int i, int j) { R(first + i, j) = W[i * stride + j]; });
    if (restart)
      latents.restart(
          thread, first, n, [&](int i, int j) { return W[i * stride + j]; }, L);
  }

 private:
  struct Memory {
    TileTriangle G;
    float *W, *rows;
    double* vectors;
  };

  /// One pass on W. Its factor is written to L, and that of the second multiplied to it from the right unless
  /// it is to be dropped.
  template <class Thread>
  DARTQUANT_DEVICE bool pass(Thread const& thread, index_t first, int number, bool drop, Memory const& m,
                             double* word, double& condition) const {
    int const order = m.G.count * tile_order, size = static_cast<int>(n);
    double *const x = m.vectors, *const y = x + order, *const diagonal = y + order;
    gram_block(thread, m.W, m.G);
    for (int i = size + thread.index(); i < order; i += thread.count()) m.G(i, i) = 1;
    thread.synchronize();
    if (cholesky_block(thread, m.G, diagonal) >= 0) return false;
    if (number == 0) {
      for_each_entry<1>(thread, n,
                        [&](int i, int j) { L(first + i, j) = j <= i ? static_cast<float>(m.G(i, j)) : 0; });
    } else if (!drop) {  // U^T = U1^T U2^T
      multiply_factors(thread, size, m.G, L.rows(first, n), m.rows);
    }
    condition = 1;
#pragma unroll 1
    for (int inverse = 0; inverse < 2; ++inverse) {
      if (inverse != 0) invert_block(thread, m.G);
      condition *= largest_block(thread, size, inverse != 0, m.G, x, y, word);
    }
    if (condition - condition != 0) condition = HUGE_VAL;
    if (condition < 1) condition = 1;
    if (!(condition <= (number == 0 ? limits.two_pass : limits.one_pass))) return false;
    multiply_block<true>(thread, m.W, m.G);
    return true;
  }
};

/// The Householder path in FP64 for the heads that OrthonormalizeHeads marked. `wide` holds wide_size(n)
/// doubles per head.
struct MendHeads {
  static constexpr int threads = head_threads;
  static constexpr std::size_t shared_bytes = sizeof(double) * (threads / 32 + 1);
  double limit;  ///< of the condition, see OrthonormalizeHeads
  index_t n;
  HeadLatents latents;
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
    for_each_entry<1>(thread, n,
                      [&](int i, int j) { A[i * n + j] = static_cast<double>(latents.Z(first + i, j)); });
    householder_block(thread, n, A, Q, tau, word);
    auto const sign = [A, this](index_t k) { return A[k * n + k] < 0 ? -1.0 : 1.0; };
    for_each_entry<1>(thread, n, [&](int i, int j) {
      R(first + i, j) = static_cast<float>(sign(j) * Q[i * n + j]);
      L(first + i, j) = j <= i ? static_cast<float>(sign(j) * A[j * n + i]) : 0;
    });
    double const found = condition_block(
        thread, n, [&](index_t i, index_t j) { return sign(j) * A[j * n + i]; }, x, y, word + threads / 32);
    bool const restart = found > limit;
    if (restart)
      latents.restart(
          thread, first, n, [&](int i, int j) { return static_cast<float>(sign(j) * Q[i * n + j]); }, L);
    if (thread.index() == 0) {
      state(head_state::failed, head) = 0;
      state(head_state::householder, head) = 1;
      if (restart) state(head_state::steps, head) = 0;
      if (found > state(head_state::largest_condition, head))
        state(head_state::largest_condition, head) = found;
      state(head_state::condition, head) = restart ? 1 : found;
    }
  }
};

}  // namespace dartquant::cuda
