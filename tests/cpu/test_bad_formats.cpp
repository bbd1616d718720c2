// SPDX-License-Identifier: Apache-2.0
// Every bad argument of the converters gets its status and leaves the outputs alone.

#include <algorithm>
#include <cstdint>
#include <vector>

#include <dartquant/kernels.h>

#include "cpu/exact.hpp"
#include "cpu/refusals.hpp"
#include "support/catch.hpp"

namespace {

using namespace kernel_test;

constexpr std::int64_t rows = 8, cols = 64, group = 32, groups = 2;

using BlockQ4 = dartquant_block_q4_0;
using BlockQ8 = dartquant_block_q8_0;

/// Calls of the same kind on blocks, told apart by the kind of block.
dartquant_status quantize_to(dartquant_matrix const* x, BlockQ4* b, std::int64_t stride, std::int64_t part,
                             std::int64_t parts) {
  return dartquant_quantize_q4_0(x, b, stride, part, parts);
}
dartquant_status quantize_to(dartquant_matrix const* x, BlockQ8* b, std::int64_t stride, std::int64_t part,
                             std::int64_t parts) {
  return dartquant_quantize_q8_0(x, b, stride, part, parts);
}
dartquant_status convert_to(dartquant_quantized const* q, BlockQ4* b, std::int64_t stride, std::int64_t part,
                            std::int64_t parts) {
  return dartquant_to_q4_0(q, b, stride, part, parts);
}
dartquant_status convert_to(dartquant_quantized const* q, BlockQ8* b, std::int64_t stride, std::int64_t part,
                            std::int64_t parts) {
  return dartquant_to_q8_0(q, b, stride, part, parts);
}
dartquant_status convert_from(BlockQ4 const* b, dartquant_quantized const* q, std::int64_t stride,
                              std::int64_t part, std::int64_t parts) {
  return dartquant_from_q4_0(b, stride, q, part, parts);
}
dartquant_status convert_from(BlockQ8 const* b, dartquant_quantized const* q, std::int64_t stride,
                              std::int64_t part, std::int64_t parts) {
  return dartquant_from_q8_0(b, stride, q, part, parts);
}

template <class Block>
struct OnBlocks {
  Exact memory{span(rows, groups, groups + 1, sizeof(Block))};
  Block* packed = memory.as<Block>();
  std::int64_t stride = groups + 1, part = 0, parts = 1;
};

template <class Block>
struct QuantizeBlocks : OnBlocks<Block> {
  Values values{dartquant_float32, rows, cols, 3};
  dartquant_matrix x = values.m;
  dartquant_matrix const* pointer = &x;
  QuantizeBlocks() { std::fill_n(values.memory.as<float>(), values.memory.size() / 4, 1.0f); }
  dartquant_status run() { return quantize_to(pointer, this->packed, this->stride, this->part, this->parts); }
  [[nodiscard]] std::vector<Exact const*> outputs() const { return {&this->memory}; }
};

template <class Block>
struct OnBlocksAndPlain : OnBlocks<Block> {
  Plain plain{{rows, cols, sizeof(Block) == 18 ? 4 : 8, dartquant_symmetric, group, 1}};
  dartquant_quantized q = plain.q;
  dartquant_quantized const* pointer = &q;
  OnBlocksAndPlain() {
    std::fill_n(plain.scales.template as<float>(), plain.scales.size() / 4, 1.0f);
    std::fill_n(this->memory.data(), this->memory.size(), std::uint8_t{0x11});
  }
};

template <class Block>
struct ToBlocks : OnBlocksAndPlain<Block> {
  dartquant_status run() {
    return convert_to(this->pointer, this->packed, this->stride, this->part, this->parts);
  }
  [[nodiscard]] std::vector<Exact const*> outputs() const { return {&this->memory}; }
};

template <class Block>
struct FromBlocks : OnBlocksAndPlain<Block> {
  dartquant_status run() {
    return convert_from(this->packed, this->pointer, this->stride, this->part, this->parts);
  }
  [[nodiscard]] std::vector<Exact const*> outputs() const {
    return {&this->plain.levels, &this->plain.scales};
  }
};

template <class Call>
void refuses_bad_blocks() {
  CHECK(Call().run() == 0);
  refuses_bad_parts<Call>();
  refuses<Call>(dartquant_arg_packed, dartquant_null, [](auto& c) { c.packed = nullptr; });
  refuses<Call>(dartquant_arg_packed, dartquant_misaligned, [](auto& c) { c.packed = shifted(c.packed, 1); });
  refuses<Call>(dartquant_arg_packed, dartquant_overflow, [](auto& c) { c.stride = huge; });
  refuses<Call>(dartquant_arg_packed, dartquant_overflow, [](auto& c) { c.stride = huge / 100; });
  for (std::int64_t const stride : {std::int64_t{0}, groups - 1, std::int64_t{-3}, -huge})
    refuses<Call>(dartquant_arg_stride, dartquant_bad_size, [&](auto& c) { c.stride = stride; });
}

template <class Call>
void refuses_bad_plain_of_blocks() {
  refuses_bad_blocks<Call>();
  refuses<Call>(dartquant_arg_levels, dartquant_null, [](auto& c) { c.pointer = nullptr; });
  refuses<Call>(dartquant_arg_levels, dartquant_null, [](auto& c) { c.q.levels = nullptr; });
  refuses<Call>(dartquant_arg_scales, dartquant_misaligned,
                [](auto& c) { c.q.scales = shifted(c.q.scales, 2); });
  refuses<Call>(dartquant_arg_scales, dartquant_bad_size, [](auto& c) { c.q.scale_stride = 1; });
  refuses<Call>(dartquant_arg_group, dartquant_unsupported, [](auto& c) { c.q.group = 64; });
  refuses<Call>(dartquant_arg_group, dartquant_unsupported, [](auto& c) { c.q.group = 0; });
  refuses<Call>(dartquant_arg_cols, dartquant_bad_size, [](auto& c) { c.q.cols = 63; });
  refuses<Call>(dartquant_arg_bits, dartquant_unsupported, [](auto& c) {
    c.q.bits = 12 - c.q.bits;
    c.q.level_stride = cols;
  });
  refuses<Call>(dartquant_arg_symmetry, dartquant_unsupported, [](auto& c) {
    static std::int32_t zero_points[rows * groups];
    c.q.symmetry = dartquant_asymmetric;
    c.q.zero_points = zero_points;
    c.q.zero_point_stride = groups;
  });
}

/// A matrix with what the tensors of all checkpoint formats can hold of it.
struct OnTensors {
  Plain plain{{rows, cols, 4, dartquant_asymmetric, group, 1}};
  dartquant_quantized q = plain.q;
  dartquant_quantized const* q_pointer = &q;
  Exact packed{rows * cols / 2}, zeros{rows * groups / 2}, order{cols * 4};
  Values down{dartquant_float16, rows, groups, 1}, across{dartquant_float16, groups, rows, 1};
  std::int64_t part = 0, parts = 1;

  OnTensors() {
    std::fill_n(plain.scales.as<float>(), plain.scales.size() / 4, 1.0f);
    std::fill_n(plain.zero_points.as<std::int32_t>(), plain.zero_points.size() / 4, 5);
    for (std::int32_t j = 0; j < cols; ++j) order.as<std::int32_t>()[j] = j < group ? 0 : 1;
    for (Exact const* const scales : {&down.memory, &across.memory})
      std::fill_n(scales->data(), scales->size(), std::uint8_t{0x3C});
  }
  [[nodiscard]] std::vector<Exact const*> tensors_memory() const {
    return {&packed, &zeros, &order, &down.memory, &across.memory};
  }
  [[nodiscard]] std::vector<Exact const*> plain_memory() const {
    return {&plain.levels, &plain.scales, &plain.zero_points};
  }
};

struct OnCompressed : OnTensors {
  dartquant_compressed_tensors t{packed.as<std::int32_t>(), down.m, zeros.as<std::int32_t>()};
  dartquant_compressed_tensors const* pointer = &t;
  [[nodiscard]] std::int32_t*& words() { return t.weight_packed; }
  [[nodiscard]] std::int32_t*& zero_words() { return t.weight_zero_point; }
  [[nodiscard]] dartquant_matrix& scales() { return t.weight_scale; }
};
struct OnGptq : OnTensors {
  dartquant_gptq t{dartquant_gptq_v1, packed.as<std::int32_t>(), zeros.as<std::int32_t>(), across.m,
                   order.as<std::int32_t>()};
  dartquant_gptq const* pointer = &t;
  [[nodiscard]] std::int32_t*& words() { return t.qweight; }
  [[nodiscard]] std::int32_t*& zero_words() { return t.qzeros; }
  [[nodiscard]] dartquant_matrix& scales() { return t.scales; }
};
struct OnAwq : OnTensors {
  dartquant_awq t{packed.as<std::int32_t>(), zeros.as<std::int32_t>(), across.m};
  dartquant_awq const* pointer = &t;
  [[nodiscard]] std::int32_t*& words() { return t.qweight; }
  [[nodiscard]] std::int32_t*& zero_words() { return t.qzeros; }
  [[nodiscard]] dartquant_matrix& scales() { return t.scales; }
};

template <class On, dartquant_status (*convert)(dartquant_quantized const*, decltype(On::pointer),
                                                std::int64_t, std::int64_t)>
struct To : On {
  dartquant_status run() { return convert(this->q_pointer, this->pointer, this->part, this->parts); }
  [[nodiscard]] std::vector<Exact const*> outputs() const { return this->tensors_memory(); }
};
template <class On, dartquant_status (*convert)(decltype(On::pointer), dartquant_quantized const*,
                                                std::int64_t, std::int64_t)>
struct From : On {
  dartquant_status run() { return convert(this->pointer, this->q_pointer, this->part, this->parts); }
  [[nodiscard]] std::vector<Exact const*> outputs() const { return this->plain_memory(); }
};

using ToCompressed = To<OnCompressed, dartquant_to_compressed_tensors>;
using FromCompressed = From<OnCompressed, dartquant_from_compressed_tensors>;
using ToGptq = To<OnGptq, dartquant_to_gptq>;
using FromGptq = From<OnGptq, dartquant_from_gptq>;
using ToAwq = To<OnAwq, dartquant_to_awq>;
using FromAwq = From<OnAwq, dartquant_from_awq>;

template <class Call>
void refuses_bad_tensors() {
  CHECK(Call().run() == 0);
  refuses_bad_parts<Call>();
  refuses_bad_quantized<Call>(&Call::q);
  auto const bad = [](dartquant_argument a, dartquant_reason r, auto const& spoil) {
    refuses<Call>(a, r, spoil);
  };
  bad(dartquant_arg_levels, dartquant_null, [](Call& c) { c.q_pointer = nullptr; });
  bad(dartquant_arg_packed, dartquant_null, [](Call& c) { c.pointer = nullptr; });
  bad(dartquant_arg_packed, dartquant_misaligned, [](Call& c) { c.pointer = shifted(c.pointer, 4); });
  bad(dartquant_arg_packed, dartquant_null, [](Call& c) { c.words() = nullptr; });
  bad(dartquant_arg_packed, dartquant_misaligned, [](Call& c) { c.words() = shifted(c.words(), 2); });
  bad(dartquant_arg_zero_points, dartquant_null, [](Call& c) { c.zero_words() = nullptr; });
  bad(dartquant_arg_zero_points, dartquant_misaligned,
      [](Call& c) { c.zero_words() = shifted(c.zero_words(), 1); });
  bad(dartquant_arg_type, dartquant_bad_value, [](Call& c) { set_number(c.scales().type, 3); });
  bad(dartquant_arg_scales, dartquant_null, [](Call& c) { c.scales().data = nullptr; });
  bad(dartquant_arg_scales, dartquant_misaligned,
      [](Call& c) { c.scales().data = shifted(c.scales().data, 1); });
  bad(dartquant_arg_scales, dartquant_bad_size, [](Call& c) { --c.scales().rows; });
  bad(dartquant_arg_scales, dartquant_bad_size, [](Call& c) { --c.scales().cols; });
  bad(dartquant_arg_scales, dartquant_overflow, [](Call& c) { c.scales().stride = huge; });
  bad(dartquant_arg_stride, dartquant_bad_size, [](Call& c) { c.scales().stride = 1; });
}

template <class Call>
void refuses_what_int32_words_of_8_cannot_hold() {
  refuses<Call>(dartquant_arg_rows, dartquant_bad_size, [](Call& c) { c.q.rows = 7; });
  refuses<Call>(dartquant_arg_bits, dartquant_unsupported, [](Call& c) {
    c.q.bits = 8;
    c.q.level_stride = cols;
  });
}

}  // namespace

TEST_CASE("Bad arguments of the quantizers to blocks", "[bad arguments][formats]") {
  refuses_bad_blocks<QuantizeBlocks<BlockQ4>>();
  refuses_bad_blocks<QuantizeBlocks<BlockQ8>>();
  refuses_bad_matrix<QuantizeBlocks<BlockQ4>>(&QuantizeBlocks<BlockQ4>::x, dartquant_arg_x);
  refuses_bad_matrix<QuantizeBlocks<BlockQ8>>(&QuantizeBlocks<BlockQ8>::x, dartquant_arg_x);
  refuses<QuantizeBlocks<BlockQ4>>(dartquant_arg_x, dartquant_null, [](auto& c) { c.pointer = nullptr; });
  refuses<QuantizeBlocks<BlockQ8>>(dartquant_arg_x, dartquant_null, [](auto& c) { c.pointer = nullptr; });
  for (std::int64_t const count : {1, 31, 33, 63}) {
    refuses<QuantizeBlocks<BlockQ4>>(dartquant_arg_cols, dartquant_bad_size,
                                     [&](auto& c) { c.x.cols = count; });
    refuses<QuantizeBlocks<BlockQ8>>(dartquant_arg_cols, dartquant_bad_size,
                                     [&](auto& c) { c.x.cols = count; });
  }
}

TEST_CASE("Bad arguments of the conversions to and from blocks", "[bad arguments][formats]") {
  refuses_bad_plain_of_blocks<ToBlocks<BlockQ4>>();
  refuses_bad_plain_of_blocks<ToBlocks<BlockQ8>>();
  refuses_bad_plain_of_blocks<FromBlocks<BlockQ4>>();
  refuses_bad_plain_of_blocks<FromBlocks<BlockQ8>>();
}

TEST_CASE("Bad arguments of the conversions to and from compressed-tensors", "[bad arguments][formats]") {
  refuses_bad_tensors<ToCompressed>();
  refuses_bad_tensors<FromCompressed>();
  refuses_bad_zero_points<ToCompressed>(&ToCompressed::q);
  refuses<ToCompressed>(dartquant_arg_zero_points, dartquant_bad_value,
                        [](auto& c) { c.q.symmetry = dartquant_symmetric; });  // but zero points are given
  refuses<FromCompressed>(dartquant_arg_zero_points, dartquant_bad_value,
                          [](auto& c) { c.q.symmetry = dartquant_symmetric; });
}

TEST_CASE("Bad arguments of the conversions to and from GPTQ", "[bad arguments][formats]") {
  refuses_bad_tensors<ToGptq>();
  refuses_bad_tensors<FromGptq>();
  refuses_what_int32_words_of_8_cannot_hold<ToGptq>();
  refuses_what_int32_words_of_8_cannot_hold<FromGptq>();
  refuses_bad_zero_points<ToGptq>(&ToGptq::q);
  refuses<ToGptq>(dartquant_arg_cols, dartquant_bad_size, [](auto& c) { c.q.cols = 63; });
  refuses<FromGptq>(dartquant_arg_cols, dartquant_bad_size, [](auto& c) { c.q.cols = 63; });
  for (std::int32_t const version : {0, 3, -1}) {
    refuses<ToGptq>(dartquant_arg_packed, dartquant_unsupported,
                    [&](auto& c) { set_number(c.t.version, version); });
    refuses<FromGptq>(dartquant_arg_packed, dartquant_unsupported,
                      [&](auto& c) { set_number(c.t.version, version); });
  }
  refuses<ToGptq>(dartquant_arg_order, dartquant_misaligned,
                  [](auto& c) { c.t.g_idx = shifted(c.t.g_idx, 2); });
  refuses<FromGptq>(dartquant_arg_order, dartquant_misaligned,
                    [](auto& c) { c.t.g_idx = shifted(c.t.g_idx, 2); });
  refuses<FromGptq>(dartquant_arg_order, dartquant_unsupported, [](auto& c) { c.t.g_idx[0] = 1; });
  refuses<FromGptq>(dartquant_arg_order, dartquant_unsupported, [](auto& c) { c.t.g_idx[cols - 1] = -1; });
  refuses<FromGptq>(dartquant_arg_zero_points, dartquant_bad_value,
                    [](auto& c) { c.q.symmetry = dartquant_symmetric; });
}

TEST_CASE("Bad arguments of the conversions to and from AWQ", "[bad arguments][formats]") {
  refuses_bad_tensors<ToAwq>();
  refuses_bad_tensors<FromAwq>();
  refuses_what_int32_words_of_8_cannot_hold<ToAwq>();
  refuses_what_int32_words_of_8_cannot_hold<FromAwq>();
  refuses_bad_zero_points<ToAwq>(&ToAwq::q);
  refuses<ToAwq>(dartquant_arg_group, dartquant_bad_size,
                 [](auto& c) { c.q.cols = 63; });  // the last group is shorter
  refuses<FromAwq>(dartquant_arg_group, dartquant_bad_size, [](auto& c) { c.q.cols = 63; });
  refuses<FromAwq>(dartquant_arg_zero_points, dartquant_bad_value,
                   [](auto& c) { c.q.symmetry = dartquant_symmetric; });
}
