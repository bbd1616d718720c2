// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/model/pipeline.hpp>
#include <dartquant/transform/hadamard.hpp>

#include "end_to_end/straight_through.hpp"
#include "model/attention.hpp"

namespace dartquant::end_to_end {

/// R1 [hidden, hidden] and R2 [layers][kv_heads] of [head_dim, head_dim], or the derivatives by their
/// entries.
template <class T>
struct FoldedRotations {
  RowMatrix<T> r1;
  std::vector<std::vector<RowMatrix<T>>> r2;
};

/// One decoder layer as OutputDivergence sees it. Linear maps are [out, in] with gains folded.
template <class T>
struct DivergenceLayer {
  RowMatrix<T> q, k, v, o, gate, up, down;
  RowMatrix<T> q_bias, k_bias, v_bias, gate_bias, up_bias;  ///< [1, out]: of the shifts; or empty
  RowMatrix<T> attention_shift, mlp_shift, key_shift;       ///< [1, channels], or empty
};

/// KL(original || quantized) of the outputs of a rotated, fake-quantized network and its derivatives by R1
/// and R2, by hand-written reverse differentiation:
///
///   L(R1, R2) = 1 / tokens sum_t sum_v p_tv log(p_tv / q_tv),   p, q softmax of the logits
///
/// over all tokens but the last of each window. Roundings are passed straight through with scales that follow
/// their ranges (StraightThrough); the errors of rounded weights are held constant, W R1 + (Q(W R1) - W R1).
/// Activations and cache are rounded per token, and per token and head, with R3 and R4 as Hadamard
/// transforms; shifts act. For dense decoders with RMSNorm, SwiGLU and RoPE, without biases, caps or windows
/// (`refusal`). What SpinQuant (2405.16406) trains on, with the divergence in place of the text's own
/// likelihood.
///
/// Cost of a pass and its derivatives: about three forward passes. Memory: all weights, three times, and the
/// activations of all layers.
template <class T>
class OutputDivergence {
 public:
  /// Bits and rounding are those of `quantization` (to nearest); `shifts` gives the layers' shifts. All must
  /// outlive this.
  OutputDivergence(Cpu const& cpu, Model const& model, Rotations const& shifts,
                   Quantization const& quantization);

  /// Why a model is not supported; empty where it is.
  [[nodiscard]] static std::string refusal(Model const& model);

  /// L at these rotations. `hidden` are the original's hidden states before its final norm.
  [[nodiscard]] double forward(FoldedRotations<T> const& at, TokenWindows const& windows,
                               MatrixView<float const> hidden);
  /// The derivatives of the last forward.
  [[nodiscard]] FoldedRotations<T> backward();
  /// From now on the roundings of the last forward are kept: L is a smooth function of the rotations.
  void hold();

 private:
  /// What a layer's forward leaves for its backward. Rows are tokens.
  struct Pass {
    explicit Pass(Scheme scheme);
    StraightThrough<T> attention_input, key, value, output_input, mlp_input, down_input;
    RowMatrix<T> attention_normed, attention_inverse, mlp_normed, mlp_inverse;  ///< inverse: 1 / RMS
    RowMatrix<T> attention_rounded, Q, K, V, mixed, mlp_rounded, gate, up, down_rounded;
    std::vector<RowMatrix<T>> shares;  ///< softmax, per window and query head
  };

  void load(Rotations const& shifts);
  void turn(std::size_t layer);
  void round_weights(std::size_t layer);
  void attend(std::size_t layer);
  void feed_forward(std::size_t layer);
  [[nodiscard]] double compare(MatrixView<float const> hidden);
  void attend_back(std::size_t layer, RowMatrix<T>& dX);
  void feed_forward_back(std::size_t layer, RowMatrix<T>& dX);
  void mix(Pass& pass);
  void mix_back(Pass const& pass, RowMatrix<T> const& dO, RowMatrix<T>& dQ, RowMatrix<T>& dK,
                RowMatrix<T>& dV) const;
  void turn_back(std::size_t layer);
  [[nodiscard]] RowMatrix<T> normed(RowMatrix<T> const& X, RowMatrix<T>& inverse) const;

  Cpu const& cpu_;
  Model const& model_;
  ModelConfig const& config_;
  Quantization quantization_;
  Hadamard r4_;
  std::optional<Hadamard> r3_;
  RowMatrix<T> embedding_, head_;
  std::vector<DivergenceLayer<T>> original_, turned_, errors_;  ///< errors of rounded weights
  DivergenceLayer<T> derivatives_;                              ///< of the layer at hand, as it is turned
  std::vector<Pass> passes_;
  FoldedRotations<T> at_, gradient_;
  std::optional<detail::RopeTable> rope_;
  index_t tokens_ = 0;
  RowMatrix<T> embedded_, X_, final_normed_, final_inverse_, dY_;
  bool held_ = false;
};

}  // namespace dartquant::end_to_end
