// SPDX-License-Identifier: Apache-2.0
#include "model/decoder_layer.hpp"

#include <algorithm>
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

/// Without float products of an instruction set.
Cpu on_eigen(Cpu const& cpu) {
  if (cpu.kernels() == nullptr) return cpu;
  CpuKernels kernels = *cpu.kernels();
  kernels.tiles = nullptr;
  return cpu.with_kernels(kernels);
}

}  // namespace

std::optional<std::size_t> LayerWeights::find(Linear linear, index_t block) const {
  auto const found = std::ranges::find_if(linears, [&](LayerLinear const& candidate) {
    return candidate.linear == linear && candidate.block == block;
  });
  if (found == linears.end()) return std::nullopt;
  return static_cast<std::size_t>(found - linears.begin());
}

LayerWeights load_layer(FoldedWeights const& folded, index_t layer, bool quantized_maps) {
  Model const& model = folded.model();
  Family const& family = model.family();
  LayerWeights result;
  result.linears = folded.linears(layer);
  for (LayerLinear const& linear : result.linears) {
    LinearWeights& map = result.maps.emplace_back();
    if (linear.quantized() && !quantized_maps) {
      // left to the caller
    } else if (folded.identity(linear)) {
      map.weight = model.checkpoint().read_matrix<float>(linear.weight);
    } else {
      map.weight.resize(linear.outputs, linear.inputs);
      folded.each_block(layer, linear, [&](index_t first, MatrixView<double const> rows) {
        map.weight.middleRows(first, rows.rows()) = as_eigen(rows).cast<float>();
      });
    }
    RowMatrix<double> bias = folded.bias(layer, linear);
    if (RowMatrix<double> const shifted = folded.shift_bias(layer, linear); bias.size() == 0) bias = shifted;
    else if (shifted.size() != 0) bias += shifted;
    map.bias = bias.cast<float>();
  }
  result.attention_shift = folded.attention_shift(layer);
  result.mlp_shift = folded.mlp_shift(layer);
  result.key_shift = folded.key_shift(layer);
  result.attention_norm = folded.attention_norm(layer);
  result.mlp_norm = folded.mlp_norm(layer);
  result.attention_output_norm = folded.kept_norm(layer, family.attention_output_norm);
  result.mlp_output_norm = folded.kept_norm(layer, family.mlp_output_norm);
  result.query_norm = folded.kept_norm(layer, family.query_norm);
  result.key_norm = folded.kept_norm(layer, family.key_norm);
  result.transforms = &folded.transforms(layer);
  release_pages(model.checkpoint());
  return result;
}

void normalize(Cpu const& cpu, MatrixView<float const> X, double epsilon, NormWeights const& norm,
               MatrixView<float> Y) {
  cpu.parallel_for(X.rows(), 64, [&](index_t first, index_t last) {
    auto const x = as_eigen(X.rows(first, last - first));
    auto y = as_eigen(Y.rows(first, last - first));
    Eigen::RowVectorXd centred;
    for (index_t row = 0; row < x.rows(); ++row) {
      if (norm.kind == NormKind::layer) {
        centred = x.row(row).template cast<double>();
        centred.array() -= centred.mean();
        double const variance = centred.squaredNorm() / static_cast<double>(X.cols());
        y.row(row) = (centred / std::sqrt(variance + epsilon)).template cast<float>();
      } else {
        double const mean_square =
            x.row(row).template cast<double>().squaredNorm() / static_cast<double>(X.cols());
        y.row(row) = x.row(row) * static_cast<float>(1.0 / std::sqrt(mean_square + epsilon));
      }
      if (norm.gain.size() != 0) y.row(row).array() *= norm.gain.row(0).array();
      if (norm.bias.size() != 0) y.row(row) += norm.bias.row(0);
    }
  });
}

void subtract(Cpu const& cpu, RowMatrix<float> const& shift, MatrixView<float> X) {
  if (shift.size() == 0) return;
  cpu.parallel_for(X.rows(), 64, [&](index_t first, index_t last) {
    as_eigen(X.rows(first, last - first)).rowwise() -= shift.row(0);
  });
}

DecoderLayer::DecoderLayer(Cpu const& cpu, Model const& model, ForwardOptions const& options, index_t tokens,
                           index_t rows)
    : cpu_(cpu),
      attention_cpu_(integer_products(options.quantization) ? on_eigen(cpu) : cpu),
      config_(model.config()),
      options_(options),
      tokens_(tokens),
      family_(model.family()),
      rope_(config_, tokens, config_.rope_theta, config_.rope_scaling),
      normed_(rows, config_.hidden),
      q_(rows, config_.query_channels()),
      k_(rows, config_.kv_channels()),
      v_(rows, config_.kv_channels()),
      mixed_(rows, config_.query_channels()),
      expert_tokens_(static_cast<std::size_t>(config_.layers)) {
  std::vector<index_t> const widths = config_.down_widths();
  gate_.resize(rows, widths.front());
  up_.resize(rows, widths.front());
  if (config_.mixture.experts != 0) gathered_.resize(rows, config_.hidden);
  if (config_.mixture.experts != 0 || !family_.attention_output_norm.empty())
    output_.resize(rows, config_.hidden);
  if (config_.local_rope_theta > 0)
    local_rope_.emplace(config_, tokens, config_.local_rope_theta, RopeScaling{});
  OnlineRotations const online = online_rotations(model, options);
  if (online.r3_block != 0) r3_.emplace(config_.head_dim, online.r3_block);
  if (online.r4_block != 0)
    for (index_t const width : widths) r4_.try_emplace(width, width, online_block(width));
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

void DecoderLayer::multiply(std::size_t map, LinearInput const& X, float beta, MatrixView<float> Y) const {
  LinearWeights const& linear = weights_->maps[map];
  RowMatrix<float> const& bias = linear.bias;
  if (auto const* const values = std::get_if<MatrixView<float const>>(&X)) {
    cpu_.gemm<float>(1.0f, *values, Op::none, linear.weight, Op::transpose, beta, Y);
    if (bias.size() != 0) as_eigen(Y).rowwise() += bias.row(0);
    return;
  }
  VectorView<float const> const added(bias.data(), bias.size());
  PackedInt4 const& W = linear.packed;
  RowMatrix<float> const product = std::holds_alternative<Int4Matrix>(X)
                                       ? matmul(cpu_, std::get<Int4Matrix>(X), W, added)
                                       : matmul(cpu_, std::get<Int8Matrix>(X), W, added);
  if (beta == 0) as_eigen(Y) = product;
  else as_eigen(Y) += product;
}

void DecoderLayer::add_output(Linear linear, LinearInput const& X, NormWeights const& norm, bool normed,
                              MatrixView<float> hidden) {
  if (!normed) return multiply(linear, X, 1, hidden);
  MatrixView<float> const Y = MatrixView<float>(output_).rows(0, hidden.rows());
  multiply(linear, X, 0, Y);
  normalize(cpu_, Y, config_.norm_epsilon, norm, Y);
  as_eigen(hidden) += as_eigen(Y);
}

void DecoderLayer::observe_block(Site site, index_t block, MatrixView<float const> X) const {
  if (block_observer_ != nullptr) (*block_observer_)(site, block, X);
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
                                 MatrixView<float> hidden, BlockObserver const& observer) {
  last_ = last;
  block_observer_ = &observer;
  if (last == Site::q_proj_input || last == Site::o_proj_input) attend(weights, layer, first_token, hidden);
  else feed_forward(weights, layer, first_token, hidden);
  last_.reset();
  block_observer_ = nullptr;
}

/// Q, K and V, with the norms of their heads and RoPE.
void DecoderLayer::project_heads(MatrixView<float> X, Positions positions, MatrixView<float> Q,
                                 MatrixView<float> K, MatrixView<float> V) const {
  LinearInput const input = quantize_activations(X, Site::q_proj_input);
  multiply(Linear::q_proj, input, 0, Q);
  multiply(Linear::k_proj, input, 0, K);
  multiply(Linear::v_proj, input, 0, V);
  auto const norm_heads = [&](NormWeights const& norm, MatrixView<float> heads, index_t count) {
    MatrixView<float> const each(heads.data(), heads.rows() * count, config_.head_dim);
    normalize(cpu_, each, config_.norm_epsilon, norm, each);
  };
  if (!family_.query_norm.empty()) norm_heads(weights_->query_norm, Q, config_.heads);
  if (!family_.key_norm.empty()) norm_heads(weights_->key_norm, K, config_.kv_heads);
  if (!family_.positions.empty()) return;
  RopeTable const& rope = local_rope_ && config_.window(layer_) != 0 ? *local_rope_ : rope_;
  apply_rope(cpu_, rope, positions, config_.head_dim, Q);
  apply_rope(cpu_, rope, positions, config_.head_dim, K);
}

void DecoderLayer::attend(LayerWeights const& weights, index_t layer, index_t first_token,
                          MatrixView<float> hidden) {
  enter(weights, layer, first_token);
  attend(nullptr, hidden);
}

void DecoderLayer::attend_next(LayerWeights const& weights, index_t layer, KeyValueCache& cache,
                               MatrixView<float> hidden) {
  enter(weights, layer, cache.tokens());
  attend(&cache, hidden);
}

void DecoderLayer::attend(KeyValueCache* cache, MatrixView<float> hidden) {
  index_t const rows = hidden.rows();
  auto const part = [rows](RowMatrix<float>& whole) { return MatrixView<float>(whole).rows(0, rows); };
  MatrixView<float> const X = part(normed_), Q = part(q_), K = part(k_), V = part(v_), A = part(mixed_);
  normalize(cpu_, hidden, config_.norm_epsilon, weights_->attention_norm, X);
  subtract(cpu_, weights_->attention_shift, X);
  if (auto const& transform = weights_->transforms->q_proj_input) transform->apply(cpu_, X);
  observe(Site::q_proj_input, X);
  observe_block(Site::q_proj_input, 0, X);
  if (last_ == Site::q_proj_input) return;
  project_heads(X, cache != nullptr ? Positions{cache->tokens(), 1} : Positions{0, tokens_}, Q, K, V);
  subtract(cpu_, weights_->key_shift, K);
  rotate_keys(Q, K);
  observe(Site::key, K);
  observe(Site::value, V);
  quantize_cache(K, Site::key);
  quantize_cache(V, Site::value);
  if (cache != nullptr) {
    cache->append(K, V);
    attention_to_cache(attention_cpu_, config_, config_.window(layer_), Q, *cache, A);
  } else {
    attention(attention_cpu_, config_, {tokens_, config_.window(layer_)}, Q, K, V, A);
  }
  if (auto const& transform = weights_->transforms->o_proj_input) transform->apply(cpu_, A);
  observe(Site::o_proj_input, A);
  observe_block(Site::o_proj_input, 0, A);
  if (last_ == Site::o_proj_input) return;
  add_output(Linear::o_proj, quantize_activations(A, Site::o_proj_input), weights_->attention_output_norm,
             !family_.attention_output_norm.empty(), hidden);
}

}  // namespace dartquant::detail
