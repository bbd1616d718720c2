// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>

#include <dartquant/calibrate/head_state.hpp>
#include <dartquant/core/backend.hpp>
#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/cuda/elements.cuh>
#include <dartquant/cuda/head_qr.cuh>
#include <dartquant/cuda/sums.cuh>
#include <dartquant/cuda/triangle_block.cuh>

/// The steps of many descents at once: every decision that Descent takes on the host is taken here per head,
/// so that nothing waits. Matrices of all heads lie one above the other.
namespace dartquant::cuda {

/// Y[head rows + i] = the values of one query head of one token. numbers[i] counts the stacked rows of a KV
/// head: number = member tokens + token, member the query head within its group.
template <class T>
struct GatherHeads {
  static constexpr int threads = element_threads;
  DeviceMatrixView<T const> X;  ///< [tokens, query heads n]
  index_t const* numbers;
  index_t rows, group, n;
  DeviceMatrixView<T> Y;  ///< [heads rows, n]

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    for_each_element(thread, Y.rows(), n, [&](index_t row, index_t col) {
      index_t const head = row / rows, number = numbers[row % rows], member = number / X.rows();
      Y(row, col) = X(number % X.rows(), (head * group + member) * n + col);
    });
  }
};

/// A <- strictly_lower(A - A^T) L^-1, and the norms of A before and after. One block per head.
template <bool in_shared>
struct GradientHeads {
  static constexpr int threads = head_threads;
  BlockSpace<in_shared> space;
  index_t n;
  DeviceMatrixView<float const> L;
  DeviceMatrixView<float> A;
  HeadStates<Space::device> state;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    index_t const head = thread.block_x(), first = head * n;
    if (state(head_state::going, head) == 0) return;
    auto const parts = BlockSpace<in_shared>::layout(n);
    std::byte* const memory = space.of(thread, parts);
    int const order = parts.count * tile_order, stride = square_stride(order), size = static_cast<int>(n);
    TileTriangle const lower{reinterpret_cast<double*>(memory), parts.count};
    auto* const W = reinterpret_cast<float*>(memory + parts.square);
    auto* const word = reinterpret_cast<double*>(memory + parts.vectors);
    double whole = 0, norm = 0;
    for_each_entry(thread, order, [&](int i, int j) {
      bool const inside = i < size && j < size;
      float const value = W[i * stride + j] = inside ? A(first + i, j) : 0;
      whole += static_cast<double>(value) * static_cast<double>(value);
      if (j / tile_order <= i / tile_order)
        lower(i, j) = inside ? (j <= i ? static_cast<double>(L(first + i, j)) : 0) : (i == j ? 1 : 0);
    });
    thread.synchronize();
    for_each_entry(thread, order, [&](int i, int j) {
      if (j < i) W[i * stride + j] -= W[j * stride + i];
    });
    thread.synchronize();
    for_each_entry(thread, order, [&](int i, int j) {
      if (j >= i) W[i * stride + j] = 0;
    });
    invert_block(thread, lower);
    multiply_block<false>(thread, W, lower);
    for_each_entry(thread, n, [&](int i, int j) {
      float const value = A(first + i, j) = W[i * stride + j];
      norm += static_cast<double>(value) * static_cast<double>(value);
    });
    whole = block_sum(thread, whole, word);
    norm = block_sum(thread, norm, word);
    if (thread.index() == 0) {
      using std::sqrt;
      state(head_state::whole_norm, head) = sqrt(whole);
      state(head_state::gradient_norm, head) = sqrt(norm);
    }
  }
};

/// Decides per head whether the step is taken, and at which rate. One thread per head.
template <class Rule>
struct PrepareHeads {
  static constexpr int threads = 64;
  Rule rule;
  index_t n;
  StepRate how;
  HeadStates<Space::device> state;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    index_t const head = static_cast<index_t>(thread.block_x()) * threads + thread.index();
    if (head >= state.values.cols() || state(head_state::going, head) == 0) return;
    double const loss = state(head_state::loss, head), norm = state(head_state::gradient_norm, head);
    if (loss - loss != 0 || norm - norm != 0) {
      state(head_state::going, head) = state(head_state::finite, head) = 0;
      return;
    }
    if (state(head_state::taken, head) == 0) {
      constexpr double rounding = 100 * static_cast<double>(std::numeric_limits<float>::epsilon());
      if (norm <= rounding * state(head_state::whole_norm, head)) {
        state(head_state::going, head) = 0;
        return;
      }
      state(head_state::rate, head) =
          how.learning_rate > 0 ? how.learning_rate : rule.rate_for(how.relative_step, norm, n);
    }
    state(head_state::taken, head) += 1;
    double const steps = state(head_state::steps, head) += 1;
    state(head_state::step_rate, head) =
        rule.rate_at(static_cast<index_t>(steps), state(head_state::rate, head) * how.schedule_factor);
  }
};

/// An optimizer's step for the heads that are going. The grid is that of element_grid; a warp has whole rows.
template <class Rule>
struct UpdateHeads {
  static constexpr int threads = element_threads;
  Rule rule;
  index_t n;
  DeviceMatrixView<float const> gradient;
  DeviceMatrixView<float> first, second, value;
  HeadStates<Space::device> state;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    int const order = static_cast<int>(n);
    for (int i = thread.warp(); i < element_rows; i += threads / 32) {
      index_t const row = static_cast<index_t>(thread.block_x()) * element_rows + i;
      if (row >= value.rows()) return;
      int const head = static_cast<int>(row) / order;
      if (state(head_state::going, head) == 0) continue;
      float const rate = static_cast<float>(state(head_state::step_rate, head));
#pragma unroll 4
      for (int col = thread.lane(); col < order; col += 32) {
        float unused_first = 0, unused_second = 0;
        float& a = first.rows() > 0 ? first(row, col) : unused_first;
        float& b = second.rows() > 0 ? second(row, col) : unused_second;
        rule.update(gradient(row, col), rate, value(row, col), a, b);
      }
    }
  }
};

/// Closes an epoch whose loss is known: keeps the rotation if it is the best so far. One block per head.
struct CloseEpoch {
  static constexpr int threads = head_threads;
  index_t n;
  DeviceMatrixView<double const> loss;  ///< [1, heads]
  DeviceMatrixView<float const> R;
  DeviceMatrixView<float> best;
  HeadStates<Space::device> state;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    index_t const head = thread.block_x(), top = head * n;
    if (state(head_state::going, head) == 0) return;
    double const value = loss(0, head);
    bool const better = value < state(head_state::best_loss, head);
    if (better) for_each_entry(thread, n, [&](int i, int j) { best(top + i, j) = R(top + i, j); });
    thread.synchronize();
    if (thread.index() == 0) {
      state(head_state::epochs, head) += 1;
      if (better) state(head_state::best_loss, head) = value;
      if (value - value != 0) state(head_state::going, head) = state(head_state::finite, head) = 0;
    }
  }
};

}  // namespace dartquant::cuda
