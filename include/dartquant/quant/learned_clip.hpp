// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/quant/fit.hpp>
#include <dartquant/quant/hessian.hpp>
#include <dartquant/quant/int_matrix.hpp>
#include <dartquant/quant/options.hpp>
#include <dartquant/quant/quantize.hpp>

namespace dartquant {

struct LearnedClipOptions {
  /// per_row or per_group, symmetric or not, clip_ratio 1 and no other search.
  QuantizeOptions quantize{};
  index_t rounds = 2;  ///< passes over the two ends of every range, at least 1

  /// Errors: InvalidArgument.
  void validate() const {
    quantize.validate();
    detail::require(quantize.granularity.kind == Granularity::Kind::row ||
                        quantize.granularity.kind == Granularity::Kind::group,
                    "[LearnedClipOptions] scales per tensor or per column: ranges are searched row by row, "
                    "choose per_row or per_group(size)");
    detail::require(quantize.clip_search == ClipSearch::none && quantize.clip_ratio == 1,
                    "[LearnedClipOptions] clip ratio ", quantize.clip_ratio,
                    " or another search: this search chooses the ratios, leave them alone");
    detail::require(rounds >= 1, "[LearnedClipOptions] ", rounds, " rounds: at least one is needed");
  }
};

template <int StorageBits>
struct LearnedClipResult {
  IntMatrix<StorageBits> weight;
  double rtn_loss = 0;  ///< proxy_loss of the full ranges
  double loss = 0;      ///< proxy_loss of the result, not above rtn_loss
};

namespace detail {

/// Chooses the ranges of a few rows: descent on e H e^T over the ends of each range in turn.
template <int StorageBits>
class ClipDescent {
 public:
  /// `H` [channels, channels] symmetric.
  ClipDescent(MatrixView<float const> W, MatrixView<double const> H, LearnedClipOptions const& options,
              IntMatrix<StorageBits>& Q)
      : W_(W), H_(H), options_(options), Q_(Q), group_(Q.block().cols) {}

  void rows(index_t first, index_t last) {
    index_t const n = W_.cols(), count = last - first, groups = (n + group_ - 1) / group_;
    std::vector<Ends> ends(static_cast<std::size_t>(groups));
    RowMatrix<double> e(count, n), h(count, n);
    for (index_t i = 0; i < count; ++i)
      for (index_t g = 0; g < groups; ++g) {
        index_t const begin = g * group_, width = std::min(group_, n - begin);
        errors(first + i, begin, width, quantizer(first + i, g, Ends{}), &e(i, begin));
      }
    gemm_tile<double>(1, e, Op::none, H_, Op::none, 0, h);
    for (index_t i = 0; i < count; ++i) {
      std::fill(ends.begin(), ends.end(), Ends{});
      for (index_t round = 0; round < options_.rounds; ++round)
        for (index_t g = 0; g < groups; ++g)
          descend(first + i, g, ends[static_cast<std::size_t>(g)], &e(i, 0), &h(i, 0));
      for (index_t g = 0; g < groups; ++g) store(first + i, g, ends[static_cast<std::size_t>(g)]);
    }
  }

 private:
  /// The parts of the range that are kept, in hundredths: of its upper end (of both, if symmetric) and of its
  /// lower end.
  struct Ends {
    int high = 100, low = 100;
  };
  static constexpr int smallest = 40, coarse = 5;

  [[nodiscard]] Quantizer<float> quantizer(index_t row, index_t g, Ends ends) const {
    auto const values = W_.block(row, g * group_, 1, std::min(group_, W_.cols() - g * group_));
    Range<float> const range = range_of(values);
    bool const symmetric = options_.quantize.symmetry == Symmetry::symmetric;
    auto const part = [](int hundredths) { return static_cast<float>(hundredths) / 100.0f; };
    return range_quantizer(part(symmetric ? ends.high : ends.low) * range.min, part(ends.high) * range.max,
                           options_.quantize.bits, options_.quantize.symmetry);
  }

  void errors(index_t row, index_t begin, index_t width, Quantizer<float> const& q, double* e) const {
    float const* const w = &W_(row, begin);
    for (index_t j = 0; j < width; ++j)
      e[j] = static_cast<double>(w[j]) - static_cast<double>(q.round_trip(w[j]));
  }

  /// One end after the other: on a coarse grid, then near the best.
  void descend(index_t row, index_t g, Ends& ends, double* e, double* h) const {
    bool const symmetric = options_.quantize.symmetry == Symmetry::symmetric;
    for (int Ends::*const end : {&Ends::high, &Ends::low}) {
      if (symmetric && end == &Ends::low) break;
      std::vector<Ends> candidates;
      auto const offer = [&](int value) {
        if (value < smallest || value > 100 || value == ends.*end) return;
        candidates.push_back(ends);
        candidates.back().*end = value;
      };
      for (int value = 100; value >= smallest; value -= coarse) offer(value);
      choose(row, g, candidates, ends, e, h);
      candidates.clear();
      int const middle = ends.*end;
      for (int value = middle + coarse - 1; value > middle - coarse; --value) offer(value);
      choose(row, g, candidates, ends, e, h);
    }
  }

  /// ends <- the candidate with the smallest loss, if it is below the present one. With d the change of the
  /// error on the group, the loss changes by 2 d h_g^T + d H_gg d^T, where h = e H.
  void choose(index_t row, index_t g, std::vector<Ends> const& candidates, Ends& ends, double* e,
              double* h) const {
    if (candidates.empty()) return;
    index_t const begin = g * group_, width = std::min(group_, W_.cols() - begin);
    index_t const count = static_cast<index_t>(candidates.size());
    RowMatrix<double> D(count, width), DH(count, width);
    for (index_t c = 0; c < count; ++c) {
      errors(row, begin, width, quantizer(row, g, candidates[static_cast<std::size_t>(c)]), &D(c, 0));
      for (index_t j = 0; j < width; ++j) D(c, j) -= e[begin + j];
    }
    gemm_tile<double>(1, D, Op::none, H_.block(begin, begin, width, width), Op::none, 0, DH);
    double best = 0;
    index_t chosen = -1;
    for (index_t c = 0; c < count; ++c) {
      double const change =
          2 * dot<double>(&D(c, 0), h + begin, width) + dot<double>(&D(c, 0), &DH(c, 0), width);
      if (!(change < best)) continue;
      best = change;
      chosen = c;
    }
    if (chosen < 0) return;
    ends = candidates[static_cast<std::size_t>(chosen)];
    for (index_t j = 0; j < width; ++j) {
      double const d = D(chosen, j);
      e[begin + j] += d;
      if (d == 0) continue;
      for (index_t k = 0; k < W_.cols(); ++k) h[k] += d * H_(begin + j, k);
    }
  }

  void store(index_t row, index_t g, Ends ends) {
    Quantizer<float> const q = quantizer(row, g, ends);
    Q_.scales()(row, g) = q.scale;
    Q_.zero_points()(row, g) = q.zero_point;
    for (index_t j = g * group_; j < std::min(W_.cols(), (g + 1) * group_); ++j)
      Q_.set_level(row, j, q.level(W_(row, j)));
  }

  MatrixView<float const> W_;
  MatrixView<double const> H_;
  LearnedClipOptions const& options_;
  IntMatrix<StorageBits>& Q_;
  index_t group_;
};

template <int StorageBits>
[[nodiscard]] LearnedClipResult<StorageBits> learned_clip(Cpu const& cpu, MatrixView<float const> W,
                                                          Hessian const& hessian,
                                                          LearnedClipOptions const& options) {
  options.validate();
  require(W.cols() == hessian.channels(), "[learned_clip] ", hessian.place(), "weight of ", W.rows(), " x ",
          W.cols(), ": the Hessian has ", hessian.channels(), " channels");
  require(hessian.tokens() >= 1, "[learned_clip] ", hessian.place(), "0 tokens: at least one is needed");
  for (index_t i = 0; i < W.rows(); ++i)
    for (index_t j = 0; j < W.cols(); ++j)
      require(std::isfinite(W(i, j)), "[learned_clip] ", hessian.place(), "the weight at row ", i,
              ", channel ", j, " is ", W(i, j), ": only finite values can be quantized");
  constexpr index_t rows_per_range = 16;
  RowMatrix<double> H = as_eigen(hessian.sum());
  for (index_t i = 0; i < H.rows(); ++i)
    for (index_t j = 0; j < i; ++j) H(j, i) = H(i, j);
  IntMatrix<StorageBits> const nearest = quantize<StorageBits>(cpu, W, options.quantize, "learned_clip");
  IntMatrix<StorageBits> Q(W.rows(), W.cols(), options.quantize);
  cpu.parallel_for(W.rows(), rows_per_range, [&](index_t first, index_t last) {
    ClipDescent<StorageBits>(W, H, options, Q).rows(first, last);
  });
  LearnedClipResult<StorageBits> result{std::move(Q)};
  result.rtn_loss = proxy_loss(cpu, hessian, W, dequantize(cpu, nearest));
  result.loss = proxy_loss(cpu, hessian, W, dequantize(cpu, result.weight));
  return result;
}

}  // namespace detail

/// Learned weight clipping of W [out, channels], rounded to nearest: every scale gets the range [l min, h
/// max] (h max|w| if symmetric) whose ends l, h in 0.40, 0.41, ..., 1.00 lower the layer's output error under
/// the inputs of `hessian` most. OmniQuant and DuQuant learn sigmoids of l and h by gradient steps through
/// the rounding, on the output of a whole block; here the error of the one layer is descended on directly,
/// end after end, group after group, so that it never rises, and no step size is needed. The same bytes for
/// any number of threads. Errors: InvalidArgument, with the layer's name, for bad options, shapes that do not
/// fit, no token, or a weight that is not finite. Cost: about 20 evaluations per end and round, each `size of
/// the group` multiply-adds per weight, and `channels` per weight for each change that is kept: use groups on
/// wide layers. 8 channels^2 bytes.
[[nodiscard]] inline LearnedClipResult<4> learned_clip(Cpu const& cpu, MatrixView<float const> W,
                                                       Hessian const& hessian,
                                                       LearnedClipOptions const& options = {}) {
  return detail::learned_clip<4>(cpu, W, hessian, options);
}

/// The same with one level per byte, for 2..8 bits.
[[nodiscard]] inline LearnedClipResult<8> learned_clip_int8(Cpu const& cpu, MatrixView<float const> W,
                                                            Hessian const& hessian,
                                                            LearnedClipOptions const& options = {}) {
  return detail::learned_clip<8>(cpu, W, hessian, options);
}

}  // namespace dartquant
