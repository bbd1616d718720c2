// SPDX-License-Identifier: Apache-2.0
// The runner that executes kernels on the CPU is itself checked: barriers, shuffles, shared memory, late
// copies, and the faults it reports.
#include "support/host_thread.hpp"

#include <stdexcept>
#include <vector>

#include <dartquant/core/platform.hpp>

#include "support/catch.hpp"

using namespace dartquant;
using dartquant::test::HostThread;
using dartquant::test::run_on_host;
using dartquant::test::ThreadOrder;

namespace {

/// y[block] = sum of x[block * threads ...], by shuffles inside warps and shared memory between them.
struct BlockSum {
  static constexpr int threads = 128;
  float const* x;
  float* y;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    float sum = x[thread.block_x() * threads + thread.index()];
    for (int mask = 16; mask > 0; mask /= 2) sum += thread.shuffle_xor(sum, mask);
    auto* const sums = reinterpret_cast<float*>(thread.shared());
    if (thread.lane() == 0) sums[thread.warp()] = sum;
    thread.synchronize();
    if (thread.index() == 0) {
      y[thread.block_x()] = 0;
      for (int warp = 0; warp < threads / 32; ++warp) y[thread.block_x()] += sums[warp];
    }
  }
};

/// Each thread reads its neighbour's value from shared memory; `waits` says whether it waits for it.
struct Neighbour {
  static constexpr int threads = 64;
  int* y;
  bool waits;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    auto* const values = reinterpret_cast<int*>(thread.shared());
    values[thread.index()] = thread.index();
    if (waits) thread.synchronize();
    y[thread.index()] = values[(thread.index() + 1) % threads];
  }
};

struct LateCopy {
  static constexpr int threads = 32;
  float const* x;
  float* before;
  float* after;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    auto* const values = reinterpret_cast<float*>(thread.shared());
    thread.template copy_async<4>(values + thread.index(), x + thread.index());
    thread.commit_copies();
    before[thread.index()] = values[thread.index()];
    thread.template wait_copies<0>();
    after[thread.index()] = values[thread.index()];
  }
};

/// Two rounds through shared memory; `waits` says whether the second waits until the first has been read.
struct TwoRounds {
  static constexpr int threads = 64;
  int* y;
  bool waits;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    auto* const values = reinterpret_cast<int*>(thread.shared());
    for (int round = 1; round <= 2; ++round) {
      int const all = thread.shuffle_xor(round, 1);
      values[thread.index()] = all;
      thread.synchronize();
      y[thread.index()] += values[(thread.index() + 32) % threads];  // of the other warp
      if (waits) thread.synchronize();
    }
  }
};

enum class Fault { lost_barrier, lost_shuffle, overrun };

struct Faulty {
  static constexpr int threads = 64;
  Fault fault;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    if (fault == Fault::lost_barrier && thread.index() != 5) thread.synchronize();
    if (fault == Fault::lost_shuffle && thread.index() != 5) (void)thread.shuffle_xor(1, 1);
    if (fault == Fault::overrun) thread.shared()[64 + thread.index() / 63] = std::byte{1};
  }
};

}  // namespace

TEST_CASE("kernels on the CPU: barriers, shuffles and shared memory", "[host_thread]") {
  std::vector<float> x(3 * 128), y(3);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  for (auto const order : {ThreadOrder::rising, ThreadOrder::falling, ThreadOrder::shuffled}) {
    run_on_host({.blocks_x = 3, .shared_bytes = 16}, BlockSum{x.data(), y.data()}, order);
    CHECK(y == std::vector<float>{8128, 24512, 40896});
  }
}

TEST_CASE("kernels on the CPU: another order of the threads shows a missing barrier", "[host_thread]") {
  std::vector<int> right(64), rising(64), falling(64);
  for (int i = 0; i < 64; ++i) right[static_cast<std::size_t>(i)] = (i + 1) % 64;
  run_on_host({.shared_bytes = 256}, Neighbour{rising.data(), true}, ThreadOrder::rising);
  run_on_host({.shared_bytes = 256}, Neighbour{falling.data(), true}, ThreadOrder::falling);
  CHECK(rising == right);
  CHECK(falling == right);
  run_on_host({.shared_bytes = 256}, Neighbour{rising.data(), false}, ThreadOrder::rising);
  run_on_host({.shared_bytes = 256}, Neighbour{falling.data(), false}, ThreadOrder::falling);
  CHECK(rising != falling);
}

TEST_CASE("kernels on the CPU: a warp that runs ahead shows a missing barrier", "[host_thread]") {
  std::vector<int> const right(64, 3);
  for (auto const order :
       {ThreadOrder::rising, ThreadOrder::falling, ThreadOrder::shuffled, ThreadOrder::eager}) {
    std::vector<int> y(64);
    run_on_host({.shared_bytes = 256}, TwoRounds{y.data(), true}, order);
    CHECK(y == right);
  }
  std::vector<int> eager(64);
  run_on_host({.shared_bytes = 256}, TwoRounds{eager.data(), false}, ThreadOrder::eager);
  CHECK(eager != right);
}

TEST_CASE("kernels on the CPU: an asynchronous copy arrives when it is waited for", "[host_thread]") {
  std::vector<float> x(32, 3.0f), before(32), after(32);
  run_on_host({.shared_bytes = 128}, LateCopy{x.data(), before.data(), after.data()});
  CHECK(before != x);
  CHECK(after == x);
}

TEST_CASE("kernels on the CPU: faults are reported", "[host_thread]") {
  CHECK_THROWS_AS(run_on_host({.shared_bytes = 64}, Faulty{Fault::lost_barrier}), std::logic_error);
  CHECK_THROWS_AS(run_on_host({.shared_bytes = 64}, Faulty{Fault::lost_shuffle}), std::logic_error);
  CHECK_THROWS_AS(run_on_host({.shared_bytes = 64}, Faulty{Fault::overrun}), std::logic_error);
}
