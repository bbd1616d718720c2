// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the instructions of cuda/warpgroup.cuh mean, in plain C++. Bulk copies arrive as late as they may:
// when a warp waits for their barrier.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <stdexcept>
#include <utility>
#include <vector>

#include "support/host_tensor_core.hpp"
#include "support/host_thread.hpp"

namespace dartquant::test {
namespace detail {

/// What the 8 bytes of a barrier hold here.
struct HostBarrier {
  std::int32_t bytes;  ///< expected and not yet arrived
  std::int16_t pending;
  std::uint8_t count, phase;

  static HostBarrier load(std::uint64_t const* from) {
    HostBarrier barrier;
    std::memcpy(&barrier, from, sizeof barrier);
    return barrier;
  }
  void store(std::uint64_t* to) {
    if (pending == 0 && bytes == 0) {
      phase ^= 1;
      pending = count;
    }
    std::memcpy(to, this, sizeof *this);
  }
};
static_assert(sizeof(HostBarrier) == sizeof(std::uint64_t));

struct BulkCopy {
  void* to;
  void const* from;
  int bytes;
};
inline std::map<std::uint64_t const*, std::vector<BulkCopy>>& bulk_copies() {
  static std::map<std::uint64_t const*, std::vector<BulkCopy>> copies;
  return copies;
}

inline void arrive(std::uint64_t* barrier) {
  std::vector<BulkCopy> const copies = std::exchange(bulk_copies()[barrier], {});
  for (BulkCopy const& copy : copies) {
    std::memcpy(copy.to, copy.from, static_cast<std::size_t>(copy.bytes));
    HostBarrier state = HostBarrier::load(barrier);
    state.bytes -= copy.bytes;
    state.store(barrier);
  }
}

}  // namespace detail

inline constexpr bool has_warpgroups(HostThread const&) { return true; }

inline void barrier_start(HostThread const&, std::uint64_t* barrier, int count) {
  detail::bulk_copies()[barrier].clear();
  detail::HostBarrier const state{0, static_cast<std::int16_t>(count), static_cast<std::uint8_t>(count), 0};
  std::memcpy(barrier, &state, sizeof state);
}
inline void barriers_started(HostThread const&) {}
inline void barrier_arrive(HostThread const&, std::uint64_t* barrier) {
  auto state = detail::HostBarrier::load(barrier);
  if (state.pending == 0) throw std::logic_error("[barrier_arrive] more arrivals than the barrier counts");
  --state.pending;
  state.store(barrier);
}
inline void barrier_expect(HostThread const&, std::uint64_t* barrier, int bytes) {
  auto state = detail::HostBarrier::load(barrier);
  state.bytes += bytes;
  --state.pending;
  state.store(barrier);
}
inline void barrier_wait(HostThread const& thread, std::uint64_t* barrier, int parity) {
  for (int tries = 0; tries < 100000; ++tries) {
    detail::arrive(barrier);
    bool const done = detail::HostBarrier::load(barrier).phase != parity;
    for (bool const one : thread.gather_warp(done))  // the lanes go on together
      if (one) return;
  }
  throw std::logic_error("[barrier_wait] a warp waits for a barrier in vain");
}
inline void bulk_copy(HostThread const&, void* shared, void const* global, int bytes,
                      std::uint64_t* barrier) {
  if (bytes % 16 != 0 || reinterpret_cast<std::uintptr_t>(shared) % 16 != 0 ||
      reinterpret_cast<std::uintptr_t>(global) % 16 != 0)
    throw std::logic_error("[bulk_copy] sizes and addresses are multiples of 16 bytes");
  detail::bulk_copies()[barrier].push_back({shared, global, bytes});
}

inline void warpgroup_fence(HostThread const&) {}
inline void warpgroup_commit(HostThread const&) {}
template <int Pending>
void warpgroup_wait(HostThread const&) {}
template <class Word, int Rows>
void hold(HostThread const&, Word (&)[Rows][4]) {}

inline void multiply_warpgroup(HostThread const& thread, std::int32_t (&d)[16][4],
                               std::uint32_t const (&a)[4], std::byte const* b, bool accumulate) {
  struct Registers {
    std::uint32_t a[4];
  };
  auto const lanes = thread.gather_warp(Registers{{a[0], a[1], a[2], a[3]}});
  auto const row_of = [&](int row, int k) -> int {  // of the warp's 16 rows
    auto const& lane = lanes[static_cast<std::size_t>(row % 8 * 4 + k % 16 / 4)];
    return static_cast<std::int8_t>(lane.a[row / 8 + 2 * (k / 16)] >> (8 * (k % 4)));
  };
  for (int j = 0; j < 16; ++j)
    for (int c = 0; c < 4; ++c) {
      int const row = thread.lane() / 4 + 8 * (c / 2), column = thread.lane() % 4 * 2 + c % 2;
      std::int32_t sum = accumulate ? d[j][c] : 0;
      for (int k = 0; k < 32; ++k)
        sum += row_of(row, k) * static_cast<std::int8_t>(b[j * 1024 + k / 16 * 128 + column * 16 + k % 16]);
      d[j][c] = sum;
    }
}

}  // namespace dartquant::test
