// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/model/architecture.hpp>
#include <dartquant/model/fold.hpp>
#include <dartquant/transform/hadamard.hpp>

namespace dartquant::detail {

/// The widest block of a Hadamard transform of `channels`: all of them where that order is known, else the
/// largest block that divides them.
[[nodiscard]] index_t online_block(index_t channels);

/// Rows [first, first + count) of a matrix of the checkpoint. Errors: Error(format) for a value that is not
/// finite.
template <class T>
[[nodiscard]] RowMatrix<T> read_rows(Checkpoint const& checkpoint, std::string_view name, index_t first,
                                     index_t count);

/// Gives all pages of the checkpoint back to the system. A read maps some pages of the neighbours as well, so
/// giving back only what was read would let resident memory grow with the number of tensors.
void release_pages(Checkpoint const& checkpoint);

/// How `quantization` rounds a weight [out, in].
[[nodiscard]] QuantizeOptions quantize_options(WeightQuantization const& quantization);

/// Reads the weights of a model with gains and rotations folded in FP64: the one place where folding is done,
/// for the written checkpoint and for the forward pass alike. One tensor at a time; nothing is kept.
class FoldedWeights {
 public:
  /// `rotations` may be null; `active` says whether R1, R2 and R4 are folded, its layers always are. All must
  /// outlive this.
  FoldedWeights(Cpu const& cpu, Model const& model, Rotations const* rotations, RotationSet active,
                NormGains gains);

  /// W [out, in] of a layer: diag(gain), then the input side, then the output side; scales and transforms of
  /// the layer after R1, R2 and R4.
  [[nodiscard]] RowMatrix<double> weight(index_t layer, LinearRule const& rule) const;
  /// The bias [1, out], turned by the output side; empty where there is none.
  [[nodiscard]] RowMatrix<double> bias(index_t layer, LinearRule const& rule) const;
  /// Rows of the embedding, E R1.
  [[nodiscard]] RowMatrix<double> embedding_rows(index_t first, index_t count) const;
  /// Turns given rows of the embedding.
  void rotate_residual(MatrixView<double> rows) const;
  /// Rows of lm_head (the embedding where tied), W diag(final gain) R1.
  [[nodiscard]] RowMatrix<double> head_rows(index_t first, index_t count) const;
  /// The gain [1, hidden] that the final norm still multiplies by: the checkpoint's, or empty when folded.
  [[nodiscard]] RowMatrix<float> final_gain() const;
  /// The same of the norm of a layer that feeds q_proj or up_proj; 1 / scale where that input has one.
  [[nodiscard]] RowMatrix<float> attention_gain(index_t layer) const;
  [[nodiscard]] RowMatrix<float> mlp_gain(index_t layer) const;
  /// What a shift of the input of this map moves into its bias, W shift [1, out], turned by the output side;
  /// empty where the input is not shifted.
  [[nodiscard]] RowMatrix<double> shift_bias(index_t layer, LinearRule const& rule) const;
  /// What is subtracted from the inputs of q_proj and up_proj as R1 and the layer's scales leave them, and
  /// from the keys after RoPE [1, channels]; empty for nothing.
  [[nodiscard]] RowMatrix<float> attention_shift(index_t layer) const;
  [[nodiscard]] RowMatrix<float> mlp_shift(index_t layer) const;
  [[nodiscard]] RowMatrix<float> key_shift(index_t layer) const;
  /// What the layer does to its inputs.
  [[nodiscard]] LayerTransforms const& transforms(index_t layer) const;

  [[nodiscard]] Model const& model() const { return model_; }
  /// True when `weight` returns the tensor as stored.
  [[nodiscard]] bool identity(LinearRule const& rule) const;

 private:
  [[nodiscard]] RowMatrix<double> const* residual() const;
  [[nodiscard]] bool has_layers() const { return rotations_ != nullptr && !rotations_->layers.empty(); }
  [[nodiscard]] bool turns(Acts side) const;
  void turn_inputs(Acts side, index_t layer, MatrixView<double> W) const;
  void turn_outputs(Acts side, index_t layer, MatrixView<double> W) const;
  /// R4 where it acts in this layer.
  [[nodiscard]] Hadamard const* r4(index_t layer) const;
  void transform_inputs(index_t layer, Linear linear, MatrixView<double> W) const;
  void scale_outputs(index_t layer, Linear linear, MatrixView<double> W) const;
  /// The tensor as stored, times the gain of its norm where that is folded.
  [[nodiscard]] RowMatrix<double> gained_weight(index_t layer, LinearRule const& rule) const;
  [[nodiscard]] RowMatrix<float> residual_shift(std::vector<double> const& shift,
                                                std::optional<DiagonalScale> const& scale) const;
  [[nodiscard]] RowMatrix<float> remaining_gain(std::string const& name,
                                                std::optional<DiagonalScale> const& scale) const;

  Cpu const& cpu_;
  Model const& model_;
  Rotations const* rotations_;
  RotationSet active_;
  NormGains gains_;
  std::optional<Hadamard> r4_;
};

}  // namespace dartquant::detail
