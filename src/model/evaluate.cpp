// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include <dartquant/core/error.hpp>
#include <dartquant/model/pipeline.hpp>

#include "model/head.hpp"
#include "model/run_layers.hpp"

namespace dartquant {
namespace {

using detail::fail;
using detail::OutputHead;
using detail::require;

constexpr index_t tile_rows = 256;

/// Sums over the vocabulary of one token, formed block by block: `scale` is the largest logit so far, and
/// every sum is relative to exp(scale).
struct LogSum {
  double scale = -std::numeric_limits<double>::infinity();
  double sum = 0;        ///< of exp(z - scale)
  double weighted = 0;   ///< of exp(z - scale) (z - other)
  index_t largest = -1;  ///< the token with the largest logit

  void rescale(double block_largest, index_t token) {
    if (!(block_largest > scale)) return;
    double const factor = std::exp(scale - block_largest);  // 0 for the first block
    sum *= factor;
    weighted *= factor;
    scale = block_largest;
    largest = token;
  }
  [[nodiscard]] double log() const { return scale + std::log(sum); }
};

struct TokenScore {
  LogSum model, original;
  double target = 0;
  [[nodiscard]] double nll() const { return model.log() - target; }
  [[nodiscard]] double kl() const {
    return std::max(0.0, original.weighted / original.sum - original.log() + model.log());
  }
};

/// What is compared: the inputs of lm_head [tokens, hidden] and the head.
struct Side {
  OutputHead head;
  RowMatrix<float> normed;
};

/// The logits of one block of the vocabulary [tokens of a tile, vocabulary of the block].
RowMatrix<float> tile_logits(Cpu const& cpu, Side const& side, index_t first, index_t rows,
                             RowMatrix<float> const& W) {
  RowMatrix<float> logits(rows, W.rows());
  detail::gemm_tile<float>(cpu, 1.0f, MatrixView<float const>(side.normed).rows(first, rows), Op::none, W,
                           Op::transpose, 0.0f, logits);
  side.head.cap(logits);
  return logits;
}

/// Adds the logits `z` of one token and block, whose vocabulary starts at `first`, to `score`; `reference`
/// may be null.
void add_logits(Eigen::ArrayXd const& z, Eigen::ArrayXd const* reference, index_t first, index_t target,
                TokenScore& score) {
  index_t place = 0;
  double largest = z.maxCoeff(&place);
  score.model.rescale(largest, first + place);
  Eigen::ArrayXd weights = (z - score.model.scale).exp();
  score.model.sum += weights.sum();
  if (target >= first && target < first + z.size()) score.target = z[target - first];
  if (reference == nullptr) return;
  largest = reference->maxCoeff(&place);
  score.original.rescale(largest, first + place);
  weights = (*reference - score.original.scale).exp();
  score.original.sum += weights.sum();
  score.original.weighted += (weights * (*reference - z)).sum();
}

std::vector<TokenScore> score_tokens(Cpu const& cpu, TokenWindows const& windows, Side const& model,
                                     Side const* original, Progress const& progress) {
  index_t const tokens = windows.size(), seqlen = windows.cols();
  std::vector<TokenScore> scores(static_cast<std::size_t>(tokens));
  for (index_t block = 0; block < model.head.blocks(); ++block) {
    RowMatrix<float> const W = model.head.weights(block);
    RowMatrix<float> const W0 = original != nullptr ? original->head.weights(block) : RowMatrix<float>();
    cpu.parallel_for(tokens, tile_rows, [&](index_t first, index_t last) {
      RowMatrix<float> const Z = tile_logits(cpu, model, first, last - first, W);
      RowMatrix<float> Z0;
      if (original != nullptr) Z0 = tile_logits(cpu, *original, first, last - first, W0);
      Eigen::ArrayXd z, z0;
      for (index_t token = first; token < last; ++token) {
        if (token % seqlen == seqlen - 1) continue;  // nothing follows the last token of a window
        z = Z.row(token - first).transpose().cast<double>();
        if (original != nullptr) z0 = Z0.row(token - first).transpose().cast<double>();
        add_logits(z, original != nullptr ? &z0 : nullptr, model.head.first(block), windows.data()[token + 1],
                   scores[static_cast<std::size_t>(token)]);
      }
    });
    if (progress) progress("scores", block + 1, model.head.blocks());
  }
  return scores;
}

/// The value below which a share of sorted values lies, the nearest rank.
double quantile(std::vector<double> const& sorted, double share) {
  auto const rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::clamp<std::size_t>(rank, 1, sorted.size()) - 1];
}

void summarize_kl(std::vector<TokenScore> const& scores, index_t seqlen, Evaluation& result) {
  std::vector<double> kl;
  index_t agreed = 0;
  double sum = 0;
  for (std::size_t token = 0; token < scores.size(); ++token) {
    if (static_cast<index_t>(token) % seqlen == seqlen - 1) continue;
    kl.push_back(scores[token].kl());
    sum += kl.back();
    agreed += scores[token].model.largest == scores[token].original.largest ? 1 : 0;
  }
  std::sort(kl.begin(), kl.end());
  auto const count = static_cast<double>(kl.size());
  result.has_kl = true;
  result.kl = sum / count;
  result.kl_median = quantile(kl, 0.5);
  result.kl_p90 = quantile(kl, 0.9);
  result.kl_p99 = quantile(kl, 0.99);
  result.kl_max = kl.back();
  result.top1_agreement = static_cast<double>(agreed) / count;
}

void summarize_nll(std::vector<TokenScore> const& scores, TokenWindows const& windows, Evaluation& result) {
  index_t const seqlen = windows.cols();
  double total = 0;
  for (index_t window = 0; window < windows.rows(); ++window) {
    double sum = 0;
    for (index_t position = 0; position + 1 < seqlen; ++position)
      sum += scores[static_cast<std::size_t>(window * seqlen + position)].nll();
    total += sum;
    result.window_nll.push_back(sum / static_cast<double>(seqlen - 1));
  }
  result.windows = windows.rows();
  result.tokens_scored = windows.rows() * (seqlen - 1);
  result.nll = total / static_cast<double>(result.tokens_scored);
  result.perplexity = std::exp(result.nll);
  if (!std::isfinite(result.nll))
    fail(Error::Kind::numerics, "[evaluate] the mean negative log-likelihood is ", result.nll,
         ": the logits are not finite");
  double squares = 0;
  for (double const nll : result.window_nll) squares += (nll - result.nll) * (nll - result.nll);
  auto const count = static_cast<double>(windows.rows());
  if (windows.rows() > 1) result.standard_error = std::sqrt(squares / (count - 1) / count);
}

}  // namespace

Baseline baseline_of(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                     Progress const& progress) {
  ForwardOptions options;
  options.progress = progress;
  return {model, windows, hidden_states(cpu, model, windows, options)};
}

Evaluation evaluate(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                    ForwardOptions const& options, Baseline const* baseline) {
  require(windows.cols() >= 2, "[evaluate] windows of ", windows.cols(),
          " tokens: at least 2 are needed, one token of context and one to predict");
  ForwardOptions const plain;
  std::optional<Side> original;
  if (baseline != nullptr) {
    require(baseline->windows.rows() == windows.rows() && baseline->windows.cols() == windows.cols() &&
                baseline->windows == windows,
            "[evaluate] the baseline was taken on ", baseline->windows.rows(), " windows of ",
            baseline->windows.cols(), " tokens that are not these ", windows.rows(), " of ", windows.cols());
    require(baseline->model.config().vocabulary == model.config().vocabulary,
            "[evaluate] the vocabulary has ", model.config().vocabulary, " tokens, that of the baseline ",
            baseline->model.config().vocabulary);
    original.emplace(Side{OutputHead(cpu, baseline->model, plain), {}});
    original->normed = original->head.normalize(baseline->hidden);
  }
  Side side{OutputHead(cpu, model, options), {}};
  detail::HiddenStates const states = detail::run_layers(cpu, model, windows, options);
  side.normed = side.head.normalize(states.hidden);
  std::vector<TokenScore> const scores =
      score_tokens(cpu, windows, side, original ? &*original : nullptr, options.progress);
  Evaluation result;
  summarize_nll(scores, windows, result);
  if (original) summarize_kl(scores, windows.cols(), result);
  result.notes = online_rotations(model, options).notes;
  result.notes.insert(result.notes.end(), states.notes.begin(), states.notes.end());
  return result;
}

ForwardOptions forward_options(ModelCalibration const& calibration, RotationSet active,
                               Quantization const& quantization) {
  ForwardOptions options;
  options.gains = NormGains::folded;
  options.rotations = &calibration.rotations;
  options.active = active;
  if (!traits(calibration.method).rotates()) options.active = {};
  if (quantization.scheme.kv == 16) options.active.r3 = false;
  options.quantization = quantization;
  if (traits(calibration.method).learned_clip && quantization.weights().active())
    options.quantization.weight_rounding = WeightRounding::learned_clip;
  return options;
}

FoldCheck check_fold(Cpu const& cpu, Model const& original, Model const& folded, TokenWindows const& windows,
                     double bound) {
  require(original.config().vocabulary == folded.config().vocabulary, "[check_fold] the vocabulary has ",
          original.config().vocabulary, " tokens, that of the folded model ", folded.config().vocabulary);
  FoldCheck check{.tokens = windows.size()};
  double largest = 0, difference = 0;
  for (index_t window = 0; window < windows.rows(); ++window) {
    TokenWindows const one = windows.middleRows(window, 1);
    RowMatrix<float> const a = logits(cpu, original, one), b = logits(cpu, folded, one);
    largest = std::max<double>(largest, a.cwiseAbs().maxCoeff());
    difference = std::max<double>(difference, (a - b).cwiseAbs().maxCoeff());
  }
  check.max_error = largest > 0 ? difference / largest : difference;
  if (!(check.max_error <= bound))
    fail(Error::Kind::numerics, "[check_fold] the logits of ", folded.folder().string(), " differ by ",
         check.max_error, " relative to the largest from those of the original; at most ", bound,
         " is accepted");
  return check;
}

}  // namespace dartquant
