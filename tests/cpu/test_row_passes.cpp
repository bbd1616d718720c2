// SPDX-License-Identifier: Apache-2.0
// Kernels that do at once what others do one after the other: the same bytes.

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
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
          std::int64_t const each = blocks == 8 ? 4 : blocks;  // a range of all blocks, or two ranges
          std::vector<Range> found(static_cast<std::size_t>(blocks / each));
          Transform transform{type, x.data(), b.data(), blocks, length, found.data(), each, 1.0f};
          set.kernels->transform(&transform, &ahead);
          CHECK(a.same(b));
          for (std::size_t i = 0; i < found.size(); ++i) {
            std::int64_t const values = each * length;
            Range const expected =
                portable_rows.range(a.data() + static_cast<std::int64_t>(i) * values, values);
            CHECK(std::bit_cast<std::uint32_t>(found[i].min) == std::bit_cast<std::uint32_t>(expected.min));
            CHECK(std::bit_cast<std::uint32_t>(found[i].max) == std::bit_cast<std::uint32_t>(expected.max));
            CHECK((found[i].finite && expected.finite));
          }
          CHECK(ahead.at - next.data() == count / 16);  // as often as it says

          transform.ranges = nullptr;
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
        Transform const transform{Type::float32, x.data(), x.data(), 1, length, &found, 1, 1.0f};
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
            if (set.kernels->quantize_groups == nullptr) continue;
            char const here = 0;
            Ahead ahead{&here, 0};
            QuantizedGroups const groups{x.data(), count, 1, &map, 4, at_once.data()};
            set.kernels->quantize_groups(&groups, &ahead);
            CHECK(packed.same(at_once));
          }
}

TEST_CASE("groups that are quantized in one call, each by its own map") {
  Random random(11);
  for (Named const& set : tables()) {
    if (set.kernels->quantize_groups == nullptr) continue;
    for (std::int32_t const bits : {4, 8})
      for (std::int64_t const width : {2, 32, 64, 70, 128, 200})
        for (std::int64_t const count : {1, 2, 5}) {
          CAPTURE(set.name, bits, width, count);
          std::int64_t const all = count * width;
          Buffer<float> x = addends(random, all);
          std::vector<LevelMap> maps;
          Buffer<std::int8_t> levels(all);
          for (std::int64_t g = 0; g < count; ++g) {
            int const zero = static_cast<int>(random() % 16), top = (1 << bits) - 1;
            maps.push_back({1.0f, 0x1p-20f * static_cast<float>(g + 1), static_cast<float>(-zero),
                            static_cast<float>(top - zero), zero});
            portable_rows.quantize(x.data() + g * width, width, &maps.back(), levels.data() + g * width);
          }
          Buffer<std::uint8_t> expected(all * bits / 8), found(all * bits / 8);
          if (bits == 4) portable_rows.pack_nibbles(levels.data(), all, expected.data());
          else std::memcpy(expected.data(), levels.data(), static_cast<std::size_t>(all));
          char const here = 0;
          Ahead ahead{&here, 0};
          QuantizedGroups const groups{x.data(), width, count, maps.data(), bits, found.data()};
          set.kernels->quantize_groups(&groups, &ahead);
          CHECK(expected.same(found));
        }
  }
}

}  // namespace
