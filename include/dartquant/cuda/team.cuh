// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/cuda/sums.cuh>

/// Teams of threads that share a token; see detail::OneThread of calibrate/objective.hpp. Results are the
/// same in all threads of a team and do not depend on timing.
namespace dartquant::cuda {

/// The 32 lanes of a warp.
template <class Thread>
struct WarpTeam {
  Thread const& thread;

  template <class F>
  DARTQUANT_DEVICE void for_each(index_t count, F const& f) const {
    for (index_t i = thread.lane(); i < count; i += 32) f(i);
  }
  template <class T, class F>
  DARTQUANT_DEVICE T sum(index_t count, F const& f) const {
    T own = 0;
    for_each(count, [&](index_t i) { own += f(i); });
    return warp_sum(thread, own);
  }
  template <class T, class F>
  DARTQUANT_DEVICE T largest(index_t count, T start, F const& f) const {
    for_each(count, [&](index_t i) {
      T const value = f(i);
      start = value > start ? value : start;
    });
    for (int mask = 16; mask > 0; mask /= 2) {
      T const other = thread.shuffle_xor(start, mask);
      start = other > start ? other : start;
    }
    return start;
  }
  template <class T, class F>
  DARTQUANT_DEVICE T smallest(index_t count, T start, F const& f) const {
    return -largest(count, -start, [&](index_t i) { return -f(i); });
  }
  DARTQUANT_DEVICE void synchronize() const { thread.synchronize_warp(); }
};

/// All threads of a block; `space` is shared memory for one double per warp.
template <class Thread>
struct BlockTeam {
  Thread const& thread;
  double* space;

  template <class F>
  DARTQUANT_DEVICE void for_each(index_t count, F const& f) const {
    for (index_t i = thread.index(); i < count; i += thread.count()) f(i);
  }
  template <class T, class F>
  DARTQUANT_DEVICE T sum(index_t count, F const& f) const {
    T own = 0;
    for_each(count, [&](index_t i) { own += f(i); });
    return block_sum(thread, own, reinterpret_cast<T*>(space));
  }
  DARTQUANT_DEVICE void synchronize() const { thread.synchronize(); }
};

}  // namespace dartquant::cuda
