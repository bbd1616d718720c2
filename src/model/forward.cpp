// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/forward.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

#include <dartquant/core/compiled_kernels.hpp>
#include <dartquant/core/error.hpp>

#include "model/decoder_layer.hpp"
#include "model/head.hpp"

namespace dartquant {
namespace {

using detail::fail;
using detail::FoldedWeights;
using detail::require;

/// Rows of the residual stream that pass through a layer at a time: bounds the buffers of a layer.
constexpr index_t rows_at_a_time = 2048;

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

/// The embedding of every token [tokens, hidden]. Each row of the matrix that is used at all is read and
/// turned once, a bounded number at a time.
RowMatrix<float> embed(FoldedWeights const& weights, TokenWindows const& windows) {
  constexpr std::size_t rows_per_block = 1024;
  Model const& model = weights.model();
  std::vector<std::int32_t> used(windows.data(), windows.data() + windows.size());
  std::sort(used.begin(), used.end());
  used.erase(std::unique(used.begin(), used.end()), used.end());
  RowMatrix<float> table(static_cast<index_t>(std::min(rows_per_block, used.size())), model.config().hidden);
  RowMatrix<float> hidden(windows.size(), model.config().hidden);
  for (std::size_t first = 0; first < used.size(); first += rows_per_block) {
    std::size_t const count = std::min(rows_per_block, used.size() - first);
    RowMatrix<double> rows(static_cast<index_t>(count), model.config().hidden);
    for (std::size_t i = 0; i < count; ++i)
      rows.row(static_cast<index_t>(i)) =
          detail::read_rows<double>(model.checkpoint(), model.family().embedding, used[first + i], 1);
    weights.rotate_residual(rows);
    table.topRows(rows.rows()) = rows.cast<float>();
    auto const begin = used.begin() + static_cast<index_t>(first), end = begin + static_cast<index_t>(count);
    for (index_t token = 0; token < windows.size(); ++token) {
      auto const found = std::lower_bound(begin, end, windows.data()[token]);
      if (found != end && *found == windows.data()[token]) hidden.row(token) = table.row(found - begin);
    }
  }
  return hidden;
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

}  // namespace

TokenWindows windows_of(VectorView<std::int32_t const> ids, index_t seqlen, index_t limit) {
  require(seqlen >= 2, "[windows_of] seqlen ", seqlen,
          ": at least 2 are needed, one token of context and one to predict");
  require(limit >= 0, "[windows_of] limit ", limit, ": it must be 0 (all windows) or more");
  index_t count = ids.size() / seqlen;
  require(count >= 1, "[windows_of] the text has ", ids.size(), " tokens, but one window needs ", seqlen,
          "; give a longer text or a smaller seqlen");
  if (limit != 0) count = std::min(count, limit);
  TokenWindows windows(count, seqlen);
  std::copy_n(ids.data(), windows.size(), windows.data());
  return windows;
}

OnlineRotations online_rotations(Model const& model, ForwardOptions const& options) {
  OnlineRotations online;
  auto const block_of = [&](char const* name, index_t channels) {
    index_t const block = detail::online_block(channels);
    if (block != channels)
      online.notes.push_back(
          detail::sentence(name, " acts on ", channels,
                           " channels, and no Hadamard matrix of that order is known: it is "
                           "block-diagonal with blocks of ",
                           block));
    return block;
  };
  if (options.active.r3) online.r3_block = block_of("R3", model.config().head_dim);
  if (options.active.r4 || model.needs_r4()) online.r4_block = block_of("R4", model.config().intermediate);
  return online;
}

RowMatrix<float> hidden_states(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                               ForwardOptions const& options) {
  options.validate();
  ModelConfig const& config = model.config();
  check_windows(config, windows);
  if (options.rotations != nullptr) options.rotations->validate(config);
  FoldedWeights const weights(cpu, model, options.rotations, options.active, detail::gains_of(options));
  RowMatrix<float> hidden = embed(weights, windows);
  index_t const tokens = windows.cols(), group = std::max<index_t>(1, rows_at_a_time / tokens) * tokens;
  bool const bare = options.quantization.arithmetic == Arithmetic::integer && cpu.kernels() == nullptr;
  Cpu const machine = bare ? cpu.with_kernels(compiled_kernels()) : cpu;
  detail::DecoderLayer decoder(machine, model, options, tokens, std::min(group, hidden.rows()));
  for (index_t layer = 0; layer < config.layers; ++layer) {
    detail::LayerWeights const current = detail::load_layer(machine, weights, layer, options.quantization);
    detail::release_pages(model.checkpoint());
    for (index_t first = 0; first < hidden.rows(); first += group)
      decoder.run(current, layer, first,
                  MatrixView<float>(hidden).rows(first, std::min(group, hidden.rows() - first)));
    check_finite(cpu, hidden, layer, tokens);
    if (options.progress) options.progress("layers", layer + 1, config.layers);
  }
  return hidden;
}

RowMatrix<float> logits_of(Cpu const& cpu, Model const& model, MatrixView<float const> hidden,
                           ForwardOptions const& options) {
  options.validate();
  detail::OutputHead const head(cpu, model, options);
  RowMatrix<float> const normed = head.normalize(hidden);
  RowMatrix<float> result(hidden.rows(), model.config().vocabulary);
  for (index_t block = 0; block < head.blocks(); ++block)
    cpu.gemm<float>(1.0f, normed, Op::none, head.weights(block), Op::transpose, 0.0f,
                    MatrixView<float>(result).columns(head.first(block), head.count(block)));
  return result;
}

RowMatrix<float> logits(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                        ForwardOptions const& options) {
  return logits_of(cpu, model, hidden_states(cpu, model, windows, options), options);
}

}  // namespace dartquant
