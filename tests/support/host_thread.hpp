// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <type_traits>

#include <dartquant/core/half.hpp>
#include <dartquant/cuda/grid.hpp>

namespace dartquant::test {

class HostBlock;

/// In which order the threads of a block take their turns between two barriers. A kernel that needs a barrier
/// it does not have gives another result in one of them.
///
/// eager: as rising, but whoever can go on does before the next gets a turn, so that a warp runs ahead of the
/// others as far as barriers let it: it overwrites what they have not read yet if a barrier is missing there.
/// Not for kernels that ask again and again whether something has arrived.
enum class ThreadOrder { rising, falling, shuffled, eager };

/// The CPU's counterpart of cuda::DeviceThread: what each call means, in plain C++. Every thread of a block
/// is a fiber; the blocks run one after another. All threads of a warp take part in a shuffle and all of a
/// block in `synchronize`, else the run fails with a sentence. Asynchronous copies arrive as late as they
/// may: when wait_copies demands them.
class HostThread {
 public:
  static constexpr int warp_size = 32;

  HostThread(HostBlock& block, int index) : block_(&block), index_(index) {}

  int index() const { return index_; }
  int count() const;
  int lane() const { return index_ % warp_size; }
  int warp() const { return index_ / warp_size; }
  int block_x() const;
  int block_y() const;
  int block_z() const;
  int blocks_x() const;
  int blocks_y() const;
  int blocks_z() const;

  static int here(int x) { return x; }
  template <class T>
  static T opaque(T x) {
    return x;
  }

  void synchronize() const;
  void synchronize_warp() const;
  std::byte* shared() const;

  /// The values that the 32 lanes of this warp hand in. What shuffles and tensor instructions are made of on
  /// the CPU.
  template <class T>
  std::array<T, warp_size> gather_warp(T const& value) const {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 256);
    std::array<T, warp_size> values{};
    std::byte const* const slots = exchange(&value, sizeof(T));
    for (int lane = 0; lane < warp_size; ++lane)
      std::memcpy(&values[static_cast<std::size_t>(lane)], slots + lane * 256, sizeof(T));
    return values;
  }
  template <class T>
  T shuffle_xor(T value, int mask) const {
    return gather_warp(value)[static_cast<std::size_t>(lane() ^ mask)];
  }
  template <class T>
  T shuffle_down(T value, int distance) const {
    int const source = lane() + distance;
    return gather_warp(value)[static_cast<std::size_t>(source < warp_size ? source : lane())];
  }
  template <class T>
  T shuffle(T value, int lane) const {
    return gather_warp(value)[static_cast<std::size_t>(lane)];
  }

  template <int Bytes>
  void copy_async(void* shared, void const* global) const {
    static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
    later(shared, global, Bytes);
  }
  void commit_copies() const;
  template <int Pending>
  void wait_copies() const {
    arrive(Pending);
  }

  template <class T>
  void atomic_add(T* target, T value) const {
    *target += value;  // fibers of one system thread: nothing comes between
  }
  void atomic_max(std::uint32_t* target, std::uint32_t value) const {
    if (*target < value) *target = value;
  }

  static float max_nan(float a, float b) {
    if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<float>::quiet_NaN();
    return a > b || (a == b && !std::signbit(a)) ? a : b;
  }
  static double inverse_root(double x) { return 1 / std::sqrt(x); }
  template <class T>
  static float to_float(T x) {
    return dartquant::to_float(x);
  }
  template <class T>
  static T from_float(float x) {
    return dartquant::from_float<T>(x);
  }
  template <class T>
  static std::uint32_t from_floats(float low, float high) {
    return from_float<T>(low).bits | static_cast<std::uint32_t>(from_float<T>(high).bits) << 16;
  }
  static std::uint32_t below(std::uint32_t upper, std::uint32_t x, int k) {
    return (upper & 0xFFFFFF00u) | (x >> (8 * k) & 0xFFu);
  }
  static float sign_of_byte(std::uint32_t x, int k, std::uint32_t rest) {
    return std::bit_cast<float>((x >> (8 * k) & 0xFFu) << 24 | rest << 16);
  }
  std::uint32_t reduce_max(std::uint32_t x) const {
    std::uint32_t most = 0;
    for (std::uint32_t const other : gather_warp(x)) most = other > most ? other : most;
    return most;
  }

 private:
  std::byte const* exchange(void const* value, std::size_t bytes) const;
  void later(void* shared, void const* global, int bytes) const;
  void arrive(int pending) const;

  HostBlock* block_;
  int index_;
};

namespace detail {
void run_on_host(cuda::Grid const& grid, int threads, ThreadOrder order,
                 std::function<void(HostThread const&)> const& body);
}

/// Runs a kernel on the CPU: body(HostThread) for Body::threads threads (or grid.threads) of every block of
/// the grid. Shared memory starts filled with a pattern, and bytes around it are checked afterwards. Throws
/// std::logic_error that names the block where threads wait for one another in vain, an address is misaligned
/// or shared memory was overrun.
template <class Body>
void run_on_host(cuda::Grid const& grid, Body const& body, ThreadOrder order = ThreadOrder::rising) {
  static_assert(std::is_trivially_copyable_v<Body>, "the parameters of a kernel are copied to the device");
  detail::run_on_host(grid, grid.threads == 0 ? Body::threads : grid.threads, order,
                      [&](HostThread const& thread) { body(thread); });
}

}  // namespace dartquant::test
