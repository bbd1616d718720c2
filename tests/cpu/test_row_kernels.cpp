// SPDX-License-Identifier: Apache-2.0
// Every row kernel of every instruction set against the portable one, bit for bit.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <dartquant/kernels.h>
#include <dartquant/core/half.hpp>
#include "cpu/detect.hpp"
#include "support/catch.hpp"

namespace {

using namespace dartquant::cpu;
using Random = std::mt19937;
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr std::uint8_t guard = 0xA5;

struct Named {
  std::string name;
  RowKernels const* kernels;
};

/// The tables of this machine other than the portable one, each once.
std::vector<Named> tables() {
  dartquant_cpu cpu;
  dartquant_amx_request();
  REQUIRE(dartquant_cpu_detect(&cpu) == 0);
  std::vector<Named> found;
  for (int i = 0; i < dartquant_isa_count; ++i) {
    auto const isa = static_cast<dartquant_isa>(i);
    if (dartquant_cpu_choose(&cpu, isa) != 0) continue;
    RowKernels const* const rows = kernels_of(&cpu).rows;
    bool const is_new =
        std::none_of(found.begin(), found.end(), [&](Named const& n) { return n.kernels == rows; });
    if (rows != &portable_rows && is_new) found.push_back({dartquant_isa_name(isa), rows});
  }
  return found;
}

std::vector<std::int64_t> lengths() {
  std::vector<std::int64_t> all;
  for (std::int64_t n = 0; n <= 70; ++n) all.push_back(n);
  for (std::int64_t n : {95, 127, 128, 129, 191, 255, 257, 1001}) all.push_back(n);
  return all;
}

/// `count` values of T between guards, at an address that is odd in units of T.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::int64_t count)
      : count_(static_cast<std::size_t>(count)), bytes_(64 + 64 + count_ * sizeof(T), guard) {
    auto const past = reinterpret_cast<std::uintptr_t>(bytes_.data()) % 64;
    offset_ = (64 - past) % 64 + sizeof(T);
  }
  [[nodiscard]] T* data() { return reinterpret_cast<T*>(bytes_.data() + offset_); }
  [[nodiscard]] T& operator[](std::int64_t i) { return data()[i]; }
  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(count_); }
  [[nodiscard]] bool same(Buffer& other) {
    return std::memcmp(data(), other.data(), count_ * sizeof(T)) == 0 && guarded() && other.guarded();
  }
  [[nodiscard]] bool guarded() const {
    auto const is_guard = [](std::uint8_t byte) { return byte == guard; };
    auto const first = bytes_.begin() + static_cast<std::ptrdiff_t>(offset_);
    return std::all_of(bytes_.begin(), first, is_guard) &&
           std::all_of(first + static_cast<std::ptrdiff_t>(count_ * sizeof(T)), bytes_.end(), is_guard);
  }

 private:
  std::size_t count_, offset_ = 0;
  std::vector<std::uint8_t> bytes_;
};

/// Bits from which every kernel should come back with the portable bytes; with or without NaN and infinity.
float any_float(Random& random, bool finite) {
  static constexpr float special[] = {0.0f,     -0.0f,    1e-45f, -1e-40f,       1.17549435e-38f,
                                      3.4e38f,  -3.4e38f, 0.5f,   -1.5f,         2.5f,
                                      65504.0f, 65520.0f, 1e30f,  -6.097555e-5f, 3.0e-8f};
  if (random() % 4 == 0) return special[random() % std::size(special)];
  if (!finite && random() % 16 == 0)
    return random() % 2 == 0 ? nan : random() % 2 == 0 ? infinity : -infinity;
  float const x = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
  return std::isfinite(x) ? x : static_cast<float>(random() % 2001) / 8.0f - 125.0f;
}

Buffer<float> floats(Random& random, std::int64_t count, bool finite) {
  Buffer<float> x(count);
  for (std::int64_t j = 0; j < count; ++j) x[j] = any_float(random, finite);
  return x;
}

/// Multiples of 1/8: sums of them come out the same in any order only if they are exact, so larger ones too.
Buffer<float> addends(Random& random, std::int64_t count) {
  Buffer<float> x(count);
  for (std::int64_t j = 0; j < count; ++j)
    x[j] = std::ldexp(static_cast<float>(random() % 16777215) - 8388607.0f,
                      static_cast<int>(random() % 40) - 30);
  return x;
}

/// The bits, with NaNs told apart from numbers only.
template <class T>
std::uint32_t bits(T x) {
  if (std::isnan(dartquant::to_float(x))) return 0x7FC00000u;
  if constexpr (sizeof(T) == 4) return std::bit_cast<std::uint32_t>(x);
  else return x.bits;
}

template <class T>
void same_but_for_payloads(Buffer<T>& a, Buffer<T>& b) {
  std::int64_t different = 0;
  for (std::int64_t j = 0; j < a.size(); ++j) different += bits(a[j]) != bits(b[j]);
  CHECK(different == 0);
  CHECK(a.guarded());
  CHECK(b.guarded());
}

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
        for (float const bad : {nan, infinity, -infinity}) {
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
