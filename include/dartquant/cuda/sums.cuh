// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/cuda/elements.cuh>

namespace dartquant::cuda {

/// The sum of `value` over the threads of a warp, in a fixed order, in every lane.
template <class Thread, class T>
DARTQUANT_DEVICE T warp_sum(Thread const& thread, T value) {
  for (int mask = Thread::warp_size / 2; mask > 0; mask /= 2) value += thread.shuffle_xor(value, mask);
  return value;
}

/// The sum of `value` over the threads of a block, in a fixed order, in every thread. `space` holds one value
/// per warp in shared memory and may be used again afterwards.
template <class Thread, class T>
DARTQUANT_DEVICE T block_sum(Thread const& thread, T value, T* space) {
  value = warp_sum(thread, value);
  thread.synchronize();
  if (thread.lane() == 0) space[thread.warp()] = value;
  thread.synchronize();
  T total = 0;
  for (int warp = 0; warp < thread.count() / Thread::warp_size; ++warp) total += space[warp];
  return total;
}

/// partial[block] = the sum of the squares of a block's elements, in FP64. SumPartials adds them up.
template <class T>
struct SquareSums {
  static constexpr int threads = element_threads;
  static constexpr std::size_t shared_bytes = sizeof(double) * threads / 32;
  DeviceMatrixView<T const> A;
  double* partial;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    double sum = 0;
    for_each_element(thread, A.rows(), A.cols(), [&](index_t row, index_t col) {
      double const value = static_cast<double>(A(row, col));
      sum += value * value;
    });
    sum = block_sum(thread, sum, reinterpret_cast<double*>(thread.shared()));
    if (thread.index() == 0) partial[block_number(thread)] = sum;
  }
};

/// target[group] = factor * the sum of `count` partial sums of each group, in their order. One block per
/// group.
struct SumPartials {
  static constexpr int threads = 256;
  static constexpr std::size_t shared_bytes = sizeof(double) * threads / 32;
  double const* partial;
  index_t count;
  double factor;
  double* target;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    double const* const own = partial + thread.block_x() * count;
    double sum = 0;
    for (index_t i = thread.index(); i < count; i += threads) sum += own[i];
    sum = block_sum(thread, sum, reinterpret_cast<double*>(thread.shared()));
    if (thread.index() == 0) target[thread.block_x()] = factor * sum;
  }
};

}  // namespace dartquant::cuda
