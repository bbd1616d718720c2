// SPDX-License-Identifier: Apache-2.0
#include "../../src/io/tensor_values.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <span>
#include <vector>

#include <dartquant/core/half.hpp>
#include <dartquant/core/random.hpp>
#include "support/catch.hpp"

using namespace dartquant;

// The kernels of this machine against the plain loops, bit for bit.
namespace {

constexpr Dtype types[] = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16};

std::size_t bytes_of(Dtype dtype) { return static_cast<std::size_t>(bit_width(dtype)) / 8; }

template <class T>
bool same_bytes(std::vector<T> const& a, std::vector<T> const& b) {
  return std::ranges::equal(std::as_bytes(std::span(a)), std::as_bytes(std::span(b)));
}

/// Random doubles, and those around the places where rounding to 16 bits changes its mind.
std::vector<double> awkward_values() {
  std::vector<double> values{0.0,       -0.0,  65504,  65519.9, -65519.999999,
                             3.3895e38, 1e-45, -1e-46, 1e-300,  6e-8};
  Philox const random(3);
  for (std::uint64_t i = 0; i < 20000; ++i) {
    double const scale = std::exp2(40 * random.uniform(2 * i) - 30);
    auto const half = static_cast<double>(to_float(to_half(static_cast<float>(scale))));
    auto const brain = static_cast<double>(to_float(to_bfloat16(static_cast<float>(scale))));
    for (double const x : {scale, half, brain, half * (1 + 0x1p-11), brain * (1 + 0x1p-8)})
      for (double const factor : {1.0, 1 + 0x1p-52, 1 - 0x1p-53, 1 + 0x1p-30, 1 - 0x1p-30, -1.0})
        values.push_back(x * factor);
  }
  return values;
}

template <class T>
void check_encoding(Dtype dtype, std::vector<double> const& values) {
  std::vector<T> const x(values.begin(), values.end());
  // Several lengths and places, so that ends and alignments differ.
  for (std::size_t const first : {0u, 1u, 7u})
    for (std::size_t const count : {std::size_t{0}, std::size_t{1}, std::size_t{5}, std::size_t{8},
                                    std::size_t{31}, x.size() - first}) {
      std::vector<std::byte> fast(count * bytes_of(dtype) + 1), plain(fast.size());
      std::size_t const good = detail::encode_plainly(dtype, x.data() + first, count, plain.data() + 1);
      REQUIRE(detail::encode(dtype, x.data() + first, count, fast.data() + 1) == good);
      if (good == count) REQUIRE(same_bytes(fast, plain));
    }
}

template <class T>
void check_decoding(Dtype dtype, std::vector<std::byte> const& bytes) {
  std::size_t const all = bytes.size() / bytes_of(dtype) - 1;
  for (std::size_t const shift : {0u, 1u})  // unaligned
    for (std::size_t const count : {std::size_t{0}, std::size_t{3}, std::size_t{8}, std::size_t{29}, all}) {
      std::vector<T> fast(count), plain(count);
      std::size_t const good = detail::decode_plainly(dtype, bytes.data() + shift, count, plain.data());
      REQUIRE(detail::decode(dtype, bytes.data() + shift, count, fast.data()) == good);
      if (good == count) REQUIRE(same_bytes(fast, plain));
    }
}

}  // namespace

TEST_CASE("values become elements of a file as the plain loops do it", "[io][values]") {
  std::vector<double> const values = awkward_values();
  std::vector<double> small;
  std::ranges::copy_if(values, std::back_inserter(small), [](double x) { return std::abs(x) < 65000; });
  for (Dtype const dtype : types) {
    check_encoding<double>(dtype, dtype == Dtype::f16 ? small : values);
    check_encoding<float>(dtype, dtype == Dtype::f16 ? small : values);
  }
}

TEST_CASE("elements of a file become values as the plain loops do it", "[io][values]") {
  std::vector<std::byte> sixteen;  // every finite half, and every finite bfloat16
  for (std::uint32_t i = 0; i < 65536; ++i) {
    bool const finite = (i & 0x7C00) != 0x7C00 && (i & 0x7F80) != 0x7F80;
    std::uint16_t const bits = static_cast<std::uint16_t>(finite ? i : 0);
    auto const two = std::as_bytes(std::span(&bits, 1));
    sixteen.insert(sixteen.end(), two.begin(), two.end());
  }
  for (Dtype const dtype : {Dtype::f16, Dtype::bf16}) {
    check_decoding<float>(dtype, sixteen);
    check_decoding<double>(dtype, sixteen);
  }
  std::vector<double> const values = awkward_values();
  std::vector<float> const floats(values.begin(), values.end());
  auto const doubles = std::as_bytes(std::span(values)), singles = std::as_bytes(std::span(floats));
  check_decoding<double>(Dtype::f64, {doubles.begin(), doubles.end()});
  check_decoding<float>(Dtype::f32, {singles.begin(), singles.end()});
  check_decoding<double>(Dtype::f32, {singles.begin(), singles.end()});
}

TEST_CASE("the first value that is not finite is found, wherever it stands", "[io][values]") {
  constexpr std::size_t count = 77;
  double const infinity = std::numeric_limits<double>::infinity();
  for (Dtype const dtype : types)
    for (double const bad : {infinity, -infinity, std::numeric_limits<double>::quiet_NaN()})
      for (std::size_t place = 0; place < count; place += 5) {
        CAPTURE(to_string(dtype), bad, place);
        std::vector<double> x(count, 0.5);
        std::vector<std::byte> bytes(count * bytes_of(dtype));
        x[place] = x[count - 1] = bad;
        CHECK(detail::encode(dtype, x.data(), count, bytes.data()) == place);
        x[count - 1] = 0.5;
        std::vector<float> const y(x.begin(), x.end());
        CHECK(detail::encode(dtype, y.data(), count, bytes.data()) == place);
        std::vector<double> back(count);
        std::vector<std::byte> one(bytes_of(dtype));
        static_cast<void>(detail::encode(dtype, &bad, 1, one.data()));
        std::ranges::copy(one, bytes.begin() + static_cast<std::ptrdiff_t>(place * one.size()));
        if (dtype == Dtype::f16 || dtype == Dtype::bf16 || dtype == Dtype::f32) {
          std::vector<float> single(count);
          CHECK(detail::decode(dtype, bytes.data(), count, single.data()) == place);
        }
        CHECK(detail::decode(dtype, bytes.data(), count, back.data()) == place);
      }
}

TEST_CASE("what is finite as a double and not in the type is refused", "[io][values]") {
  std::vector<double> const x{1, 70000, 1e39, 2};
  std::vector<std::byte> bytes(64);
  CHECK(detail::encode(Dtype::f16, x.data(), x.size(), bytes.data()) == 1);
  CHECK(detail::encode(Dtype::bf16, x.data(), x.size(), bytes.data()) == 2);
  CHECK(detail::encode(Dtype::f32, x.data(), x.size(), bytes.data()) == 2);
  CHECK(detail::encode(Dtype::f64, x.data(), x.size(), bytes.data()) == 4);
}
