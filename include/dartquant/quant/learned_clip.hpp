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

/// Chooses the ranges of a few rows: descent on e H e^T over the ends of each range in turn. Rows do not
/// depend on one another; they go together so that their candidates make up one product with H.
template <int StorageBits>
class ClipDescent {
 public:
  /// `H` [channels, channels] symmetric; rows [first, last) of W.
  ClipDescent(Cpu const& cpu, MatrixView<float const> W, MatrixView<double const> H,
              LearnedClipOptions const& options, index_t first, index_t last, IntMatrix<StorageBits>& Q)
      : cpu_(cpu),
        W_(W),
        H_(H),
        options_(options),
        Q_(Q),
        first_(first),
        rows_(last - first),
        group_(Q.block().cols),
        groups_((W.cols() + group_ - 1) / group_),
        ends_(static_cast<std::size_t>(rows_ * groups_)),
        e_(rows_, W.cols()),
        h_(rows_, W.cols()) {}

  void run() {
    for (index_t i = 0; i < rows_; ++i)
      for (index_t g = 0; g < groups_; ++g) errors(i, g, Ends{}, &e_(i, g * group_));
    gemm_tile<double>(cpu_, 1, e_, Op::none, H_, Op::none, 0, h_);
    bool const symmetric = options_.quantize.symmetry == Symmetry::symmetric;
    index_t const rounds =
        symmetric && groups_ == 1 ? 1 : options_.rounds;  // a single end has no other to fit
    for (index_t round = 0; round < rounds; ++round)
      for (index_t g = 0; g < groups_; ++g) {
        descend(g, &Ends::high);
        if (!symmetric) descend(g, &Ends::low);
      }
    for (index_t i = 0; i < rows_; ++i)
      for (index_t g = 0; g < groups_; ++g) store(i, g);
  }

 private:
  /// The parts of the range that are kept, in hundredths: of its upper end (of both, if symmetric) and of its
  /// lower end.
  struct Ends {
    int high = 100, low = 100;
  };
  using End = int Ends::*;
  static constexpr int smallest = 40, coarse = 5;

  [[nodiscard]] index_t width(index_t g) const { return std::min(group_, W_.cols() - g * group_); }
  [[nodiscard]] Ends& ends(index_t i, index_t g) { return ends_[static_cast<std::size_t>(i * groups_ + g)]; }

  [[nodiscard]] Quantizer<float> quantizer(index_t i, index_t g, Ends ends) const {
    Range<float> const range = range_of(W_.block(first_ + i, g * group_, 1, width(g)));
    bool const symmetric = options_.quantize.symmetry == Symmetry::symmetric;
    auto const part = [](int hundredths) { return static_cast<float>(hundredths) / 100.0f; };
    return range_quantizer(part(symmetric ? ends.high : ends.low) * range.min, part(ends.high) * range.max,
                           options_.quantize.bits, options_.quantize.symmetry);
  }

  void errors(index_t i, index_t g, Ends ends, double* e) const {
    Quantizer<float> const q = quantizer(i, g, ends);
    float const* const w = &W_(first_ + i, g * group_);
    for (index_t j = 0; j < width(g); ++j)
      e[j] = static_cast<double>(w[j]) - static_cast<double>(q.round_trip(w[j]));
  }

  /// One end of one group in all rows: on a coarse grid, then near the best.
  void descend(index_t g, End end) {
    choose(g, end, [](int) {
      std::vector<int> values;
      for (int value = 100; value >= smallest; value -= coarse) values.push_back(value);
      return values;
    });
    choose(g, end, [](int middle) {
      std::vector<int> values;
      for (int value = middle + coarse - 1; value > middle - coarse; --value) values.push_back(value);
      return values;
    });
  }

  struct Candidate {
    index_t row;
    Ends ends;
  };

  /// Every row takes the candidate with the smallest loss, if it is below the present one. With d the change
  /// of the error on the group, the loss changes by 2 d h_g^T + d H_gg d^T, where h = e H.
  template <class Values>
  void choose(index_t g, End end, Values const& values) {
    std::vector<Candidate> candidates;
    for (index_t i = 0; i < rows_; ++i)
      for (int const value : values(ends(i, g).*end)) {
        if (value < smallest || value > 100 || value == ends(i, g).*end) continue;
        candidates.push_back({i, ends(i, g)});
        candidates.back().ends.*end = value;
      }
    RowMatrix<double> const D = changes(g, candidates);
    RowMatrix<double> taken = RowMatrix<double>::Zero(rows_, width(g));
    std::vector<index_t> const chosen = best(g, candidates, D);
    for (index_t i = 0; i < rows_; ++i) {
      index_t const c = chosen[static_cast<std::size_t>(i)];
      if (c < 0) continue;
      ends(i, g) = candidates[static_cast<std::size_t>(c)].ends;
      taken.row(i) = D.row(c);
    }
    e_.middleCols(g * group_, width(g)) += taken;
    gemm_tile<double>(cpu_, 1, taken, Op::none, H_.rows(g * group_, width(g)), Op::none, 1, h_);
  }

  /// d of every candidate.
  [[nodiscard]] RowMatrix<double> changes(index_t g, std::vector<Candidate> const& candidates) const {
    RowMatrix<double> D(static_cast<index_t>(candidates.size()), width(g));
    for (index_t c = 0; c < D.rows(); ++c) {
      Candidate const& candidate = candidates[static_cast<std::size_t>(c)];
      errors(candidate.row, g, candidate.ends, &D(c, 0));
      for (index_t j = 0; j < width(g); ++j) D(c, j) -= e_(candidate.row, g * group_ + j);
    }
    return D;
  }

  /// The best candidate of each row, or -1.
  [[nodiscard]] std::vector<index_t> best(index_t g, std::vector<Candidate> const& candidates,
                                          RowMatrix<double> const& D) const {
    index_t const begin = g * group_, n = width(g);
    RowMatrix<double> DH(D.rows(), n);
    gemm_tile<double>(cpu_, 1, D, Op::none, H_.block(begin, begin, n, n), Op::none, 0, DH);
    std::vector<double> least(static_cast<std::size_t>(rows_), 0.0);
    std::vector<index_t> chosen(static_cast<std::size_t>(rows_), -1);
    for (index_t c = 0; c < D.rows(); ++c) {
      index_t const i = candidates[static_cast<std::size_t>(c)].row;
      double const change = 2 * dot<double>(&D(c, 0), &h_(i, begin), n) + dot<double>(&D(c, 0), &DH(c, 0), n);
      if (!(change < least[static_cast<std::size_t>(i)])) continue;
      least[static_cast<std::size_t>(i)] = change;
      chosen[static_cast<std::size_t>(i)] = c;
    }
    return chosen;
  }

  void store(index_t i, index_t g) {
    Quantizer<float> const q = quantizer(i, g, ends(i, g));
    Q_.scales()(first_ + i, g) = q.scale;
    Q_.zero_points()(first_ + i, g) = q.zero_point;
    for (index_t j = g * group_; j < g * group_ + width(g); ++j)
      Q_.set_level(first_ + i, j, q.level(W_(first_ + i, j)));
  }

  Cpu const& cpu_;
  MatrixView<float const> W_;
  MatrixView<double const> H_;
  LearnedClipOptions const& options_;
  IntMatrix<StorageBits>& Q_;
  index_t first_, rows_, group_, groups_;
  std::vector<Ends> ends_;   ///< [rows, groups]
  RowMatrix<double> e_, h_;  ///< errors of the rows, and e H
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
  constexpr index_t rows_per_range = 32;
  RowMatrix<double> H = as_eigen(hessian.sum());
  for (index_t i = 0; i < H.rows(); ++i)
    for (index_t j = 0; j < i; ++j) H(j, i) = H(i, j);
  IntMatrix<StorageBits> const nearest = quantize<StorageBits>(cpu, W, options.quantize, "learned_clip");
  IntMatrix<StorageBits> Q(W.rows(), W.cols(), options.quantize);
  cpu.parallel_for(W.rows(), rows_per_range, [&](index_t first, index_t last) {
    ClipDescent<StorageBits>(cpu, W, H, options, first, last, Q).run();
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
/// fit, no token, or a weight that is not finite. Cost: about 20 candidates per end and round (one round
/// where a row has a single end to choose), each `size of the group` multiply-adds per weight, and twice
/// `channels` per weight for what is kept: use groups on wide layers. 8 channels^2 bytes.
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

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template LearnedClipResult<4> detail::learned_clip<4>(Cpu const&, MatrixView<float const>,
                                                                         Hessian const&,
                                                                         LearnedClipOptions const&);
DARTQUANT_COMPILED template LearnedClipResult<8> detail::learned_clip<8>(Cpu const&, MatrixView<float const>,
                                                                         Hessian const&,
                                                                         LearnedClipOptions const&);
}  // namespace dartquant
#endif
