// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include <dartquant/model/rotations.hpp>

namespace dartquant::fuzz {

/// A model so small that a file of all its rotations is a few hundred bytes.
inline ModelConfig small_config() {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.hidden = 4;
  config.intermediate = 4;
  config.layers = 1;
  config.heads = 2;
  config.kv_heads = 1;
  config.head_dim = 2;
  config.vocabulary = 4;
  config.positions = 8;
  config.norm_epsilon = 1e-5;
  return config;
}

/// Every part that a file of rotations can hold.
inline Rotations small_rotations() {
  using Matrix = RowMatrix<double>;
  Rotations rotations;
  rotations.r1 = Matrix::Identity(4, 4);
  rotations.r2 = {{Matrix::Identity(2, 2)}};
  LayerTransforms layer;
  layer.attention_scale = DiagonalScale({1, 2, 1, 0.5});
  layer.q_proj_input = Transform(4).then(Permutation({1, 0, 3, 2})).then(Hadamard(4, 2));
  layer.down_proj_input = Transform(4)
                              .then(DiagonalScale({1, 1, 2, 2}))
                              .then(BlockRotation(4, Matrix(Matrix::Identity(2, 2))))
                              .then(DenseRotation(Matrix::Identity(4, 4)));
  layer.mlp_shift = {0, 1, 0, 1};
  layer.key_rotation = DenseRotation(Matrix::Identity(2, 2));
  rotations.layers = {layer};
  return rotations;
}

}  // namespace dartquant::fuzz
