// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/generate.hpp>

#include <cmath>
#include <vector>

#include <dartquant/core/error.hpp>
#include <dartquant/core/random.hpp>
#include <dartquant/model/pipeline.hpp>

#include "model/head.hpp"
#include "model/residual_stream.hpp"
#include "model/rounded_layers.hpp"

namespace dartquant {
namespace {

using detail::require;

/// A draw from softmax(logits / temperature) by a uniform number of [0, 1); sums in double, in order.
std::int32_t draw(Eigen::Ref<Eigen::RowVectorXf const> const& logits, double temperature, double uniform) {
  index_t likely = 0;
  auto const largest = static_cast<double>(logits.maxCoeff(&likely));
  if (temperature == 0) return static_cast<std::int32_t>(likely);
  auto const weight = [&](index_t token) {
    return std::exp((static_cast<double>(logits[token]) - largest) / temperature);
  };
  double total = 0;
  for (index_t token = 0; token < logits.size(); ++token) total += weight(token);
  double left = uniform * total;
  for (index_t token = 0; token < logits.size(); ++token)
    if ((left -= weight(token)) < 0) return static_cast<std::int32_t>(token);
  return static_cast<std::int32_t>(likely);  // rounding errors of the two sums
}

/// A model with all its layers in memory, and where its windows are.
class Generator {
 public:
  /// All references must outlive this.
  Generator(Cpu const& cpu, Model const& model, index_t windows, index_t tokens, Progress const& progress)
      : cpu_(cpu),
        model_(model),
        folded_(cpu, model, nullptr, {}, NormGains::kept),
        decoder_(cpu, model, forward_, tokens, windows),
        head_(cpu, model, forward_),
        logits_(windows, model.config().vocabulary) {
    ModelConfig const& config = model.config();
    detail::RoundedLayers layers(cpu, folded_, forward_);
    for (index_t layer = 0; layer < config.layers; ++layer) {
      layers_.push_back(layers.next());
      caches_.emplace_back(windows, tokens, config.kv_channels());
      if (progress) progress("load", layer + 1, config.layers);
    }
    for (index_t block = 0; block < head_.blocks(); ++block) head_weights_.push_back(head_.weights(block));
  }

  /// The logits [windows, vocabulary] of what comes after these tokens [windows, 1], at `position`.
  [[nodiscard]] RowMatrix<float> const& next(TokenWindows const& tokens, index_t position) {
    RowMatrix<float> hidden = detail::embed(folded_, tokens, position);
    for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
      decoder_.attend_next(layers_[layer], static_cast<index_t>(layer), caches_[layer], hidden);
      decoder_.feed_forward(layers_[layer], static_cast<index_t>(layer), position, hidden);
    }
    RowMatrix<float> const normed = head_.normalize(hidden);
    for (index_t block = 0; block < head_.blocks(); ++block)
      cpu_.gemm<float>(1.0f, normed, Op::none, head_weights_[static_cast<std::size_t>(block)], Op::transpose,
                       0.0f, MatrixView<float>(logits_).columns(head_.first(block), head_.count(block)));
    head_.cap(logits_);
    if (!logits_.allFinite())
      detail::fail(Error::Kind::numerics, "[generate] ", model_.folder().string(),
                   ": the logits after token ", position,
                   " are not finite: the weights overflow float32 or are damaged");
    return logits_;
  }

 private:
  Cpu const& cpu_;
  Model const& model_;
  ForwardOptions forward_{};
  detail::FoldedWeights folded_;
  detail::DecoderLayer decoder_;
  detail::OutputHead head_;
  std::vector<detail::LayerWeights> layers_;
  std::vector<detail::KeyValueCache> caches_;
  std::vector<RowMatrix<float>> head_weights_;
  RowMatrix<float> logits_;
};

}  // namespace

void GenerateOptions::validate() const {
  require(tokens >= 0, "[generate] ", tokens, " tokens: 0 (the default) or more are possible");
  require(temperature >= 0 && std::isfinite(temperature), "[generate] temperature ", temperature,
          ": it must be 0 or above, and finite");
}

TokenWindows generate(Cpu const& cpu, Model const& model, TokenWindows const& prompts,
                      GenerateOptions const& options) {
  options.validate();
  detail::check_windows(model.config(), prompts);
  index_t const tokens = options.tokens == 0 ? calibration_seqlen(model.config()) : options.tokens;
  index_t const windows = prompts.rows(), given = prompts.cols();
  require(tokens <= model.config().positions, "[generate] windows of ", tokens, " tokens: the model has ",
          model.config().positions, " positions");
  require(given <= tokens, "[generate] ", given, " tokens are given of windows of ", tokens,
          ": give fewer, or longer windows");
  TokenWindows result(windows, tokens);
  result.leftCols(given) = prompts;
  if (given == tokens) return result;
  Generator generator(cpu, model, windows, tokens - 1, options.progress);
  Philox const random(options.seed, 0x4745u);
  for (index_t position = 0; position + 1 < tokens; ++position) {
    RowMatrix<float> const& logits = generator.next(result.col(position), position);
    if (options.progress) options.progress("generate", position + 2, tokens);
    if (position + 1 < given) continue;
    for (index_t window = 0; window < windows; ++window)
      result(window, position + 1) =
          draw(logits.row(window), options.temperature,
               random.uniform(static_cast<std::uint64_t>(window * tokens + position)));
  }
  return result;
}

TokenWindows random_prompts(index_t vocabulary, index_t windows, std::uint64_t seed) {
  require(vocabulary >= 1, "[random_prompts] a vocabulary of ", vocabulary, ": at least one token is needed");
  require(windows >= 1, "[random_prompts] ", windows, " windows: at least one is needed");
  TokenWindows prompts(windows, 1);
  Philox const random(seed, 0x5052u);
  for (index_t window = 0; window < windows; ++window)
    prompts(window, 0) = static_cast<std::int32_t>(
        random.below(static_cast<std::uint64_t>(window), static_cast<std::uint64_t>(vocabulary)));
  return prompts;
}

}  // namespace dartquant
