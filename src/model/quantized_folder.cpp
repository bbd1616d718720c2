// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/quantized_folder.hpp>

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>
#include <vector>

#include <dartquant/core/error.hpp>
#include <dartquant/io/checkpoint.hpp>

#include "model/fold_folder.hpp"
#include "model/layer_parts.hpp"
#include "model/layout.hpp"
#include "model/manifest.hpp"
#include "model/ones_direction.hpp"
#include "model/other_tensors.hpp"
#include "model/packed_tensors.hpp"
#include "model/quantized_weights.hpp"
#include "model/rounded_layers.hpp"
#include "model/weights.hpp"

namespace dartquant {
namespace {

using detail::FoldedWeights;
using detail::LayerLinear;
using detail::LayerWeights;
using detail::packed_map;
using detail::PackedMap;
using detail::require;

/// The largest power of two, at most 128, that divides the channels: what compressed-tensors and vLLM run.
index_t power_of_two_block(index_t channels) { return std::min<index_t>(128, channels & -channels); }

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
                 [this](std::size_t map, detail::Levels levels) {
                   if (levels_.size() <= map) levels_.resize(map + 1);
                   levels_[map] = std::move(levels);
                 }) {}
  QuantizedWriter(QuantizedWriter const&) = delete;
  QuantizedWriter& operator=(QuantizedWriter const&) = delete;

  /// Every tensor, in the order of use.
  [[nodiscard]] std::vector<TensorInfo> tensors() const {
    ModelConfig untied = model_.config();
    untied.tied_embeddings = false;
    std::vector<TensorInfo> packed;
    std::set<std::string> replaced;
    for (index_t layer = 0; layer < untied.layers; ++layer)
      for (LayerLinear const& linear : weights_.linears(layer)) {
        if (!linear.quantized()) continue;
        replaced.insert({linear.weight, linear.bias});
        if (linear.first_row != 0) continue;  // named with the first map of its tensor
        PackedMap const map = packed_map(linear);
        for (TensorInfo& info : packed_infos(map)) packed.push_back(std::move(info));
        if (shifted(layer, linear) || !linear.bias.empty())
          packed.push_back({map.name + "bias", bias_dtype(), {map.out}});
      }
    std::vector<TensorInfo> infos;
    for (TensorInfo& info : expected_tensors(family_, untied)) {
      if (replaced.contains(info.name)) continue;
      info.dtype = dtype_of(info.name);
      infos.push_back(std::move(info));
    }
    std::ranges::move(packed, std::back_inserter(infos));
    return infos;
  }

  void write(TensorSink& writer) {
    detail::OtherTensors others(weights_, writer);
    others.write_embeddings();
    for (index_t layer = 0; layer < model_.config().layers; ++layer) {
      others.write_norms(layer);
      write_layer(writer);
      detail::release_pages(model_.checkpoint());
      if (options_.progress) options_.progress("quantize", layer + 1, model_.config().layers);
    }
    others.write_head();
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

  [[nodiscard]] bool shifted(index_t layer, LayerLinear const& linear) const {
    LayerTransforms const& parts = weights_.transforms(layer);
    bool const mlp = linear.linear == Linear::gate_proj || linear.linear == Linear::up_proj;
    return linear.input_side == Acts::r1 && !(mlp ? parts.mlp_shift : parts.attention_shift).empty();
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
  [[nodiscard]] std::vector<TensorInfo> packed_infos(PackedMap const& map) const {
    return options_.format == FolderFormat::native
               ? detail::native::tensors(map, folder_)
               : detail::compressed_tensors::tensors(map, folder_, scale_dtype());
  }

  void write_layer(TensorSink& writer) {
    LayerWeights const rounded = rounded_.next();
    for (std::size_t i = 0; i < rounded.linears.size(); ++i) {
      LayerLinear const& linear = rounded.linears[i];
      PackedMap const map = packed_map(linear);
      if (linear.quantized()) write_levels(writer, linear, std::exchange(levels_[i], {}));
      else writer.append(linear.weight, MatrixView<float const>(rounded.maps[i].weight));
      if (rounded.maps[i].bias.size() != 0)
        writer.append(map.name + "bias", MatrixView<float const>(rounded.maps[i].bias));
    }
  }
  /// Maps that share a tensor wait for the last one.
  void write_levels(TensorSink& writer, LayerLinear const& linear, detail::Levels levels) {
    if (linear.shares_tensor()) {
      std::visit([&](auto const& own) { gather(linear, own); }, levels);
      if (linear.first_row + linear.outputs < linear.tensor_rows) return;
      levels = std::exchange(gathered_, {});
    }
    PackedMap const map = packed_map(linear);
    if (options_.format == FolderFormat::native) detail::native::write(cpu_, map, levels, folder_, writer);
    else detail::compressed_tensors::write(cpu_, map, levels, scale_dtype(), writer);
  }
  template <class Matrix>
  void gather(LayerLinear const& linear, Matrix const& own) {
    if (linear.first_row == 0) gathered_ = detail::with_rows(own, linear.tensor_rows);
    detail::copy_rows(own, 0, std::get<Matrix>(gathered_), linear.first_row, linear.outputs);
  }

  Cpu const& cpu_;
  Model const& model_;
  Family const& family_;
  FolderQuantization const& folder_;
  QuantizedFolderOptions const& options_;
  ForwardOptions forward_;
  FoldedWeights weights_;
  std::vector<detail::Levels> levels_;  ///< of the present layer
  detail::Levels gathered_;             ///< of the maps so far that share the next tensor
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

/// Whether the format can hold the map.
void require_packable(LayerLinear const& linear, QuantizedFolderOptions const& options) {
  if (!linear.quantized()) return;
  index_t const group = options.quantization.weight_group;
  require(options.format == FolderFormat::native || group == 0 || linear.inputs % group == 0,
          "[write_quantized] groups of ", group, " in the ", linear.inputs, " inputs of ", linear.weight,
          ": compressed-tensors needs groups that divide them");
}

/// Linear maps that stay in floats, by the names of their modules.
std::vector<std::string> kept_modules(Model const& model) {
  std::vector<std::string> names;
  for (index_t layer = 0; layer < model.config().layers; ++layer)
    for (LayerLinear const& linear : detail::linears_of(model.family(), model.config(), layer))
      if (!linear.quantized()) names.push_back(linear.weight.substr(0, linear.weight.rfind('.')));
  return names;
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
  require(config.mixture.experts == 0,
          "[write_quantized] R4 of experts: packed folders hold one transform per layer; leave r4 out");
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
  if (options.rotations.r1) detail::require_ones_kept("[write_quantized]", model, rotations);
  bool const native = options.format == FolderFormat::native;
  for (index_t layer = 0; layer < model.config().layers; ++layer)
    for (LayerLinear const& linear : detail::linears_of(model.family(), model.config(), layer))
      require_packable(linear, options);
  detail::check_output_folder(model.folder(), output);
  FoldReport report{.r1_orthogonality = options.rotations.r1 ? rotations.r1_orthogonality() : 0,
                    .r2_orthogonality = options.rotations.r2 ? rotations.r2_orthogonality() : 0};
  Rotations const held = rotations_in_folder(rotations, model.config(), options);
  FolderQuantization const folder = described(options, held);
  QuantizedWriter tensors(cpu, model, held, folder, options);
  CheckpointWriter::Options writer_options;
  writer_options.shard_bytes = options.shard_bytes;
  writer_options.threads = cpu.threads();
  if (native) writer_options.data_alignment = 64;
  CheckpointWriter writer(output, tensors.tensors(), writer_options);
  std::future<detail::InputFiles> inputs = detail::hash_inputs(model, cpu.threads());
  tensors.write(writer);
  report.notes = tensors.notes();
  if (!native && std::ranges::any_of(rotations.layers, detail::has_shifts))
    report.notes.push_back(
        "the shifts of inputs and keys are left out: compressed-tensors has no place for them");
  std::string const text = native ? detail::native::config_text(folder)
                                  : detail::compressed_tensors::config_text(folder, kept_modules(model));
  detail::finish_folder(model,
                        {detail::output_config(model, options.dtype, text),
                         detail::manifest_text(inputs.get(), manifest_of(options, report))},
                        native ? left_online(tensors.weights()) : Rotations{}, output, writer, report);
  return report;
}

}  // namespace dartquant
