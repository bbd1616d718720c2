// SPDX-License-Identifier: Apache-2.0
#include "ceilings.hpp"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <new>

#include "ceilings_loops.hpp"

namespace dartquant::bench {
namespace {

void pin(int processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

void unpin() {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int i = 0; i < static_cast<int>(std::thread::hardware_concurrency()); ++i) CPU_SET(i, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

void rest() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

bool supported(dartquant_isa isa) {
  static dartquant_cpu const cpu = [] {
    static_cast<void>(dartquant_amx_request());
    dartquant_cpu found{};
    static_cast<void>(dartquant_cpu_detect(&found));
    return found;
  }();
  return dartquant_cpu_supports(&cpu, isa) != 0;
}

template <class Body>
double seconds_of(PinnedThreads& threads, Body const& body) {
  std::vector<double> taken;
  for (int i = 0; i < 5; ++i) taken.push_back(threads.timed(body));
  return typical(taken);
}

#if defined(__x86_64__)

/// Every thread its own slice of the buffer that all bandwidth measurements share.
HugeBuffer const& swept() {
  static HugeBuffer const buffer(sweep_bytes + (std::size_t{1} << 20));  // prefetches run past the end
  return buffer;
}

double measure_bandwidth(Ceiling what, PinnedThreads& threads) {
  bool const wide = supported(dartquant_isa_avx512_vnni);
  if (!wide && !supported(dartquant_isa_avx2)) return 0;
  std::uint8_t* const data = swept().as();
  std::size_t const each = sweep_bytes / static_cast<std::size_t>(threads.size()) / 4096 * 4096;
  double const all = static_cast<double>(each) * threads.size();
  if (what == Ceiling::read) {
    double seconds = 1e30;
    for (std::size_t const ahead : {0u, 1024u, 4096u})
      seconds = std::min(seconds, seconds_of(threads, [&](int part) {
                           std::uint8_t const* const slice = data + static_cast<std::size_t>(part) * each;
                           int const sum = wide ? read_512(slice, each, ahead) : read_256(slice, each, ahead);
                           __asm__ volatile("" : : "r"(sum));
                         }));
    return all / seconds;
  }
  if (what == Ceiling::stream)
    return 2 * all / seconds_of(threads, [&](int part) {
             (wide ? stream_512 : stream_256)(data + static_cast<std::size_t>(part) * each, each);
           });
  std::size_t const half = each / 8192 * 4096;
  double const plain = seconds_of(threads, [&](int part) {
    std::uint8_t* const slice = data + static_cast<std::size_t>(part) * each;
    std::memcpy(slice + half, slice, half);
  });
  double const past_caches = seconds_of(threads, [&](int part) {
    std::uint8_t* const slice = data + static_cast<std::size_t>(part) * each;
    (wide ? copy_512 : copy_256)(slice, slice + half, half);
  });
  return 2 * static_cast<double>(half) * threads.size() / std::min(plain, past_caches);
}

struct Loop {
  dartquant_isa isa;
  int (*run)(std::int64_t iterations);
  double operations;
};

Loop loop_of(Ceiling what) {
  switch (what) {
    case Ceiling::vnni_512:
      return {dartquant_isa_avx512_vnni, loop_vnni_512, vnni_512_operations};
    case Ceiling::vnni_256:
      return {dartquant_isa_avx_vnni, loop_vnni_256, vnni_256_operations};
    case Ceiling::avx2_int8:
      return {dartquant_isa_avx2, loop_avx2_int8, avx2_int8_operations};
    case Ceiling::tiles:
      return {dartquant_isa_amx_int8, loop_tiles, tiles_operations};
    case Ceiling::fma_512:
      return {dartquant_isa_avx512_vnni, loop_fma_512, fma_512_operations};
    case Ceiling::fma_256:
      return {dartquant_isa_avx2, loop_fma_256, fma_256_operations};
    case Ceiling::fma_512_double:
      return {dartquant_isa_avx512_vnni, loop_fma_512_double, fma_512_double_operations};
    case Ceiling::fma_256_double:
      return {dartquant_isa_avx2, loop_fma_256_double, fma_256_double_operations};
    case Ceiling::add_512:
      return {dartquant_isa_avx512_vnni, loop_add_512, add_512_operations};
    default:
      return {dartquant_isa_avx2, loop_add_256, add_256_operations};
  }
}

double measure_arithmetic(Ceiling what, PinnedThreads& threads) {
  Loop const loop = loop_of(what);
  if (!supported(loop.isa)) return 0;
  std::int64_t constexpr iterations = 100000;
  double const seconds = seconds_of(threads, [&](int) {
    int const sum = loop.run(iterations);
    __asm__ volatile("" : : "r"(sum));
  });
  return loop.operations * static_cast<double>(iterations) * threads.size() / seconds;
}

double measure(Ceiling what, PinnedThreads& threads) {
  return what <= Ceiling::copy ? measure_bandwidth(what, threads) : measure_arithmetic(what, threads);
}

#else

double measure(Ceiling, PinnedThreads&) { return 0; }

#endif

constexpr std::size_t huge_page = std::size_t{2} << 20;

double read_clock(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

}  // namespace

double thread_seconds() { return read_clock(CLOCK_THREAD_CPUTIME_ID); }
double process_seconds() { return read_clock(CLOCK_PROCESS_CPUTIME_ID); }

double quantile(std::vector<double> values, double fraction) {
  auto const at =
      values.begin() + static_cast<std::ptrdiff_t>(fraction * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

HugeBuffer::HugeBuffer(std::size_t bytes, Pages pages)
    : bytes_((bytes + huge_page - 1) / huge_page * huge_page), data_(std::aligned_alloc(huge_page, bytes_)) {
  if (data_ == nullptr) throw std::bad_alloc();
  madvise(data_, bytes_, pages == Pages::huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  std::uint64_t state = 0x9E3779B97F4A7C15u;
  auto* const words = static_cast<std::uint64_t*>(data_);
  for (std::size_t i = 0; i < bytes_ / sizeof *words; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    words[i] = state ^ (state >> 29);
  }
}

HugeBuffer::~HugeBuffer() { std::free(data_); }

PinnedThreads::PinnedThreads(int threads) {
  pin(0);
  for (int part = 1; part < threads; ++part) workers_.emplace_back([this, part] { work(part); });
}

PinnedThreads::~PinnedThreads() {
  stop_ = true;
  for (std::thread& worker : workers_) worker.join();
  unpin();
}

void PinnedThreads::start(Call call, void const* body) {
  call_ = call;
  body_ = body;
  running_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  call(body, 0);
  while (running_.load(std::memory_order_acquire) != 0) rest();
}

void PinnedThreads::work(int part) {
  pin(part);
  for (std::uint64_t done = 0;; ++done) {
    while (round_.load(std::memory_order_acquire) == done) {
      if (stop_.load(std::memory_order_relaxed)) return;
      rest();
    }
    call_(body_, part);
    running_.fetch_sub(1, std::memory_order_release);
  }
}

char const* name_of(Ceiling what) {
  static constexpr char const* names[ceiling_count] = {
      "read",    "stream",  "copy",           "vnni_512",       "vnni_256", "avx2_int8", "tiles",
      "fma_512", "fma_256", "fma_512_double", "fma_256_double", "add_512",  "add_256"};
  return names[static_cast<int>(what)];
}

double rate(Ceiling what, PinnedThreads& threads) {
  static std::vector<double> seen[ceiling_count][16];
  std::vector<double>& rates = seen[static_cast<int>(what)][std::min(threads.size(), 15)];
  rates.push_back(measure(what, threads));
  return quantile(rates, 0.75);
}

void print_ceilings(int rounds) {
  int const most = std::thread::hardware_concurrency() > 1 ? 2 : 1;
  for (int count = 1; count <= most; ++count) {
    PinnedThreads threads(count);
    for (int i = 0; i < ceiling_count; ++i) {
      auto const what = static_cast<Ceiling>(i);
      double found = 0;
      for (int round = 0; round < rounds; ++round) found = rate(what, threads);
      std::fprintf(stderr, "ceiling %-14s %d thread%s %9.2f %s\n", name_of(what), count,
                   count == 1 ? " " : "s", found * 1e-9, what <= Ceiling::copy ? "GB/s" : "Gop/s");
    }
  }
}

}  // namespace dartquant::bench
