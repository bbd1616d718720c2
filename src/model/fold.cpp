// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/fold.hpp>

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <dartquant/core/error.hpp>
#include <dartquant/io/atomic_file.hpp>
#include <dartquant/io/checkpoint.hpp>
#include <dartquant/model/forward.hpp>

#include "model/fold_folder.hpp"
#include "model/fold_gguf.hpp"
#include "model/layer_parts.hpp"
#include "model/layout.hpp"
#include "model/ones_direction.hpp"
#include "model/other_tensors.hpp"
#include "model/rounded_layers.hpp"
#include "model/weights.hpp"

namespace dartquant {
namespace {

using detail::FoldedWeights;
using detail::LayerWeights;
using detail::require;
using detail::RoundedLayers;

/// Writes the tensors of one model, one at a time.
class FoldWriter {
 public:
  FoldWriter(Cpu const& cpu, FoldedWeights const& weights, RoundedLayers& rounded, FoldOptions const& options,
             TensorSink& writer)
      : cpu_(cpu),
        weights_(weights),
        rounded_(rounded),
        options_(options),
        writer_(writer),
        others_(weights, writer) {}

  void write() {
    index_t const layers = weights_.model().config().layers;
    others_.write_embeddings();
    for (index_t layer = 0; layer < layers; ++layer) {
      others_.write_norms(layer);
      write_layer(layer);
      detail::release_pages(weights_.model().checkpoint());
      if (options_.progress) options_.progress("fold", layer + 1, layers);
    }
    others_.write_head();
  }

 private:
  void write_layer(index_t layer) {
    LayerWeights rounded;
    if (options_.weights.active()) rounded = rounded_.next();
    std::vector<detail::LayerLinear> const linears = weights_.linears(layer);
    for (std::size_t i = 0; i < linears.size(); ++i) {
      detail::LayerLinear const& linear = linears[i];
      if (!rounded.maps.empty() && linear.quantized()) {
        write_rounded(linear, rounded.maps[i].weight);
      } else {
        weights_.each_block(layer, linear, [&](index_t first, MatrixView<double const> rows) {
          writer_.write_rows(linear.weight, linear.first_row + first, rows);
        });
      }
      RowMatrix<double> const b = weights_.bias(layer, linear);
      if (b.size() != 0) writer_.append(linear.bias, MatrixView<double const>(b));
    }
  }

  void write_rounded(detail::LayerLinear const& linear, MatrixView<float const> W) {
    cpu_.parallel_for(W.rows(), weights_.model().config().head_dim, [&](index_t first, index_t last) {
      writer_.write_rows(linear.weight, linear.first_row + first, W.rows(first, last - first));
    });
  }

  Cpu const& cpu_;
  FoldedWeights const& weights_;
  RoundedLayers& rounded_;
  FoldOptions const& options_;
  TensorSink& writer_;
  detail::OtherTensors others_;
};

/// Only the parts that were folded.
Rotations used_part(Rotations const& rotations, RotationSet set) {
  Rotations used;
  if (set.r1) used.r1 = rotations.r1;
  if (set.r2) used.r2 = rotations.r2;
  used.layers = rotations.layers;
  return used;
}

detail::Manifest manifest_of(Model const& model, FoldOptions const& options, FoldReport const& report) {
  detail::Manifest manifest{.format = options.format == FoldFormat::gguf ? "gguf" : "checkpoint",
                            .rotations = options.rotations,
                            .online = {.r4 = options.rotations.r4 || model.needs_r4()},
                            .weights = options.weights,
                            .r1_orthogonality = report.r1_orthogonality,
                            .r2_orthogonality = report.r2_orthogonality,
                            .options = options.manifest,
                            .notes = report.notes};
  manifest.rotations.r4 = manifest.online.r4;
  return manifest;
}

/// The tensors of the untied model, each of its own dtype or of the one asked for.
std::vector<TensorInfo> output_tensors(Model const& model, FoldOptions const& options) {
  ModelConfig config = model.config();
  config.tied_embeddings = false;
  std::vector<TensorInfo> tensors = expected_tensors(model.family(), config);
  for (TensorInfo& tensor : tensors) {
    bool const untied = tensor.name == model.family().head && model.config().tied_embeddings;
    std::string_view const source = untied ? model.family().embedding : std::string_view(tensor.name);
    Dtype const own = model.checkpoint().tensor(source).dtype;
    tensor.dtype = options.dtype.value_or(block_elements(own) > 1 ? config.dtype : own);
  }
  return tensors;
}

}  // namespace

void FoldOptions::validate() const {
  weights.validate();
  detail::require_text(weights, hessian_windows);
  require(!rotations.r3, "[fold] R3 acts on queries and keys after RoPE and cannot be folded; leave r3 out");
  bool const blocks = dtype == Dtype::q8_0 || dtype == Dtype::q4_0;
  require(!blocks || format == FoldFormat::gguf, "[fold] dtype ", dtype ? to_string(*dtype) : "",
          ": only a GGUF file holds it");
  require(!dtype || *dtype == Dtype::f32 || *dtype == Dtype::f16 || *dtype == Dtype::bf16 || blocks,
          "[fold] dtype ", dtype ? to_string(*dtype) : "",
          ": choose F32, F16 or BF16, or in GGUF also Q8_0 or Q4_0");
  require(format != FoldFormat::gguf || !rotations.r4,
          "[fold] R4 runs online, and no engine that reads GGUF runs it; leave r4 out");
  require(shard_bytes > 0, "[fold] shard_bytes 0: at least 1 is needed");
}

FoldReport fold(Cpu const& cpu, Model const& model, Rotations const& rotations,
                std::filesystem::path const& output, FoldOptions const& options) {
  options.validate();
  rotations.validate(model.config());
  for (std::size_t layer = 0; layer < rotations.layers.size(); ++layer)
    require(
        !rotations.layers[layer].online(), "[fold] layer ", layer,
        " transforms an input or the keys online, which a checkpoint cannot hold; fold a method that only "
        "has R1, R2 and scales, or evaluate the rotations without folding them");
  if (options.rotations.r1) detail::require_ones_kept("[fold]", model, rotations);
  FoldReport report{.r1_orthogonality = options.rotations.r1 ? rotations.r1_orthogonality() : 0,
                    .r2_orthogonality = options.rotations.r2 ? rotations.r2_orthogonality() : 0};
  if (options.rotations.r4) report.notes = online_rotations(model, {.active = {.r4 = true}}).notes;
  Rotations const held = without_shifts(rotations);
  if (std::ranges::any_of(rotations.layers, detail::has_shifts))
    report.notes.push_back(
        "the shifts of inputs and keys stay in rotations.safetensors: the checkpoint computes the same "
        "without them, an engine that subtracts them quantizes better");
  std::unique_ptr<detail::GgufOutput> file;
  std::unique_ptr<CheckpointWriter> folder;
  if (options.format == FoldFormat::gguf) {
    file = std::make_unique<detail::GgufOutput>(model, rotations, output, options, cpu.threads(), report);
  } else {
    detail::check_output_folder(model.folder(), output);
    CheckpointWriter::Options writer_options;
    writer_options.shard_bytes = options.shard_bytes;
    writer_options.threads = cpu.threads();
    folder = std::make_unique<CheckpointWriter>(output, output_tensors(model, options), writer_options);
  }
  std::future<detail::InputFiles> inputs = detail::hash_inputs(model, cpu.threads());
  TensorSink& tensors = file ? file->tensors() : *folder;
  FoldedWeights const weights(cpu, model, &held, options.rotations, NormGains::folded);
  ForwardOptions forward;
  forward.rotations = &held;
  forward.active = options.rotations;
  forward.hessian_windows = options.hessian_windows;
  RoundedLayers rounded(cpu, weights, options.weights, forward);
  FoldWriter(cpu, weights, rounded, options, tensors).write();
  for (std::string& note : rounded.notes()) report.notes.push_back(std::move(note));
  std::string const manifest = manifest_text(inputs.get(), manifest_of(model, options, report));
  if (file) file->finish(manifest, report);
  else
    detail::finish_folder(model, {detail::output_config(model, options.dtype), manifest},
                          used_part(rotations, options.rotations), output, *folder, report);
  return report;
}

}  // namespace dartquant
