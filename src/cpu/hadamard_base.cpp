// SPDX-License-Identifier: Apache-2.0
// The base matrices of Hadamard orders that are not powers of two: a set-up call, so it may use the headers.

#include <cstdint>
#include <optional>

#include <dartquant/kernels.h>
#include <dartquant/transform/hadamard_matrix.hpp>

#include "cpu/status.hpp"

namespace dartquant::cpu {
namespace {

constexpr std::int64_t largest_order = 1024, largest_power = 15;  // of dartquant_transform

/// Fills base [order, order] where it is not null.
void fill(std::int64_t order, std::int8_t* base) {
  if (base == nullptr) return;
  RowMatrix<double> const matrix = detail::hadamard_base_matrix(order);
  for (index_t i = 0; i < order; ++i)
    for (index_t j = 0; j < order; ++j) base[i * order + j] = matrix(i, j) > 0 ? 1 : -1;
}

}  // namespace
}  // namespace dartquant::cpu

using namespace dartquant::cpu;

dartquant_status dartquant_hadamard_base(std::int64_t channels, std::int8_t* base, std::size_t base_bytes,
                                         std::int64_t* order) {
  Checks checks;
  checks.require(channels >= 1, dartquant_arg_cols, dartquant_bad_size);
  checks.pointer(order, alignof(std::int64_t), dartquant_arg_bytes);
  if (!checks.ok()) return checks.result();
  try {
    std::optional<dartquant::HadamardOrder> const found = dartquant::hadamard_order(channels);
    bool const usable = found && found->base <= largest_order && found->power <= largest_power;
    if (!checks.require(usable, dartquant_arg_cols, dartquant_unsupported).ok()) return checks.result();
    auto const needed = static_cast<std::size_t>(found->base * found->base);
    checks.require(base == nullptr || base_bytes >= needed, dartquant_arg_base, dartquant_too_small);
    if (!checks.ok()) return checks.result();
    fill(found->base, base);
    *order = found->base;
    return 0;
  } catch (...) {  // the heap is exhausted: the one thing that can fail here
    return status(dartquant_arg_cols, dartquant_unsupported);
  }
}
