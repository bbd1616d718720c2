// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include <dartquant/core/cpu.hpp>
#include <dartquant/model/architecture.hpp>
#include <dartquant/model/fold.hpp>
#include <dartquant/model/forward.hpp>
#include <dartquant/model/rotations.hpp>

namespace dartquant {

/// How a folder holds packed weights. compressed_tensors: `pack-quantized` of the compressed-tensors package,
/// which vLLM reads. native: the compute layout of kernels.h, which an engine multiplies from the mapped
/// file.
enum class FolderFormat { compressed_tensors, native };
/// "compressed-tensors" "native".
[[nodiscard]] std::string_view name_of(FolderFormat format);

/// What `write_quantized` writes. Weights are rounded as `quantization.weights()` says; bits and symmetry of
/// activations and KV cache are written down for the engine, which rounds them while it runs.
struct QuantizedFolderOptions {
  FolderFormat format = FolderFormat::native;
  RotationSet rotations{.r1 = true, .r2 = true};  ///< r1, r2 are folded; r3 and r4 run online
  /// Channels of a block of R4; 0: for native as in the forward pass (online_rotations), for
  /// compressed_tensors the largest power of two up to 128 that divides the channels.
  index_t r4_block = 0;
  Quantization quantization{.scheme = {.weights = 4}};
  std::optional<Dtype> dtype{};  ///< of embedding, norms, lm_head (and scales); absent: the checkpoint's own
  TokenWindows const* hessian_windows = nullptr;  ///< where the rounding needs text; must outlive the call
  std::uint64_t shard_bytes = 5'000'000'000;
  std::map<std::string, std::string> manifest{};  ///< copied into dartquant.json
  Progress progress{};

  /// Errors: InvalidArgument for bits, groups or symmetry that the format cannot hold.
  void validate() const;
};

/// What a folder of packed weights says about itself.
struct FolderQuantization {
  FolderFormat format = FolderFormat::native;
  Quantization quantization{};  ///< weights as packed; activations and KV cache as they are meant to run
  RotationSet online{};         ///< R3 and R4, where they run online
  bool sums = false;            ///< native: packed with sums of levels
  Rotations transforms{};       ///< `layers`: what runs online, R4 among it; nothing is left to fold
};

/// The rotations as `write_quantized` uses them: with R4 as a transform of the down_proj input of every layer
/// that has none of its own, and, for compressed_tensors, without shifts. Errors: InvalidArgument where a
/// layer has what the format cannot hold, or no block of R4 fits.
[[nodiscard]] Rotations rotations_in_folder(Rotations const& rotations, ModelConfig const& config,
                                            QuantizedFolderOptions const& options);

/// Folds, rounds and packs the linear layers, and writes a folder that Model::open reads with Weights::any.
///   compressed_tensors, per linear map: weight_packed I32, weight_scale [out, groups], weight_shape I64 [2],
///   weight_zero_point I32 where asymmetric; quantization_config in config.json, with transform_config where
///   R4 runs online. Scales are rounded to `dtype`. 4 or 8 bits; activations symmetric.
///   native, per linear map: `weight_int4` I64 [bytes / 8], layout id dartquant_layout, at an offset that is
///   a multiple of 64 bytes in the file; biases F32; what runs online in rotations.safetensors. 2 to 4 bits.
/// Everything else as fold: embeddings untied, gains 1 (or 1 / scale), dartquant.json, atomic. Memory: one
/// layer in float, its largest tensor in FP64 twice and packed. Errors: as fold.
[[nodiscard]] FoldReport write_quantized(Cpu const& cpu, Model const& model, Rotations const& rotations,
                                         std::filesystem::path const& output,
                                         QuantizedFolderOptions const& options = {});

}  // namespace dartquant
