// SPDX-License-Identifier: Apache-2.0
// Every row kernel of every instruction set against the portable one, bit for bit.

#include <bit>
#include <cstdint>
#include <random>
#include <vector>

#include "row_cases.hpp"

namespace {

using namespace dartquant::cpu;

template <class T>
void test_load_and_store(Named const& set, Type type) {
  Random random(1);
  for (std::int64_t const count : lengths()) {
    CAPTURE(set.name, count, static_cast<int>(type));
    Buffer<T> x(count);
    for (std::int64_t j = 0; j < count; ++j) x[j] = dartquant::from_float<T>(any_float(random, false));
    Buffer<float> a(count), b(count);
    portable_rows.load(type, x.data(), nullptr, a.data(), count);
    set.kernels->load(type, x.data(), nullptr, b.data(), count);
    same_but_for_payloads(a, b);
    std::vector<std::int32_t> order(static_cast<std::size_t>(count));
    for (std::size_t j = 0; j < order.size(); ++j) order[j] = static_cast<std::int32_t>(j);
    std::shuffle(order.begin(), order.end(), random);
    portable_rows.load(type, x.data(), order.data(), a.data(), count);
    set.kernels->load(type, x.data(), order.data(), b.data(), count);
    same_but_for_payloads(a, b);
    Buffer<float> from = floats(random, count, false);
    Buffer<T> c(count), d(count);
    for (float const factor : {1.0f, 0.08838835f}) {
      portable_rows.store(type, from.data(), factor, c.data(), count);
      set.kernels->store(type, from.data(), factor, d.data(), count);
      same_but_for_payloads(c, d);
    }
  }
}

TEST_CASE("rows are loaded and stored as the portable kernels do") {
  for (Named const& set : tables()) {
    test_load_and_store<float>(set, Type::float32);
    test_load_and_store<dartquant::Half>(set, Type::float16);
    test_load_and_store<dartquant::BFloat16>(set, Type::bfloat16);
  }
}

TEST_CASE("every 16-bit value is loaded as the portable kernels do, and comes back") {
  constexpr std::int64_t count = 65536;
  std::vector<std::uint16_t> x(count), back(count), expected(count);
  for (std::size_t j = 0; j < x.size(); ++j) x[j] = static_cast<std::uint16_t>(j);
  for (Named const& set : tables())
    for (Type const type : {Type::float16, Type::bfloat16}) {
      Buffer<float> a(count), b(count);
      portable_rows.load(type, x.data(), nullptr, a.data(), count);
      set.kernels->load(type, x.data(), nullptr, b.data(), count);
      same_but_for_payloads(a, b);
      for (std::int64_t j = 0; j < count; ++j) b[j] = std::isnan(b[j]) ? 0.0f : b[j];
      set.kernels->store(type, b.data(), 1.0f, back.data(), count);
      portable_rows.store(type, b.data(), 1.0f, expected.data(), count);
      CHECK(back == expected);
    }
}

TEST_CASE("butterflies add in the portable order") {
  Random random(2);
  for (Named const& set : tables())
    for (std::int64_t length = 1; length <= 32768; length *= 2)
      for (std::int64_t const blocks : {1, 3, 8, 37}) {
        if (blocks * length > 70000) continue;
        CAPTURE(set.name, length, blocks);
        Buffer<float> a = addends(random, blocks * length), b = a, c = a;
        std::vector<char> next(4096);
        portable_rows.walsh(a.data(), blocks, length);
        set.kernels->walsh(b.data(), blocks, length);
        CHECK(a.same(b));
        if (set.kernels->ahead == nullptr) continue;
        Ahead ahead{next.data(), 16};
        set.kernels->ahead->walsh(c.data(), blocks, length, &ahead);
        CHECK(a.same(c));
      }
}

TEST_CASE("zeros keep their signs, and what is not finite spreads as it does in portable code") {
  Random random(3);
  for (Named const& set : tables())
    for (std::int64_t length = 1; length <= 1024; length *= 2) {
      Buffer<float> a(4 * length);
      for (std::int64_t j = 0; j < a.size(); ++j) a[j] = random() % 3 == 0 ? -0.0f : 0.0f;
      Buffer<float> b = a;
      portable_rows.walsh(a.data(), 4, length);
      set.kernels->walsh(b.data(), 4, length);
      CHECK(a.same(b));
      a = floats(random, 4 * length, false);
      b = a;
      portable_rows.walsh(a.data(), 4, length);
      set.kernels->walsh(b.data(), 4, length);
      same_but_for_payloads(a, b);
    }
}

TEST_CASE("bases are summed from row 0 upwards") {
  Random random(4);
  for (Named const& set : tables())
    for (std::int64_t const order : {1, 2, 3, 8, 12, 17, 28, 172, 300})
      for (std::int64_t length = 1; length <= 128; length *= 2) {
        CAPTURE(set.name, order, length);
        Buffer<std::int8_t> signs(order * order);
        for (std::int64_t j = 0; j < signs.size(); ++j) signs[j] = random() % 2 == 0 ? 1 : -1;
        Buffer<float> a = addends(random, order * length), b = a, space(order * length),
                      other(order * length);
        a[0] = b[0] = -0.0f;
        portable_rows.multiply_base(signs.data(), order, length, a.data(), space.data());
        set.kernels->multiply_base(signs.data(), order, length, b.data(), other.data());
        CHECK(a.same(b));
        CHECK(other.guarded());
      }
}

TEST_CASE("ranges hold zero, and say what is not finite wherever it stands") {
  Random random(5);
  for (Named const& set : tables())
    for (std::int64_t const count : lengths()) {
      CAPTURE(set.name, count);
      Buffer<float> x = floats(random, count, true);
      Range const expected = portable_rows.range(x.data(), count),
                  found = set.kernels->range(x.data(), count);
      CHECK(std::bit_cast<std::uint32_t>(found.min) == std::bit_cast<std::uint32_t>(expected.min));
      CHECK(std::bit_cast<std::uint32_t>(found.max) == std::bit_cast<std::uint32_t>(expected.max));
      CHECK(found.finite);
      std::int64_t missed = 0;
      for (std::int64_t j = 0; j < count; ++j)
        for (float const bad : {quiet_nan, infinity, -infinity}) {
          float const was = x[j];
          x[j] = bad;
          missed += set.kernels->range(x.data(), count).finite;
          x[j] = was;
        }
      CHECK(missed == 0);
    }
}

std::vector<LevelMap> level_maps() {
  std::vector<LevelMap> maps;
  for (float const factor : {1.0f, 0.08838835f})
    for (float const inverse : {1.0f, 2.0f, 0.3f, 1e30f}) {
      maps.push_back({factor, inverse, -8, 7, 0});
      maps.push_back({factor, inverse, -128, 127, 0});
      for (int const zero : {0, 3, 15})
        maps.push_back({factor, inverse, static_cast<float>(-zero), static_cast<float>(15 - zero), zero});
      for (int const zero : {0, 100, 128, 255})
        maps.push_back({factor, inverse, static_cast<float>(-zero), static_cast<float>(255 - zero), zero});
    }
  return maps;
}

TEST_CASE("levels are rounded half to even and limited as portable code does") {
  Random random(6);
  auto const maps = level_maps();
  for (Named const& set : tables())
    for (std::int64_t const count : lengths()) {
      Buffer<float> x = floats(random, count, false);
      for (std::int64_t j = 0; j < count; j += 2)  // ties
        x[j] = (static_cast<float>(random() % 1200) - 600.0f) / 2.0f;
      Buffer<std::int8_t> a(count), b(count);
      for (std::size_t i = 0; i < maps.size(); ++i) {
        CAPTURE(set.name, count, i);
        portable_rows.quantize(x.data(), count, &maps[i], a.data());
        set.kernels->quantize(x.data(), count, &maps[i], b.data());
        CHECK(a.same(b));
      }
    }
}

TEST_CASE("nibbles, levels and sums agree with portable code over all bytes") {
  Random random(7);
  std::vector<std::int64_t> counts = lengths();
  counts.insert(counts.end(), {512, 513, 4097});
  for (Named const& set : tables())
    for (std::int64_t const count : counts) {
      CAPTURE(set.name, count);
      Buffer<std::int8_t> levels(count), a(count), b(count);
      Buffer<std::uint8_t> bytes((count + 1) / 2), other((count + 1) / 2);
      auto const shift = static_cast<std::int64_t>(random());
      for (std::int64_t j = 0; j < count; ++j) levels[j] = static_cast<std::int8_t>(j + shift);
      portable_rows.pack_nibbles(levels.data(), count, bytes.data());
      set.kernels->pack_nibbles(levels.data(), count, other.data());
      CHECK(bytes.same(other));
      for (std::int64_t j = 0; j < bytes.size(); ++j) bytes[j] = static_cast<std::uint8_t>(j + shift);
      for (bool const is_signed : {true, false}) {
        portable_rows.unpack_nibbles(bytes.data(), count, is_signed, a.data());
        set.kernels->unpack_nibbles(bytes.data(), count, is_signed, b.data());
        CHECK(a.same(b));
        for (std::int32_t const zero : {0, 7, 255}) {
          Buffer<float> y(count), z(count);
          portable_rows.dequantize(levels.data(), count, is_signed, 0.3f, zero, y.data());
          set.kernels->dequantize(levels.data(), count, is_signed, 0.3f, zero, z.data());
          CHECK(y.same(z));
        }
      }
      CHECK(set.kernels->sum(levels.data(), count) == portable_rows.sum(levels.data(), count));
      for (int const extreme : {-128, 127}) {
        for (std::int64_t j = 0; j < count; ++j) levels[j] = static_cast<std::int8_t>(extreme);
        CHECK(set.kernels->sum(levels.data(), count) == extreme * count);
      }
    }
}

}  // namespace
