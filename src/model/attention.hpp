// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/model/architecture.hpp>

namespace dartquant::detail {

/// Cosine and sine of the rotary position embedding [tokens, rotary / 2], `rotary` the channels of a head
/// that turn: angle(p, i) = p * theta^(-2 i / rotary), the frequencies stretched as `rope_scaling` says.
/// Angles in FP64.
struct RopeTable {
  RowMatrix<float> cosine, sine;
  RopeTable(ModelConfig const& config, index_t tokens, double theta, RopeScaling const& scaling);
};

/// Turns the pairs (i, i + rotary / 2) of every head of X [sequences * tokens, heads * head_dim], in place:
/// the layout of Hugging Face checkpoints.
void apply_rope(Cpu const& cpu, RopeTable const& table, index_t head_dim, MatrixView<float> X);

/// Sequences of `tokens`; a query sees the last `window` of them, itself included (0: all before it).
struct Span {
  index_t tokens, window;
};

/// softmax(cap(scale Q K^T)) V, causal, per sequence and head; query head h reads KV head h / (heads /
/// kv_heads). Scale and cap are the config's. Q and the result are [sequences * tokens, heads * head_dim].
/// Memory per thread: a block of 128 rows of scores.
void attention(Cpu const& cpu, ModelConfig const& config, Span span, MatrixView<float const> Q,
               MatrixView<float const> K, MatrixView<float const> V, MatrixView<float> output);

}  // namespace dartquant::detail
