// SPDX-License-Identifier: Apache-2.0
#include "model/weights.hpp"

#if defined(__linux__)
#include <malloc.h>
#endif

#include <dartquant/transform/rotation.hpp>

#include "model/layer_parts.hpp"
#include "model/layout.hpp"
#include "model/ones_direction.hpp"

namespace dartquant::detail {

index_t online_block(index_t channels) {
  return hadamard_order(channels) ? channels : hadamard_block(channels, channels);
}

template <class T>
RowMatrix<T> read_rows(Checkpoint const& checkpoint, std::string_view name, index_t first, index_t count) {
  for (TensorFile const& file : checkpoint.files())
    if (Tensor const* const whole = file.find(name)) return file.read_rows<T>(*whole, first, count);
  fail(Error::Kind::format, checkpoint.folder().string(), ": there is no tensor '", name, "'");
}
template RowMatrix<float> read_rows(Checkpoint const&, std::string_view, index_t, index_t);
template RowMatrix<double> read_rows(Checkpoint const&, std::string_view, index_t, index_t);

Site input_of(Linear linear) {
  switch (linear) {
    case Linear::q_proj:
    case Linear::k_proj:
    case Linear::v_proj:
      return Site::q_proj_input;
    case Linear::o_proj:
      return Site::o_proj_input;
    case Linear::down_proj:
      return Site::down_proj_input;
    default:
      return Site::up_proj_input;
  }
}

void release_pages(Checkpoint const& checkpoint) {
  for (TensorFile const& file : checkpoint.files())
    for (Tensor const& tensor : file.tensors()) file.release(tensor);
#if defined(__GLIBC__)
  // Aligned blocks of many sizes leave holes in glibc's heap that it neither reuses nor gives back: a second
  // fold in one process held 88 MB where the first held 17.
  ::malloc_trim(0);
#endif
}

QuantizeOptions quantize_options(WeightQuantization const& quantization) {
  return {.bits = quantization.bits,
          .granularity = quantization.group == 0 ? per_row : per_group(quantization.group),
          .symmetry = quantization.symmetry,
          .clip_search = quantization.clip};
}

FoldedWeights::FoldedWeights(Cpu const& cpu, Model const& model, Rotations const* rotations,
                             RotationSet active, NormGains gains)
    : cpu_(cpu), model_(model), rotations_(rotations), active_(active), gains_(gains) {
  if (rotations_ == nullptr || rotations_->r1.size() == 0) active_.r1 = false;
  if (rotations_ == nullptr || rotations_->r2.empty()) active_.r2 = false;
  bool const folds = active_.r1 || active_.r2 || active_.r4 || has_layers();
  require(model.quantized() == nullptr || !folds, "[FoldedWeights] ", model.folder().string(),
          " holds packed weights: rotations need the original checkpoint");
  require(!active_.r1 || gains_ == NormGains::folded,
          "[FoldedWeights] R1 and the gains of the norms do not commute: the gains must be folded");
  if (active_.r1) {
    RotationSupport const support = rotation_support(model.family()).r1;
    require(support.how != RotationSupport::How::impossible, "[FoldedWeights] R1 cannot act in ",
            model.config().architecture, ": ", support.reason, "; leave r1 out");
  }
  turns_ones_ = centres() && !keeps_ones(rotations_->r1);
  if (model.needs_r4()) {
    active_.r4 = false;  // the file holds it already
    for (index_t layer = 0; layer < model.config().layers; ++layer)
      require(!transforms(layer).down_scale && !has_steps(transforms(layer).down_proj_input),
              "[FoldedWeights] layer ", layer, " changes the input of down_proj, but ",
              model.folder().string(), " holds R4 already; use the original checkpoint");
  }
  require(gains_ == NormGains::folded || !has_layers(),
          "[FoldedWeights] scales of a layer take the place of its gains: the gains must be folded");
  if (active_.r4)
    for (index_t const width : model.config().down_widths())
      r4_.try_emplace(width, width, online_block(width));
}

std::vector<LayerLinear> FoldedWeights::linears(index_t layer) const {
  return linears_of(model_.family(), model_.config(), layer);
}

RowMatrix<double> const* FoldedWeights::residual() const { return active_.r1 ? &rotations_->r1 : nullptr; }

bool FoldedWeights::turns(Acts side) const {
  return (side == Acts::r1 && active_.r1) || (side == Acts::r2 && active_.r2) ||
         (side == Acts::r4 && active_.r4);
}

bool FoldedWeights::identity(LayerLinear const& linear) const {
  bool const scaled = gains_ == NormGains::folded && !linear.norm.empty();
  bool const whole = !linear.shares_tensor();
  return whole && !scaled && !turns(linear.input_side) && !turns(linear.output_side) && !has_layers();
}

LayerTransforms const& FoldedWeights::transforms(index_t layer) const {
  static LayerTransforms const nothing;
  return has_layers() ? rotations_->layers[static_cast<std::size_t>(layer)] : nothing;
}

Hadamard const* FoldedWeights::r4(index_t layer, index_t width) const {
  auto const found = r4_.find(width);
  return found != r4_.end() && !has_steps(transforms(layer).down_proj_input) ? &found->second : nullptr;
}

void FoldedWeights::turn_inputs(Acts side, index_t layer, MatrixView<double> W) const {
  if (!turns(side) || side == Acts::r4) return;  // R4 comes after the scale of its input
  if (side == Acts::r1) rotate_inputs(cpu_, W, rotations_->r1);
  if (side != Acts::r2) return;
  ModelConfig const& config = model_.config();
  index_t const group = config.heads / config.kv_heads;  // query heads that share a KV head
  auto const& heads = rotations_->r2[static_cast<std::size_t>(layer)];
  for (index_t head = 0; head < config.heads; ++head)
    rotate_inputs(cpu_, W.columns(head * config.head_dim, config.head_dim),
                  heads[static_cast<std::size_t>(head / group)]);
}

void FoldedWeights::turn_outputs(Acts side, index_t layer, MatrixView<double> W) const {
  if (!turns(side)) return;
  if (side == Acts::r1) {
    if (centres()) as_eigen(W).rowwise() -= as_eigen(W).colwise().mean().eval();
    rotate_outputs(cpu_, W, rotations_->r1);
  }
  if (side != Acts::r2) return;
  index_t const head_dim = model_.config().head_dim;
  auto const& heads = rotations_->r2[static_cast<std::size_t>(layer)];
  for (std::size_t head = 0; head < heads.size(); ++head)
    rotate_outputs(cpu_, W.rows(static_cast<index_t>(head) * head_dim, head_dim), heads[head]);
}

void FoldedWeights::transform_inputs(index_t layer, LayerLinear const& linear, MatrixView<double> W) const {
  LayerTransforms const& parts = transforms(layer);
  auto const fold = [&](auto const& part) {
    if (part) part->fold(cpu_, W);
  };
  switch (linear.linear) {
    case Linear::q_proj:
    case Linear::k_proj:
    case Linear::v_proj:
      fold(parts.attention_scale);
      return fold(parts.q_proj_input);
    case Linear::o_proj:
      if (parts.value_scale) query_head_scale(*parts.value_scale, model_.config()).fold(cpu_, W);
      return fold(parts.o_proj_input);
    case Linear::gate_proj:
    case Linear::up_proj:
    case Linear::router:
    case Linear::shared_gate:
      fold(parts.mlp_scale);
      return fold(parts.up_proj_input);
    case Linear::down_proj:
      fold(parts.down_scale);
      if (Hadamard const* const hadamard = r4(layer, linear.inputs)) hadamard->apply(cpu_, W);
      return fold(parts.down_proj_input);
  }
}

void FoldedWeights::scale_outputs(index_t layer, Linear linear, MatrixView<double> W) const {
  LayerTransforms const& parts = transforms(layer);
  if (linear == Linear::v_proj && parts.value_scale) parts.value_scale->fold_outputs(cpu_, W);
  if (linear == Linear::up_proj && parts.down_scale) parts.down_scale->fold_outputs(cpu_, W);
}

RowMatrix<double> FoldedWeights::gain(std::string const& name) const {
  RowMatrix<double> w = model_.checkpoint().read_matrix<double>(name);
  if (model_.family().norm == NormKind::rms_offset) w.array() += 1;
  return w;
}

RowMatrix<double> FoldedWeights::stored_rows(LayerLinear const& linear, index_t first, index_t count) const {
  return read_rows<double>(model_.checkpoint(), linear.weight, linear.first_row + first, count);
}

RowMatrix<double> FoldedWeights::gained_rows(LayerLinear const& linear, index_t first, index_t count) const {
  RowMatrix<double> W = stored_rows(linear, first, count);
  if (gains_ == NormGains::folded && !linear.norm.empty())
    W.array().rowwise() *= gain(linear.norm).row(0).array();
  return W;
}

bool FoldedWeights::changes_outputs(index_t layer, LayerLinear const& linear) const {
  LayerTransforms const& parts = transforms(layer);
  return turns(linear.output_side) || (linear.linear == Linear::v_proj && parts.value_scale) ||
         (linear.linear == Linear::up_proj && parts.down_scale);
}

RowMatrix<double> FoldedWeights::folded_rows(index_t layer, LayerLinear const& linear, index_t first,
                                             index_t count) const {
  RowMatrix<double> W = gained_rows(linear, first, count);
  turn_inputs(linear.input_side, layer, W);
  transform_inputs(layer, linear, W);
  turn_outputs(linear.output_side, layer, W);
  scale_outputs(layer, linear.linear, W);
  return W;
}

RowMatrix<double> FoldedWeights::weight(index_t layer, LayerLinear const& linear) const {
  return folded_rows(layer, linear, 0, linear.outputs);
}

void FoldedWeights::each_block_of(index_t total, index_t width, bool product, index_t unit,
                                  std::function<RowMatrix<double>(index_t, index_t)> const& rows,
                                  UseRows const& use) const {
  // A product wants many rows; what only passes through stays in the cache of one core.
  index_t const values = index_t{1} << (product ? 20 : 16);
  index_t const count = std::max<index_t>(1, values / std::max<index_t>(1, width) / unit) * unit;
  cpu_.parallel_for(total, count,
                    [&](index_t first, index_t last) { use(first, rows(first, last - first)); });
}

void FoldedWeights::each_block(index_t layer, LayerLinear const& linear, UseRows const& use) const {
  bool const whole_heads = linear.linear == Linear::q_proj || linear.linear == Linear::k_proj;
  index_t const unit = whole_heads ? model_.config().head_dim : 1;
  if (changes_outputs(layer, linear)) {
    RowMatrix<double> const W = weight(layer, linear);
    MatrixView<double const> const view = W;
    index_t const count = std::max<index_t>(1, (index_t{1} << 16) / linear.inputs / unit) * unit;
    return cpu_.parallel_for(
        view.rows(), count, [&](index_t first, index_t last) { use(first, view.rows(first, last - first)); });
  }
  LayerTransforms const& parts = transforms(layer);
  bool const product = turns(linear.input_side) || has_steps(parts.q_proj_input) ||
                       has_steps(parts.o_proj_input) || has_steps(parts.up_proj_input) ||
                       has_steps(parts.down_proj_input);
  each_block_of(
      linear.outputs, linear.inputs, product, unit,
      [&](index_t first, index_t count) { return folded_rows(layer, linear, first, count); }, use);
}

RowMatrix<double> FoldedWeights::bias(index_t layer, LayerLinear const& linear) const {
  if (linear.bias.empty()) return {};
  RowMatrix<double> b =
      model_.checkpoint().read_matrix<double>(linear.bias).middleCols(linear.first_row, linear.outputs);
  if (gains_ == NormGains::folded && model_.family().norm == NormKind::layer && !linear.norm.empty())
    b += model_.checkpoint().read_matrix<double>(bias_beside(linear.norm)) *
         stored_rows(linear, 0, linear.outputs).transpose();
  MatrixView<double> const column(b.data(), b.cols(), 1);
  turn_outputs(linear.output_side, layer, column);
  scale_outputs(layer, linear.linear, column);
  return b;
}

RowMatrix<double> FoldedWeights::shift_bias(index_t layer, LayerLinear const& linear) const {
  LayerTransforms const& parts = transforms(layer);
  bool const reads_residual = linear.input_side == Acts::r1;
  bool const mlp = linear.linear > Linear::o_proj;
  std::vector<double> const& shift = mlp ? parts.mlp_shift : parts.attention_shift;
  if (!reads_residual || shift.empty()) return {};
  RowMatrix<double> const W = gained_rows(linear, 0, linear.outputs);
  RowMatrix<double> b(1, W.rows());
  b.transpose().noalias() = W * Eigen::Map<Eigen::VectorXd const>(shift.data(), W.cols());
  MatrixView<double> const column(b.data(), b.cols(), 1);
  turn_outputs(linear.output_side, layer, column);
  scale_outputs(layer, linear.linear, column);
  return b;
}

RowMatrix<float> FoldedWeights::residual_shift(std::vector<double> const& shift,
                                               std::optional<DiagonalScale> const& scale) const {
  if (shift.empty()) return {};
  RowMatrix<double> row =
      Eigen::Map<Eigen::RowVectorXd const>(shift.data(), static_cast<index_t>(shift.size()));
  if (RowMatrix<double> const* const R = residual()) rotate_inputs(cpu_, MatrixView<double>(row), *R);
  if (scale) scale->apply(cpu_, MatrixView<double>(row));
  return row.cast<float>();
}

RowMatrix<float> FoldedWeights::attention_shift(index_t layer) const {
  return residual_shift(transforms(layer).attention_shift, transforms(layer).attention_scale);
}

RowMatrix<float> FoldedWeights::mlp_shift(index_t layer) const {
  return residual_shift(transforms(layer).mlp_shift, transforms(layer).mlp_scale);
}

RowMatrix<float> FoldedWeights::key_shift(index_t layer) const {
  std::vector<double> const& shift = transforms(layer).key_shift;
  return Eigen::Map<Eigen::RowVectorXd const>(shift.data(), static_cast<index_t>(shift.size())).cast<float>();
}

void FoldedWeights::turn_written(MatrixView<double> rows) const {
  if (centres()) as_eigen(rows).colwise() -= as_eigen(rows).rowwise().mean().eval();
  if (RowMatrix<double> const* const R = residual()) rotate_inputs(cpu_, rows, *R);
}

RowMatrix<double> FoldedWeights::embedding_rows(index_t first, index_t count) const {
  RowMatrix<double> rows = read_rows<double>(model_.checkpoint(), model_.family().embedding, first, count);
  turn_written(rows);
  return rows;
}

RowMatrix<double> FoldedWeights::position_rows(index_t first, index_t count) const {
  RowMatrix<double> rows = read_rows<double>(model_.checkpoint(), model_.family().positions, first, count);
  turn_written(rows);
  return rows;
}

RowMatrix<double> FoldedWeights::head_rows(index_t first, index_t count) const {
  Family const& family = model_.family();
  auto const name = model_.config().tied_embeddings ? family.embedding : family.head;
  RowMatrix<double> rows = read_rows<double>(model_.checkpoint(), name, first, count);
  if (gains_ == NormGains::folded)
    rows.array().rowwise() *= gain(std::string(family.final_norm)).row(0).array();
  if (RowMatrix<double> const* const R = residual()) rotate_inputs(cpu_, MatrixView<double>(rows), *R);
  return rows;
}

void FoldedWeights::each_embedding_block(UseRows const& use) const {
  each_block_of(
      model_.config().vocabulary, model_.config().hidden, residual() != nullptr, 1,
      [this](index_t first, index_t count) { return embedding_rows(first, count); }, use);
}

void FoldedWeights::each_position_block(UseRows const& use) const {
  each_block_of(
      model_.config().positions + 2, model_.config().hidden, residual() != nullptr, 1,
      [this](index_t first, index_t count) { return position_rows(first, count); }, use);
}

void FoldedWeights::each_head_block(UseRows const& use) const {
  each_block_of(
      model_.config().vocabulary, model_.config().hidden, residual() != nullptr, 1,
      [this](index_t first, index_t count) { return head_rows(first, count); }, use);
}

NormWeights FoldedWeights::feeding_norm(std::string const& name,
                                        std::optional<DiagonalScale> const& scale) const {
  NormKind const stored = model_.family().norm;
  bool const layer_norm = stored == NormKind::layer;
  NormWeights norm{.kind = layer_norm && !(centres() && turns_ones_) ? NormKind::layer : NormKind::rms};
  if (gains_ != NormGains::folded) {
    norm.gain = gain(name).cast<float>();
    if (layer_norm) norm.bias = model_.checkpoint().read_matrix<float>(bias_beside(name));
  } else if (scale) {
    std::vector<double> const& s = scale->scale();
    norm.gain = Eigen::Map<Eigen::RowVectorXd const>(s.data(), static_cast<index_t>(s.size()))
                    .cwiseInverse()
                    .cast<float>();
  }
  return norm;
}

NormWeights FoldedWeights::final_norm() const {
  std::string const name(model_.family().final_norm);
  NormWeights norm = feeding_norm(name, std::nullopt);
  if (model_.family().norm != NormKind::layer || gains_ != NormGains::folded) return norm;
  RowMatrix<double> const g = gain(name);
  if (!(g.array() != 0).all())
    fail(Error::Kind::unsupported, "[FoldedWeights] ", name,
         " holds a gain of 0: it cannot be folded into lm_head beside a bias");
  RowMatrix<double> b = model_.checkpoint().read_matrix<double>(bias_beside(name)).array() / g.array();
  if (RowMatrix<double> const* const R = residual()) rotate_inputs(cpu_, MatrixView<double>(b), *R);
  norm.bias = b.cast<float>();
  return norm;
}

NormWeights FoldedWeights::attention_norm(index_t layer) const {
  return feeding_norm(tensor_name(model_.family(), layer, model_.family().attention_norm, ".weight"),
                      transforms(layer).attention_scale);
}

NormWeights FoldedWeights::mlp_norm(index_t layer) const {
  return feeding_norm(tensor_name(model_.family(), layer, model_.family().mlp_norm, ".weight"),
                      transforms(layer).mlp_scale);
}

NormWeights FoldedWeights::kept_norm(index_t layer, std::string_view name) const {
  if (name.empty()) return {};
  return {.gain = gain(tensor_name(model_.family(), layer, name, ".weight")).cast<float>()};
}

}  // namespace dartquant::detail
