// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/model/architecture.hpp>

namespace dartquant::detail {

/// Cosine and sine of the rotary position embedding [tokens, head_dim / 2]: angle(p, i) = p * theta^(-2 i /
/// head_dim), the frequencies stretched as `rope_scaling` says. Angles in FP64.
struct RopeTable {
  RowMatrix<float> cosine, sine;
  RopeTable(ModelConfig const& config, index_t tokens);
};

/// Turns the pairs (i, i + head_dim / 2) of every head of X [sequences * tokens, heads * head_dim], in place:
/// the layout of Hugging Face checkpoints.
void apply_rope(Cpu const& cpu, RopeTable const& table, index_t head_dim, MatrixView<float> X);

/// softmax(Q K^T / sqrt(head_dim)) V, causal, per sequence and head; query head h reads KV head h / (heads /
/// kv_heads). Q and the result are [sequences * tokens, heads * head_dim]. Memory per thread: block of 128
/// rows of scores.
void attention(Cpu const& cpu, ModelConfig const& config, index_t tokens, MatrixView<float const> Q,
               MatrixView<float const> K, MatrixView<float const> V, MatrixView<float> output);

}  // namespace dartquant::detail
