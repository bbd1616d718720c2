// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "model/decoder_layer.hpp"
#include "model/layer_parts.hpp"

// The second half of a decoder layer: one MLP, or a mixture of experts.
namespace dartquant::detail {
namespace {

/// x <- act(x).
template <class Array>
void apply_activation(Activation activation, Array&& x) {
  switch (activation) {
    case Activation::silu:
      x = x / (1.0f + (-x).exp());
      return;
    case Activation::gelu_tanh: {
      float const slope = std::sqrt(2 * std::numbers::inv_pi_v<float>);
      x = 0.5f * x * (1.0f + (slope * (x + 0.044715f * x.cube())).tanh());
      return;
    }
    case Activation::relu:
      x = x.max(0.0f);
      return;
  }
}

/// The experts of one token and their shares.
struct Choice {
  index_t expert;
  float share;
};

/// The largest of softmax(z); of equal ones the first.
std::vector<Choice> choose(Eigen::Ref<Eigen::RowVectorXf const> const& z, Mixture const& mixture) {
  Eigen::RowVectorXd share = (z.cast<double>().array() - static_cast<double>(z.maxCoeff())).exp();
  share /= share.sum();
  std::vector<index_t> order(static_cast<std::size_t>(z.size()));
  std::iota(order.begin(), order.end(), index_t{0});
  auto const end = order.begin() + mixture.active;
  std::partial_sort(order.begin(), end, order.end(),
                    [&](index_t a, index_t b) { return share[a] != share[b] ? share[a] > share[b] : a < b; });
  double sum = 0;
  for (auto expert = order.begin(); expert != end; ++expert) sum += share[*expert];
  std::vector<Choice> choices;
  for (auto expert = order.begin(); expert != end; ++expert)
    choices.push_back(
        {*expert, static_cast<float>(mixture.normalized ? share[*expert] / sum : share[*expert])});
  return choices;
}

}  // namespace

MatrixView<float> DecoderLayer::activate(index_t block, MatrixView<float> X) {
  auto const up = weights_->find(Linear::up_proj, block), gate = weights_->find(Linear::gate_proj, block);
  index_t const rows = X.rows(), width = weights_->linears[*up].outputs;
  MatrixView<float> const U(up_.data(), rows, width), G(gate_.data(), rows, width);
  LinearInput const input = quantize_activations(X, Site::up_proj_input);
  multiply(*up, input, 0, U);
  if (gate) multiply(*gate, input, 0, G);
  cpu_.parallel_for(rows, 32, [&](index_t first, index_t last) {
    auto u = as_eigen(U.rows(first, last - first)).array();
    auto g = as_eigen(G.rows(first, last - first)).array();
    apply_activation(config_.activation, gate ? g : u);
    if (gate) g *= u;
  });
  MatrixView<float> const result = gate ? G : U;
  if (auto const& own = weights_->transforms->down_proj_input; has_steps(own)) own->apply(cpu_, result);
  else if (auto const r4 = r4_.find(width); r4 != r4_.end()) r4->second.apply(cpu_, result);
  observe(Site::down_proj_input, result);
  observe_block(Site::down_proj_input, block, result);
  return result;
}

void DecoderLayer::run_expert(index_t block, MatrixView<float const> X, std::vector<index_t> const& rows,
                              std::vector<float> const& shares, MatrixView<float> hidden) {
  if (rows.empty()) return;
  auto const count = static_cast<index_t>(rows.size());
  MatrixView<float> const mine = MatrixView<float>(gathered_).rows(0, count),
                          Y = MatrixView<float>(output_).rows(0, count);
  for (index_t i = 0; i < count; ++i)
    as_eigen(mine).row(i) = as_eigen(X).row(rows[static_cast<std::size_t>(i)]);
  observe_block(Site::up_proj_input, block, mine);
  if (last_ == Site::up_proj_input) return;
  MatrixView<float> const A = activate(block, mine);
  if (last_ == Site::down_proj_input) return;
  multiply(*weights_->find(Linear::down_proj, block), quantize_activations(A, Site::down_proj_input), 0, Y);
  for (index_t i = 0; i < count; ++i)
    as_eigen(hidden).row(rows[static_cast<std::size_t>(i)]) +=
        shares[static_cast<std::size_t>(i)] * as_eigen(Y).row(i);
}

void DecoderLayer::run_experts(MatrixView<float> X, MatrixView<float> hidden) {
  Mixture const& mixture = config_.mixture;
  auto const experts = static_cast<std::size_t>(mixture.experts);
  RowMatrix<float> scores(X.rows(), mixture.experts);
  multiply(Linear::router, X, 0, scores);
  std::vector<std::vector<index_t>> rows(experts);
  std::vector<std::vector<float>> shares(experts);
  for (index_t row = 0; row < X.rows(); ++row)
    for (Choice const& choice : choose(scores.row(row), mixture)) {
      rows[static_cast<std::size_t>(choice.expert)].push_back(row);
      shares[static_cast<std::size_t>(choice.expert)].push_back(choice.share);
    }
  if (mixture.shared_intermediate != 0) {
    std::vector<index_t>& all = rows.emplace_back(static_cast<std::size_t>(X.rows()));
    std::iota(all.begin(), all.end(), index_t{0});
    std::vector<float>& share = shares.emplace_back(all.size(), 1.0f);
    if (weights_->find(Linear::shared_gate)) {
      MatrixView<float> const gates(share.data(), X.rows(), 1);
      multiply(Linear::shared_gate, X, 0, gates);
      as_eigen(gates) = (1.0f + (-as_eigen(gates).array()).exp()).inverse().matrix();
    }
  }
  std::vector<index_t>& used = expert_tokens_[static_cast<std::size_t>(layer_)];
  used.resize(experts);
  for (std::size_t block = 0; block < rows.size(); ++block) {
    if (!last_ && block < experts) used[block] += static_cast<index_t>(rows[block].size());
    run_expert(static_cast<index_t>(block), X, rows[block], shares[block], hidden);
  }
}

void DecoderLayer::feed_forward(LayerWeights const& weights, index_t layer, index_t first_token,
                                MatrixView<float> hidden) {
  enter(weights, layer, first_token);
  MatrixView<float> const X = MatrixView<float>(normed_).rows(0, hidden.rows());
  normalize(cpu_, hidden, config_.norm_epsilon, weights_->mlp_norm, X);
  subtract(cpu_, weights_->mlp_shift, X);
  if (auto const& transform = weights_->transforms->up_proj_input) transform->apply(cpu_, X);
  observe(Site::up_proj_input, X);
  if (config_.sparse(layer_)) return run_experts(X, hidden);
  observe_block(Site::up_proj_input, 0, X);
  if (last_ == Site::up_proj_input) return;
  MatrixView<float> const A = activate(0, X);
  if (last_ == Site::down_proj_input) return;
  add_output(Linear::down_proj, quantize_activations(A, Site::down_proj_input), weights_->mlp_output_norm,
             !family_.mlp_output_norm.empty(), hidden);
}

}  // namespace dartquant::detail
