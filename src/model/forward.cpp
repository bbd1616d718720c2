// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/forward.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

#include <dartquant/core/compiled_kernels.hpp>
#include <dartquant/core/error.hpp>

#include "model/head.hpp"
#include "model/residual_stream.hpp"
#include "model/rounded_layers.hpp"
#include "model/run_layers.hpp"

namespace dartquant {

using detail::require;

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
  if (options.active.r4 || model.needs_r4()) {
    std::vector<index_t> const widths = model.config().down_widths();
    for (std::size_t i = widths.size(); i-- > 0;) online.r4_block = block_of("R4", widths[i]);
  }
  return online;
}

namespace detail {

HiddenStates run_layers(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                        ForwardOptions const& options) {
  options.validate();
  ModelConfig const& config = model.config();
  if (options.rotations != nullptr) options.rotations->validate(config);
  FoldedWeights const folded(cpu, model, options.rotations, options.active, gains_of(options));
  bool const bare = options.quantization.arithmetic == Arithmetic::integer && cpu.kernels() == nullptr;
  Cpu const machine = bare ? cpu.with_kernels(compiled_kernels()) : cpu;
  ResidualStream stream(machine, folded, windows, options);
  RoundedLayers layers(machine, folded, options);
  bool const two_steps = options.quantization.weights().needs_text();
  auto const report = [&](index_t layer, index_t step) {
    if (!options.progress) return;
    if (two_steps) options.progress("gptq", 2 * layer + step, 2 * config.layers);
    else if (step == 2) options.progress("layers", layer + 1, config.layers);
  };
  for (index_t layer = 0; layer < config.layers; ++layer) {
    LayerWeights const current = layers.next();
    report(layer, 1);
    stream.add_attention(current, layer);
    stream.add_feed_forward(current, layer);
    report(layer, 2);
  }
  std::vector<std::string> notes = layers.notes();
  for (std::string& note : stream.notes()) notes.push_back(std::move(note));
  return {std::move(stream.hidden()), std::move(notes)};
}

}  // namespace detail

RowMatrix<float> hidden_states(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                               ForwardOptions const& options) {
  return detail::run_layers(cpu, model, windows, options).hidden;
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
  head.cap(result);
  return result;
}

RowMatrix<float> logits(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                        ForwardOptions const& options) {
  return logits_of(cpu, model, hidden_states(cpu, model, windows, options), options);
}

}  // namespace dartquant
