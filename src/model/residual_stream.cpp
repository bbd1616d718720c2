// SPDX-License-Identifier: Apache-2.0
#include "model/residual_stream.hpp"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include <dartquant/core/error.hpp>

namespace dartquant::detail {
namespace {

/// Rows of the embedding, turned, for tokens sorted and each once.
RowMatrix<float> embedding_of(FoldedWeights const& weights, std::span<std::int32_t const> tokens) {
  ModelConfig const& config = weights.model().config();
  RowMatrix<double> rows(static_cast<index_t>(tokens.size()), config.hidden);
  for (std::size_t i = 0; i < tokens.size(); ++i)
    rows.row(static_cast<index_t>(i)) =
        read_rows<double>(weights.model().checkpoint(), weights.model().family().embedding, tokens[i], 1);
  weights.turn_written(rows);
  return (config.embedding_scale * rows).cast<float>();
}

void check_finite(Cpu const& cpu, RowMatrix<float> const& hidden, index_t layer, index_t tokens) {
  std::vector<char> finite(static_cast<std::size_t>((hidden.rows() + 255) / 256));
  cpu.parallel_for(hidden.rows(), 256, [&](index_t first, index_t last) {
    finite[static_cast<std::size_t>(first / 256)] = hidden.middleRows(first, last - first).allFinite();
  });
  auto const bad = std::find(finite.begin(), finite.end(), char{0}) - finite.begin();
  if (bad != static_cast<index_t>(finite.size()))
    fail(Error::Kind::numerics, "[hidden_states] the output of layer ", layer, " is not finite near window ",
         bad * 256 / tokens, ": the weights overflow float32 or are damaged");
}

TokenWindows const& checked(ModelConfig const& config, TokenWindows const& windows) {
  check_windows(config, windows);
  return windows;
}

}  // namespace

void check_windows(ModelConfig const& config, TokenWindows const& windows) {
  require(windows.rows() >= 1 && windows.cols() >= 1, "[hidden_states] ", windows.rows(), " windows of ",
          windows.cols(), " tokens: at least one token is needed");
  require(windows.cols() <= config.positions, "[hidden_states] windows of ", windows.cols(),
          " tokens: the model has ", config.positions, " positions; use a shorter seqlen");
  for (index_t row = 0; row < windows.rows(); ++row)
    for (index_t col = 0; col < windows.cols(); ++col)
      require(windows(row, col) >= 0 && windows(row, col) < config.vocabulary, "[hidden_states] token id ",
              windows(row, col), " at position ", col, " of window ", row, ": the vocabulary has ",
              config.vocabulary, " tokens; was the text encoded by this model's tokenizer?");
}

RowMatrix<float> embed(FoldedWeights const& weights, TokenWindows const& windows, index_t first_position) {
  constexpr std::size_t rows_per_block = 1024;
  Model const& model = weights.model();
  std::vector<std::int32_t> used(windows.data(), windows.data() + windows.size());
  std::sort(used.begin(), used.end());
  used.erase(std::unique(used.begin(), used.end()), used.end());
  RowMatrix<float> hidden(windows.size(), model.config().hidden);
  for (std::size_t first = 0; first < used.size(); first += rows_per_block) {
    std::span<std::int32_t const> const block(used.data() + first,
                                              std::min(rows_per_block, used.size() - first));
    RowMatrix<float> const table = embedding_of(weights, block);
    for (index_t token = 0; token < windows.size(); ++token) {
      auto const found = std::lower_bound(block.begin(), block.end(), windows.data()[token]);
      if (found != block.end() && *found == windows.data()[token])
        hidden.row(token) = table.row(found - block.begin());
    }
  }
  if (model.family().positions.empty()) return hidden;
  RowMatrix<float> const positions =
      weights.position_rows(2 + first_position, windows.cols()).cast<float>();  // OPT starts at 2
  for (index_t window = 0; window < windows.rows(); ++window)
    hidden.middleRows(window * windows.cols(), windows.cols()) += positions;
  return hidden;
}

index_t rows_of_group(Cpu const& cpu, index_t tokens) {
  index_t const rows = cpu.products() == nullptr ? 2048 : 8192;
  return std::max<index_t>(1, rows / tokens) * tokens;
}

ResidualStream::ResidualStream(Cpu const& cpu, FoldedWeights const& folded, TokenWindows const& windows,
                               ForwardOptions options)
    : cpu_(cpu),
      options_(std::move(options)),
      tokens_(checked(folded.model().config(), windows).cols()),
      group_(std::min(rows_of_group(cpu, tokens_), windows.size())),
      hidden_(embed(folded, windows)),
      decoder_(cpu, folded.model(), options_, tokens_, group_) {}

template <class Body>
void ResidualStream::for_groups(Body const& body) {
  for (index_t first = 0; first < hidden_.rows(); first += group_)
    body(first, MatrixView<float>(hidden_).rows(first, std::min(group_, hidden_.rows() - first)));
}

void ResidualStream::observe_until(Site last, LayerWeights const& weights, index_t layer,
                                   BlockObserver const& observer) {
  for_groups([&](index_t first, MatrixView<float> rows) {
    decoder_.observe_until(last, weights, layer, first, rows, observer);
  });
}

void ResidualStream::add_attention(LayerWeights const& weights, index_t layer) {
  for_groups([&](index_t first, MatrixView<float> rows) { decoder_.attend(weights, layer, first, rows); });
}

void ResidualStream::add_feed_forward(LayerWeights const& weights, index_t layer) {
  for_groups(
      [&](index_t first, MatrixView<float> rows) { decoder_.feed_forward(weights, layer, first, rows); });
  check_finite(cpu_, hidden_, layer, tokens_);
}

std::vector<std::string> ResidualStream::notes() const {
  index_t unseen = 0, layers = 0;
  for (std::vector<index_t> const& layer : decoder_.expert_tokens()) {
    auto const none = std::ranges::count(layer, index_t{0});
    unseen += none;
    layers += none > 0 ? 1 : 0;
  }
  if (unseen == 0) return {};
  return {sentence(unseen, " experts in ", layers, " layers were given no token of this text")};
}

}  // namespace dartquant::detail
