// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <dartquant/core/matrix.hpp>
#include <dartquant/model/architecture.hpp>
#include <dartquant/transform/smoothing.hpp>
#include <dartquant/transform/transform.hpp>

namespace dartquant {

/// Which rotations a run uses.
struct RotationSet {
  bool r1 = false;  ///< the residual stream; folded
  bool r2 = false;  ///< value heads; folded
  bool r3 =
      false;  ///< queries and keys after RoPE; online Hadamard, acts only where the KV cache is quantized
  bool r4 = false;  ///< the input of down_proj; online Hadamard, its inverse folded into down_proj

  /// From "r1,r2,r3,r4" in any order, or "none". Errors: InvalidArgument for anything else or a repeated
  /// name.
  [[nodiscard]] static RotationSet parse(std::string_view text);
  /// The same text, in order; "none" when empty.
  [[nodiscard]] std::string name() const;
  friend bool operator==(RotationSet const&, RotationSet const&) = default;
};

/// What a layer does to the inputs of its own linear maps, after R1 and R2. An absent part (or a chain
/// without steps) is the identity. A scale divides the channels of an input and multiplies the columns of the
/// weights that read it; it costs nothing at run time. A transform T of an input X runs online, X <- X T, and
/// its counterpart is folded into the weights, W <- W T^-T. Where both are there, the scale comes first:
///
///   X = q_proj input: the norm's gain becomes 1 / attention_scale; q, k, v <- W diag(attention_scale) T^-T
///   X = o_proj input: v rows (and bias) <- diag(1 / value_scale) W_v; o columns of every query head <-
///                     W_o diag(value_scale of its KV head) T^-T, exact for grouped heads
///   X = up_proj input: as the q_proj input, with mlp_scale, for gate and up
///   X = down_proj input: up rows (and bias) <- diag(1 / down_scale) W_up; down <- W diag(down_scale) T^-T
struct LayerTransforms {
  std::optional<DiagonalScale> attention_scale{};  ///< [hidden], in the basis after R1
  std::optional<DiagonalScale> value_scale{};      ///< [kv_heads * head_dim], in the basis after R2
  std::optional<DiagonalScale> mlp_scale{};        ///< [hidden], in the basis after R1
  std::optional<DiagonalScale> down_scale{};       ///< [intermediate]
  std::optional<Transform> q_proj_input{};         ///< [hidden], also of k_proj and v_proj
  std::optional<Transform> o_proj_input{};         ///< [heads * head_dim]
  std::optional<Transform> up_proj_input{};        ///< [hidden], also of gate_proj
  std::optional<Transform> down_proj_input{};      ///< [intermediate]; in this layer it takes the place of R4
  /// Subtracted online from the inputs of q_proj and up_proj, [hidden] each in the basis before R1 and before
  /// scales and transforms, with the gain of the norm folded; empty: nothing. What the linear maps lose is in
  /// their biases, b <- b + W shift, with W in full precision. Cost: one addition per channel and token.
  std::vector<double> attention_shift{}, mlp_shift{};
  /// Subtracted from K [kv_heads * head_dim] after RoPE, before R3; empty: nothing. All scores of a query
  /// change by the same amount, which softmax does not see. Cost: one addition per channel and token.
  std::vector<double> key_shift{};
  /// [head_dim], on every head of Q and K after RoPE, online; in this layer it takes the place of the
  /// Hadamard R3.
  std::optional<DenseRotation> key_rotation{};

  /// True when a transform or rotation runs online, so that a checkpoint alone cannot hold the layer. Shifts
  /// do not count: without them a layer computes the same, its inputs are only harder to quantize.
  [[nodiscard]] bool online() const;
};

/// Rotations of the whole model, in FP64, and what single layers add. An empty part is the identity.
struct Rotations {
  RowMatrix<double> r1{};                            ///< [hidden, hidden], or empty
  std::vector<std::vector<RowMatrix<double>>> r2{};  ///< [layers][kv_heads] of [head_dim, head_dim], or empty
  std::vector<LayerTransforms> layers{};             ///< [layers], or empty; they act wherever they are given

  /// Sizes fit the config, every value is finite, and |I - R^T R|_1 / (n eps32) < 30 (LAPACK's test) for R1
  /// and each R2. Errors: InvalidArgument (sizes) naming layer and part, Error(numerics) naming the rotation.
  void validate(ModelConfig const& config) const;
  /// orthogonality_ratio of R1, and the largest over all of R2; 0 where empty.
  [[nodiscard]] double r1_orthogonality() const;
  [[nodiscard]] double r2_orthogonality() const;
};

/// What a checkpoint can hold of `rotations`: all but the shifts of inputs and keys.
[[nodiscard]] Rotations without_shifts(Rotations rotations);

/// Writes one safetensors file with `metadata` in its header: `R1` F64 [hidden, hidden];
/// `model.layers.i.self_attn.R2` F64 [kv_heads, head_dim, head_dim]; and of LayerTransforms the scales
/// `model.layers.i.attention_scale` (value_scale, mlp_scale, down_scale) F64 [channels],
/// the shifts `model.layers.i.attention_shift` (mlp_shift, key_shift) F64 [channels],
/// `model.layers.i.key_rotation` F64 [head_dim, head_dim], and step k of a transform as one of
///   `model.layers.i.q_proj_input.k.scale` F64 [channels], `....permutation` I64 [channels] (the source of
///   each channel), `....block_rotation` F64 [1 or blocks, block, block], `....hadamard` I64 [1] (the block),
///   `....rotation` F64 [channels, channels].
/// Errors: Error(io).
void save_rotations(Rotations const& rotations, std::filesystem::path const& file,
                    std::map<std::string, std::string> const& metadata = {});

/// Reads what save_rotations wrote and validates it against `config`. Errors: Error(io), Error(format) naming
/// a missing, extra or misshapen tensor, a scale that is not positive, a permutation that is not one, a block
/// that does not divide, a layer's rotation that is not orthonormal; Error(numerics) as validate.
[[nodiscard]] Rotations load_rotations(std::filesystem::path const& file, ModelConfig const& config);

}  // namespace dartquant
