// SPDX-License-Identifier: Apache-2.0
// Every bad argument of the kernels gets its status and leaves the outputs alone.

#include <cstdint>
#include <string>
#include <vector>

#include <dartquant/kernels.h>

#include "cpu/exact.hpp"
#include "cpu/refusals.hpp"
#include "support/catch.hpp"

namespace {

using namespace kernel_test;

constexpr std::int64_t rows = 3, cols = 24, out = 20, group = 8;

/// Arguments are checked before an instruction set matters.
dartquant_cpu detected() {
  dartquant_cpu cpu{};
  REQUIRE(dartquant_cpu_detect(&cpu) == 0);
  REQUIRE(dartquant_cpu_choose(&cpu, dartquant_isa_portable) == 0);
  return cpu;
}

std::size_t rows_workspace() {
  std::size_t bytes = 0;
  REQUIRE(dartquant_rows_workspace_size(cols, &bytes) == 0);
  return bytes;
}

void fill(Plain const& plain) {
  std::fill_n(plain.levels.data(), plain.levels.size(), std::uint8_t{0x35});
  std::fill_n(plain.scales.as<float>(), plain.scales.size() / 4, 0.5f);
  std::fill_n(plain.zero_points.as<std::int32_t>(), plain.zero_points.size() / 4, 3);
}
void fill(Values const& values) { std::fill_n(values.memory.as<float>(), values.memory.size() / 4, 0.25f); }

/// What all calls on rows take.
struct OnRows {
  dartquant_cpu cpu = detected();
  dartquant_cpu const* cpu_pointer = &cpu;
  std::vector<std::int32_t> order = std::vector<std::int32_t>(cols, 1);
  std::vector<std::int8_t> base = std::vector<std::int8_t>(144, 1);
  dartquant_transform transform{order.data(), 8, nullptr, 1};
  dartquant_transform const* transform_pointer = &transform;
  Exact space{rows_workspace()};
  void* workspace = space.data();
  std::size_t workspace_bytes = space.size();
  std::int64_t part = 0, parts = 1;
};

struct Hadamard : OnRows {
  Values values{dartquant_float32, rows, cols, 2}, result{dartquant_float32, rows, cols, 3};
  dartquant_matrix x = values.m, y = result.m;
  dartquant_matrix const *x_pointer = &x, *y_pointer = &y;
  Hadamard() { fill(values); }
  dartquant_status run() {
    return dartquant_hadamard(cpu_pointer, transform_pointer, x_pointer, y_pointer, workspace,
                              workspace_bytes, part, parts);
  }
  [[nodiscard]] std::vector<Exact const*> outputs() const { return {&result.memory, &values.memory}; }
};

struct Quantize : OnRows {
  Values values{dartquant_float32, rows, cols, 2};
  Plain plain{{rows, cols, 4, dartquant_asymmetric, group, 1}};
  dartquant_matrix x = values.m;
  dartquant_matrix const* x_pointer = &x;
  dartquant_quantized q = plain.q;
  dartquant_quantized const* q_pointer = &q;
  float clip_ratio = 1;
  Quantize() { fill(values); }
  dartquant_status run() {
    return dartquant_quantize(cpu_pointer, transform_pointer, x_pointer, clip_ratio, q_pointer, workspace,
                              workspace_bytes, part, parts);
  }
  [[nodiscard]] std::vector<Exact const*> outputs() const {
    return {&plain.levels, &plain.scales, &plain.zero_points};
  }
};

struct Dequantize : OnRows {
  Plain plain{{rows, cols, 8, dartquant_asymmetric, group, 1}};
  Values result{dartquant_float32, rows, cols, 2};
  dartquant_quantized q = plain.q;
  dartquant_quantized const* q_pointer = &q;
  dartquant_matrix y = result.m;
  dartquant_matrix const* y_pointer = &y;
  Dequantize() { fill(plain); }
  dartquant_status run() {
    return dartquant_dequantize(cpu_pointer, q_pointer, y_pointer, workspace, workspace_bytes, part, parts);
  }
  [[nodiscard]] std::vector<Exact const*> outputs() const { return {&result.memory}; }
};

/// Weights, plain and packed.
struct OnWeights {
  dartquant_weights weights{out, cols, group, dartquant_asymmetric, 1};
  dartquant_weights const* weights_pointer = &weights;
  Plain plain{{out, cols, 4, dartquant_asymmetric, group, 1}};
  dartquant_quantized q = plain.q;
  dartquant_quantized const* q_pointer = &q;
  Exact memory{size()};
  void* packed = memory.data();
  std::size_t packed_bytes = memory.size();
  std::int64_t part = 0, parts = 1;

  OnWeights() { fill(plain); }
  [[nodiscard]] std::size_t size() const {
    std::size_t bytes = 0;
    REQUIRE(dartquant_packed_size(&weights, &bytes) == 0);
    return bytes;
  }
  void pack() { REQUIRE(dartquant_pack(&weights, &q, packed, packed_bytes, 0, 1) == 0); }
};

struct Pack : OnWeights {
  dartquant_status run() {
    return dartquant_pack(weights_pointer, q_pointer, packed, packed_bytes, part, parts);
  }
  [[nodiscard]] std::vector<Exact const*> outputs() const { return {&memory}; }
};

struct Unpack : OnWeights {
  Plain result{{out, cols, 4, dartquant_asymmetric, group, 1}};
  Unpack() {
    pack();
    q = result.q;
  }
  dartquant_status run() {
    return dartquant_unpack(weights_pointer, packed, packed_bytes, q_pointer, part, parts);
  }
  [[nodiscard]] std::vector<Exact const*> outputs() const {
    return {&result.levels, &result.scales, &result.zero_points};
  }
};

struct OnProducts : OnWeights {
  dartquant_cpu cpu = detected();
  dartquant_cpu const* cpu_pointer = &cpu;
  Values result{dartquant_float32, rows, out, 2};
  dartquant_matrix y = result.m;
  dartquant_matrix const* y_pointer = &y;
  std::vector<float> biases = std::vector<float>(out, 1);
  float const* bias = biases.data();
  Exact space;
  void* workspace = space.data();
  std::size_t workspace_bytes = space.size();

  explicit OnProducts(std::int32_t bits) : space(workspace_size(bits)) { pack(); }
  [[nodiscard]] std::size_t workspace_size(std::int32_t bits) const {
    std::size_t bytes = 0;
    REQUIRE(dartquant_matmul_workspace_size(&weights, rows, bits, &bytes) == 0);
    return bytes;
  }
  [[nodiscard]] std::vector<Exact const*> outputs() const { return {&result.memory}; }
};

struct Matmul : OnProducts {
  Plain activations{{rows, cols, 8, dartquant_asymmetric, group, 1}};
  dartquant_quantized x = activations.q;
  dartquant_quantized const* x_pointer = &x;
  Matmul() : OnProducts(8) { fill(activations); }
  dartquant_status run() {
    return dartquant_matmul(cpu_pointer, weights_pointer, packed, packed_bytes, x_pointer, bias, y_pointer,
                            workspace, workspace_bytes, part, parts);
  }
};

struct MatmulFloat : OnProducts {
  Values activations{dartquant_float32, rows, cols, 1};
  dartquant_matrix x = activations.m;
  dartquant_matrix const* x_pointer = &x;
  MatmulFloat() : OnProducts(32) { fill(activations); }
  dartquant_status run() {
    return dartquant_matmul_float(cpu_pointer, weights_pointer, packed, packed_bytes, x_pointer, bias,
                                  y_pointer, workspace, workspace_bytes, part, parts);
  }
};

template <class Call>
void refuses_bad_transforms() {
  auto const bad = [](dartquant_argument a, dartquant_reason r, auto const& spoil) {
    refuses<Call>(a, r, [&](Call& c) { spoil(c); });
  };
  bad(dartquant_arg_permutation, dartquant_misaligned,
      [](Call& c) { c.transform.permutation = shifted(c.transform.permutation, 1); });
  for (std::int32_t const entry : {-1, static_cast<std::int32_t>(cols), 0x7FFFFFFF})
    bad(dartquant_arg_permutation, dartquant_bad_value, [&](Call& c) { c.order.back() = entry; });
  bad(dartquant_arg_block, dartquant_bad_size, [](Call& c) { c.transform.block = -8; });
  bad(dartquant_arg_block, dartquant_bad_size, [](Call& c) { c.transform.block = 16; });  // 24 channels
  bad(dartquant_arg_block, dartquant_unsupported, [](Call& c) { c.transform.block = 24; });
  bad(dartquant_arg_block, dartquant_unsupported, [](Call& c) { c.transform.block = huge; });
  bad(dartquant_arg_block, dartquant_unsupported, [](Call& c) {
    c.transform.base = c.base.data();
    c.transform.base_order = 12;  // does not divide 8
  });
  bad(dartquant_arg_base, dartquant_null, [](Call& c) { c.transform.base_order = 12; });
  bad(dartquant_arg_base, dartquant_bad_size, [](Call& c) { c.transform.base_order = -1; });
  bad(dartquant_arg_base, dartquant_bad_size, [](Call& c) {
    c.transform.base = c.base.data();
    c.transform.base_order = 0;
  });
  bad(dartquant_arg_base, dartquant_unsupported, [](Call& c) {
    c.transform = {nullptr, 24, c.base.data(), 1025};
  });
  for (std::int8_t const entry : {std::int8_t{0}, std::int8_t{2}, std::int8_t{-128}})
    bad(dartquant_arg_base, dartquant_bad_value, [&](Call& c) {
      c.transform = {nullptr, 24, c.base.data(), 12};
      c.base.back() = entry;
    });
}

template <class Call>
void refuses_bad_headers() {
  for (std::size_t byte = 0; byte < 64; ++byte)
    refuses<Call>(dartquant_arg_packed, dartquant_mismatch, [&](Call& c) { c.memory.data()[byte] ^= 1; });
  refuses<Call>(dartquant_arg_packed, dartquant_mismatch, [](Call& c) { c.weights.with_sums = 0; });
}

}  // namespace

TEST_CASE("Valid calls of the kernels are done", "[bad arguments]") {
  CHECK(Hadamard().run() == 0);
  CHECK(Quantize().run() == 0);
  CHECK(Dequantize().run() == 0);
  CHECK(Pack().run() == 0);
  CHECK(Unpack().run() == 0);
  CHECK(Matmul().run() == 0);
  CHECK(MatmulFloat().run() == 0);
}

TEST_CASE("Bad descriptions of the processor are refused", "[bad arguments]") {
  CHECK(dartquant_cpu_detect(nullptr) == 256 * dartquant_arg_cpu + dartquant_null);
  CHECK(dartquant_cpu_choose(nullptr, dartquant_isa_portable) == 256 * dartquant_arg_cpu + dartquant_null);
  dartquant_cpu const good = detected();
  dartquant_cpu cpu = good;
  for (int isa = 0; isa <= dartquant_isa_count; ++isa) {
    auto const chosen = static_cast<dartquant_isa>(isa);
    bool const supported = isa < dartquant_isa_count && (good.supported >> isa & 1) != 0;
    cpu = good;
    CHECK(dartquant_cpu_supports(&cpu, chosen) == (supported ? 1 : 0));
    CHECK(dartquant_cpu_choose(&cpu, chosen) ==
          (supported ? 0 : 256 * dartquant_arg_isa + dartquant_unsupported));
    CHECK(cpu.chosen == (supported ? static_cast<std::uint32_t>(isa) : good.chosen));
    CHECK((std::string(dartquant_isa_name(chosen)) == "unknown") == (isa == dartquant_isa_count));
  }
  cpu.tag = 0;
  CHECK(dartquant_cpu_choose(&cpu, dartquant_isa_portable) == 256 * dartquant_arg_cpu + dartquant_bad_value);
  CHECK(dartquant_cpu_supports(&cpu, dartquant_isa_portable) == 0);
  CHECK(dartquant_cpu_supports(nullptr, dartquant_isa_portable) == 0);
  refuses_bad_cpu<Hadamard>();
  refuses_bad_cpu<Quantize>();
  refuses_bad_cpu<Dequantize>();
  refuses_bad_cpu<Matmul>();
  refuses_bad_cpu<MatmulFloat>();
}

TEST_CASE("Every status has a text", "[bad arguments]") {
  for (int reason = 0; reason <= dartquant_mismatch; ++reason)
    CHECK(std::string(dartquant_reason_text(static_cast<dartquant_reason>(reason))) !=
          "has an unknown status");
  CHECK(std::string(dartquant_reason_text(static_cast<dartquant_reason>(15))) == "has an unknown status");
  for (int argument = 0; argument <= dartquant_arg_order; ++argument)
    CHECK(std::string(dartquant_argument_text(static_cast<dartquant_argument>(argument))) != "unknown");
  CHECK(std::string(dartquant_argument_text(static_cast<dartquant_argument>(31))) == "unknown");
}

TEST_CASE("Bad arguments of dartquant_hadamard", "[bad arguments]") {
  refuses_bad_matrix<Hadamard>(&Hadamard::x, dartquant_arg_x);
  refuses_bad_matrix<Hadamard>(&Hadamard::y, dartquant_arg_y);
  refuses_bad_workspace<Hadamard>();
  refuses_bad_parts<Hadamard>();
  refuses_bad_transforms<Hadamard>();
  refuses<Hadamard>(dartquant_arg_x, dartquant_null, [](auto& c) { c.x_pointer = nullptr; });
  refuses<Hadamard>(dartquant_arg_y, dartquant_null, [](auto& c) { c.y_pointer = nullptr; });
  refuses<Hadamard>(dartquant_arg_transform, dartquant_null, [](auto& c) { c.transform_pointer = nullptr; });
  refuses<Hadamard>(dartquant_arg_rows, dartquant_bad_size, [](auto& c) { c.y.rows = rows - 1; });
  refuses<Hadamard>(dartquant_arg_cols, dartquant_bad_size, [](auto& c) { c.y.cols = cols - 1; });
  refuses<Hadamard>(dartquant_arg_y, dartquant_bad_value, [](auto& c) {
    c.y = c.x;
    c.y.data = shifted(c.x.data, 4);  // overlaps x but is not x
  });
}

TEST_CASE("Bad arguments of dartquant_quantize", "[bad arguments]") {
  refuses_bad_matrix<Quantize>(&Quantize::x, dartquant_arg_x);
  refuses_bad_quantized<Quantize>(&Quantize::q);
  refuses_bad_workspace<Quantize>();
  refuses_bad_parts<Quantize>();
  refuses_bad_transforms<Quantize>();
  refuses<Quantize>(dartquant_arg_x, dartquant_null, [](auto& c) { c.x_pointer = nullptr; });
  refuses<Quantize>(dartquant_arg_levels, dartquant_null, [](auto& c) { c.q_pointer = nullptr; });
  refuses<Quantize>(dartquant_arg_rows, dartquant_bad_size, [](auto& c) { c.q.rows = rows - 1; });
  refuses<Quantize>(dartquant_arg_cols, dartquant_bad_size, [](auto& c) { c.q.cols = cols - 1; });
  for (float const clip : {0.0f, -1.0f, 1.0001f, std::numeric_limits<float>::infinity(),
                           std::numeric_limits<float>::quiet_NaN()})
    refuses<Quantize>(dartquant_arg_clip_ratio, dartquant_bad_value, [&](auto& c) { c.clip_ratio = clip; });
}

TEST_CASE("Bad arguments of dartquant_dequantize", "[bad arguments]") {
  refuses_bad_quantized<Dequantize>(&Dequantize::q);
  refuses_bad_zero_points<Dequantize>(&Dequantize::q);
  refuses_bad_matrix<Dequantize>(&Dequantize::y, dartquant_arg_y);
  refuses_bad_workspace<Dequantize>();
  refuses_bad_parts<Dequantize>();
  refuses<Dequantize>(dartquant_arg_levels, dartquant_null, [](auto& c) { c.q_pointer = nullptr; });
  refuses<Dequantize>(dartquant_arg_y, dartquant_null, [](auto& c) { c.y_pointer = nullptr; });
  refuses<Dequantize>(dartquant_arg_rows, dartquant_bad_size, [](auto& c) { c.y.rows = rows - 1; });
  refuses<Dequantize>(dartquant_arg_cols, dartquant_bad_size, [](auto& c) { c.y.cols = cols - 1; });
}

TEST_CASE("Bad arguments of dartquant_pack and dartquant_unpack", "[bad arguments]") {
  refuses_bad_weights<Pack>();
  refuses_bad_weights<Unpack>();
  refuses_bad_quantized<Pack>(&Pack::q);
  refuses_bad_quantized<Unpack>(&Unpack::q);
  refuses_bad_zero_points<Pack>(&Pack::q);
  refuses<Pack>(dartquant_arg_zero_points, dartquant_bad_value,
                [](auto& c) { c.plain.zero_point(0, 0) = 16; });
  refuses_bad_packed<Pack>();
  refuses_bad_packed<Unpack>();
  refuses_bad_headers<Unpack>();
  refuses_bad_parts<Pack>();
  refuses_bad_parts<Unpack>();
  refuses<Pack>(dartquant_arg_levels, dartquant_null, [](auto& c) { c.q_pointer = nullptr; });
  refuses<Pack>(dartquant_arg_rows, dartquant_bad_size, [](auto& c) { c.q.rows = out - 1; });
  refuses<Pack>(dartquant_arg_cols, dartquant_bad_size, [](auto& c) { c.q.cols = cols - 1; });
  refuses<Pack>(dartquant_arg_group, dartquant_bad_size, [](auto& c) { c.q.group = 2 * group; });
  refuses<Pack>(dartquant_arg_symmetry, dartquant_bad_value,
                [](auto& c) { c.q.symmetry = dartquant_symmetric; });
  refuses<Pack>(dartquant_arg_bits, dartquant_unsupported, [](auto& c) {
    c.q.bits = 8;
    c.q.level_stride = cols;
  });
}

TEST_CASE("Bad arguments of the size calls", "[bad arguments]") {
  dartquant_weights const good{out, cols, group, dartquant_asymmetric, 1};
  std::size_t bytes = 77;
  auto const of = [](dartquant_argument argument, dartquant_reason reason) {
    return 256 * argument + reason;
  };
  CHECK(dartquant_packed_size(nullptr, &bytes) == of(dartquant_arg_weights, dartquant_null));
  CHECK(dartquant_packed_size(&good, nullptr) == of(dartquant_arg_bytes, dartquant_null));
  CHECK(dartquant_packed_size(&good, shifted(&bytes, 1)) == of(dartquant_arg_bytes, dartquant_misaligned));
  CHECK(dartquant_matmul_workspace_size(nullptr, 1, 8, &bytes) == of(dartquant_arg_weights, dartquant_null));
  for (std::int64_t const tokens : {std::int64_t{0}, std::int64_t{-1}, -huge})
    CHECK(dartquant_matmul_workspace_size(&good, tokens, 8, &bytes) ==
          of(dartquant_arg_rows, dartquant_bad_size));
  for (std::int32_t const bits : {0, -8, 5, 64})
    CHECK(dartquant_matmul_workspace_size(&good, 1, bits, &bytes) ==
          of(dartquant_arg_bits, dartquant_unsupported));
  CHECK(dartquant_matmul_workspace_size(&good, 1, 8, nullptr) == of(dartquant_arg_bytes, dartquant_null));
  for (std::int64_t const count : {std::int64_t{0}, std::int64_t{-1}, -huge})
    CHECK(dartquant_rows_workspace_size(count, &bytes) == of(dartquant_arg_cols, dartquant_bad_size));
  CHECK(dartquant_rows_workspace_size(huge, &bytes) == of(dartquant_arg_cols, dartquant_overflow));
  CHECK(dartquant_rows_workspace_size(huge / 4, &bytes) == of(dartquant_arg_cols, dartquant_overflow));
  CHECK(dartquant_rows_workspace_size(cols, nullptr) == of(dartquant_arg_bytes, dartquant_null));
  CHECK(bytes == 77);
  CHECK(dartquant_matmul_workspace_size(&good, huge, 8, &bytes) == 0);  // blocks of tokens: does not grow
  dartquant_weights const largest{huge / 1024, 1 << 20, 0, dartquant_symmetric, 0};
  CHECK(dartquant_packed_size(&largest, &bytes) == of(dartquant_arg_weights, dartquant_overflow));
}

TEST_CASE("Bad arguments of dartquant_hadamard_base", "[bad arguments]") {
  auto const of = [](dartquant_argument argument, dartquant_reason reason) {
    return 256 * argument + reason;
  };
  std::int64_t order = 77;
  std::vector<std::int8_t> base(144, 5);
  CHECK(dartquant_hadamard_base(96, base.data(), 143, &order) == of(dartquant_arg_base, dartquant_too_small));
  CHECK(base == std::vector<std::int8_t>(144, 5));
  for (std::int64_t const channels : {std::int64_t{0}, std::int64_t{-1}, -huge})
    CHECK(dartquant_hadamard_base(channels, nullptr, 0, &order) ==
          of(dartquant_arg_cols, dartquant_bad_size));
  CHECK(dartquant_hadamard_base(96, nullptr, 0, nullptr) == of(dartquant_arg_bytes, dartquant_null));
}

TEST_CASE("Bad arguments of dartquant_matmul", "[bad arguments]") {
  refuses_bad_weights<Matmul>();
  refuses_bad_packed<Matmul>();
  refuses_bad_headers<Matmul>();
  refuses_bad_quantized<Matmul>(&Matmul::x);
  refuses_bad_zero_points<Matmul>(&Matmul::x);
  refuses_bad_matrix<Matmul>(&Matmul::y, dartquant_arg_y);
  refuses_bad_workspace<Matmul>();
  refuses_bad_parts<Matmul>();
  refuses<Matmul>(dartquant_arg_levels, dartquant_null, [](auto& c) { c.x_pointer = nullptr; });
  refuses<Matmul>(dartquant_arg_y, dartquant_null, [](auto& c) { c.y_pointer = nullptr; });
  refuses<Matmul>(dartquant_arg_bias, dartquant_misaligned, [](auto& c) { c.bias = shifted(c.bias, 1); });
  refuses<Matmul>(dartquant_arg_type, dartquant_unsupported, [](auto& c) { c.y.type = dartquant_float16; });
  refuses<Matmul>(dartquant_arg_rows, dartquant_bad_size, [](auto& c) { c.y.rows = rows - 1; });
  refuses<Matmul>(dartquant_arg_cols, dartquant_bad_size, [](auto& c) { c.y.cols = out - 1; });
  refuses<Matmul>(dartquant_arg_cols, dartquant_bad_size, [](auto& c) { c.x.cols = cols - 1; });
  refuses<Matmul>(dartquant_arg_group, dartquant_unsupported, [](auto& c) { c.x.group = 2 * group; });
  refuses<Matmul>(dartquant_arg_weights, dartquant_unsupported, [](auto& c) {  // no sums of levels
    c.weights.with_sums = 0;
    c.pack();
  });
}

TEST_CASE("Bad arguments of dartquant_matmul_float", "[bad arguments]") {
  refuses_bad_weights<MatmulFloat>();
  refuses_bad_packed<MatmulFloat>();
  refuses_bad_headers<MatmulFloat>();
  refuses_bad_matrix<MatmulFloat>(&MatmulFloat::x, dartquant_arg_x);
  refuses_bad_matrix<MatmulFloat>(&MatmulFloat::y, dartquant_arg_y);
  refuses_bad_workspace<MatmulFloat>();
  refuses_bad_parts<MatmulFloat>();
  refuses<MatmulFloat>(dartquant_arg_x, dartquant_null, [](auto& c) { c.x_pointer = nullptr; });
  refuses<MatmulFloat>(dartquant_arg_y, dartquant_null, [](auto& c) { c.y_pointer = nullptr; });
  refuses<MatmulFloat>(dartquant_arg_bias, dartquant_misaligned,
                       [](auto& c) { c.bias = shifted(c.bias, 1); });
  refuses<MatmulFloat>(dartquant_arg_type, dartquant_unsupported,
                       [](auto& c) { c.y.type = dartquant_bfloat16; });
  refuses<MatmulFloat>(dartquant_arg_rows, dartquant_bad_size, [](auto& c) { c.y.rows = rows - 1; });
  refuses<MatmulFloat>(dartquant_arg_cols, dartquant_bad_size, [](auto& c) { c.x.cols = cols - 1; });
}
