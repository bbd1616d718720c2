// SPDX-License-Identifier: Apache-2.0
#include "model/weights.hpp"

#include <dartquant/transform/rotation.hpp>

#include "model/layer_parts.hpp"
#include "model/layout.hpp"

namespace dartquant::detail {

index_t online_block(index_t channels) {
  return hadamard_order(channels) ? channels : hadamard_block(channels, channels);
}

template <class T>
RowMatrix<T> read_rows(Checkpoint const& checkpoint, std::string_view name, index_t first, index_t count) {
  for (TensorFile const& file : checkpoint.files()) {
    Tensor const* const whole = file.find(name);
    if (whole == nullptr) continue;
    require(whole->shape.size() == 2 && first >= 0 && count >= 0 && first + count <= whole->shape[0],
            "[read_rows] rows ", first, " to ", first + count, " of ", describe(*whole));
    std::array<index_t, 2> const shape{count, whole->shape[1]};
    std::size_t const row_bytes = whole->bytes.size() / static_cast<std::size_t>(whole->shape[0]);
    Tensor const part{whole->name, whole->dtype, shape,
                      whole->bytes.subspan(static_cast<std::size_t>(first) * row_bytes,
                                           static_cast<std::size_t>(count) * row_bytes)};
    RowMatrix<T> rows = file.read_matrix<T>(part, NonFinite::allow);
    file.release(part);
    for (index_t row = 0; row < count; ++row)
      if (!rows.row(row).allFinite())
        fail(Error::Kind::format, file.path().string(), ": tensor '", name,
             "' holds a value that is not finite in row ", first + row, "; the weights are damaged");
    return rows;
  }
  fail(Error::Kind::format, checkpoint.folder().string(), ": there is no tensor '", name, "'");
}
template RowMatrix<float> read_rows(Checkpoint const&, std::string_view, index_t, index_t);
template RowMatrix<double> read_rows(Checkpoint const&, std::string_view, index_t, index_t);

void release_pages(Checkpoint const& checkpoint) {
  for (TensorFile const& file : checkpoint.files())
    for (Tensor const& tensor : file.tensors()) file.release(tensor);
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
  if (model.needs_r4()) {
    active_.r4 = false;  // the file holds it already
    for (index_t layer = 0; layer < model.config().layers; ++layer)
      require(!transforms(layer).down_scale && !has_steps(transforms(layer).down_proj_input),
              "[FoldedWeights] layer ", layer, " changes the input of down_proj, but ",
              model.folder().string(), " holds R4 already; use the original checkpoint");
  }
  require(gains_ == NormGains::folded || !has_layers(),
          "[FoldedWeights] scales of a layer take the place of its gains: the gains must be folded");
  index_t const intermediate = model.config().intermediate;
  if (active_.r4) r4_.emplace(intermediate, online_block(intermediate));
}

RowMatrix<double> const* FoldedWeights::residual() const { return active_.r1 ? &rotations_->r1 : nullptr; }

bool FoldedWeights::turns(Acts side) const {
  return (side == Acts::r1 && active_.r1) || (side == Acts::r2 && active_.r2) ||
         (side == Acts::r4 && active_.r4);
}

bool FoldedWeights::identity(LinearRule const& rule) const {
  bool const scaled = gains_ == NormGains::folded && !rule.norm.empty();
  return !scaled && !turns(rule.input_side) && !turns(rule.output_side) && !has_layers();
}

LayerTransforms const& FoldedWeights::transforms(index_t layer) const {
  static LayerTransforms const nothing;
  return has_layers() ? rotations_->layers[static_cast<std::size_t>(layer)] : nothing;
}

Hadamard const* FoldedWeights::r4(index_t layer) const {
  return r4_ && !has_steps(transforms(layer).down_proj_input) ? &*r4_ : nullptr;
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
  if (side == Acts::r1) rotate_outputs(cpu_, W, rotations_->r1);
  if (side != Acts::r2) return;
  index_t const head_dim = model_.config().head_dim;
  auto const& heads = rotations_->r2[static_cast<std::size_t>(layer)];
  for (std::size_t head = 0; head < heads.size(); ++head)
    rotate_outputs(cpu_, W.rows(static_cast<index_t>(head) * head_dim, head_dim), heads[head]);
}

void FoldedWeights::transform_inputs(index_t layer, Linear linear, MatrixView<double> W) const {
  LayerTransforms const& parts = transforms(layer);
  auto const fold = [&](auto const& part) {
    if (part) part->fold(cpu_, W);
  };
  switch (linear) {
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
      fold(parts.mlp_scale);
      return fold(parts.up_proj_input);
    case Linear::down_proj:
      fold(parts.down_scale);
      if (Hadamard const* const hadamard = r4(layer)) hadamard->apply(cpu_, W);
      return fold(parts.down_proj_input);
  }
}

void FoldedWeights::scale_outputs(index_t layer, Linear linear, MatrixView<double> W) const {
  LayerTransforms const& parts = transforms(layer);
  if (linear == Linear::v_proj && parts.value_scale) parts.value_scale->fold_outputs(cpu_, W);
  if (linear == Linear::up_proj && parts.down_scale) parts.down_scale->fold_outputs(cpu_, W);
}

RowMatrix<double> FoldedWeights::gained_weight(index_t layer, LinearRule const& rule) const {
  Family const& family = model_.family();
  RowMatrix<double> W =
      model_.checkpoint().read_matrix<double>(tensor_name(family, layer, rule.name, ".weight"));
  if (gains_ == NormGains::folded && !rule.norm.empty()) {
    RowMatrix<double> const gain =
        model_.checkpoint().read_matrix<double>(tensor_name(family, layer, rule.norm, ".weight"));
    W.array().rowwise() *= gain.row(0).array();
  }
  return W;
}

RowMatrix<double> FoldedWeights::weight(index_t layer, LinearRule const& rule) const {
  RowMatrix<double> W = gained_weight(layer, rule);
  turn_inputs(rule.input_side, layer, W);
  transform_inputs(layer, rule.linear, W);
  turn_outputs(rule.output_side, layer, W);
  scale_outputs(layer, rule.linear, W);
  return W;
}

RowMatrix<double> FoldedWeights::bias(index_t layer, LinearRule const& rule) const {
  if (!has_bias(model_.config(), rule)) return {};
  RowMatrix<double> b =
      model_.checkpoint().read_matrix<double>(tensor_name(model_.family(), layer, rule.name, ".bias"));
  MatrixView<double> const column(b.data(), b.cols(), 1);
  turn_outputs(rule.output_side, layer, column);
  scale_outputs(layer, rule.linear, column);
  return b;
}

RowMatrix<double> FoldedWeights::shift_bias(index_t layer, LinearRule const& rule) const {
  LayerTransforms const& parts = transforms(layer);
  bool const reads_residual = rule.input_side == Acts::r1;
  bool const mlp = rule.linear == Linear::gate_proj || rule.linear == Linear::up_proj;
  std::vector<double> const& shift = mlp ? parts.mlp_shift : parts.attention_shift;
  if (!reads_residual || shift.empty()) return {};
  RowMatrix<double> const W = gained_weight(layer, rule);
  RowMatrix<double> b(1, W.rows());
  b.transpose().noalias() = W * Eigen::Map<Eigen::VectorXd const>(shift.data(), W.cols());
  MatrixView<double> const column(b.data(), b.cols(), 1);
  turn_outputs(rule.output_side, layer, column);
  scale_outputs(layer, rule.linear, column);
  return b;
}

RowMatrix<float> FoldedWeights::residual_shift(std::vector<double> const& shift,
                                               std::optional<DiagonalScale> const& scale) const {
  if (shift.empty()) return {};
  RowMatrix<double> row =
      Eigen::Map<Eigen::RowVectorXd const>(shift.data(), static_cast<index_t>(shift.size()));
  rotate_residual(row);
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

void FoldedWeights::rotate_residual(MatrixView<double> rows) const {
  if (RowMatrix<double> const* const R = residual()) rotate_inputs(cpu_, rows, *R);
}

RowMatrix<double> FoldedWeights::embedding_rows(index_t first, index_t count) const {
  RowMatrix<double> rows = read_rows<double>(model_.checkpoint(), model_.family().embedding, first, count);
  rotate_residual(rows);
  return rows;
}

RowMatrix<double> FoldedWeights::head_rows(index_t first, index_t count) const {
  Family const& family = model_.family();
  auto const name = model_.config().tied_embeddings ? family.embedding : family.head;
  RowMatrix<double> rows = read_rows<double>(model_.checkpoint(), name, first, count);
  if (gains_ == NormGains::folded) {
    RowMatrix<double> const gain = model_.checkpoint().read_matrix<double>(family.final_norm);
    rows.array().rowwise() *= gain.row(0).array();
  }
  rotate_residual(rows);
  return rows;
}

RowMatrix<float> FoldedWeights::remaining_gain(std::string const& name,
                                               std::optional<DiagonalScale> const& scale) const {
  if (gains_ != NormGains::folded) return model_.checkpoint().read_matrix<float>(name);
  if (!scale) return {};
  std::vector<double> const& s = scale->scale();
  return Eigen::Map<Eigen::RowVectorXd const>(s.data(), static_cast<index_t>(s.size()))
      .cwiseInverse()
      .cast<float>();
}

RowMatrix<float> FoldedWeights::final_gain() const {
  return remaining_gain(std::string(model_.family().final_norm), std::nullopt);
}

RowMatrix<float> FoldedWeights::attention_gain(index_t layer) const {
  return remaining_gain(tensor_name(model_.family(), layer, model_.family().attention_norm, ".weight"),
                        transforms(layer).attention_scale);
}

RowMatrix<float> FoldedWeights::mlp_gain(index_t layer) const {
  return remaining_gain(tensor_name(model_.family(), layer, model_.family().mlp_norm, ".weight"),
                        transforms(layer).mlp_scale);
}

}  // namespace dartquant::detail
