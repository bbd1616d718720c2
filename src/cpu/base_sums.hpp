// SPDX-License-Identifier: Apache-2.0
#pragma once

// Products with the base matrices of Hadamard orders that are not powers of two, on vectors of any kind.
// Included behind the lanes of an instruction set and by nothing else; everything is in an unnamed namespace.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {
namespace {

// Rows of X go into the sums four at a time, which is RowKernels::multiply_base's order of additions. Four
// rows have eight sums but for the sign ("the method of the four Russians", Arlazarov et al. 1970): these and
// their negatives are formed once, and each output adds the one that its signs ask for. An addition per
// output and four rows is left: order / 4 + 3 per value in all.

/// 8 s0 + 4 (s0 != s2) + 2 (s2 != s3) + (s0 != s1), where s_j says whether the sign of row j is -1.
constexpr int sums_of_four = 16;

/// Outputs are found by the bytes that signs of all rows leave: [four rows][output], in units of a sum.
struct BaseCodes {
  static constexpr std::int64_t fours = 8, most_outputs = 1024;  // of a slab
  std::uint8_t code[fours][most_outputs];

  void find(std::int8_t const* signs, std::int64_t order, std::int64_t from, std::int64_t count) {
    for (std::int64_t q = 0; q < count; ++q) {
      std::int64_t const row = from + 4 * q;
      std::int8_t const* s[4];  // rows that there are not have the sign of the one before
      for (int j = 0; j < 4; ++j) s[j] = signs + (row + j < order ? row + j : order - 1) * order;
      if (order - row == 2) s[3] = s[2] = s[0];
      if (order - row == 1) s[3] = s[2] = s[1] = s[0];
      for (std::int64_t i = 0; i < order; ++i) {
        auto const negative = [&](int j) { return static_cast<unsigned>(s[j][i]) >> 7 & 1u; };
        unsigned const n0 = negative(0), n1 = negative(1), n2 = negative(2), n3 = negative(3);
        code[q][i] = static_cast<std::uint8_t>((n0 ^ n1) | (n2 ^ n3) << 1 | (n0 ^ n2) << 2 | n0 << 3);
      }
    }
  }
};

/// `Parts` neighbouring vectors of columns of a sum.
template <class V, int Parts>
struct BaseSums {
  static constexpr std::int64_t columns = V::lanes * Parts;

  /// The sums of rows from .. from + 3 of X, as many as there are, at sum[code][columns].
  [[gnu::always_inline]] static inline void form(float const* x, std::int64_t length, std::int64_t rows,
                                                 float* sum) {
    for (int part = 0; part < Parts; ++part, x += V::lanes, sum += V::lanes) {
      auto const x0 = V::load(x);
      auto const store = [&](int code, typename V::Type value) {
        V::store(sum + code * columns, value);
        V::store(sum + (code + 8) * columns, V::negative(value));
      };
      if (rows == 1) {
        store(0, x0);
        continue;
      }
      auto const x1 = V::load(x + length);
      auto const a = V::add(x0, x1), b = V::subtract(x0, x1);
      if (rows == 2) {
        store(0, a);
        store(1, b);
        continue;
      }
      auto const x2 = V::load(x + 2 * length);
      auto const c = rows == 3 ? x2 : V::add(x2, V::load(x + 3 * length));
      store(0, V::add(a, c));
      store(1, V::add(b, c));
      store(4, V::subtract(a, c));
      store(5, V::subtract(b, c));
      if (rows == 3) continue;
      auto const d = V::subtract(x2, V::load(x + 3 * length));
      store(2, V::add(a, d));
      store(3, V::add(b, d));
      store(6, V::subtract(a, d));
      store(7, V::subtract(b, d));
    }
  }

  /// `Outputs` outputs from the i-th on: y <- the sums of the first slab, or y + those of another.
  template <int Outputs>
  [[gnu::always_inline]] static inline void add(BaseCodes const& codes, float const* sums, std::int64_t fours,
                                                bool first, std::int64_t i, std::int64_t length, float* y) {
    typename V::Type total[Outputs][Parts];
    auto const sum_of = [&](std::int64_t q, int u) {
      return sums + (q * sums_of_four + codes.code[q][i + u]) * columns;
    };
#pragma GCC unroll 8
    for (int u = 0; u < Outputs; ++u)
#pragma GCC unroll 8
      for (int part = 0; part < Parts; ++part)
        total[u][part] = V::load((first ? sum_of(0, u) : y + (i + u) * length) + part * V::lanes);
    for (std::int64_t q = first ? 1 : 0; q < fours; ++q)
#pragma GCC unroll 8
      for (int u = 0; u < Outputs; ++u) {
        float const* const sum = sum_of(q, u);
#pragma GCC unroll 8
        for (int part = 0; part < Parts; ++part)
          total[u][part] = V::add(total[u][part], V::load(sum + part * V::lanes));
      }
#pragma GCC unroll 8
    for (int u = 0; u < Outputs; ++u)
#pragma GCC unroll 8
      for (int part = 0; part < Parts; ++part)
        V::store(y + (i + u) * length + part * V::lanes, total[u][part]);
  }

  /// y [order, length] <- S^T x; length is a multiple of `columns`.
  static void multiply(std::int8_t const* signs, std::int64_t order, std::int64_t length, float const* x,
                       float* y) {
    alignas(64) float sums[BaseCodes::fours * sums_of_four * columns];
    BaseCodes codes;
    for (std::int64_t from = 0; from < order; from += 4 * BaseCodes::fours) {
      std::int64_t const left = (order - from + 3) / 4,
                         fours = left < BaseCodes::fours ? left : BaseCodes::fours;
      codes.find(signs, order, from, fours);
      for (std::int64_t k = 0; k < length; k += columns) {
        for (std::int64_t q = 0; q < fours; ++q) {
          std::int64_t const row = from + 4 * q;
          form(x + row * length + k, length, order - row, sums + q * sums_of_four * columns);
        }
        std::int64_t i = 0;
        for (; i + 4 <= order; i += 4) add<4>(codes, sums, fours, from == 0, i, length, y + k);
        for (; i < order; ++i) add<1>(codes, sums, fours, from == 0, i, length, y + k);
      }
    }
  }
};

}  // namespace
}  // namespace dartquant::cpu
