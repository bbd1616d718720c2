// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/model/architecture.hpp>
#include <dartquant/model/rotations.hpp>
#include <dartquant/model/weight_quantization.hpp>

namespace dartquant {

/// Called between steps of a long job: `done` of `total` steps of `stage` are finished. `stage` is one of a
/// few fixed words ("capture", "calibrate R1", "layers", "scores", "fold", ...).
using Progress = std::function<void(std::string_view stage, index_t done, index_t total)>;

/// Where the gains of the norms act. kept: the norms multiply by them, as the checkpoint says. folded: they
/// are multiplied into the columns of the weights that the norm feeds, in FP64, and the norms' gains
/// become 1.
enum class NormGains { kept, folded };

/// What is written: a folder that Hugging Face readers load, or one GGUF file for llama.cpp.
enum class FoldFormat { hugging_face, gguf };

/// What `fold` writes.
struct FoldOptions {
  FoldFormat format = FoldFormat::hugging_face;
  RotationSet rotations{.r1 = true, .r2 = true};  ///< r3 is refused (nothing to fold); r4 only when asked for
  /// Of the written weights; absent: the checkpoint's own. GGUF also takes q8_0 and q4_0 for matrices, see
  /// fold.
  std::optional<Dtype> dtype{};
  WeightQuantization weights{};                   ///< fake quantization of the linear layers; off by default
  TokenWindows const* hessian_windows = nullptr;  ///< where the rounding needs text; must outlive the call
  std::uint64_t shard_bytes = 5'000'000'000;      ///< limit of one file's data
  std::map<std::string, std::string> manifest{};  ///< copied into dartquant.json: method, seed, data...
  Progress progress{};

  /// Errors: InvalidArgument.
  void validate() const;
};

/// What `fold` did.
struct FoldReport {
  std::uint64_t bytes_written = 0;
  std::vector<std::filesystem::path> files{};  ///< in the order in which they were put in place
  double r1_orthogonality = 0, r2_orthogonality = 0;
  std::vector<std::string> notes{};  ///< sentences, such as the block size taken for R4, and on the rounding
};

/// Folds the norms' gains, R1 and R2 (and R4 when asked for) into the weights and writes a checkpoint that
/// any Hugging Face reader runs without change: gains are 1, embeddings untied (lm_head.weight written,
/// tie_word_embeddings false), all other keys of config.json and the tokenizer files as found. With R4 the
/// reader must run the online Hadamard transform; `Model` does.
///
///   embedding <- E R1; q, k, v, gate, up, lm_head <- W diag(gain) R1; o, down <- R1^T W; v rows <- R2^T W_v,
///   o columns <- W_o R2 per head; b_v <- R2^T b_v; b_o, b_down <- R1^T b. All in FP64, one rounding at the
///   end.
///
/// Scales of `rotations.layers` are folded too: a norm then keeps the gain 1 / scale, see LayerTransforms.
/// Layers with a transform or key rotation that runs online are refused.
///
/// The folder also gets dartquant.json (version, options, checksums of the input, orthogonality) and
/// rotations.safetensors. Everything is written under temporary names and verified, then renamed, config.json
/// last: a folder without it is incomplete.
///
/// A GGUF file (`options.format`) holds the same weights under llama.cpp's names, rows of Q and K in its
/// order, output.weight, and the tokenizer where GGUF can express it (a note says so where not). Its keys
/// dartquant.version, dartquant.folded ("r1,r2"), dartquant.r1.sha256 (of R1's FP64 bytes, row-major) and
/// dartquant.seed and dartquant.calib.sha256 where the manifest has them take the place of dartquant.json.
/// Vectors are F32; with q8_0 or q4_0, matrices whose rows are no whole blocks are F16, and with q4_0 the
/// embedding and output.weight are Q8_0. R4 is refused: no engine that reads GGUF runs it.
///
/// `output` must not exist, be empty (but for temporary files), or
/// hold an earlier output, known by its dartquant.json or dartquant.version, which is replaced; anything else
/// is refused, as is the input. Memory: the largest tensor of a layer in FP64, twice; with rounded weights
/// also one layer, and where the rounding needs text what hidden_states says of it. Errors: InvalidArgument
/// (options), Error(io) (the output is the input or holds other files, disk full, read-only), Error(numerics)
/// (a weight overflows the dtype).
[[nodiscard]] FoldReport fold(Cpu const& cpu, Model const& model, Rotations const& rotations,
                              std::filesystem::path const& output, FoldOptions const& options = {});

}  // namespace dartquant
