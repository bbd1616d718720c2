// SPDX-License-Identifier: Apache-2.0
#include "model/attention.hpp"

#include <cmath>
#include <numbers>

namespace dartquant::detail {
namespace {

/// The frequency of pair i after `rope_scaling`. llama3: long waves are divided by the factor, short ones
/// kept, those between interpolated; source: the formula of the Llama 3.1 release, as Hugging Face computes
/// it.
double frequency(RopeScaling const& scaling, double base, index_t i, index_t tokens) {
  using Kind = RopeScaling::Kind;
  if (scaling.kind == Kind::none) return base;
  if (scaling.kind == Kind::linear) return base / scaling.factor;
  if (scaling.kind == Kind::longrope) {
    bool const is_long = static_cast<double>(tokens) > scaling.original_positions;
    return base / (is_long ? scaling.long_factors : scaling.short_factors)[static_cast<std::size_t>(i)];
  }
  double const wave = 2 * std::numbers::pi / base;
  double const turns = scaling.original_positions / wave;  // within the original context
  if (turns < scaling.low_frequency) return base / scaling.factor;
  if (turns > scaling.high_frequency) return base;
  double const smooth = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency);
  return (1 - smooth) * base / scaling.factor + smooth * base;
}

index_t rotary_pairs(ModelConfig const& config) {
  return (config.rotary_channels == 0 ? config.head_dim : config.rotary_channels) / 2;
}

/// Softmax of columns [first, end) of row `row` of S; the rest becomes 0.
void softmax_row(RowMatrix<float>& S, index_t row, index_t first, index_t end) {
  auto seen = S.row(row).segment(first, end - first).array();
  float const largest = seen.maxCoeff();
  seen = (seen - largest).exp();
  seen *= 1.0f / seen.sum();
  S.row(row).head(first).setZero();
  S.row(row).tail(S.cols() - end).setZero();
}

float scale_of(ModelConfig const& config) {
  return config.attention_scale > 0 ? static_cast<float>(config.attention_scale)
                                    : 1.0f / std::sqrt(static_cast<float>(config.head_dim));
}

}  // namespace

RopeTable::RopeTable(ModelConfig const& config, index_t tokens, double theta, RopeScaling const& scaling)
    : cosine(tokens, rotary_pairs(config)), sine(tokens, rotary_pairs(config)) {
  index_t const pairs = rotary_pairs(config);
  for (index_t i = 0; i < pairs; ++i) {
    double const base = std::pow(theta, -static_cast<double>(i) / static_cast<double>(pairs));
    double const step = frequency(scaling, base, i, tokens);
    for (index_t position = 0; position < tokens; ++position) {
      double const angle = static_cast<double>(position) * step;
      cosine(position, i) = static_cast<float>(scaling.attention_factor * std::cos(angle));
      sine(position, i) = static_cast<float>(scaling.attention_factor * std::sin(angle));
    }
  }
}

void apply_rope(Cpu const& cpu, RopeTable const& table, Positions positions, index_t head_dim,
                MatrixView<float> X) {
  index_t const half = table.cosine.cols();
  cpu.parallel_for(X.rows(), 128, [&](index_t first, index_t last) {
    for (index_t row = first; row < last; ++row) {
      index_t const position = positions.first + row % positions.count;
      float const* const c = table.cosine.data() + position * half;
      float const* const s = table.sine.data() + position * half;
      for (float* low = X.data() + row * X.stride(); low < X.data() + row * X.stride() + X.cols();
           low += head_dim) {
        float* const high = low + half;
        for (index_t i = 0; i < half; ++i) {
          float const a = low[i], b = high[i];
          low[i] = a * c[i] - b * s[i];
          high[i] = b * c[i] + a * s[i];
        }
      }
    }
  });
}

void attention(Cpu const& cpu, ModelConfig const& config, Span span, MatrixView<float const> Q,
               MatrixView<float const> K, MatrixView<float const> V, MatrixView<float> output) {
  constexpr index_t block_rows = 128;
  index_t const tokens = span.tokens, head_dim = config.head_dim, group = config.heads / config.kv_heads;
  index_t const blocks = (tokens + block_rows - 1) / block_rows, sequences = Q.rows() / tokens;
  float const scale = scale_of(config);
  auto const cap = static_cast<float>(config.attention_cap);
  cpu.parallel_for(sequences * config.heads * blocks, 1, [&](index_t item, index_t) {
    index_t const block = item % blocks, head = item / blocks % config.heads,
                  start = item / (blocks * config.heads) * tokens;
    index_t const first = block * block_rows, rows = std::min(block_rows, tokens - first);
    // Keys before `begin` are outside the window of every query of the block.
    index_t const begin = span.window == 0 ? 0 : std::max<index_t>(0, first + 1 - span.window),
                  seen = first + rows - begin;
    RowMatrix<float> S(rows, seen);
    gemm_tile<float>(cpu, scale, Q.block(start + first, head * head_dim, rows, head_dim), Op::none,
                     K.block(start + begin, head / group * head_dim, seen, head_dim), Op::transpose, 0.0f, S);
    if (cap > 0) S = cap * (S.array() / cap).tanh();
    for (index_t row = 0; row < rows; ++row) {
      index_t const end = first + row + 1;  // of the tokens that the query sees
      index_t const oldest = span.window == 0 ? 0 : std::max<index_t>(0, end - span.window);
      softmax_row(S, row, oldest - begin, end - begin);
    }
    gemm_tile<float>(cpu, 1.0f, S, Op::none,
                     V.block(start + begin, head / group * head_dim, seen, head_dim), Op::none, 0.0f,
                     output.block(start + first, head * head_dim, rows, head_dim));
  });
}

KeyValueCache::KeyValueCache(index_t sequences, index_t capacity, index_t channels)
    : capacity_(capacity), keys_(sequences * capacity, channels), values_(sequences * capacity, channels) {}

void KeyValueCache::append(MatrixView<float const> K, MatrixView<float const> V) {
  for (index_t sequence = 0; sequence < K.rows(); ++sequence) {
    keys_.row(sequence * capacity_ + tokens_) = as_eigen(K).row(sequence);
    values_.row(sequence * capacity_ + tokens_) = as_eigen(V).row(sequence);
  }
  ++tokens_;
}

MatrixView<float const> KeyValueCache::part(RowMatrix<float> const& whole, index_t sequence) const {
  return MatrixView<float const>(whole).rows(sequence * capacity_, tokens_);
}

void attention_to_cache(Cpu const& cpu, ModelConfig const& config, index_t window, MatrixView<float const> Q,
                        KeyValueCache const& cache, MatrixView<float> output) {
  index_t const head_dim = config.head_dim, group = config.heads / config.kv_heads, tokens = cache.tokens();
  index_t const seen = window == 0 ? tokens : std::min(window, tokens);
  float const scale = scale_of(config);
  auto const cap = static_cast<float>(config.attention_cap);
  cpu.parallel_for(Q.rows() * config.heads, 1, [&](index_t item, index_t) {
    index_t const sequence = item / config.heads, head = item % config.heads,
                  column = head / group * head_dim;
    auto const k = as_eigen(cache.keys(sequence).block(tokens - seen, column, seen, head_dim));
    auto const v = as_eigen(cache.values(sequence).block(tokens - seen, column, seen, head_dim));
    RowMatrix<float> S = scale * (as_eigen(Q.block(sequence, head * head_dim, 1, head_dim)) * k.transpose());
    if (cap > 0) S = cap * (S.array() / cap).tanh();
    softmax_row(S, 0, 0, seen);
    as_eigen(output.block(sequence, head * head_dim, 1, head_dim)).noalias() = S * v;
  });
}

}  // namespace dartquant::detail
