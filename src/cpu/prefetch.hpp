// SPDX-License-Identifier: Apache-2.0
#pragma once

// Requests for packed weights on their way from memory. Everything is in an unnamed namespace, because files
// with different flags include this. A function that does nothing but prefetch must be inlined: g++ takes it
// for one without effect, and leaves calls to it out.

#include <cstdint>

namespace dartquant::cpu {
namespace {

constexpr std::intptr_t line_bytes_ahead = 4096, page_bytes = 4096, pages_ahead = 32;

/// Asks for what follows line number `index` of a group, which `rows` rows multiply: for a line of a page
/// long before its turn, so that the address of the page is known by then (with pages of 4 KiB one row would
/// take 1.7 times as long without that), and for the lines themselves. Those of one row, where there is
/// little work between two lines, the processor finds best alone.
template <int rows>
[[gnu::always_inline]] inline void fetch_ahead(void const* line, std::int64_t index) {
  auto const at = reinterpret_cast<std::intptr_t>(line);
  if constexpr (rows > 1) __builtin_prefetch(reinterpret_cast<char const*>(at + line_bytes_ahead));
  if (index % 32 == 0)
    __builtin_prefetch(reinterpret_cast<char const*>((at + page_bytes * pages_ahead) & -page_bytes));
}

}  // namespace
}  // namespace dartquant::cpu
