// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/quant/fit.hpp>
#include <dartquant/quant/gptq_factor.hpp>
#include <dartquant/quant/hessian.hpp>
#include <dartquant/quant/int_matrix.hpp>
#include <dartquant/quant/options.hpp>
#include <dartquant/quant/quantize.hpp>

namespace dartquant {

/// What becomes of a channel whose inputs were all zero. `round`: its weights are rounded to nearest. `zero`:
/// they become 0, as in GPTQ's code, and are lost should the channel wake up later.
enum class DeadChannels { round, zero };

struct GptqOptions {
  QuantizeOptions quantize{};  ///< per_row or per_group; symmetric or not; any clip
  double damping = 0.01;       ///< added to H's diagonal, in units of its mean; not negative. DartQuant: 0.1
  GptqOrder order = GptqOrder::natural;
  DeadChannels dead = DeadChannels::round;
  index_t block = 128;  ///< channels between two updates of all that are left: speed only, at least 1

  /// Errors: InvalidArgument.
  void validate() const {
    quantize.validate();
    detail::require(quantize.granularity.kind == Granularity::Kind::row ||
                        quantize.granularity.kind == Granularity::Kind::group,
                    "[GptqOptions] scales per tensor or per column: weights are rounded row by row, choose "
                    "per_row or per_group(size)");
    detail::require(std::isfinite(damping) && damping >= 0, "[GptqOptions] damping ", damping,
                    ": must be finite and not negative");
    detail::require(block >= 1, "[GptqOptions] block ", block, ": must be at least 1");
  }
};

struct GptqReport {
  double rtn_loss = 0;   ///< proxy_loss of rounding to nearest with the same options
  double loss = 0;       ///< proxy_loss of the result, never above rtn_loss
  double damping = 0;    ///< what was used, at least what was asked for
  index_t rtn_rows = 0;  ///< rows where rounding to nearest had the smaller loss, and was kept
  std::vector<index_t> dead_channels{};
  index_t tokens = 0;         ///< that the Hessian has seen
  index_t tokens_needed = 0;  ///< fewer leave directions of the input space unseen: the live channels
  /// Sentences about too few tokens and raised damping; usually none.
  std::vector<std::string> warnings{};
};

template <int StorageBits>
struct GptqResult {
  IntMatrix<StorageBits> weight;
  GptqReport report;
};

namespace detail {

/// Rounds the rows of W one channel after the other; the error of each is spread over the channels that are
/// left, so that the layer's output changes least.
template <int StorageBits>
class GptqRounding {
 public:
  /// `nearest` is W rounded to nearest: scales that are fitted on W as it came are its own.
  GptqRounding(Cpu const& cpu, MatrixView<float const> W, GptqFactor const& factor,
               GptqOptions const& options, IntMatrix<StorageBits> const& nearest, IntMatrix<StorageBits>& Q)
      : cpu_(cpu),
        W_(W),
        factor_(factor),
        options_(options),
        nearest_(nearest),
        Q_(Q),
        group_(Q.block().cols) {}

  void rows(index_t first, index_t last) {
    index_t const n = W_.cols(), count = last - first;
    RowMatrix<double> w(count, n), errors;
    for (index_t i = 0; i < count; ++i)
      for (index_t j = 0; j < n; ++j) w(i, j) = static_cast<double>(W_(first + i, channel(j)));
    if (options_.order == GptqOrder::act_order) take_scales(first, last);
    for (index_t begin = 0; begin < n;) {
      index_t const end = block_end(begin), left = n - end;
      errors.resize(count, end - begin);
      for (index_t i = 0; i < count; ++i) round_row(first + i, begin, end, &w(i, 0), &errors(i, 0));
      if (left > 0)
        gemm_tile<double>(cpu_, -1, errors, Op::none, view(factor_.U).block(begin, end, end - begin, left),
                          Op::none, 1, view(w).columns(end, left));
      begin = end;
    }
  }

 private:
  template <class M>
  [[nodiscard]] static auto view(M& matrix) {
    return MatrixView<std::conditional_t<std::is_const_v<M>, double const, double>>(matrix);
  }
  [[nodiscard]] index_t channel(index_t place) const {
    return factor_.order[static_cast<std::size_t>(place)];
  }

  /// Where the block that starts at channel `begin` ends. A group whose scale is fitted on the way lies in
  /// one block or begins with one: all its channels are then up to date.
  [[nodiscard]] index_t block_end(index_t begin) const {
    index_t const n = W_.cols(), block = std::min(options_.block, n);
    index_t end = begin + block;
    if (options_.order == GptqOrder::natural) {
      if (group_ <= block) end = begin + block / group_ * group_;
      else end = std::min(end, (begin / group_ + 1) * group_);
    }
    return std::min(end, n);
  }

  void fit(index_t row, index_t group, MatrixView<float const> values) {
    Cpu const serial(1);
    auto const quantizer =
        fit_block(serial, values, range_of(values), options_.quantize, "gptq", row, group * group_);
    Q_.scales()(row, group) = quantizer.scale;
    Q_.zero_points()(row, group) = quantizer.zero_point;
  }

  void take_scale(index_t row, index_t group) {
    Q_.scales()(row, group) = nearest_.scales()(row, group);
    Q_.zero_points()(row, group) = nearest_.zero_points()(row, group);
  }

  void take_scales(index_t first, index_t last) {
    for (index_t row = first; row < last; ++row)
      for (index_t group = 0; group < Q_.scales().cols(); ++group) take_scale(row, group);
  }

  /// The group that starts at `begin`, from the row as it has become.
  void fit_current(index_t row, index_t begin, double const* w) {
    if (begin == 0) return take_scale(row, 0);
    index_t const count = std::min(group_, W_.cols() - begin);
    RowMatrix<float> values(1, count);
    for (index_t j = 0; j < count; ++j) values(0, j) = static_cast<float>(w[begin + j]);
    fit(row, begin / group_, values);
  }

  /// Rounds the channels [begin, end) of one row; errors_j = (w_j - q_j) / U_jj.
  void round_row(index_t row, index_t begin, index_t end, double* w, double* errors) {
    Quantizer<float> quantizer;
    for (index_t j = begin; j < end; ++j) {
      index_t const target = channel(j);
      bool const natural = options_.order == GptqOrder::natural;
      if (natural && j % group_ == 0) fit_current(row, j, w);
      if (!natural || j == begin || j % group_ == 0) quantizer = Q_.quantizer(row, target);
      if (options_.dead == DeadChannels::zero && factor_.dead[static_cast<std::size_t>(target)]) w[j] = 0;
      int const level = quantizer.level(static_cast<float>(w[j]));
      Q_.set_level(row, target, level);
      double const* const u = &factor_.U(j, 0);
      double const error = (w[j] - static_cast<double>(quantizer.value(level))) / u[j];
      for (index_t k = j + 1; k < end; ++k) w[k] -= error * u[k];
      errors[j - begin] = error;
    }
  }

  Cpu const& cpu_;
  MatrixView<float const> W_;
  GptqFactor const& factor_;
  GptqOptions const& options_;
  IntMatrix<StorageBits> const& nearest_;
  IntMatrix<StorageBits>& Q_;
  index_t group_;
};

/// Row `row` of `to` <- that of `from`.
template <int StorageBits>
void copy_row(IntMatrix<StorageBits> const& from, index_t row, IntMatrix<StorageBits>& to) {
  std::ranges::copy(from.bytes().row(row), to.bytes().row(row).begin());
  std::ranges::copy(from.scales().row(row), to.scales().row(row).begin());
  std::ranges::copy(from.zero_points().row(row), to.zero_points().row(row).begin());
}

[[nodiscard]] inline GptqReport gptq_report(Hessian const& hessian, GptqFactor const& factor,
                                            GptqOptions const& options) {
  GptqReport report;
  report.damping = factor.damping;
  report.tokens = hessian.tokens();
  for (index_t j = 0; j < hessian.channels(); ++j)
    if (factor.dead[static_cast<std::size_t>(j)]) report.dead_channels.push_back(j);
  report.tokens_needed = hessian.channels() - static_cast<index_t>(report.dead_channels.size());
  if (report.tokens < report.tokens_needed)
    report.warnings.push_back(
        sentence("[gptq] ", hessian.place(), report.tokens, " tokens for ", report.tokens_needed,
                 " live channels: at least ", report.tokens_needed,
                 " are needed to see every direction, several times as many to fit it"));
  if (factor.damping > options.damping)
    report.warnings.push_back(sentence("[gptq] ", hessian.place(), "damping raised from ", options.damping,
                                       " to ", factor.damping, ": with less the Hessian is singular"));
  return report;
}

inline void check_gptq_weight(MatrixView<float const> W, Hessian const& hessian) {
  require(W.cols() == hessian.channels(), "[gptq] ", hessian.place(), "weight of ", W.rows(), " x ", W.cols(),
          ": the Hessian has ", hessian.channels(), " channels");
  for (index_t i = 0; i < W.rows(); ++i)
    for (index_t j = 0; j < W.cols(); ++j)
      require(std::isfinite(W(i, j)), "[gptq] ", hessian.place(), "the weight at row ", i, ", channel ", j,
              " is ", W(i, j), ": only finite values can be quantized");
}

template <int StorageBits>
[[nodiscard]] GptqResult<StorageBits> gptq_factored(Cpu const& cpu, MatrixView<float const> W,
                                                    Hessian const& hessian, GptqFactor const& factor,
                                                    GptqOptions const& options) {
  constexpr index_t rows_per_range = 32;
  IntMatrix<StorageBits> const nearest = quantize<StorageBits>(cpu, W, options.quantize, "gptq");
  IntMatrix<StorageBits> rounded(W.rows(), W.cols(), options.quantize);
  cpu.parallel_for(W.rows(), rows_per_range, [&](index_t first, index_t last) {
    GptqRounding<StorageBits>(cpu, W, factor, options, nearest, rounded).rows(first, last);
  });
  GptqReport report = gptq_report(hessian, factor, options);
  std::vector<double> const before = row_proxy_losses(cpu, hessian, W, dequantize(cpu, nearest)),
                            after = row_proxy_losses(cpu, hessian, W, dequantize(cpu, rounded));
  for (index_t i = 0; i < W.rows(); ++i) {
    double const rtn = before[static_cast<std::size_t>(i)], own = after[static_cast<std::size_t>(i)];
    report.rtn_loss += rtn;
    report.loss += std::min(rtn, own);
    if (!(rtn < own)) continue;
    copy_row(nearest, i, rounded);
    ++report.rtn_rows;
  }
  return {std::move(rounded), std::move(report)};
}

template <int StorageBits>
[[nodiscard]] std::vector<GptqResult<StorageBits>> gptq_all(Cpu const& cpu,
                                                            std::span<MatrixView<float const> const> weights,
                                                            Hessian const& hessian,
                                                            GptqOptions const& options) {
  options.validate();
  for (MatrixView<float const> const& W : weights) check_gptq_weight(W, hessian);
  require(hessian.tokens() >= 1, "[gptq] ", hessian.place(), "0 tokens: at least one is needed, ",
          hessian.channels(), " to see every direction");
  GptqFactor const factor = factor_hessian(cpu, hessian, options.damping, options.order);
  std::vector<GptqResult<StorageBits>> results;
  for (MatrixView<float const> const& W : weights)
    results.push_back(gptq_factored<StorageBits>(cpu, W, hessian, factor, options));
  return results;
}

}  // namespace detail

/// W [out, channels] as packed 4-bit levels whose rounding errors make up for one another under the inputs of
/// `hessian`: W is rounded channel by channel, and with (H + damping)^-1 = U^T U the error of channel j,
/// (w_j - q_j) / U_jj, times row j of U is taken from the channels that follow. Scales are those of
/// `quantize` per row; per group they are fitted when the group's turn comes.
///   Hessian hessian(channels, "model.layers.0.mlp.down_proj");
///   hessian.add(cpu, X);                                          // batch after batch
///   GptqResult<4> found = gptq(cpu, W, hessian, {.quantize = {.granularity = per_group(128)}});
/// A row that rounding to nearest serves better keeps that. The same bytes for any number of threads. Errors:
/// InvalidArgument, with the layer's name, for bad options, shapes that do not fit, no token, or a weight
/// that is not finite; Error(numerics) if no damping up to 1000 makes H positive definite. Too few tokens and
/// a raised damping are warnings of the report. Cost: channels^3 2/3 for the factor, 3 out channels^2 for
/// rounding and report; 24 channels^2 bytes. Source: GPTQ (arXiv 2210.17323).
[[nodiscard]] inline GptqResult<4> gptq(Cpu const& cpu, MatrixView<float const> W, Hessian const& hessian,
                                        GptqOptions const& options = {}) {
  return std::move(detail::gptq_all<4>(cpu, {&W, 1}, hessian, options).front());
}

/// The same with one level per byte, for 2..8 bits.
[[nodiscard]] inline GptqResult<8> gptq_int8(Cpu const& cpu, MatrixView<float const> W,
                                             Hessian const& hessian, GptqOptions const& options = {}) {
  return std::move(detail::gptq_all<8>(cpu, {&W, 1}, hessian, options).front());
}

/// Several weights that read the same inputs: each as `gptq` rounds it, the Hessian factored once.
[[nodiscard]] inline std::vector<GptqResult<4>> gptq_all(Cpu const& cpu,
                                                         std::span<MatrixView<float const> const> weights,
                                                         Hessian const& hessian,
                                                         GptqOptions const& options = {}) {
  return detail::gptq_all<4>(cpu, weights, hessian, options);
}

[[nodiscard]] inline std::vector<GptqResult<8>> gptq_all_int8(
    Cpu const& cpu, std::span<MatrixView<float const> const> weights, Hessian const& hessian,
    GptqOptions const& options = {}) {
  return detail::gptq_all<8>(cpu, weights, hessian, options);
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template std::vector<GptqResult<4>> detail::gptq_all<4>(
    Cpu const&, std::span<MatrixView<float const> const>, Hessian const&, GptqOptions const&);
DARTQUANT_COMPILED template std::vector<GptqResult<8>> detail::gptq_all<8>(
    Cpu const&, std::span<MatrixView<float const> const>, Hessian const&, GptqOptions const&);
}  // namespace dartquant
#endif
