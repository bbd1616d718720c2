// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <optional>

#include <dartquant/core/butterfly.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/transform/paley.hpp>
#include <dartquant/transform/williamson.hpp>

namespace dartquant {

/// A Hadamard order as base * 2^power: the Kronecker product of a constructed matrix of order `base` (1 for a
/// power of two) and Sylvester's matrix of order 2^power.
struct HadamardOrder {
  index_t base = 1;
  int power = 0;
  [[nodiscard]] index_t order() const { return base << power; }
};

/// The largest base that is considered: a base costs `base` multiplications per channel, so beyond this a
/// transform by blocks is the better choice.
inline constexpr index_t largest_hadamard_base = 2048;

namespace detail {

/// The exponent of 2 in n > 0.
[[nodiscard]] inline int power_of_two_in(index_t n) {
  return std::countr_zero(static_cast<std::uint64_t>(n));
}

/// Whether a matrix of this order comes from Paley's or Williamson's construction.
template <class = void>
[[nodiscard]] bool is_hadamard_base(index_t order) {
  return is_paley1_order(order) || is_paley2_order(order) ||
         (order % 8 == 4 && williamson_sequences(order / 4).has_value());
}

/// The +-1 matrix of a base order. Precondition: order is 1 or is_hadamard_base(order).
template <class = void>
[[nodiscard]] RowMatrix<double> hadamard_base_matrix(index_t order) {
  if (order == 1) return RowMatrix<double>::Ones(1, 1);
  if (is_paley1_order(order)) return paley1(order);
  if (is_paley2_order(order)) return paley2(order);
  return williamson(*williamson_sequences(order / 4));
}

}  // namespace detail

/// n = base * 2^power with the smallest base that a construction known here gives: Sylvester (base 1), Paley
/// I and II over GF(p) and GF(p^k), Williamson by search; nothing when there is none up to
/// largest_hadamard_base. 13696 is the one dimension of a common model without: 428, 856, ... are out of
/// reach. Errors: InvalidArgument for n < 1. Cost: microseconds, or up to 0.1 s where Williamson's search
/// is needed and fails.
[[nodiscard]] inline std::optional<HadamardOrder> hadamard_order(index_t n) {
  detail::require(n >= 1, "[hadamard_order] order ", n, ": must be at least 1");
  int const twos = detail::power_of_two_in(n);
  index_t const odd = n >> twos;
  if (odd == 1) return HadamardOrder{1, twos};
  for (int power = 2; power <= twos && odd <= (largest_hadamard_base >> power); ++power)
    if (detail::is_hadamard_base(odd << power)) return HadamardOrder{odd << power, twos - power};
  return std::nullopt;
}

/// The largest power of two that divides `channels` and is at most `largest`: the block of a block-diagonal
/// Hadamard transform. Always exists (1 at worst). Errors: InvalidArgument for sizes below 1.
[[nodiscard]] inline index_t hadamard_block(index_t channels, index_t largest = 128) {
  detail::require(channels >= 1, "[hadamard_block] ", channels, " channels: at least one is needed");
  detail::require(largest >= 1, "[hadamard_block] largest block ", largest, ": must be at least 1");
  return std::min(index_t{1} << detail::power_of_two_in(channels),
                  static_cast<index_t>(std::bit_floor(static_cast<std::uint64_t>(largest))));
}

namespace detail {

/// Throws the sentence that proposes what to do about an order that cannot be constructed.
[[noreturn]] inline void refuse_hadamard_order(char const* who, index_t channels, index_t order) {
  int const twos = power_of_two_in(order);
  std::string const reason = sentence("[", who, "] ", channels, " channels: no Hadamard matrix of order ",
                                      order, " = ", order >> twos, " * 2^", twos, " is known here; use ");
  index_t const block = hadamard_block(channels);
  if (block > 1) throw InvalidArgument(sentence(reason, "block ", block));
  throw InvalidArgument(sentence(reason, "a dense rotation, no power of two divides the channels"));
}

}  // namespace detail

/// The +-1 matrix H [n, n], H H^T = n I, H = H_base (x) H_2^power (base index slow, power index fast).
/// Errors: InvalidArgument for an order that hadamard_order does not know. Cost: n^2 memory.
template <class = void>
[[nodiscard]] RowMatrix<double> hadamard_matrix(index_t n) {
  auto const order = hadamard_order(n);
  if (!order) detail::refuse_hadamard_order("hadamard_matrix", n, n);
  RowMatrix<double> const base = detail::hadamard_base_matrix(order->base);
  index_t const length = index_t{1} << order->power;
  RowMatrix<double> H = RowMatrix<double>::Zero(n, n);
  // x H for x = each unit vector of the fast axis, then the base on the slow axis.
  RowMatrix<double> sylvester = RowMatrix<double>::Identity(length, length);
  walsh_hadamard<double>(sylvester, length);
  for (index_t i = 0; i < order->base; ++i)
    for (index_t j = 0; j < order->base; ++j)
      H.block(i * length, j * length, length, length) = base(i, j) * sylvester;
  return H;
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template bool detail::is_hadamard_base<void>(index_t);
DARTQUANT_COMPILED template RowMatrix<double> detail::hadamard_base_matrix<void>(index_t);
DARTQUANT_COMPILED template RowMatrix<double> hadamard_matrix<void>(index_t);
}  // namespace dartquant
#endif
