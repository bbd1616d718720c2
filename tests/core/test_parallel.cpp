// SPDX-License-Identifier: Apache-2.0
#include <dartquant/core/cpu.hpp>
#include <dartquant/core/parallel.hpp>

#include <atomic>
#include <numeric>
#include <thread>
#include <vector>

#include "support/catch.hpp"

using namespace dartquant;

TEST_CASE("every index is visited once, for any number of threads", "[parallel]") {
  for (int const threads : {1, 2, 3, 7}) {
    Cpu const cpu(threads);
    for (index_t const count : {0, 1, 5, 64, 1000}) {
      for (index_t const grain : {0, 1, 3, 2000}) {
        std::vector<std::atomic<int>> visits(static_cast<std::size_t>(count));
        std::atomic<bool> ordered = true;  // Catch's assertions belong to one thread
        cpu.parallel_for(count, grain, [&](index_t first, index_t last) {
          if (first >= last) ordered = false;
          for (index_t i = first; i < last; ++i) ++visits[static_cast<std::size_t>(i)];
        });
        REQUIRE(ordered);
        for (auto const& visit : visits) REQUIRE(visit == 1);
      }
    }
  }
}

TEST_CASE("a sum has the same bytes for any number of threads", "[parallel]") {
  std::vector<double> values(10007);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = 1.0 / static_cast<double>(i + 1);
  auto const sum = [&](int threads) {
    return Cpu(threads).parallel_sum(
        static_cast<index_t>(values.size()), 64, [&](index_t first, index_t last) {
          return std::accumulate(values.begin() + first, values.begin() + last, 0.0);
        });
  };
  double const one = sum(1);
  REQUIRE(one == Approx(9.787606).epsilon(1e-4));
  REQUIRE(sum(2) == one);
  REQUIRE(sum(5) == one);
}

TEST_CASE("the exception of the lowest range comes out, and the threads go on", "[parallel]") {
  Cpu const cpu(4);
  auto const run = [&] {
    cpu.parallel_for(100, 1, [](index_t first, index_t) {
      if (first == 17 || first == 60) throw InvalidArgument(detail::sentence("part ", first));
    });
  };
  for (int repeat = 0; repeat < 20; ++repeat) REQUIRE_THROWS_WITH(run(), "part 17");
  std::atomic<int> count = 0;
  cpu.parallel_for(100, 1, [&](index_t, index_t) { ++count; });
  REQUIRE(count == 100);
}

TEST_CASE("a call from inside a task runs in place", "[parallel]") {
  Cpu const cpu(3);
  std::atomic<int> count = 0;
  cpu.parallel_for(8, 1,
                   [&](index_t, index_t) { cpu.parallel_for(8, 1, [&](index_t, index_t) { ++count; }); });
  REQUIRE(count == 64);
}

TEST_CASE("two callers may share the threads", "[parallel]") {
  Cpu const cpu(3);
  std::atomic<int> count = 0;
  auto const caller = [&] {
    for (int repeat = 0; repeat < 200; ++repeat) cpu.parallel_for(10, 1, [&](index_t, index_t) { ++count; });
  };
  std::thread other(caller);
  caller();
  other.join();
  REQUIRE(count == 4000);
}

TEST_CASE("an engine's own executor runs the parts", "[parallel]") {
  int calls = 0;
  Executor const mine = [&](index_t parts, std::function<void(index_t)> const& task) {
    ++calls;
    for (index_t part = parts; part-- > 0;) task(part);
  };
  Cpu const cpu(mine, 8);
  std::atomic<int> count = 0;
  cpu.parallel_for(100, 10, [&](index_t first, index_t last) { count += static_cast<int>(last - first); });
  REQUIRE(calls == 1);
  REQUIRE(count == 100);
  REQUIRE_THROWS_WITH(Cpu(0), Catch::Contains("0 threads"));
}
