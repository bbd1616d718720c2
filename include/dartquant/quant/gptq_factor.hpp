// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/quant/hessian.hpp>
#include <dartquant/quant/options.hpp>

namespace dartquant::detail {

/// The channels in rounding order, and U upper triangular with (H + damping)^-1 = U^T U in that order.
struct GptqFactor {
  std::vector<index_t> order;
  std::vector<bool> dead;  ///< by channel
  RowMatrix<double> U;
  double damping = 0;
};

/// J (H + damping) J = L L^T with J the reversal of the order: then U = J L^-1 J, without ever forming the
/// inverse. False when a pivot is not positive, or so small beside its diagonal element that it is rounding
/// error.
template <class = void>
[[nodiscard]] bool factor_damped(Cpu const& cpu, Hessian const& hessian, double added, GptqFactor& factor) {
  constexpr double smallest_pivot = 1e-11;
  index_t const n = hessian.channels();
  MatrixView<double const> const H = hessian.sum();
  RowMatrix<double> L(n, n);
  std::vector<double> diagonal(static_cast<std::size_t>(n));
  auto const channel = [&](index_t i) { return factor.order[static_cast<std::size_t>(n - 1 - i)]; };
  auto const dead = [&](index_t a) { return factor.dead[static_cast<std::size_t>(a)]; };
  cpu.parallel_for(n, 16, [&](index_t first, index_t last) {
    for (index_t i = first; i < last; ++i) {
      index_t const a = channel(i);
      for (index_t j = 0; j < i; ++j) {
        index_t const b = channel(j);
        L(i, j) = dead(a) || dead(b) ? 0 : H(std::max(a, b), std::min(a, b));
      }
      L(i, i) = diagonal[static_cast<std::size_t>(i)] = dead(a) ? 1 : H(a, a) + added;
    }
  });
  if (!cpu.cholesky(L).ok()) return false;
  for (index_t i = 0; i < n; ++i)
    if (L(i, i) * L(i, i) < smallest_pivot * diagonal[static_cast<std::size_t>(i)]) return false;
  factor.U.setIdentity(n, n);
  cpu.solve_lower<double>(L, Op::none, factor.U, Fill::lower);
  std::reverse(factor.U.data(), factor.U.data() + factor.U.size());
  return true;
}

/// Raises the damping tenfold until the factorisation succeeds. Errors: Error(numerics) when nothing helps.
template <class = void>
[[nodiscard]] GptqFactor factor_hessian(Cpu const& cpu, Hessian const& hessian, double damping,
                                        GptqOrder order) {
  constexpr double first_raise = 1e-6, largest_damping = 1e3;
  index_t const n = hessian.channels();
  MatrixView<double const> const H = hessian.sum();
  GptqFactor factor{std::vector<index_t>(static_cast<std::size_t>(n)),
                    std::vector<bool>(static_cast<std::size_t>(n)),
                    {},
                    damping};
  std::iota(factor.order.begin(), factor.order.end(), index_t{0});
  double trace = 0;
  index_t live = 0;
  for (index_t j = 0; j < n; ++j) {
    factor.dead[static_cast<std::size_t>(j)] = !(H(j, j) > 0);
    if (!(H(j, j) > 0)) continue;
    trace += H(j, j);
    ++live;
  }
  if (order == GptqOrder::act_order)
    std::ranges::stable_sort(factor.order, [&](index_t a, index_t b) { return H(a, a) > H(b, b); });
  double const mean = live > 0 ? trace / static_cast<double>(live) : 0;
  while (!factor_damped(cpu, hessian, factor.damping * mean, factor)) {
    factor.damping = std::max(10 * factor.damping, first_raise);
    if (!(factor.damping <= largest_damping))
      fail(Error::Kind::numerics, "[gptq] ", hessian.place(), "the Hessian of ", n,
           " channels has no Cholesky factor even with damping ", factor.damping / 10,
           ": is it a sum of x^T x?");
  }
  return factor;
}

}  // namespace dartquant::detail

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template detail::GptqFactor detail::factor_hessian<void>(Cpu const&, Hessian const&,
                                                                            double, GptqOrder);
}  // namespace dartquant
#endif
