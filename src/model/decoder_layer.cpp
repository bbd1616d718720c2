// SPDX-License-Identifier: Apache-2.0
#include "model/decoder_layer.hpp"

#include <cmath>
#include <utility>

#include <dartquant/quant/matmul.hpp>
#include <dartquant/quant/quantize.hpp>

#include "model/layer_parts.hpp"
#include "model/layout.hpp"

namespace dartquant::detail {
namespace {

bool integer_products(Quantization const& quantization) {
  return quantization.arithmetic == Arithmetic::integer;
}

template <int StorageBits>
void through_levels(Cpu const& cpu, MatrixView<float> X, QuantizeOptions const& options) {
  if constexpr (StorageBits == 4) dequantize(cpu, quantize(cpu, X, options), X);
  else dequantize(cpu, quantize_int8(cpu, X, options), X);
}

/// X <- X - shift, the same for every token; an empty shift is none.
void subtract(Cpu const& cpu, RowMatrix<float> const& shift, MatrixView<float> X) {
  if (shift.size() == 0) return;
  cpu.parallel_for(X.rows(), 64, [&](index_t first, index_t last) {
    as_eigen(X.rows(first, last - first)).rowwise() -= shift.row(0);
  });
}

}  // namespace

LayerWeights load_layer(FoldedWeights const& folded, index_t layer) {
  Model const& model = folded.model();
  Family const& family = model.family();
  LayerWeights result;
  for (LinearRule const& rule : family.linears) {
    auto const index = static_cast<std::size_t>(rule.linear);
    if (folded.identity(rule))
      result.weight[index] =
          model.checkpoint().read_matrix<float>(tensor_name(family, layer, rule.name, ".weight"));
    else result.weight[index] = folded.weight(layer, rule).cast<float>();
    RowMatrix<double> bias = folded.bias(layer, rule);
    if (RowMatrix<double> const shifted = folded.shift_bias(layer, rule); bias.size() == 0) bias = shifted;
    else if (shifted.size() != 0) bias += shifted;
    result.bias[index] = bias.cast<float>();
  }
  result.attention_shift = folded.attention_shift(layer);
  result.mlp_shift = folded.mlp_shift(layer);
  result.key_shift = folded.key_shift(layer);
  result.attention_gain = folded.attention_gain(layer);
  result.mlp_gain = folded.mlp_gain(layer);
  result.transforms = &folded.transforms(layer);
  release_pages(model.checkpoint());
  return result;
}

void rms_norm(Cpu const& cpu, MatrixView<float const> X, double epsilon, RowMatrix<float> const& gain,
              MatrixView<float> Y) {
  cpu.parallel_for(X.rows(), 64, [&](index_t first, index_t last) {
    auto const x = as_eigen(X.rows(first, last - first));
    auto y = as_eigen(Y.rows(first, last - first));
    for (index_t row = 0; row < x.rows(); ++row) {
      double const mean_square =
          x.row(row).template cast<double>().squaredNorm() / static_cast<double>(X.cols());
      y.row(row) = x.row(row) * static_cast<float>(1.0 / std::sqrt(mean_square + epsilon));
      if (gain.size() != 0) y.row(row).array() *= gain.row(0).array();
    }
  });
}

DecoderLayer::DecoderLayer(Cpu const& cpu, Model const& model, ForwardOptions const& options, index_t tokens,
                           index_t rows)
    : cpu_(cpu),
      config_(model.config()),
      options_(options),
      tokens_(tokens),
      rope_(config_, tokens),
      normed_(rows, config_.hidden),
      q_(rows, config_.query_channels()),
      k_(rows, config_.kv_channels()),
      v_(rows, config_.kv_channels()),
      mixed_(rows, config_.query_channels()),
      gate_(rows, config_.intermediate),
      up_(rows, config_.intermediate) {
  OnlineRotations const online = online_rotations(model, options);
  if (online.r3_block != 0) r3_.emplace(config_.head_dim, online.r3_block);
  if (online.r4_block != 0) r4_.emplace(config_.intermediate, online.r4_block);
}

void DecoderLayer::observe(Site site, MatrixView<float const> X) const {
  if (options_.observer) options_.observer(site, layer_, first_token_, X);
}

LinearInput DecoderLayer::quantize_activations(MatrixView<float> X, Site site) const {
  auto const options = options_.quantization.at(site, config_.head_dim);
  if (!options) return X;
  if (integer_products(options_.quantization)) {
    if (options->bits <= 4) return quantize(cpu_, X, *options);
    return quantize_int8(cpu_, X, *options);
  }
  fake_quantize(cpu_, X, *options);
  return X;
}

void DecoderLayer::quantize_cache(MatrixView<float> X, Site site) const {
  auto const options = options_.quantization.at(site, config_.head_dim);
  if (!options) return;
  if (!integer_products(options_.quantization)) fake_quantize(cpu_, X, *options);
  else if (options->bits <= 4) through_levels<4>(cpu_, X, *options);
  else through_levels<8>(cpu_, X, *options);
}

void DecoderLayer::multiply(Linear linear, LinearInput const& X, float beta, MatrixView<float> Y) const {
  auto const index = static_cast<std::size_t>(linear);
  RowMatrix<float> const& bias = weights_->bias[index];
  if (auto const* const values = std::get_if<MatrixView<float const>>(&X)) {
    cpu_.gemm<float>(1.0f, *values, Op::none, weights_->weight[index], Op::transpose, beta, Y);
    if (bias.size() != 0) as_eigen(Y).rowwise() += bias.row(0);
    return;
  }
  VectorView<float const> const added(bias.data(), bias.size());
  PackedInt4 const& W = weights_->packed[index];
  RowMatrix<float> const product = std::holds_alternative<Int4Matrix>(X)
                                       ? matmul(cpu_, std::get<Int4Matrix>(X), W, added)
                                       : matmul(cpu_, std::get<Int8Matrix>(X), W, added);
  if (beta == 0) as_eigen(Y) = product;
  else as_eigen(Y) += product;
}

bool DecoderLayer::observe_input(Site site, MatrixView<float const> X) const {
  observe(site, X);
  return last_ != site;
}

void DecoderLayer::enter(LayerWeights const& weights, index_t layer, index_t first_token) {
  weights_ = &weights;
  layer_ = layer;
  first_token_ = first_token;
}

void DecoderLayer::rotate_keys(MatrixView<float> Q, MatrixView<float> K) const {
  index_t const head_dim = config_.head_dim;
  auto const apply = [&](auto const& rotation) {
    rotation->apply(cpu_, MatrixView<float>(Q.data(), Q.rows() * config_.heads, head_dim));
    rotation->apply(cpu_, MatrixView<float>(K.data(), K.rows() * config_.kv_heads, head_dim));
  };
  if (weights_->transforms->key_rotation) apply(weights_->transforms->key_rotation);
  else if (r3_) apply(r3_);
}

void DecoderLayer::observe_until(Site last, LayerWeights const& weights, index_t layer, index_t first_token,
                                 MatrixView<float> hidden) {
  last_ = last;
  if (last == Site::q_proj_input || last == Site::o_proj_input) attend(weights, layer, first_token, hidden);
  else feed_forward(weights, layer, first_token, hidden);
  last_.reset();
}

void DecoderLayer::attend(LayerWeights const& weights, index_t layer, index_t first_token,
                          MatrixView<float> hidden) {
  enter(weights, layer, first_token);
  index_t const rows = hidden.rows();
  auto const part = [rows](RowMatrix<float>& whole) { return MatrixView<float>(whole).rows(0, rows); };
  MatrixView<float> const X = part(normed_), Q = part(q_), K = part(k_), V = part(v_), A = part(mixed_);
  rms_norm(cpu_, hidden, config_.norm_epsilon, weights_->attention_gain, X);
  subtract(cpu_, weights_->attention_shift, X);
  if (auto const& transform = weights_->transforms->q_proj_input) transform->apply(cpu_, X);
  if (!observe_input(Site::q_proj_input, X)) return;
  LinearInput const input = quantize_activations(X, Site::q_proj_input);
  multiply(Linear::q_proj, input, 0, Q);
  multiply(Linear::k_proj, input, 0, K);
  multiply(Linear::v_proj, input, 0, V);
  apply_rope(cpu_, rope_, config_.head_dim, Q);
  apply_rope(cpu_, rope_, config_.head_dim, K);
  subtract(cpu_, weights_->key_shift, K);
  rotate_keys(Q, K);
  observe(Site::key, K);
  observe(Site::value, V);
  quantize_cache(K, Site::key);
  quantize_cache(V, Site::value);
  attention(cpu_, config_, tokens_, Q, K, V, A);
  if (auto const& transform = weights_->transforms->o_proj_input) transform->apply(cpu_, A);
  if (!observe_input(Site::o_proj_input, A)) return;
  multiply(Linear::o_proj, quantize_activations(A, Site::o_proj_input), 1, hidden);
}

void DecoderLayer::feed_forward(LayerWeights const& weights, index_t layer, index_t first_token,
                                MatrixView<float> hidden) {
  enter(weights, layer, first_token);
  index_t const rows = hidden.rows();
  MatrixView<float> const X = MatrixView<float>(normed_).rows(0, rows),
                          G = MatrixView<float>(gate_).rows(0, rows),
                          U = MatrixView<float>(up_).rows(0, rows);
  rms_norm(cpu_, hidden, config_.norm_epsilon, weights_->mlp_gain, X);
  subtract(cpu_, weights_->mlp_shift, X);
  if (auto const& transform = weights_->transforms->up_proj_input) transform->apply(cpu_, X);
  if (!observe_input(Site::up_proj_input, X)) return;
  LinearInput const input = quantize_activations(X, Site::up_proj_input);
  multiply(Linear::gate_proj, input, 0, G);
  multiply(Linear::up_proj, input, 0, U);
  cpu_.parallel_for(rows, 32, [&](index_t first, index_t last) {
    auto g = as_eigen(G.rows(first, last - first)).array();
    g = g / (1.0f + (-g).exp()) * as_eigen(U.rows(first, last - first)).array();  // SiLU(g) u
  });
  if (auto const& own = weights_->transforms->down_proj_input; has_steps(own)) own->apply(cpu_, G);
  else if (r4_) r4_->apply(cpu_, G);
  if (!observe_input(Site::down_proj_input, G)) return;
  multiply(Linear::down_proj, quantize_activations(G, Site::down_proj_input), 1, hidden);
}

}  // namespace dartquant::detail
