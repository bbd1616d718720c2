// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <vector>

#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>

namespace dartquant::detail {

/// q = prime^exponent.
struct PrimePower {
  index_t prime = 0;
  int exponent = 0;
};

/// The prime power that q is, if it is one. Cost: sqrt(q).
[[nodiscard]] inline std::optional<PrimePower> prime_power(index_t q) {
  if (q < 2) return std::nullopt;
  index_t prime = q;
  for (index_t divisor = 2; divisor * divisor <= q; ++divisor)
    if (q % divisor == 0) {
      prime = divisor;
      break;
    }
  int exponent = 0;
  for (; q % prime == 0; q /= prime) ++exponent;
  if (q != 1) return std::nullopt;
  return PrimePower{prime, exponent};
}

/// Base-p digits, least significant first: an element of GF(p^k) as the coefficients of a polynomial.
[[nodiscard]] inline std::vector<index_t> digits(index_t value, PrimePower field) {
  std::vector<index_t> result(static_cast<std::size_t>(field.exponent));
  for (index_t& digit : result) {
    digit = value % field.prime;
    value /= field.prime;
  }
  return result;
}

/// The integer whose base-p digits these are.
[[nodiscard]] inline index_t from_digits(std::vector<index_t> const& digit, PrimePower field) {
  index_t value = 0;
  for (std::size_t i = digit.size(); i-- > 0;) value = value * field.prime + digit[i];
  return value;
}

/// The quadratic character chi of GF(q), q = p^k odd: 0 at 0, +1 at squares, -1 elsewhere; element e has the
/// base-p digits of e as coefficients. Arithmetic is modulo the first monic f of degree k for which x has the
/// full order q - 1: then the powers of x are all nonzero elements (so f is irreducible) and the even powers
/// are the squares. For k = 1 this is the search for a primitive root. Cost: about q k / phi(q - 1) walks of
/// q steps.
[[nodiscard]] inline std::vector<int> quadratic_character(index_t q, PrimePower field) {
  std::size_t const degree = static_cast<std::size_t>(field.exponent);
  std::vector<int> chi(static_cast<std::size_t>(q));
  for (index_t candidate = 1; candidate < q; ++candidate) {
    std::vector<index_t> const f = digits(candidate, field);  // x^k = -(f_0 + f_1 x + ...)
    std::vector<index_t> element(degree);
    element[0] = 1;
    index_t power = 0;
    for (index_t value = 1; power < q - 1 && value != 0 && (power == 0 || value != 1); ++power) {
      chi[static_cast<std::size_t>(value)] = power % 2 == 0 ? 1 : -1;
      index_t const top = element[degree - 1];
      for (std::size_t i = degree - 1; i > 0; --i)
        element[i] = (element[i - 1] + (field.prime - f[i]) * top) % field.prime;
      element[0] = (field.prime - f[0]) * top % field.prime;
      value = from_digits(element, field);
    }
    if (power == q - 1 && from_digits(element, field) == 1) break;
  }
  chi[0] = 0;
  return chi;
}

/// The Jacobsthal matrix J [q, q] of GF(q): J_ij = chi(i - j).
[[nodiscard]] inline RowMatrix<double> jacobsthal(index_t q, PrimePower field) {
  std::vector<int> const chi = quadratic_character(q, field);
  std::vector<std::vector<index_t>> elements;
  for (index_t i = 0; i < q; ++i) elements.push_back(digits(i, field));
  RowMatrix<double> J(q, q);
  std::vector<index_t> difference(static_cast<std::size_t>(field.exponent));
  for (index_t i = 0; i < q; ++i)
    for (index_t j = 0; j < q; ++j) {
      auto const &a = elements[static_cast<std::size_t>(i)], &b = elements[static_cast<std::size_t>(j)];
      for (std::size_t k = 0; k < difference.size(); ++k)
        difference[k] = (a[k] - b[k] + field.prime) % field.prime;
      J(i, j) = chi[static_cast<std::size_t>(from_digits(difference, field))];
    }
  return J;
}

/// Whether Paley's first construction gives order q + 1: q a prime power, q = 3 mod 4.
[[nodiscard]] inline bool is_paley1_order(index_t order) {
  return order % 4 == 0 && prime_power(order - 1).has_value();
}

/// Whether Paley's second construction gives order 2 (q + 1): q a prime power, q = 1 mod 4.
[[nodiscard]] inline bool is_paley2_order(index_t order) {
  return order % 4 == 0 && (order / 2 - 1) % 4 == 1 && prime_power(order / 2 - 1).has_value();
}

/// Paley I: H = I + S with S = [[0, 1], [-1, J]] skew. Precondition: is_paley1_order(order).
/// Source: Paley, "On orthogonal matrices", 1933.
[[nodiscard]] inline RowMatrix<double> paley1(index_t order) {
  index_t const q = order - 1;
  RowMatrix<double> H(order, order);
  H.row(0).setOnes();
  H.col(0).tail(q).setConstant(-1);
  H.bottomRightCorner(q, q) = jacobsthal(q, *prime_power(q)) + RowMatrix<double>::Identity(q, q);
  return H;
}

/// Paley II: S = [[0, 1], [1, J]] symmetric; each nonzero s becomes s [[1, 1], [1, -1]], each zero
/// [[1, -1], [-1, -1]]. Precondition: is_paley2_order(order).
[[nodiscard]] inline RowMatrix<double> paley2(index_t order) {
  index_t const q = order / 2 - 1;
  RowMatrix<double> S = RowMatrix<double>::Ones(q + 1, q + 1);
  S(0, 0) = 0;
  S.bottomRightCorner(q, q) = jacobsthal(q, *prime_power(q));
  RowMatrix<double> H(order, order);
  for (index_t i = 0; i <= q; ++i)
    for (index_t j = 0; j <= q; ++j) {
      double const s = S(i, j);
      auto block = H.block<2, 2>(2 * i, 2 * j);
      if (s == 0) block << 1, -1, -1, -1;
      else block << s, s, s, -s;
    }
  return H;
}

}  // namespace dartquant::detail
