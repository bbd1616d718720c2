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

/// Positions [first, first + count).
struct Positions {
  index_t first, count;
};

/// Turns the pairs (i, i + rotary / 2) of every head of X [sequences * positions, heads * head_dim], in
/// place: the layout of Hugging Face checkpoints.
void apply_rope(Cpu const& cpu, RopeTable const& table, Positions positions, index_t head_dim,
                MatrixView<float> X);

/// Sequences of `tokens`; a query sees the last `window` of them, itself included (0: all before it).
struct Span {
  index_t tokens, window;
};

/// softmax(cap(scale Q K^T)) V, causal, per sequence and head; query head h reads KV head h / (heads /
/// kv_heads). Scale and cap are the config's. Q and the result are [sequences * tokens, heads * head_dim].
/// Memory per thread: a block of 128 rows of scores.
void attention(Cpu const& cpu, ModelConfig const& config, Span span, MatrixView<float const> Q,
               MatrixView<float const> K, MatrixView<float const> V, MatrixView<float> output);

/// The keys and values of the tokens so far of some sequences, all as long.
class KeyValueCache {
 public:
  /// Memory: 2 * sequences * capacity * channels floats.
  KeyValueCache(index_t sequences, index_t capacity, index_t channels);

  /// The next token of every sequence [sequences, channels]. Precondition: tokens() < capacity.
  void append(MatrixView<float const> K, MatrixView<float const> V);
  [[nodiscard]] index_t tokens() const { return tokens_; }
  [[nodiscard]] MatrixView<float const> keys(index_t sequence) const { return part(keys_, sequence); }
  [[nodiscard]] MatrixView<float const> values(index_t sequence) const { return part(values_, sequence); }

 private:
  [[nodiscard]] MatrixView<float const> part(RowMatrix<float> const& whole, index_t sequence) const;
  index_t capacity_, tokens_ = 0;
  RowMatrix<float> keys_, values_;
};

/// The same for the last token of every sequence: Q and the result are [sequences, heads * head_dim].
void attention_to_cache(Cpu const& cpu, ModelConfig const& config, index_t window, MatrixView<float const> Q,
                        KeyValueCache const& cache, MatrixView<float> output);

}  // namespace dartquant::detail
