// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/fold.hpp>

#include <algorithm>
#include <string>
#include <string_view>

#include <dartquant/core/error.hpp>
#include <dartquant/io/atomic_file.hpp>
#include <dartquant/io/checkpoint.hpp>
#include <dartquant/model/forward.hpp>

#include "model/fold_folder.hpp"
#include "model/layer_parts.hpp"
#include "model/layout.hpp"
#include "model/ones_direction.hpp"
#include "model/rounded_layers.hpp"
#include "model/weights.hpp"

namespace dartquant {
namespace {

using detail::FoldedWeights;
using detail::LayerWeights;
using detail::NormWeights;
using detail::require;
using detail::RoundedLayers;
using detail::tensor_name;

constexpr index_t rows_per_block = 1024;

/// Writes the tensors of one model, one at a time.
class FoldWriter {
 public:
  FoldWriter(FoldedWeights const& weights, RoundedLayers& rounded, FoldOptions const& options,
             CheckpointWriter& writer)
      : weights_(weights),
        rounded_(rounded),
        options_(options),
        config_(weights.model().config()),
        family_(weights.model().family()),
        writer_(writer) {}

  void write() {
    write_blocks(std::string(family_.embedding), config_.vocabulary,
                 [&](index_t first, index_t count) { return weights_.embedding_rows(first, count); });
    if (!family_.positions.empty())
      write_blocks(std::string(family_.positions), config_.positions + 2,
                   [&](index_t first, index_t count) { return weights_.position_rows(first, count); });
    for (index_t layer = 0; layer < config_.layers; ++layer) {
      write_layer(layer);
      detail::release_pages(weights_.model().checkpoint());
      if (options_.progress) options_.progress("fold", layer + 1, config_.layers);
    }
    write_norm(std::string(family_.final_norm), weights_.final_norm(), config_.hidden);
    write_blocks(std::string(family_.head), config_.vocabulary,
                 [&](index_t first, index_t count) { return weights_.head_rows(first, count); });
  }

 private:
  template <class Rows>
  void write_blocks(std::string const& name, index_t total, Rows const& rows) {
    for (index_t first = 0; first < total; first += rows_per_block) {
      RowMatrix<double> const block = rows(first, std::min(rows_per_block, total - first));
      writer_.append(name, MatrixView<double const>(block));
    }
  }

  /// An empty gain is 1, an empty bias 0; a gain 1 + w is stored as w.
  void write_norm(std::string const& name, NormWeights const& norm, index_t channels) {
    RowMatrix<float> gain = norm.gain;
    if (gain.size() == 0) gain.setOnes(1, channels);
    if (family_.norm == NormKind::rms_offset) gain.array() -= 1;
    writer_.append(name, MatrixView<float const>(gain));
    if (family_.norm != NormKind::layer) return;
    RowMatrix<float> bias = norm.bias;
    if (bias.size() == 0) bias.setZero(1, channels);
    writer_.append(detail::bias_beside(name), MatrixView<float const>(bias));
  }

  void write_norms(index_t layer) {
    for (detail::LayerNorm const& norm : detail::norms_of(family_, config_)) {
      std::string const name = tensor_name(family_, layer, norm.name, ".weight");
      if (norm.name == family_.attention_norm)
        write_norm(name, weights_.attention_norm(layer), norm.channels);
      else if (norm.name == family_.mlp_norm) write_norm(name, weights_.mlp_norm(layer), norm.channels);
      else {
        RowMatrix<double> const kept = weights_.model().checkpoint().read_matrix<double>(name);
        writer_.append(name, MatrixView<double const>(kept));
      }
    }
  }

  void write_layer(index_t layer) {
    write_norms(layer);
    LayerWeights rounded;
    if (options_.weights.active()) rounded = rounded_.next();
    std::vector<detail::LayerLinear> const linears = weights_.linears(layer);
    for (std::size_t i = 0; i < linears.size(); ++i) {
      detail::LayerLinear const& linear = linears[i];
      if (!rounded.maps.empty() && linear.quantized()) {
        writer_.append(linear.weight, MatrixView<float const>(rounded.maps[i].weight));
      } else {
        RowMatrix<double> const exact = weights_.weight(layer, linear);
        writer_.append(linear.weight, MatrixView<double const>(exact));
      }
      RowMatrix<double> const b = weights_.bias(layer, linear);
      if (b.size() != 0) writer_.append(linear.bias, MatrixView<double const>(b));
    }
  }

  FoldedWeights const& weights_;
  RoundedLayers& rounded_;
  FoldOptions const& options_;
  ModelConfig const& config_;
  Family const& family_;
  CheckpointWriter& writer_;
};

/// The tensors of the untied model, each of its own dtype or of the one asked for.
std::vector<TensorInfo> output_tensors(Model const& model, FoldOptions const& options) {
  ModelConfig config = model.config();
  config.tied_embeddings = false;
  std::vector<TensorInfo> tensors = expected_tensors(model.family(), config);
  for (TensorInfo& tensor : tensors) {
    bool const untied = tensor.name == model.family().head && model.config().tied_embeddings;
    std::string_view const source = untied ? model.family().embedding : std::string_view(tensor.name);
    tensor.dtype = options.dtype.value_or(model.checkpoint().tensor(source).dtype);
  }
  return tensors;
}

}  // namespace

void FoldOptions::validate() const {
  weights.validate();
  detail::require_text(weights, hessian_windows);
  require(!rotations.r3, "[fold] R3 acts on queries and keys after RoPE and cannot be folded; leave r3 out");
  require(!dtype || *dtype == Dtype::f32 || *dtype == Dtype::f16 || *dtype == Dtype::bf16, "[fold] dtype ",
          dtype ? to_string(*dtype) : "", ": choose F32, F16 or BF16");
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
  if (options.rotations.r1 && rotations.r1.size() != 0 && model.family().norm == NormKind::layer)
    require(detail::keeps_ones(rotations.r1), "[fold] R1 turns the direction of equal channels by ",
            detail::ones_error(rotations.r1), ", which the LayerNorms of ", model.config().architecture,
            " take out: rotations of this model must come from `dartquant calibrate`, which keeps it");
  detail::check_output_folder(model.folder(), output);
  FoldReport report{.r1_orthogonality = options.rotations.r1 ? rotations.r1_orthogonality() : 0,
                    .r2_orthogonality = options.rotations.r2 ? rotations.r2_orthogonality() : 0};
  if (options.rotations.r4) report.notes = online_rotations(model, {.active = {.r4 = true}}).notes;
  Rotations const held = without_shifts(rotations);
  if (std::ranges::any_of(rotations.layers, detail::has_shifts))
    report.notes.push_back(
        "the shifts of inputs and keys stay in rotations.safetensors: the checkpoint computes the same "
        "without them, an engine that subtracts them quantizes better");
  CheckpointWriter::Options writer_options;
  writer_options.shard_bytes = options.shard_bytes;
  CheckpointWriter writer(output, output_tensors(model, options), writer_options);
  FoldedWeights const weights(cpu, model, &held, options.rotations, NormGains::folded);
  ForwardOptions forward;
  forward.rotations = &held;
  forward.active = options.rotations;
  forward.hessian_windows = options.hessian_windows;
  RoundedLayers rounded(cpu, weights, options.weights, forward);
  FoldWriter(weights, rounded, options, writer).write();
  for (std::string& note : rounded.notes()) report.notes.push_back(std::move(note));
  detail::finish_folder(model, rotations, output, options, writer, report);
  return report;
}

}  // namespace dartquant
