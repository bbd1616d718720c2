// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <dartquant/core/cpu.hpp>
#include <dartquant/model/forward.hpp>

namespace dartquant {

/// How a model continues text.
struct GenerateOptions {
  index_t tokens = 0;      ///< per window, the given ones included; 0: min(2048, positions)
  double temperature = 1;  ///< of the distribution that a token is drawn from; 0: always the most likely
  std::uint64_t seed = 0;
  Progress progress{};  ///< stages "load" (layers) and "generate" (tokens of a window)

  /// Errors: InvalidArgument.
  void validate() const;
};

/// Windows [windows, tokens] that begin with `prompts` [windows, given] and go on with tokens drawn from
/// softmax(logits / temperature): text that the model writes itself. As calibration data it needs no text at
/// hand and hardly depends on where it starts (docs/results.md, "Other calibration text"; the idea is that of
/// Liu et al. 2023, arXiv 2305.17888, and of Williams et al. 2024, arXiv 2410.17170). An end of text is a
/// token like others: what follows it is a new one.
///   All layers are in memory, float32, with keys and values of all windows: 4 bytes of each parameter and
/// 8 layers windows tokens kv_channels. The same prompts, seed and options give the same tokens for any
/// number of threads. Cost: one pass of `windows` tokens over all weights per token of a window. Errors:
/// InvalidArgument (options; prompts that are empty, longer than `tokens` or outside the vocabulary),
/// Error(format) naming a weight that is not finite, Error(numerics) where logits are not finite.
[[nodiscard]] TokenWindows generate(Cpu const& cpu, Model const& model, TokenWindows const& prompts,
                                    GenerateOptions const& options = {});

/// One token each, uniform over [0, vocabulary): prompts where no text is at hand. `vocabulary` is best that
/// of the tokenizer, where the model's is padded with rows that were never trained. Errors: InvalidArgument.
[[nodiscard]] TokenWindows random_prompts(index_t vocabulary, index_t windows, std::uint64_t seed);

}  // namespace dartquant
