// SPDX-License-Identifier: Apache-2.0
// Random small calls: every instruction set writes the bytes that the portable kernels write, into
// allocations that end where the documented buffers end. `test_cpu "[million]"` runs a million of them; build
// with -fsanitize=address,undefined to see accesses beyond.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include <dartquant/kernels.h>

#include "cpu/exact.hpp"
#include "support/catch.hpp"

namespace {

using namespace kernel_test;

/// One stream of cases: random choices, the processors to compare, workspaces by size.
class Cases {
 public:
  Cases() {
    (void)dartquant_amx_request();
    dartquant_cpu cpu{};
    REQUIRE(dartquant_cpu_detect(&cpu) == 0);
    for (int isa = 0; isa < dartquant_isa_count; ++isa)
      if (dartquant_cpu_choose(&cpu, static_cast<dartquant_isa>(isa)) == 0) cpus_.push_back(cpu);
  }

  void run(std::uint32_t seed, int count) {
    random_.seed(seed);
    for (int index = 0; index < count; ++index) {
      INFO("case " << index);
      switch (random_() % 5) {
        case 0:
          hadamard();
          break;
        case 1:
          quantize();
          break;
        case 2:
          dequantize();
          break;
        case 3:
          multiply();
          break;
        default:
          multiply_float();
          break;
      }
    }
  }

 private:
  std::int64_t below(std::int64_t count) {
    return static_cast<std::int64_t>(random_() % static_cast<std::uint32_t>(count));
  }
  std::int64_t up_to(std::int64_t most) { return 1 + below(most); }
  bool coin() { return random_() % 2 == 0; }
  dartquant_symmetry symmetry() { return coin() ? dartquant_symmetric : dartquant_asymmetric; }
  dartquant_type type() { return static_cast<dartquant_type>(below(3)); }
  void fill(Exact const& memory) {
    for (std::size_t i = 0; i < memory.size(); ++i) memory.data()[i] = static_cast<std::uint8_t>(random_());
  }

  /// Values of one type: of the size of 1, or any bits at all, NaN and infinity included.
  void fill(Values const& x, bool any_bits) {
    if (any_bits) return fill(x.memory);
    std::size_t const size = x.m.type == dartquant_float32 ? 4 : 2;
    for (std::size_t i = 0; i + size <= x.memory.size(); i += size) {
      float const value = static_cast<float>(below(4097) - 2048) / 512.0f;
      std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
      if (x.m.type == dartquant_bfloat16) bits >>= 16;
      if (x.m.type == dartquant_float16)
        bits = static_cast<std::uint32_t>(0x3000 + below(0x1400) + (coin() ? 0x8000 : 0));
      std::memcpy(x.memory.data() + i, &bits, size);
    }
  }
  void fill(Plain const& plain) {
    fill(plain.levels);
    for (std::size_t i = 0; i < plain.scales.size() / 4; ++i)
      plain.scales.as<float>()[i] = static_cast<float>(1 + below(4096)) / 65536.0f;
    for (std::size_t i = 0; i < plain.zero_points.size() / 4; ++i)
      plain.zero_points.as<std::int32_t>()[i] =
          static_cast<std::int32_t>(below(plain.q.bits == 4 ? 16 : 256));
  }
  PlainShape shape(std::int64_t rows, std::int64_t cols, std::int64_t group) {
    return {rows, cols, coin() ? 4 : 8, symmetry(), group, below(4), static_cast<std::size_t>(below(16))};
  }

  struct Base {
    std::int64_t order = 0;
    std::vector<std::int8_t> signs;
  };
  /// Searched for once: that takes longer than a thousand cases.
  Base const& base_of(std::int64_t cols) {
    auto const [entry, is_new] = bases_.try_emplace(cols);
    Base& base = entry->second;
    if (is_new && dartquant_hadamard_base(cols, nullptr, 0, &base.order) == 0 && base.order > 1) {
      base.signs.resize(static_cast<std::size_t>(base.order * base.order));
      REQUIRE(dartquant_hadamard_base(cols, base.signs.data(), base.signs.size(), &base.order) == 0);
    }
    return base;
  }

  /// Rows have up to 96 channels, and a transform that fits them.
  dartquant_transform transform(std::int64_t cols) {
    permutation_.resize(static_cast<std::size_t>(cols));
    for (std::size_t j = 0; j < permutation_.size(); ++j) permutation_[j] = static_cast<std::int32_t>(j);
    std::shuffle(permutation_.begin(), permutation_.end(), random_);
    dartquant_transform t{coin() ? permutation_.data() : nullptr, 0, nullptr, 1};
    if (random_() % 4 == 0) {
      Base const& base = base_of(cols);
      if (base.order > 1) return {t.permutation, cols, base.signs.data(), base.order};
    }
    std::int64_t const largest = cols & -cols;  // a power of two
    if (random_() % 4 != 0)
      t.block = largest >> below(1 + std::countr_zero(static_cast<std::uint64_t>(largest)));
    return t;
  }

  /// A workspace of exactly this size.
  Exact const& workspace(std::size_t bytes) { return spaces_.try_emplace(bytes, bytes).first->second; }
  Exact const& rows_workspace(std::int64_t cols) {
    std::size_t bytes = 0;
    REQUIRE(dartquant_rows_workspace_size(cols, &bytes) == 0);
    return workspace(bytes);
  }

  /// call(cpu, part, parts) for every part; the largest status.
  template <class Call>
  dartquant_status all_parts(std::int64_t parts, Call const& call) {
    dartquant_status worst = 0;
    for (std::int64_t part = 0; part < parts; ++part) worst = std::max(worst, call(part, parts));
    return worst;
  }

  void hadamard() {
    std::int64_t const rows = up_to(4), cols = up_to(96), extra = below(4), parts = up_to(4);
    auto const offset = static_cast<std::size_t>(below(16));
    dartquant_transform const t = transform(cols);
    Values const x(type(), rows, cols, extra, offset);
    fill(x, false);
    dartquant_type const to = type();
    bool const in_place = coin();
    Exact const& space = rows_workspace(cols);
    std::vector<std::uint8_t> expected;
    for (dartquant_cpu const& cpu : cpus_) {
      Values const y(in_place ? x.m.type : to, rows, cols, extra, offset);
      if (in_place) std::memcpy(y.memory.data(), x.memory.data(), x.memory.size());
      dartquant_matrix const& from = in_place ? y.m : x.m;
      REQUIRE(all_parts(parts, [&](std::int64_t part, std::int64_t of) {
                return dartquant_hadamard(&cpu, &t, &from, &y.m, space.data(), space.size(), part, of);
              }) == 0);
      same_as_first(cpu, y.memory.bytes(), expected);
    }
  }

  void quantize() {
    std::int64_t const rows = up_to(4), cols = up_to(96), parts = up_to(4);
    dartquant_transform const t = transform(cols);
    dartquant_transform const* const used = coin() ? &t : nullptr;
    Values const x(type(), rows, cols, below(4), static_cast<std::size_t>(below(16)));
    bool const any_bits = random_() % 4 == 0 && used == nullptr;
    fill(x, any_bits);
    PlainShape const s = shape(rows, cols, below(cols + 2));
    float const clip = coin() ? 1.0f : static_cast<float>(up_to(100)) / 100.0f;
    Exact const& space = rows_workspace(cols);
    std::vector<std::uint8_t> expected;
    dartquant_status first = -1;
    for (dartquant_cpu const& cpu : cpus_) {
      Plain const q(s);
      dartquant_status const status = all_parts(parts, [&](std::int64_t part, std::int64_t of) {
        return dartquant_quantize(&cpu, used, &x.m, clip, &q.q, space.data(), space.size(), part, of);
      });
      if (first == -1) first = status;
      REQUIRE(status == first);
      REQUIRE((status == 0 || (any_bits && status == 256 * dartquant_arg_x + dartquant_not_finite)));
      std::vector<std::uint8_t> bytes = q.levels.bytes();
      for (Exact const* const more : {&q.scales, &q.zero_points})
        bytes.insert(bytes.end(), more->data(), more->data() + more->size());
      same_as_first(cpu, bytes, expected);
    }
  }

  void dequantize() {
    std::int64_t const rows = up_to(4), cols = up_to(96), parts = up_to(4), extra = below(4);
    auto const offset = static_cast<std::size_t>(below(16));
    Plain const q(shape(rows, cols, below(cols + 2)));
    fill(q);
    dartquant_type const to = type();
    Exact const& space = rows_workspace(cols);
    std::vector<std::uint8_t> expected;
    for (dartquant_cpu const& cpu : cpus_) {
      Values const y(to, rows, cols, extra, offset);
      REQUIRE(all_parts(parts, [&](std::int64_t part, std::int64_t of) {
                return dartquant_dequantize(&cpu, &q.q, &y.m, space.data(), space.size(), part, of);
              }) == 0);
      same_as_first(cpu, y.memory.bytes(), expected);
    }
  }

  /// Packed weights [out, in] from random levels.
  struct Weights {
    dartquant_weights shape;
    Plain plain;
    Exact packed;
    Weights(Cases& cases, dartquant_weights const& described)
        : shape(described),
          plain({shape.out, shape.in, 4, shape.symmetry, shape.group, cases.below(3),
                 static_cast<std::size_t>(cases.below(16))}),
          packed(size()) {
      cases.fill(plain);
      REQUIRE(dartquant_pack(&shape, &plain.q, packed.data(), packed.size(), 0, 1) == 0);
    }
    [[nodiscard]] std::size_t size() const {
      std::size_t bytes = 0;
      REQUIRE(dartquant_packed_size(&shape, &bytes) == 0);
      return bytes;
    }
  };
  dartquant_weights random_weights() {
    return {up_to(40), up_to(96), 8 * below(13), symmetry(), static_cast<std::int32_t>(below(2))};
  }

  void multiply() {
    std::int64_t const rows = up_to(4), parts = up_to(5), extra = below(4);
    dartquant_weights described = random_weights();
    PlainShape s = shape(rows, described.in, coin() ? 0 : described.group);
    if (s.bits == 8 && s.symmetry == dartquant_asymmetric) described.with_sums = 1;
    Weights const w(*this, described);
    Plain const x(s);
    fill(x);
    std::vector<float> const bias(static_cast<std::size_t>(described.out), 0.375f);
    float const* const added = coin() ? bias.data() : nullptr;
    auto const offset = static_cast<std::size_t>(below(16));
    std::size_t bytes = 0;
    REQUIRE(dartquant_matmul_workspace_size(&w.shape, rows, s.bits, &bytes) == 0);
    Exact const& space = workspace(bytes);
    std::vector<std::uint8_t> expected;
    for (dartquant_cpu const& cpu : cpus_) {
      Values const y(dartquant_float32, rows, described.out, extra, offset);
      REQUIRE(all_parts(parts, [&](std::int64_t part, std::int64_t of) {
                return dartquant_matmul(&cpu, &w.shape, w.packed.data(), w.packed.size(), &x.q, added, &y.m,
                                        space.data(), bytes, part, of);
              }) == 0);
      same_as_first(cpu, y.memory.bytes(), expected);
    }
  }

  void multiply_float() {
    std::int64_t const rows = up_to(4), parts = up_to(5), extra = below(4);
    Weights const w(*this, random_weights());
    Values const x(type(), rows, w.shape.in, below(4), static_cast<std::size_t>(below(16)));
    fill(x, below(4) == 0);
    std::size_t bytes = 0;
    REQUIRE(dartquant_matmul_workspace_size(&w.shape, rows, 32, &bytes) == 0);
    Exact const& space = workspace(bytes);
    std::vector<std::uint8_t> expected;
    for (dartquant_cpu const& cpu : cpus_) {
      Values const y(dartquant_float32, rows, w.shape.out, extra);
      REQUIRE(all_parts(parts, [&](std::int64_t part, std::int64_t of) {
                return dartquant_matmul_float(&cpu, &w.shape, w.packed.data(), w.packed.size(), &x.m, nullptr,
                                              &y.m, space.data(), bytes, part, of);
              }) == 0);
      same_as_first(cpu, y.memory.bytes(), expected);
    }
  }

  /// `expected` is filled by the first, the portable, instruction set.
  static void same_as_first(dartquant_cpu const& cpu, std::vector<std::uint8_t> const& bytes,
                            std::vector<std::uint8_t>& expected) {
    if (expected.empty()) expected = bytes;
    INFO(dartquant_isa_name(static_cast<dartquant_isa>(cpu.chosen)));
    REQUIRE((bytes == expected));
  }

  std::mt19937 random_;
  std::vector<dartquant_cpu> cpus_;
  std::map<std::size_t, Exact> spaces_;
  std::vector<std::int32_t> permutation_;
  std::map<std::int64_t, Base> bases_;
};

}  // namespace

TEST_CASE("Random calls give the same bytes with every instruction set", "[kernels]") {
  Cases().run(1, 20000);
}

TEST_CASE("A million random calls give the same bytes with every instruction set", "[.][million]") {
  Cases cases;
  for (std::uint32_t seed = 100; seed < 200; ++seed) {
    INFO("seed " << seed);
    cases.run(seed, 10000);
  }
}
