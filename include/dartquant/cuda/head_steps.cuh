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
struct GradientHeads {
  static constexpr int threads = head_threads;
  BlockSpace space;
  index_t n;
  DeviceMatrixView<float const> L;
  DeviceMatrixView<float> A;
  HeadStates<Space::device> state;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    index_t const head = thread.block_x(), first = head * n;
    if (state(head_state::going, head) == 0) return;
    auto const parts = space.of(thread, n);
    auto* const lower = reinterpret_cast<float*>(parts.triangle);
    float* const W = parts.W;
    double* const word = parts.vectors;
    double whole = 0, norm = 0;
    for_each_entry(thread, n, [&](index_t i, index_t j) {
      double const value = static_cast<double>(A(first + i, j));
      whole += value * value;
      W[i * (n + 1) + j] = j < i ? A(first + i, j) - A(first + j, i) : 0;
      if (j <= i) lower[packed(i, j)] = L(first + i, j);
    });
    solve_block<false>(thread, n, lower, W);
    for_each_entry(thread, n, [&](index_t i, index_t j) {
      float const value = A(first + i, j) = W[i * (n + 1) + j];
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

/// An optimizer's step for the heads that are going.
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
    for_each_element(thread, value.rows(), n, [&](index_t row, index_t col) {
      index_t const head = row / n;
      if (state(head_state::going, head) == 0) return;
      float unused_first = 0, unused_second = 0;
      float& a = first.rows() > 0 ? first(row, col) : unused_first;
      float& b = second.rows() > 0 ? second(row, col) : unused_second;
      rule.update(gradient(row, col), static_cast<float>(state(head_state::step_rate, head)), value(row, col),
                  a, b);
    });
  }
};

/// Z <- R, L <- I and zeros in the optimizer's state where the latent's condition is above `limit`. One block
/// per head.
struct RestartHeads {
  static constexpr int threads = head_threads;
  double limit;
  index_t n;
  DeviceMatrixView<float const> R;
  DeviceMatrixView<float> Z, L, first, second;
  HeadStates<Space::device> state;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    index_t const head = thread.block_x(), top = head * n;
    if (state(head_state::going, head) == 0 || !(state(head_state::condition, head) > limit)) return;
    for_each_entry(thread, n, [&](index_t i, index_t j) {
      Z(top + i, j) = R(top + i, j);
      L(top + i, j) = i == j ? 1.0f : 0.0f;
      if (first.rows() > 0) first(top + i, j) = 0;
      if (second.rows() > 0) second(top + i, j) = 0;
    });
    thread.synchronize();
    if (thread.index() == 0) {
      state(head_state::condition, head) = 1;
      state(head_state::steps, head) = 0;
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
    if (better) for_each_entry(thread, n, [&](index_t i, index_t j) { best(top + i, j) = R(top + i, j); });
    thread.synchronize();
    if (thread.index() == 0) {
      state(head_state::epochs, head) += 1;
      if (better) state(head_state::best_loss, head) = value;
      if (value - value != 0) state(head_state::going, head) = state(head_state::finite, head) = 0;
    }
  }
};

}  // namespace dartquant::cuda
