// SPDX-License-Identifier: Apache-2.0
#pragma once

// Requests for packed weights on their way from memory. Everything is in an unnamed namespace, because files
// with different flags include this. A function that does nothing but prefetch must be inlined: g++ takes it
// for one without effect, and leaves calls to it out.

#include <cstdint>

namespace dartquant::cpu {
namespace {

constexpr std::intptr_t page_bytes = 4096, pages_ahead = 32;

/// Asks for what follows line number `index` of a group, which `rows` rows multiply: for lines, few ahead for
/// one row, where there is little work to hide their latency behind; and for the beginning of a page long
/// before its lines, so that its address is known by then: with pages of 4 KiB one row would take 1.8 times
/// as long without that.
template <int rows>
[[gnu::always_inline]] inline void fetch_ahead(void const* line, std::int64_t index) {
  constexpr std::intptr_t lines_ahead = rows == 1 ? 8 : 64;
  auto const at = reinterpret_cast<std::intptr_t>(line);
  __builtin_prefetch(reinterpret_cast<char const*>(at + 64 * lines_ahead));
  if (index % 32 == 0)
    __builtin_prefetch(reinterpret_cast<char const*>((at + page_bytes * pages_ahead) & -page_bytes));
}

}  // namespace
}  // namespace dartquant::cpu
