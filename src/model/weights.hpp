// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/model/architecture.hpp>
#include <dartquant/model/fold.hpp>
#include <dartquant/model/forward.hpp>
#include <dartquant/transform/hadamard.hpp>

#include "model/layout.hpp"

namespace dartquant::detail {

/// The widest block of a Hadamard transform of `channels`: all of them where that order is known, else the
/// largest block that divides them.
[[nodiscard]] index_t online_block(index_t channels);

/// Rows [first, first + count) of a matrix of the checkpoint. Errors: Error(format) for a value that is not
/// finite.
template <class T>
[[nodiscard]] RowMatrix<T> read_rows(Checkpoint const& checkpoint, std::string_view name, index_t first,
                                     index_t count);

/// The input that a map reads.
[[nodiscard]] Site input_of(Linear linear);

/// Gives all pages of the checkpoint and the holes of the heap back to the system. A read maps some pages of
/// the neighbours as well, so giving back only what was read would let resident memory grow with the number
/// of tensors.
void release_pages(Checkpoint const& checkpoint);

/// How `quantization` rounds a weight [out, in].
[[nodiscard]] QuantizeOptions quantize_options(WeightQuantization const& quantization);

/// What a norm does after it has divided by RMS or standard deviation.
struct NormWeights {
  NormKind kind = NormKind::rms;
  RowMatrix<float> gain{}, bias{};  ///< [1, channels]; empty: 1 and 0
};

/// Takes rows from `first` on of some matrix.
using UseRows = std::function<void(index_t first, MatrixView<double const> rows)>;

/// Reads the weights of a model with gains and rotations folded in FP64: the one place where folding is done,
/// for the written checkpoint and for the forward pass alike. One tensor at a time; nothing is kept.
class FoldedWeights {
 public:
  /// `rotations` may be null; `active` says whether R1, R2 and R4 are folded, its layers always are. All must
  /// outlive this.
  FoldedWeights(Cpu const& cpu, Model const& model, Rotations const* rotations, RotationSet active,
                NormGains gains);

  /// The linear maps of a layer.
  [[nodiscard]] std::vector<LayerLinear> linears(index_t layer) const;
  /// W [out, in] of a layer: diag(gain), then the input side, then the output side; scales and transforms of
  /// the layer after R1, R2 and R4.
  [[nodiscard]] RowMatrix<double> weight(index_t layer, LayerLinear const& linear) const;
  /// The same in blocks of rows, with the first row of each; `use` is called from several threads at once.
  /// Queries and keys come in whole heads.
  void each_block(index_t layer, LayerLinear const& linear, UseRows const& use) const;
  /// The bias [1, out], with what the norm's bias adds where the gain is folded, turned by the output side;
  /// empty where there is none.
  [[nodiscard]] RowMatrix<double> bias(index_t layer, LayerLinear const& linear) const;
  /// Rows of the embedding, or of the learned positions, E R1; without their mean where R1 acts on a model
  /// with LayerNorm.
  [[nodiscard]] RowMatrix<double> embedding_rows(index_t first, index_t count) const;
  [[nodiscard]] RowMatrix<double> position_rows(index_t first, index_t count) const;
  /// Turns given rows of them likewise.
  void turn_written(MatrixView<double> rows) const;
  /// Rows of lm_head (the embedding where tied), W diag(final gain) R1.
  [[nodiscard]] RowMatrix<double> head_rows(index_t first, index_t count) const;
  /// All of them in blocks, as each_block.
  void each_embedding_block(UseRows const& use) const;
  void each_position_block(UseRows const& use) const;
  void each_head_block(UseRows const& use) const;
  /// What a norm still does. Gains of the norms before linear maps and of the final one are the checkpoint's,
  /// or empty when folded; 1 / scale where that input has one. A final bias b turns to b / gain R1. The other
  /// norms are as they are.
  [[nodiscard]] NormWeights final_norm() const;
  [[nodiscard]] NormWeights attention_norm(index_t layer) const;
  [[nodiscard]] NormWeights mlp_norm(index_t layer) const;
  [[nodiscard]] NormWeights kept_norm(index_t layer, std::string_view name) const;
  /// What a shift of the input of this map moves into its bias, W shift [1, out], turned by the output side;
  /// empty where the input is not shifted.
  [[nodiscard]] RowMatrix<double> shift_bias(index_t layer, LayerLinear const& linear) const;
  /// What is subtracted from the inputs of q_proj and up_proj as R1 and the layer's scales leave them, and
  /// from the keys after RoPE [1, channels]; empty for nothing.
  [[nodiscard]] RowMatrix<float> attention_shift(index_t layer) const;
  [[nodiscard]] RowMatrix<float> mlp_shift(index_t layer) const;
  [[nodiscard]] RowMatrix<float> key_shift(index_t layer) const;
  /// What the layer does to its inputs.
  [[nodiscard]] LayerTransforms const& transforms(index_t layer) const;

  [[nodiscard]] Model const& model() const { return model_; }
  /// True when `weight` returns the tensor as stored.
  [[nodiscard]] bool identity(LayerLinear const& linear) const;

 private:
  [[nodiscard]] RowMatrix<double> const* residual() const;
  [[nodiscard]] bool has_layers() const { return rotations_ != nullptr && !rotations_->layers.empty(); }
  [[nodiscard]] bool turns(Acts side) const;
  void turn_inputs(Acts side, index_t layer, MatrixView<double> W) const;
  void turn_outputs(Acts side, index_t layer, MatrixView<double> W) const;
  /// R4 of an input of down_proj of this width, where it acts in this layer.
  [[nodiscard]] Hadamard const* r4(index_t layer, index_t width) const;
  void transform_inputs(index_t layer, LayerLinear const& linear, MatrixView<double> W) const;
  void scale_outputs(index_t layer, Linear linear, MatrixView<double> W) const;
  [[nodiscard]] bool changes_outputs(index_t layer, LayerLinear const& linear) const;
  /// Blocks of a matrix that `rows` makes, a multiple of `unit` rows each.
  void each_block_of(index_t total, index_t width, bool product, index_t unit,
                     std::function<RowMatrix<double>(index_t first, index_t count)> const& rows,
                     UseRows const& use) const;
  /// Rows as stored, and times the gain of their norm where that is folded.
  [[nodiscard]] RowMatrix<double> stored_rows(LayerLinear const& linear, index_t first, index_t count) const;
  [[nodiscard]] RowMatrix<double> gained_rows(LayerLinear const& linear, index_t first, index_t count) const;
  /// Precondition: all rows where `changes_outputs`.
  [[nodiscard]] RowMatrix<double> folded_rows(index_t layer, LayerLinear const& linear, index_t first,
                                              index_t count) const;
  /// A gain, 1 + w where that is how it is stored.
  [[nodiscard]] RowMatrix<double> gain(std::string const& name) const;
  [[nodiscard]] bool centres() const { return active_.r1 && model_.family().norm == NormKind::layer; }
  [[nodiscard]] RowMatrix<float> residual_shift(std::vector<double> const& shift,
                                                std::optional<DiagonalScale> const& scale) const;
  [[nodiscard]] NormWeights feeding_norm(std::string const& name,
                                         std::optional<DiagonalScale> const& scale) const;

  Cpu const& cpu_;
  Model const& model_;
  Rotations const* rotations_;
  RotationSet active_;
  NormGains gains_;
  /// R1 does not keep the direction of equal channels, so that no LayerNorm can run on the turned stream: an
  /// RMSNorm does. Where it does, LayerNorm also takes out the mean that rounded weights write.
  bool turns_ones_ = false;
  std::map<index_t, Hadamard> r4_;  ///< by width
};

}  // namespace dartquant::detail
