// SPDX-License-Identifier: Apache-2.0
#pragma once

// One bad argument at a time: a call is described by a struct that owns valid arguments; a test spoils one of
// them and names the status that it expects. Outputs must keep their bytes.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <dartquant/kernels.h>

#include "cpu/exact.hpp"
#include "support/catch.hpp"

namespace kernel_test {

inline constexpr std::int64_t huge = std::numeric_limits<std::int64_t>::max();

template <class T>
T* shifted(T* pointer, std::ptrdiff_t bytes) {
  return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(pointer) + static_cast<std::uintptr_t>(bytes));
}

/// Any number in an enumeration, as a caller in C may pass it.
template <class E>
void set_number(E& enumeration, std::int32_t number) {
  static_assert(sizeof(E) == sizeof number);
  std::memcpy(&enumeration, &number, sizeof number);
}

/// Call: run() -> status; outputs() -> the buffers that a refused call must leave alone.
template <class Call, class Spoil>
void refuses(dartquant_argument argument, dartquant_reason reason, Spoil const& spoil) {
  Call call;
  std::vector<std::vector<std::uint8_t>> before;
  for (Exact const* const output : call.outputs()) before.push_back(output->bytes());
  spoil(call);
  INFO("expected: " << dartquant_argument_text(argument) << " " << dartquant_reason_text(reason));
  dartquant_status const status = call.run();
  INFO("found: " << dartquant_argument_text(dartquant_status_argument(status)) << " "
                 << dartquant_reason_text(dartquant_status_reason(status)));
  CHECK(status == 256 * argument + reason);
  std::size_t index = 0;
  for (Exact const* const output : call.outputs()) CHECK(output->bytes() == before[index++]);
}

/// Everything that can be wrong with the matrix member `m`, passed as `argument`. `pointer`: what is passed.
template <class Call>
void refuses_bad_matrix(dartquant_matrix Call::*m, dartquant_argument argument) {
  auto const bad = [&](dartquant_argument a, dartquant_reason r, auto const& spoil) {
    refuses<Call>(a, r, [&](Call& c) { spoil(c.*m); });
  };
  bad(dartquant_arg_type, dartquant_bad_value, [](dartquant_matrix& x) { set_number(x.type, 3); });
  bad(dartquant_arg_type, dartquant_bad_value, [](dartquant_matrix& x) { set_number(x.type, -1); });
  for (std::int64_t const size : {std::int64_t{0}, std::int64_t{-1}, -huge}) {
    bad(dartquant_arg_rows, dartquant_bad_size, [&](dartquant_matrix& x) { x.rows = size; });
    bad(dartquant_arg_cols, dartquant_bad_size, [&](dartquant_matrix& x) { x.cols = size; });
    bad(dartquant_arg_stride, dartquant_bad_size, [&](dartquant_matrix& x) { x.stride = size; });
  }
  bad(dartquant_arg_stride, dartquant_bad_size, [](dartquant_matrix& x) { x.stride = x.cols - 1; });
  bad(dartquant_arg_stride, dartquant_bad_size, [](dartquant_matrix& x) { x.cols = huge; });
  bad(argument, dartquant_overflow, [](dartquant_matrix& x) { x.stride = huge; });
  bad(argument, dartquant_overflow, [](dartquant_matrix& x) { x.rows = huge; });
  bad(argument, dartquant_null, [](dartquant_matrix& x) { x.data = nullptr; });
  bad(argument, dartquant_misaligned, [](dartquant_matrix& x) { x.data = shifted(x.data, 1); });
}

/// The same for the quantized matrix `m`; asymmetric, with two rows or more.
template <class Call>
void refuses_bad_quantized(dartquant_quantized Call::*m) {
  using Q = dartquant_quantized;
  auto const bad = [&](dartquant_argument a, dartquant_reason r, auto const& spoil) {
    refuses<Call>(a, r, [&](Call& c) { spoil(c.*m); });
  };
  for (std::int64_t const size : {std::int64_t{0}, std::int64_t{-1}, -huge}) {
    bad(dartquant_arg_rows, dartquant_bad_size, [&](Q& q) { q.rows = size; });
    bad(dartquant_arg_cols, dartquant_bad_size, [&](Q& q) { q.cols = size; });
    bad(dartquant_arg_levels, dartquant_bad_size, [&](Q& q) { q.level_stride = size; });
    bad(dartquant_arg_scales, dartquant_bad_size, [&](Q& q) { q.scale_stride = size; });
    bad(dartquant_arg_zero_points, dartquant_bad_size, [&](Q& q) { q.zero_point_stride = size; });
  }
  for (std::int32_t const bits : {-4, 0, 2, 3, 5, 16})
    bad(dartquant_arg_bits, dartquant_unsupported, [&](Q& q) { q.bits = bits; });
  bad(dartquant_arg_symmetry, dartquant_bad_value, [](Q& q) { set_number(q.symmetry, 2); });
  bad(dartquant_arg_symmetry, dartquant_bad_value, [](Q& q) { set_number(q.symmetry, -1); });
  bad(dartquant_arg_group, dartquant_bad_size, [](Q& q) { q.group = -1; });
  bad(dartquant_arg_levels, dartquant_bad_size,
      [](Q& q) { q.level_stride = (q.bits == 4 ? (q.cols + 1) / 2 : q.cols) - 1; });
  bad(dartquant_arg_levels, dartquant_bad_size, [](Q& q) { q.cols = huge; });
  bad(dartquant_arg_levels, dartquant_overflow, [](Q& q) { q.level_stride = huge; });
  bad(dartquant_arg_levels, dartquant_overflow, [](Q& q) { q.rows = huge; });
  bad(dartquant_arg_levels, dartquant_null, [](Q& q) { q.levels = nullptr; });
  bad(dartquant_arg_scales, dartquant_overflow, [](Q& q) { q.scale_stride = huge; });
  bad(dartquant_arg_scales, dartquant_null, [](Q& q) { q.scales = nullptr; });
  bad(dartquant_arg_scales, dartquant_misaligned, [](Q& q) { q.scales = shifted(q.scales, 2); });
  bad(dartquant_arg_zero_points, dartquant_overflow, [](Q& q) { q.zero_point_stride = huge; });
  bad(dartquant_arg_zero_points, dartquant_null, [](Q& q) { q.zero_points = nullptr; });
  bad(dartquant_arg_zero_points, dartquant_misaligned,
      [](Q& q) { q.zero_points = shifted(q.zero_points, 1); });
}

/// Zero points beyond the levels, in a call that reads `m`.
template <class Call>
void refuses_bad_zero_points(dartquant_quantized Call::*m) {
  for (std::int32_t const zero : {-1, 256, std::numeric_limits<std::int32_t>::min()})
    refuses<Call>(dartquant_arg_zero_points, dartquant_bad_value, [&](Call& c) {
      dartquant_quantized const& q = c.*m;
      q.zero_points[(q.rows - 1) * q.zero_point_stride] = zero;
    });
}

template <class Call>
void refuses_bad_parts() {
  for (std::int64_t const part : {std::int64_t{-1}, std::int64_t{1}, huge})
    refuses<Call>(dartquant_arg_part, dartquant_bad_value, [&](Call& c) { c.part = part; });
  for (std::int64_t const parts : {std::int64_t{0}, std::int64_t{-1}, -huge})
    refuses<Call>(dartquant_arg_part, dartquant_bad_value, [&](Call& c) { c.parts = parts; });
}

template <class Call>
void refuses_bad_workspace() {
  refuses<Call>(dartquant_arg_workspace, dartquant_null, [](Call& c) { c.workspace = nullptr; });
  for (std::ptrdiff_t const shift : {1, 4, 32})
    refuses<Call>(dartquant_arg_workspace, dartquant_misaligned,
                  [&](Call& c) { c.workspace = shifted(c.workspace, shift); });
  refuses<Call>(dartquant_arg_workspace, dartquant_too_small, [](Call& c) { --c.workspace_bytes; });
  refuses<Call>(dartquant_arg_workspace, dartquant_too_small, [](Call& c) { c.workspace_bytes = 0; });
}

template <class Call>
void refuses_bad_packed() {
  refuses<Call>(dartquant_arg_packed, dartquant_null, [](Call& c) { c.packed = nullptr; });
  refuses<Call>(dartquant_arg_packed, dartquant_misaligned,
                [](Call& c) { c.packed = shifted(c.packed, 32); });
  refuses<Call>(dartquant_arg_packed, dartquant_too_small, [](Call& c) { --c.packed_bytes; });
  refuses<Call>(dartquant_arg_packed, dartquant_too_small, [](Call& c) { c.packed_bytes = 0; });
}

template <class Call>
void refuses_bad_cpu() {
  refuses<Call>(dartquant_arg_cpu, dartquant_null, [](Call& c) { c.cpu_pointer = nullptr; });
  refuses<Call>(dartquant_arg_cpu, dartquant_misaligned,
                [](Call& c) { c.cpu_pointer = shifted(c.cpu_pointer, 2); });
  refuses<Call>(dartquant_arg_cpu, dartquant_unsupported, [](Call& c) { c.cpu = {}; });
  refuses<Call>(dartquant_arg_cpu, dartquant_unsupported, [](Call& c) { c.cpu.tag ^= 1; });
  refuses<Call>(dartquant_arg_cpu, dartquant_unsupported, [](Call& c) { c.cpu.supported = 0; });
  for (std::uint32_t const chosen : {7u, 8u, 32u, 0xFFFFFFFFu})
    refuses<Call>(dartquant_arg_cpu, dartquant_unsupported, [&](Call& c) { c.cpu.chosen = chosen; });
}

template <class Call>
void refuses_bad_weights() {
  auto const bad = [](dartquant_argument a, dartquant_reason r, auto const& spoil) {
    refuses<Call>(a, r, [&](Call& c) { spoil(c.weights); });
  };
  using W = dartquant_weights;
  refuses<Call>(dartquant_arg_weights, dartquant_null, [](Call& c) { c.weights_pointer = nullptr; });
  for (std::int64_t const size : {std::int64_t{0}, std::int64_t{-1}, -huge}) {
    bad(dartquant_arg_rows, dartquant_bad_size, [&](W& w) { w.out = size; });
    bad(dartquant_arg_cols, dartquant_bad_size, [&](W& w) { w.in = size; });
  }
  for (std::int64_t const group : {std::int64_t{-8}, std::int64_t{7}, std::int64_t{12}, huge})
    bad(dartquant_arg_group, dartquant_unsupported, [&](W& w) { w.group = group; });
  bad(dartquant_arg_cols, dartquant_overflow, [](W& w) { w.in = (1 << 20) + 1; });
  bad(dartquant_arg_cols, dartquant_overflow, [](W& w) { w.in = huge; });
  bad(dartquant_arg_weights, dartquant_overflow, [](W& w) { w.out = huge; });
  bad(dartquant_arg_weights, dartquant_overflow, [](W& w) { w.out = huge / 32; });
  bad(dartquant_arg_symmetry, dartquant_bad_value, [](W& w) { set_number(w.symmetry, 2); });
  bad(dartquant_arg_weights, dartquant_bad_value, [](W& w) { w.with_sums = 2; });
  bad(dartquant_arg_weights, dartquant_bad_value, [](W& w) { w.with_sums = -1; });
}

}  // namespace kernel_test
