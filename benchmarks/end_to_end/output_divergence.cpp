// SPDX-License-Identifier: Apache-2.0
#include "end_to_end/output_divergence.hpp"

#include <array>
#include <cmath>

#include <dartquant/core/error.hpp>
#include <dartquant/quant/fake_quantize.hpp>

#include "end_to_end/products.hpp"
#include "model/layer_parts.hpp"
#include "model/weights.hpp"

namespace dartquant::end_to_end {
namespace {

/// Members in the order of enum Linear; shifts have no part in the inputs of o_proj and down_proj.
template <class T>
constexpr std::array<RowMatrix<T> DivergenceLayer<T>::*, linear_count> maps{
    &DivergenceLayer<T>::q,    &DivergenceLayer<T>::k,  &DivergenceLayer<T>::v,   &DivergenceLayer<T>::o,
    &DivergenceLayer<T>::gate, &DivergenceLayer<T>::up, &DivergenceLayer<T>::down};
template <class T>
constexpr std::array<RowMatrix<T> DivergenceLayer<T>::*, linear_count> biases{&DivergenceLayer<T>::q_bias,
                                                                              &DivergenceLayer<T>::k_bias,
                                                                              &DivergenceLayer<T>::v_bias,
                                                                              nullptr,
                                                                              &DivergenceLayer<T>::gate_bias,
                                                                              &DivergenceLayer<T>::up_bias,
                                                                              nullptr};

}  // namespace

template <class T>
OutputDivergence<T>::Pass::Pass(Scheme scheme)
    : attention_input(scheme.activations),
      key(scheme.kv),
      value(scheme.kv),
      output_input(scheme.activations),
      mlp_input(scheme.activations),
      down_input(scheme.activations) {}

template <class T>
std::string OutputDivergence<T>::refusal(Model const& model) {
  Family const& family = model.family();
  ModelConfig const& config = model.config();
  if (config.mixture.experts != 0) return detail::sentence("it has ", config.mixture.experts, " experts");
  if (family.norm != NormKind::rms) return "its norms are not plain RMSNorm";
  if (!family.positions.empty()) return "its positions are learned";
  if (config.activation != Activation::silu || family.linears[4].name.empty()) return "its MLP is no SwiGLU";
  if (!family.attention_output_norm.empty() || !family.query_norm.empty())
    return "it has norms inside layers";
  if (config.attention_cap > 0 || config.logit_cap > 0) return "its scores or logits are capped";
  if (config.attention_bias || config.mlp_bias || config.qkv_bias) return "its linear maps have biases";
  if (config.rotary_channels != 0 || config.local_rope_theta > 0) return "RoPE turns a part of its heads";
  if (!config.windows.empty()) return "its attention has windows";
  return {};
}

template <class T>
OutputDivergence<T>::OutputDivergence(Cpu const& cpu, Model const& model, Rotations const& shifts,
                                      Quantization const& quantization)
    : cpu_(cpu),
      model_(model),
      config_(model.config()),
      quantization_(quantization),
      r4_(config_.intermediate, detail::online_block(config_.intermediate)) {
  std::string const reason = refusal(model);
  detail::require(reason.empty(), "[OutputDivergence] ", config_.architecture, ": ", reason,
                  "; learn layer by layer, such as by method centred");
  if (quantization.scheme.kv < 16) r3_.emplace(config_.head_dim, detail::online_block(config_.head_dim));
  for (index_t layer = 0; layer < config_.layers; ++layer) passes_.emplace_back(quantization.scheme);
  load(shifts);
}

template <class T>
void OutputDivergence<T>::load(Rotations const& shifts) {
  Rotations only_layers;
  only_layers.layers = shifts.layers;
  detail::FoldedWeights const folded(cpu_, model_, &only_layers, {}, NormGains::folded);
  embedding_ = folded.embedding_rows(0, config_.vocabulary).template cast<T>();
  head_ = folded.head_rows(0, config_.vocabulary).template cast<T>();
  for (index_t layer = 0; layer < config_.layers; ++layer) {
    DivergenceLayer<T>& parts = original_.emplace_back();
    for (detail::LayerLinear const& linear : folded.linears(layer)) {
      auto const index = static_cast<std::size_t>(linear.linear);
      parts.*maps<T>[index] = folded.weight(layer, linear).template cast<T>();
      if (auto const bias = biases<T>[index])
        parts.*bias = folded.shift_bias(layer, linear).template cast<T>();
    }
    r4_.apply(cpu_, MatrixView<T>(parts.down));
    parts.attention_shift = folded.attention_shift(layer).template cast<T>();
    parts.mlp_shift = folded.mlp_shift(layer).template cast<T>();
    parts.key_shift = folded.key_shift(layer).template cast<T>();
  }
  turned_ = errors_ = original_;
}

template <class T>
void OutputDivergence<T>::turn(std::size_t layer) {
  DivergenceLayer<T> const& from = original_[layer];
  DivergenceLayer<T>& to = turned_[layer];
  RowMatrix<T> const& R = at_.r1;
  index_t const size = config_.head_dim, group = config_.heads / config_.kv_heads;
  product<T>(cpu_, from.q, R, to.q);
  product<T>(cpu_, from.k, R, to.k);
  product<T>(cpu_, from.gate, R, to.gate);
  product<T>(cpu_, from.up, R, to.up);
  product<T>(cpu_, R, Op::transpose, from.down, Op::none, to.down);
  RowMatrix<T> const v = from.v * R;
  RowMatrix<T> o(from.o.rows(), from.o.cols());
  for (index_t head = 0; head < config_.heads; ++head) {
    RowMatrix<T> const& R2 = at_.r2[layer][static_cast<std::size_t>(head / group)];
    o.middleCols(head * size, size).noalias() = from.o.middleCols(head * size, size) * R2;
    if (head % group != 0) continue;
    index_t const first = head / group * size;
    to.v.middleRows(first, size).noalias() = R2.transpose() * v.middleRows(first, size);
    if (from.v_bias.size() != 0) to.v_bias.middleCols(first, size) = from.v_bias.middleCols(first, size) * R2;
  }
  product<T>(cpu_, R, Op::transpose, o, Op::none, to.o);
  if (from.attention_shift.size() != 0) to.attention_shift = from.attention_shift * R;
  if (from.mlp_shift.size() != 0) to.mlp_shift = from.mlp_shift * R;
  round_weights(layer);
}

template <class T>
void OutputDivergence<T>::round_weights(std::size_t layer) {
  WeightQuantization const weights = quantization_.weights();
  if (!weights.active()) return;
  DivergenceLayer<T>&to = turned_[layer], &errors = errors_[layer];
  for (auto const map : maps<T>) {
    RowMatrix<T>&W = to.*map, &error = errors.*map;
    if (!held_) {
      RowMatrix<float> rounded = W.template cast<float>();
      fake_quantize(cpu_, MatrixView<float>(rounded), detail::quantize_options(weights));
      error = rounded.template cast<T>() - W;
    }
    W += error;
  }
}

template <class T>
RowMatrix<T> OutputDivergence<T>::normed(RowMatrix<T> const& X, RowMatrix<T>& inverse) const {
  inverse =
      (X.rowwise().squaredNorm() / static_cast<T>(X.cols())).array() + static_cast<T>(config_.norm_epsilon);
  inverse = inverse.array().rsqrt();
  return X.array().colwise() * inverse.col(0).array();
}

template <class T>
void OutputDivergence<T>::mix(Pass& pass) {
  index_t const size = config_.head_dim, group = config_.heads / config_.kv_heads;
  index_t const windows = pass.Q.rows() / tokens_;
  T const scale = T(1) / std::sqrt(static_cast<T>(size));
  pass.shares.resize(static_cast<std::size_t>(windows * config_.heads));
  pass.mixed.resize(pass.Q.rows(), pass.Q.cols());
  cpu_.parallel_for(windows * config_.heads, 1, [&](index_t item, index_t) {
    index_t const first = item / config_.heads * tokens_, head = item % config_.heads;
    auto const q = pass.Q.block(first, head * size, tokens_, size);
    auto const k = pass.K.block(first, head / group * size, tokens_, size);
    auto const v = pass.V.block(first, head / group * size, tokens_, size);
    RowMatrix<T>& P = pass.shares[static_cast<std::size_t>(item)];
    P.noalias() = scale * (q * k.transpose());
    for (index_t row = 0; row < tokens_; ++row) {
      auto seen = P.row(row).head(row + 1).array();
      seen = (seen - seen.maxCoeff()).exp();
      seen /= seen.sum();
      P.row(row).tail(tokens_ - row - 1).setZero();
    }
    pass.mixed.block(first, head * size, tokens_, size).noalias() = P * v;
  });
}

template <class T>
void OutputDivergence<T>::attend(std::size_t layer) {
  DivergenceLayer<T> const& maps = turned_[layer];
  Pass& pass = passes_[layer];
  pass.attention_normed = normed(X_, pass.attention_inverse);
  pass.attention_rounded = pass.attention_normed;
  if (maps.attention_shift.size() != 0) pass.attention_rounded.rowwise() -= maps.attention_shift.row(0);
  pass.attention_input.forward(cpu_, X_.cols(), pass.attention_rounded);
  linear<T>(cpu_, pass.attention_rounded, maps.q, maps.q_bias, pass.Q);
  linear<T>(cpu_, pass.attention_rounded, maps.k, maps.k_bias, pass.K);
  linear<T>(cpu_, pass.attention_rounded, maps.v, maps.v_bias, pass.V);
  turn_pairs(cpu_, *rope_, config_.head_dim, T(1), pass.Q);
  turn_pairs(cpu_, *rope_, config_.head_dim, T(1), pass.K);
  if (maps.key_shift.size() != 0) pass.K.rowwise() -= maps.key_shift.row(0);
  if (r3_) {
    r3_->apply(cpu_, MatrixView<T>(pass.Q.data(), pass.Q.rows() * config_.heads, config_.head_dim));
    r3_->apply(cpu_, MatrixView<T>(pass.K.data(), pass.K.rows() * config_.kv_heads, config_.head_dim));
  }
  pass.key.forward(cpu_, config_.head_dim, pass.K);
  pass.value.forward(cpu_, config_.head_dim, pass.V);
  mix(pass);
  pass.output_input.forward(cpu_, pass.mixed.cols(), pass.mixed);
  X_.noalias() += pass.mixed * maps.o.transpose();
}

template <class T>
void OutputDivergence<T>::feed_forward(std::size_t layer) {
  DivergenceLayer<T> const& maps = turned_[layer];
  Pass& pass = passes_[layer];
  pass.mlp_normed = normed(X_, pass.mlp_inverse);
  pass.mlp_rounded = pass.mlp_normed;
  if (maps.mlp_shift.size() != 0) pass.mlp_rounded.rowwise() -= maps.mlp_shift.row(0);
  pass.mlp_input.forward(cpu_, X_.cols(), pass.mlp_rounded);
  linear<T>(cpu_, pass.mlp_rounded, maps.gate, maps.gate_bias, pass.gate);
  linear<T>(cpu_, pass.mlp_rounded, maps.up, maps.up_bias, pass.up);
  pass.down_rounded = pass.gate.array() / (T(1) + (-pass.gate.array()).exp()) * pass.up.array();
  r4_.apply(cpu_, MatrixView<T>(pass.down_rounded));
  pass.down_input.forward(cpu_, pass.down_rounded.cols(), pass.down_rounded);
  X_.noalias() += pass.down_rounded * maps.down.transpose();
}

template <class T>
double OutputDivergence<T>::compare(MatrixView<float const> hidden) {
  constexpr index_t tile = 256;
  index_t const rows_in_all = X_.rows(), count = rows_in_all - rows_in_all / tokens_;
  final_normed_ = normed(X_, final_inverse_);
  RowMatrix<T> const Y = final_normed_ * at_.r1.transpose();
  RowMatrix<T> inverse;
  RowMatrix<T> const original = normed(as_eigen(hidden).template cast<T>(), inverse);
  dY_.resize(rows_in_all, Y.cols());
  return cpu_.parallel_sum((rows_in_all + tile - 1) / tile, 1, [&](index_t item, index_t) {
    index_t const first = item * tile, rows = std::min(tile, rows_in_all - first);
    RowMatrix<T> p = original.middleRows(first, rows) * head_.transpose();
    RowMatrix<T> q = Y.middleRows(first, rows) * head_.transpose();
    double sum = 0;
    for (index_t row = 0; row < rows; ++row) {
      if ((first + row) % tokens_ == tokens_ - 1) {  // nothing follows the last token of a window
        q.row(row).setZero();
        continue;
      }
      log_softmax(p.row(row));
      log_softmax(q.row(row));
      auto const weights = p.row(row).array().exp().eval();
      sum += static_cast<double>((weights * (p.row(row) - q.row(row)).array()).sum());
      q.row(row) = (q.row(row).array().exp() - weights) / static_cast<T>(count);
    }
    dY_.middleRows(first, rows).noalias() = q * head_;
    return sum / static_cast<double>(count);
  });
}

template <class T>
double OutputDivergence<T>::forward(FoldedRotations<T> const& at, TokenWindows const& windows,
                                    MatrixView<float const> hidden) {
  at_ = at;
  if (tokens_ != windows.cols() || !rope_)
    rope_.emplace(config_, windows.cols(), config_.rope_theta, config_.rope_scaling);
  tokens_ = windows.cols();
  embedded_.resize(windows.size(), config_.hidden);
  for (index_t i = 0; i < windows.size(); ++i)
    embedded_.row(i) = embedding_.row(windows.data()[i]) * static_cast<T>(config_.embedding_scale);
  product<T>(cpu_, embedded_, at_.r1, X_);
  for (std::size_t layer = 0; layer < original_.size(); ++layer) {
    turn(layer);
    attend(layer);
    feed_forward(layer);
  }
  return compare(hidden);
}

template <class T>
void OutputDivergence<T>::hold() {
  held_ = true;
  for (Pass& pass : passes_)
    for (auto* const one : {&pass.attention_input, &pass.key, &pass.value, &pass.output_input,
                            &pass.mlp_input, &pass.down_input})
      one->hold();
}

template class OutputDivergence<float>;
template class OutputDivergence<double>;

}  // namespace dartquant::end_to_end
