// SPDX-License-Identifier: Apache-2.0
#include "engines.hpp"

#include <fmt/core.h>

namespace dartquant::program {
namespace {

void add_checkpoint(OutputKind const& kind, std::vector<std::string>& notes) {
  Scheme const scheme = kind.quantization.scheme;
  if (kind.rotations.r4)
    notes.push_back(
        "R4 must run before down_proj: dartquant eval does; transformers, vLLM and llama.cpp do not and "
        "would "
        "compute something else. For vLLM write --format compressed-tensors, or leave r4 out");
  else notes.push_back("transformers, vLLM and converters to GGUF run these weights at full quality");
  if (scheme.activations < 16 || scheme.kv < 16)
    notes.push_back(
        fmt::format("this folder does not tell an engine to round activations or the KV cache ({}); "
                    "dartquant eval --scheme does it",
                    scheme.name()));
  if (kind.rotations.r3 && scheme.kv < 16)
    notes.push_back(
        "R3 runs online in dartquant eval; llama.cpp has a rotation of its own for a quantized cache where "
        "head_dim is a multiple of 64; transformers and vLLM have none");
}

void add_compressed_tensors(OutputKind const& kind, std::vector<std::string>& notes) {
  if (kind.rotations.r4)
    notes.push_back(
        "vLLM runs R4 as transform_config says. transformers reads the folder and leaves transform_config "
        "out: "
        "its results would be wrong");
  else notes.push_back("vLLM and transformers with compressed-tensors run this folder at full quality");
  if (kind.quantization.scheme.activations < 16)
    notes.push_back(
        fmt::format("rounding activations to {} bits needs an engine with such integer kernels: ask "
                    "yours before you rely on it",
                    kind.quantization.scheme.activations));
  notes.push_back("llama.cpp does not read compressed-tensors");
}

}  // namespace

std::vector<std::string> engine_notes(OutputKind const& kind) {
  std::vector<std::string> notes;
  if (kind.format == "checkpoint") add_checkpoint(kind, notes);
  else if (kind.format == "compressed-tensors") add_compressed_tensors(kind, notes);
  else
    notes.push_back(
        "dartquant eval and engines that embed the kernels (examples/engine) run this folder at full "
        "quality, "
        "online rotations included; no other engine reads it");
  return notes;
}

std::string small_group_note(OutputKind const& kind) {
  Quantization const& quantization = kind.quantization;
  bool const weight_only = quantization.scheme.activations == 16 && quantization.scheme.kv == 16;
  bool const small = quantization.weight_group > 0 && quantization.weight_group <= 128;
  bool const rotated = kind.rotations.r1 || kind.rotations.r2 || kind.rotations.r4;
  if (!weight_only || !small || !rotated) return {};
  return fmt::format(
      "only weights are rounded, in groups of {}: rotations gain little or nothing there and may lose "
      "(docs/results.md); compare with --active none",
      quantization.weight_group);
}

}  // namespace dartquant::program
