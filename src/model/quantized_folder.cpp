// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/quantized_folder.hpp>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include <dartquant/core/error.hpp>
#include <dartquant/io/checkpoint.hpp>

#include "model/fold_folder.hpp"
#include "model/layer_parts.hpp"
#include "model/layout.hpp"
#include "model/packed_tensors.hpp"
#include "model/rounded_layers.hpp"
#include "model/weights.hpp"

namespace dartquant {
namespace {

using detail::FoldedWeights;
using detail::LayerWeights;
using detail::PackedMap;
using detail::require;
using detail::tensor_name;

constexpr index_t rows_per_block = 1024;

/// The largest power of two, at most 128, that divides the channels: what compressed-tensors and vLLM run.
index_t power_of_two_block(index_t channels) { return std::min<index_t>(128, channels & -channels); }

PackedMap map_of(Model const& model, index_t layer, LinearRule const& rule) {
  return {tensor_name(model.family(), layer, rule.name, "."), detail::extent_of(model.config(), rule.outputs),
          detail::extent_of(model.config(), rule.inputs)};
}

/// What runs online of a layer whose weights are folded: transforms, and shifts in the basis they act in.
LayerTransforms online_part(FoldedWeights const& weights, index_t layer) {
  LayerTransforms const& parts = weights.transforms(layer);
  LayerTransforms online;
  for (detail::InputPart const& part : detail::input_parts)
    if (detail::has_steps(parts.*part.transform)) online.*part.transform = parts.*part.transform;
  online.key_rotation = parts.key_rotation;
  auto const values = [](RowMatrix<float> const& row) {
    return std::vector<double>(row.data(), row.data() + row.size());
  };
  online.attention_shift = values(weights.attention_shift(layer));
  online.mlp_shift = values(weights.mlp_shift(layer));
  online.key_shift = values(weights.key_shift(layer));
  return online;
}

/// Writes the tensors of one model, one layer in memory at a time.
class QuantizedWriter {
 public:
  QuantizedWriter(Cpu const& cpu, Model const& model, Rotations const& held, FolderQuantization const& folder,
                  QuantizedFolderOptions const& options)
      : cpu_(cpu),
        model_(model),
        family_(model.family()),
        folder_(folder),
        options_(options),
        forward_(forward_options(held, options)),
        weights_(cpu, model, &held, forward_.active, NormGains::folded),
        rounded_(cpu, weights_, options.quantization.weights(), forward_,
                 [this](Linear linear, detail::Levels levels) {
                   levels_[static_cast<std::size_t>(linear)] = std::move(levels);
                 }) {}
  QuantizedWriter(QuantizedWriter const&) = delete;
  QuantizedWriter& operator=(QuantizedWriter const&) = delete;

  /// Every tensor, in the order of use.
  [[nodiscard]] std::vector<TensorInfo> tensors() const {
    ModelConfig untied = model_.config();
    untied.tied_embeddings = false;
    std::vector<TensorInfo> infos;
    for (TensorInfo& info : expected_tensors(family_, untied)) {
      info.dtype = dtype_of(info.name);
      if (!is_linear(info.name)) infos.push_back(std::move(info));
    }
    for (index_t layer = 0; layer < untied.layers; ++layer)
      for (LinearRule const& rule : family_.linears) {
        PackedMap const map = map_of(model_, layer, rule);
        for (TensorInfo& info : packed_infos(map)) infos.push_back(std::move(info));
        if (shifted(layer, rule) || detail::has_bias(model_.config(), rule))
          infos.push_back({map.name + "bias", bias_dtype(), {map.out}});
      }
    return infos;
  }

  void write(CheckpointWriter& writer) {
    ModelConfig const& config = model_.config();
    write_blocks(writer, std::string(family_.embedding),
                 [&](index_t first, index_t count) { return weights_.embedding_rows(first, count); });
    for (index_t layer = 0; layer < config.layers; ++layer) {
      write_layer(writer, layer);
      detail::release_pages(model_.checkpoint());
      if (options_.progress) options_.progress("quantize", layer + 1, config.layers);
    }
    write_gain(writer, std::string(family_.final_norm), weights_.final_gain());
    write_blocks(writer, std::string(family_.head),
                 [&](index_t first, index_t count) { return weights_.head_rows(first, count); });
  }

  [[nodiscard]] std::vector<std::string> notes() const { return rounded_.notes(); }
  [[nodiscard]] FoldedWeights const& weights() const { return weights_; }

 private:
  static ForwardOptions forward_options(Rotations const& held, QuantizedFolderOptions const& options) {
    ForwardOptions forward;
    forward.rotations = &held;
    forward.active = {.r1 = options.rotations.r1,
                      .r2 = options.rotations.r2};  // R4 is a transform of a layer
    forward.hessian_windows = options.hessian_windows;
    return forward;
  }

  [[nodiscard]] bool shifted(index_t layer, LinearRule const& rule) const {
    LayerTransforms const& parts = weights_.transforms(layer);
    bool const mlp = rule.linear == Linear::gate_proj || rule.linear == Linear::up_proj;
    return rule.input_side == Acts::r1 && !(mlp ? parts.mlp_shift : parts.attention_shift).empty();
  }

  /// Biases of 16 bits would undo what a shift is for.
  [[nodiscard]] Dtype bias_dtype() const {
    return options_.format == FolderFormat::native ? Dtype::f32 : scale_dtype();
  }
  [[nodiscard]] Dtype scale_dtype() const {
    return options_.dtype.value_or(dtype_of(std::string(family_.embedding)));
  }
  [[nodiscard]] Dtype dtype_of(std::string const& name) const {
    bool const untied = name == family_.head && model_.config().tied_embeddings;
    return options_.dtype.value_or(
        model_.checkpoint().tensor(untied ? family_.embedding : std::string_view(name)).dtype);
  }
  /// Weights and biases of linear maps, which are declared apart.
  [[nodiscard]] bool is_linear(std::string const& name) const {
    return name.starts_with(family_.layer_prefix) &&
           std::ranges::any_of(family_.linears, [&](LinearRule const& rule) {
             return name.ends_with(detail::sentence('.', rule.name, ".weight")) ||
                    name.ends_with(detail::sentence('.', rule.name, ".bias"));
           });
  }
  [[nodiscard]] std::vector<TensorInfo> packed_infos(PackedMap const& map) const {
    return options_.format == FolderFormat::native
               ? detail::native::tensors(map, folder_)
               : detail::compressed_tensors::tensors(map, folder_, scale_dtype());
  }

  template <class Rows>
  void write_blocks(CheckpointWriter& writer, std::string const& name, Rows const& rows) const {
    index_t const vocabulary = model_.config().vocabulary;
    for (index_t first = 0; first < vocabulary; first += rows_per_block) {
      RowMatrix<double> const block = rows(first, std::min(rows_per_block, vocabulary - first));
      writer.append(name, MatrixView<double const>(block));
    }
  }
  /// An empty gain is 1.
  void write_gain(CheckpointWriter& writer, std::string const& name, RowMatrix<float> const& gain) const {
    RowMatrix<float> const ones = RowMatrix<float>::Ones(1, model_.config().hidden);
    writer.append(name, MatrixView<float const>(gain.size() == 0 ? ones : gain));
  }
  void write_layer(CheckpointWriter& writer, index_t layer) {
    LayerWeights const rounded = rounded_.next();
    write_gain(writer, tensor_name(family_, layer, family_.attention_norm, ".weight"),
               rounded.attention_gain);
    write_gain(writer, tensor_name(family_, layer, family_.mlp_norm, ".weight"), rounded.mlp_gain);
    for (LinearRule const& rule : family_.linears) {
      auto const index = static_cast<std::size_t>(rule.linear);
      PackedMap const map = map_of(model_, layer, rule);
      detail::Levels const levels = std::exchange(levels_[index], {});
      if (options_.format == FolderFormat::native) detail::native::write(cpu_, map, levels, folder_, writer);
      else detail::compressed_tensors::write(cpu_, map, levels, scale_dtype(), writer);
      if (rounded.bias[index].size() != 0)
        writer.append(map.name + "bias", MatrixView<float const>(rounded.bias[index]));
    }
  }

  Cpu const& cpu_;
  Model const& model_;
  Family const& family_;
  FolderQuantization const& folder_;
  QuantizedFolderOptions const& options_;
  ForwardOptions forward_;
  FoldedWeights weights_;
  std::array<detail::Levels, linear_count> levels_;
  detail::RoundedLayers rounded_;
};

detail::Manifest manifest_of(QuantizedFolderOptions const& options, FoldReport const& report) {
  return {.format = std::string(name_of(options.format)),
          .rotations = options.rotations,
          .online = {.r3 = options.rotations.r3, .r4 = options.rotations.r4},
          .weights = options.quantization.weights(),
          .r1_orthogonality = report.r1_orthogonality,
          .r2_orthogonality = report.r2_orthogonality,
          .options = options.manifest,
          .notes = report.notes};
}

/// What config.json says, without the transforms of the native format.
FolderQuantization described(QuantizedFolderOptions const& options, Rotations const& held) {
  FolderQuantization folder{.format = options.format,
                            .quantization = options.quantization,
                            .online = {.r3 = options.rotations.r3, .r4 = options.rotations.r4}};
  // What asymmetric activations of more than 4 bits are multiplied with.
  folder.sums = options.quantization.scheme.activations > 4 && options.quantization.scheme.activations <= 8 &&
                options.quantization.activation_symmetry == Symmetry::asymmetric;
  if (options.format == FolderFormat::compressed_tensors) folder.transforms = held;
  return folder;
}

/// R1, R2 and scales are gone into the weights; what is left of the layers, or nothing.
Rotations left_online(FoldedWeights const& weights) {
  Rotations online;
  bool any = false;
  for (index_t layer = 0; layer < weights.model().config().layers; ++layer) {
    online.layers.push_back(online_part(weights, layer));
    any = any || online.layers.back().online() || detail::has_shifts(online.layers.back());
  }
  return any ? online : Rotations{};
}

}  // namespace

std::string_view name_of(FolderFormat format) {
  return format == FolderFormat::native ? "native" : "compressed-tensors";
}

void QuantizedFolderOptions::validate() const {
  quantization.validate();
  detail::require_text(quantization.weights(), hessian_windows);
  require(quantization.scheme.weights < 16, "[write_quantized] weights of 16 bits: there is nothing to pack");
  require(r4_block >= 0, "[write_quantized] r4_block ", r4_block, ": 0 chooses it, else it is positive");
  require(!dtype || *dtype == Dtype::f32 || *dtype == Dtype::f16 || *dtype == Dtype::bf16,
          "[write_quantized] dtype ", dtype ? to_string(*dtype) : "", ": choose F32, F16 or BF16");
  require(shard_bytes > 0, "[write_quantized] shard_bytes 0: at least 1 is needed");
  if (format == FolderFormat::native) detail::native::validate(*this);
  else detail::compressed_tensors::validate(*this);
}

Rotations rotations_in_folder(Rotations const& rotations, ModelConfig const& config,
                              QuantizedFolderOptions const& options) {
  bool const packed_by_engine = options.format == FolderFormat::compressed_tensors;
  for (std::size_t layer = 0; layer < rotations.layers.size(); ++layer)
    require(!packed_by_engine || !rotations.layers[layer].online(), "[write_quantized] layer ", layer,
            " transforms an input or the keys online, which compressed-tensors cannot hold: write the native "
            "format");
  Rotations held = packed_by_engine ? without_shifts(rotations) : rotations;
  if (!options.rotations.r4) return held;
  index_t const channels = config.intermediate;
  index_t const block = options.r4_block != 0 ? options.r4_block
                        : packed_by_engine    ? power_of_two_block(channels)
                                              : detail::online_block(channels);
  require(!packed_by_engine || (block > 1 && (block & (block - 1)) == 0),
          "[write_quantized] R4 in blocks of ", block, " of ", channels,
          " channels: compressed-tensors runs powers of two above 1; leave r4 out");
  Hadamard const r4(channels, block);
  held.layers.resize(static_cast<std::size_t>(config.layers));
  for (LayerTransforms& layer : held.layers)
    if (!detail::has_steps(layer.down_proj_input)) layer.down_proj_input = Transform(channels).then(r4);
  return held;
}

FoldReport write_quantized(Cpu const& cpu, Model const& model, Rotations const& rotations,
                           std::filesystem::path const& output, QuantizedFolderOptions const& options) {
  options.validate();
  rotations.validate(model.config());
  require(!options.rotations.r4 || !model.needs_r4(), "[write_quantized] ", model.folder().string(),
          " holds R4 already; use the original checkpoint");
  bool const native = options.format == FolderFormat::native;
  index_t const group = options.quantization.weight_group;
  for (LinearRule const& rule : model.family().linears) {
    index_t const channels = detail::extent_of(model.config(), rule.inputs);
    require(native || group == 0 || channels % group == 0, "[write_quantized] groups of ", group, " in the ",
            channels, " inputs of ", rule.name, ": compressed-tensors needs groups that divide them");
  }
  detail::check_output_folder(model.folder(), output);
  FoldReport report{.r1_orthogonality = options.rotations.r1 ? rotations.r1_orthogonality() : 0,
                    .r2_orthogonality = options.rotations.r2 ? rotations.r2_orthogonality() : 0};
  Rotations const held = rotations_in_folder(rotations, model.config(), options);
  FolderQuantization const folder = described(options, held);
  QuantizedWriter tensors(cpu, model, held, folder, options);
  CheckpointWriter::Options writer_options;
  writer_options.shard_bytes = options.shard_bytes;
  if (native) writer_options.data_alignment = 64;
  CheckpointWriter writer(output, tensors.tensors(), writer_options);
  tensors.write(writer);
  report.notes = tensors.notes();
  if (!native && std::ranges::any_of(rotations.layers, detail::has_shifts))
    report.notes.push_back(
        "the shifts of inputs and keys are left out: compressed-tensors has no place for them");
  std::string const text =
      native ? detail::native::config_text(folder) : detail::compressed_tensors::config_text(folder);
  detail::finish_folder(model,
                        {detail::output_config(model, options.dtype, text),
                         detail::manifest_text(model, manifest_of(options, report))},
                        native ? left_online(tensors.weights()) : Rotations{}, output, writer, report);
  return report;
}

}  // namespace dartquant
