// SPDX-License-Identifier: Apache-2.0
// Kernels that do at once what others do one after the other: the same bytes.

#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "row_cases.hpp"

namespace {

using namespace dartquant::cpu;

/// Values of a type whose transforms stay finite.
Buffer<std::uint32_t> stored(Random& random, Type type, std::int64_t count) {
  Buffer<float> x = addends(random, count);
  Buffer<std::uint32_t> bytes(type == Type::float32 ? count : count / 2);
  portable_rows.store(type, x.data(), 0x1p-22f, bytes.data(), count);  // at most 2^11
  return bytes;
}

TEST_CASE("rows that are loaded, transformed and measured at once") {
  Random random(8);
  for (Named const& set : tables()) {
    if (set.kernels->transform == nullptr) continue;
    for (Type const type : {Type::float32, Type::float16, Type::bfloat16})
      for (std::int64_t length = 16; length <= 32768; length *= 2)
        for (std::int64_t const blocks : {1, 3, 8}) {
          if (blocks * length > 70000) continue;
          CAPTURE(set.name, static_cast<int>(type), length, blocks);
          std::int64_t const count = blocks * length;
          Buffer<std::uint32_t> x = stored(random, type, count);
          std::vector<char> next(1 << 16);
          Ahead ahead{next.data(), 1};
          Buffer<float> a(count), b(count);
          portable_rows.load(type, x.data(), nullptr, a.data(), count);
          portable_rows.walsh(a.data(), blocks, length);
          Range const expected = portable_rows.range(a.data(), count);
          Range found{};
          Transform transform{type, x.data(), b.data(), blocks, length, &found, 1.0f};
          set.kernels->transform(&transform, &ahead);
          CHECK(a.same(b));
          CHECK(std::bit_cast<std::uint32_t>(found.min) == std::bit_cast<std::uint32_t>(expected.min));
          CHECK(std::bit_cast<std::uint32_t>(found.max) == std::bit_cast<std::uint32_t>(expected.max));
          CHECK((found.finite && expected.finite));
          CHECK(ahead.at - next.data() == count / 16);  // as often as it says

          transform.range = nullptr;
          transform.factor = 0.3f;
          set.kernels->transform(&transform, &ahead);
          Buffer<float> scaled(count);
          portable_rows.store(Type::float32, a.data(), 0.3f, scaled.data(), count);
          CHECK(scaled.same(b));
        }
  }
}

TEST_CASE("a transform in place that meets what is not finite says so") {
  Random random(9);
  for (Named const& set : tables()) {
    if (set.kernels->transform == nullptr) continue;
    for (std::int64_t const length : {16, 128, 1024, 8192})
      for (float const bad : {quiet_nan, -quiet_nan, infinity, -infinity}) {
        Buffer<float> x = addends(random, length);
        x[static_cast<std::int64_t>(random()) % length] = bad;
        Range found{};
        char const here = 0;
        Ahead ahead{&here, 0};
        Transform const transform{Type::float32, x.data(), x.data(), 1, length, &found, 1.0f};
        set.kernels->transform(&transform, &ahead);
        CAPTURE(set.name, length, bad);
        CHECK_FALSE(found.finite);
        CHECK(x.guarded());
      }
  }
}

/// Whether every quotient of x lies within +-2^30.
bool bounded(Buffer<float>& x, LevelMap const& map) {
  for (std::int64_t j = 0; j < x.size(); ++j)
    if (!(std::fabs((x[j] * map.factor) * map.inverse) < 0x1p30f)) return false;
  return true;
}

TEST_CASE("nibbles that are packed as they are quantized, and quotients that are known to be small") {
  Random random(10);
  for (Named const& set : tables())
    for (std::int64_t const count : lengths())
      for (float const factor : {1.0f, 0.08838835f})
        for (float const inverse : {1.0f, 0.3f, 1e30f})
          for (int const zero : {0, 3, 8, 15}) {
            LevelMap map{factor, inverse, static_cast<float>(-zero), static_cast<float>(15 - zero), zero};
            if (zero == 8) map = {factor, inverse, -8, 7, 0};
            Buffer<float> x(count);
            for (std::int64_t j = 0; j < count; ++j) {
              x[j] = (static_cast<float>(random() % 1200) - 600.0f) / 2.0f;  // ties, and beyond the levels
              if (random() % 8 == 0) x[j] = any_float(random, inverse < 1);
              if (inverse < 1 && std::fabs(x[j]) > 1e9f) x[j] = -0.0f;
            }
            map.bounded = bounded(x, map);
            CAPTURE(set.name, count, factor, inverse, zero, map.bounded);
            Buffer<std::int8_t> levels(count), found(count);
            Buffer<std::uint8_t> packed((count + 1) / 2), at_once((count + 1) / 2);
            portable_rows.quantize(x.data(), count, &map, levels.data());
            portable_rows.pack_nibbles(levels.data(), count, packed.data());
            set.kernels->quantize(x.data(), count, &map, found.data());
            CHECK(levels.same(found));
            if (set.kernels->quantize_nibbles == nullptr) continue;
            char const here = 0;
            Ahead ahead{&here, 0};
            set.kernels->quantize_nibbles(x.data(), count, &map, at_once.data(), &ahead);
            CHECK(packed.same(at_once));
          }
}

}  // namespace
