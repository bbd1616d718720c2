// SPDX-License-Identifier: Apache-2.0
#include "model/attention.hpp"

#include <cmath>
#include <numbers>

namespace dartquant::detail {
namespace {

/// The frequency of pair i after `rope_scaling`. llama3: long waves are divided by the factor, short ones
/// kept, those between interpolated; source: the formula of the Llama 3.1 release, as Hugging Face computes
/// it.
double frequency(ModelConfig const& config, index_t i) {
  double const exponent = -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim);
  double const base = std::pow(config.rope_theta, exponent);
  RopeScaling const& scaling = config.rope_scaling;
  if (scaling.kind == RopeScaling::Kind::none) return base;
  if (scaling.kind == RopeScaling::Kind::linear) return base / scaling.factor;
  double const wave = 2 * std::numbers::pi / base;
  double const turns = scaling.original_positions / wave;  // within the original context
  if (turns < scaling.low_frequency) return base / scaling.factor;
  if (turns > scaling.high_frequency) return base;
  double const smooth = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency);
  return (1 - smooth) * base / scaling.factor + smooth * base;
}

/// Softmax of row `row` of S over its first `count` columns; the rest becomes 0.
void softmax_row(RowMatrix<float>& S, index_t row, index_t count) {
  auto seen = S.row(row).head(count).array();
  float const largest = seen.maxCoeff();
  seen = (seen - largest).exp();
  seen *= 1.0f / seen.sum();
  S.row(row).tail(S.cols() - count).setZero();
}

}  // namespace

RopeTable::RopeTable(ModelConfig const& config, index_t tokens)
    : cosine(tokens, config.head_dim / 2), sine(tokens, config.head_dim / 2) {
  for (index_t i = 0; i < config.head_dim / 2; ++i) {
    double const step = frequency(config, i);
    for (index_t position = 0; position < tokens; ++position) {
      double const angle = static_cast<double>(position) * step;
      cosine(position, i) = static_cast<float>(std::cos(angle));
      sine(position, i) = static_cast<float>(std::sin(angle));
    }
  }
}

void apply_rope(Cpu const& cpu, RopeTable const& table, index_t head_dim, MatrixView<float> X) {
  index_t const tokens = table.cosine.rows(), half = head_dim / 2;
  cpu.parallel_for(X.rows(), 128, [&](index_t first, index_t last) {
    for (index_t row = first; row < last; ++row) {
      float const* const c = table.cosine.data() + row % tokens * half;
      float const* const s = table.sine.data() + row % tokens * half;
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

void attention(Cpu const& cpu, ModelConfig const& config, index_t tokens, MatrixView<float const> Q,
               MatrixView<float const> K, MatrixView<float const> V, MatrixView<float> output) {
  constexpr index_t block_rows = 128;
  index_t const head_dim = config.head_dim, group = config.heads / config.kv_heads;
  index_t const blocks = (tokens + block_rows - 1) / block_rows, sequences = Q.rows() / tokens;
  float const scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  cpu.parallel_for(sequences * config.heads * blocks, 1, [&](index_t item, index_t) {
    index_t const block = item % blocks, head = item / blocks % config.heads,
                  start = item / (blocks * config.heads) * tokens;
    index_t const first = block * block_rows, rows = std::min(block_rows, tokens - first),
                  seen = first + rows;
    auto const q = as_eigen(Q.block(start + first, head * head_dim, rows, head_dim));
    auto const k = as_eigen(K.block(start, head / group * head_dim, seen, head_dim));
    auto const v = as_eigen(V.block(start, head / group * head_dim, seen, head_dim));
    RowMatrix<float> S(rows, seen);
    S.noalias() = scale * (q * k.transpose());
    for (index_t row = 0; row < rows; ++row) softmax_row(S, row, first + row + 1);
    as_eigen(output.block(start + first, head * head_dim, rows, head_dim)).noalias() = S * v;
  });
}

}  // namespace dartquant::detail
