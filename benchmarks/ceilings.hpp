// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the machine can do at most, measured in the process and on the threads that run the kernels: the
// denominators of every of_ceiling. On a machine that others use, a mean of wall times compares their load
// and not our code. So times are those that a thread had a processor, of several threads of the one that had
// it longest; many are taken, kernel and ceiling in turn, and the first quartile counts: the least may be an
// error of a virtual machine's clock.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#include <dartquant/kernels.h>

namespace dartquant::bench {

/// Bytes that a bandwidth measurement sweeps; kernels that are held against it should sweep as many.
inline constexpr std::size_t sweep_bytes = std::size_t{160} << 20;

/// Seconds that the calling thread, or all threads of the process, have had a processor.
double thread_seconds();
double process_seconds();

/// The value below which `fraction` of the values lie; there are some.
double quantile(std::vector<double> values, double fraction);
inline double typical(std::vector<double> const& seconds) { return quantile(seconds, 0.25); }

/// Huge where the system gives them; or of 4 KiB, as a mapped file and most allocations have them.
enum class Pages { huge, small };

/// Memory on huge pages (or small ones), aligned to 2 MiB, filled with random bytes.
class HugeBuffer {
 public:
  explicit HugeBuffer(std::size_t bytes, Pages pages = Pages::huge);
  ~HugeBuffer();
  HugeBuffer(HugeBuffer const&) = delete;
  HugeBuffer& operator=(HugeBuffer const&) = delete;
  template <class T = std::uint8_t>
  [[nodiscard]] T* as() const {
    return static_cast<T*>(data_);
  }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_;
  void* data_;
};

/// Threads pinned to processors 0, 1, ... that spin between pieces of work: a sleeping thread can take
/// milliseconds to start. The caller is thread 0, pinned while the object lives.
class PinnedThreads {
 public:
  explicit PinnedThreads(int threads);
  ~PinnedThreads();
  PinnedThreads(PinnedThreads const&) = delete;
  PinnedThreads& operator=(PinnedThreads const&) = delete;
  [[nodiscard]] int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(part) for part = 0 .. size() - 1, one per thread, and returns when all are done.
  template <class Body>
  void run(Body const& body) {
    start([](void const* what, int part) { (*static_cast<Body const*>(what))(part); }, &body);
  }
  /// As run; the seconds of the thread that took longest.
  template <class Body>
  [[nodiscard]] double timed(Body const& body) {
    std::vector<double> taken(static_cast<std::size_t>(size()));
    run([&](int part) {
      double const start = thread_seconds();
      body(part);
      taken[static_cast<std::size_t>(part)] = thread_seconds() - start;
    });
    return *std::max_element(taken.begin(), taken.end());
  }

 private:
  using Call = void (*)(void const*, int);
  void start(Call call, void const* body);
  void work(int part);

  Call call_ = nullptr;
  void const* body_ = nullptr;
  std::atomic<std::uint64_t> round_{0};
  std::atomic<int> running_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

enum class Ceiling {
  read,       ///< bytes read per second, sweep_bytes
  stream,     ///< in place: bytes read and written per second, sweep_bytes
  copy,       ///< bytes read and written per second, sweep_bytes / 2 to sweep_bytes / 2, non-temporal or not
  vnni_512,   ///< int8 operations (2 per product) per second, vpdpbusd on zmm
  vnni_256,   ///< the same on ymm (AVX-VNNI)
  avx2_int8,  ///< int8 operations per second of 8 (vpmaddubsw, vpaddw), vpmaddwd, vpaddd: what an exact 4-bit
              ///< by 8-bit dot product needs without VNNI
  tiles,      ///< int8 operations per second, tdpbsud on tiles that stay in registers
  fma_512,    ///< float operations (2 per FMA) per second, vfmadd231ps on zmm
  fma_256,
  fma_512_double,  ///< double operations (2 per FMA) per second, vfmadd231pd on zmm
  fma_256_double,
  add_512,  ///< float additions per second, vaddps on zmm
  add_256
};
inline constexpr int ceiling_count = 13;

/// "read", "vnni_512", ...
char const* name_of(Ceiling what);

/// Measures for some milliseconds on all of `threads` and returns the third quartile of the rates seen so far
/// in this process for that many threads; 0 where the processor cannot.
double rate(Ceiling what, PinnedThreads& threads);

/// Measures every ceiling `rounds` times on 1 and 2 threads and prints them, one line each.
void print_ceilings(int rounds);

}  // namespace dartquant::bench
