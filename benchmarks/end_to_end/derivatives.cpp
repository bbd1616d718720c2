// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "end_to_end/output_divergence.hpp"
#include "end_to_end/products.hpp"

namespace dartquant::end_to_end {

template <class T>
void OutputDivergence<T>::mix_back(Pass const& pass, RowMatrix<T> const& dO, RowMatrix<T>& dQ,
                                   RowMatrix<T>& dK, RowMatrix<T>& dV) const {
  index_t const size = config_.head_dim, group = config_.heads / config_.kv_heads;
  T const scale = T(1) / std::sqrt(static_cast<T>(size));
  dQ.resizeLike(pass.Q);
  dK.setZero(pass.K.rows(), pass.K.cols());
  dV.setZero(pass.V.rows(), pass.V.cols());
  cpu_.parallel_for(pass.Q.rows() / tokens_ * config_.kv_heads, 1, [&](index_t item, index_t) {
    index_t const first = item / config_.kv_heads * tokens_, shared = item % config_.kv_heads;
    auto const k = pass.K.block(first, shared * size, tokens_, size);
    auto const v = pass.V.block(first, shared * size, tokens_, size);
    for (index_t head = shared * group; head < (shared + 1) * group; ++head) {
      auto const q = pass.Q.block(first, head * size, tokens_, size);
      auto const d = dO.block(first, head * size, tokens_, size);
      RowMatrix<T> const& P = pass.shares[static_cast<std::size_t>(first / tokens_ * config_.heads + head)];
      dV.block(first, shared * size, tokens_, size).noalias() += P.transpose() * d;
      RowMatrix<T> dS = d * v.transpose();
      RowMatrix<T> const along = dS.cwiseProduct(P).rowwise().sum();
      dS = scale * P.array() * (dS.array().colwise() - along.col(0).array());
      dQ.block(first, head * size, tokens_, size).noalias() = dS * k;
      dK.block(first, shared * size, tokens_, size).noalias() += dS.transpose() * q;
    }
  });
}

/// `dX` is dL/dX after the half of the layer, and before it at the end.
template <class T>
void OutputDivergence<T>::attend_back(std::size_t layer, RowMatrix<T>& dX) {
  DivergenceLayer<T> const& maps = turned_[layer];
  Pass const& pass = passes_[layer];
  DivergenceLayer<T>& d = derivatives_;
  product(cpu_, dX, Op::transpose, pass.mixed, Op::none, d.o);
  RowMatrix<T> dO, dQ, dK, dV, dA;
  product(cpu_, dX, maps.o, dO);
  pass.output_input.backward(cpu_, dO);
  mix_back(pass, dO, dQ, dK, dV);
  pass.key.backward(cpu_, dK);
  pass.value.backward(cpu_, dV);
  for (auto* const each : {&dQ, &dK}) {
    index_t const heads = each->cols() / config_.head_dim;
    if (r3_) r3_->apply_inverse(cpu_, MatrixView<T>(each->data(), each->rows() * heads, config_.head_dim));
    turn_pairs(cpu_, *rope_, config_.head_dim, T(-1), *each);
  }
  product(cpu_, dQ, Op::transpose, pass.attention_rounded, Op::none, d.q);
  product(cpu_, dK, Op::transpose, pass.attention_rounded, Op::none, d.k);
  product(cpu_, dV, Op::transpose, pass.attention_rounded, Op::none, d.v);
  d.v_bias = dV.colwise().sum();
  product(cpu_, dQ, maps.q, dA);
  add_product(cpu_, dK, Op::none, maps.k, Op::none, dA);
  add_product(cpu_, dV, Op::none, maps.v, Op::none, dA);
  pass.attention_input.backward(cpu_, dA);
  d.attention_shift = -dA.colwise().sum();
  dX += norm_back(pass.attention_normed, pass.attention_inverse, dA);
}

template <class T>
void OutputDivergence<T>::feed_forward_back(std::size_t layer, RowMatrix<T>& dX) {
  DivergenceLayer<T> const& maps = turned_[layer];
  Pass const& pass = passes_[layer];
  DivergenceLayer<T>& d = derivatives_;
  product(cpu_, dX, Op::transpose, pass.down_rounded, Op::none, d.down);
  RowMatrix<T> dZ, dA;
  product(cpu_, dX, maps.down, dZ);
  pass.down_input.backward(cpu_, dZ);
  r4_.apply_inverse(cpu_, MatrixView<T>(dZ));
  // silu(g) = g s, silu'(g) = s (1 + g (1 - s)), s = 1 / (1 + exp(-g)).
  RowMatrix<T> const s = (T(1) + (-pass.gate.array()).exp()).inverse();
  RowMatrix<T> const dU = dZ.array() * pass.gate.array() * s.array();
  RowMatrix<T> const dG =
      dZ.array() * pass.up.array() * s.array() * (T(1) + pass.gate.array() * (T(1) - s.array()));
  product(cpu_, dG, Op::transpose, pass.mlp_rounded, Op::none, d.gate);
  product(cpu_, dU, Op::transpose, pass.mlp_rounded, Op::none, d.up);
  product(cpu_, dG, maps.gate, dA);
  add_product(cpu_, dU, Op::none, maps.up, Op::none, dA);
  pass.mlp_input.backward(cpu_, dA);
  d.mlp_shift = -dA.colwise().sum();
  dX += norm_back(pass.mlp_normed, pass.mlp_inverse, dA);
}

/// Adds what the derivatives by the turned maps of a layer say of R1 and R2.
template <class T>
void OutputDivergence<T>::turn_back(std::size_t layer) {
  DivergenceLayer<T> const &from = original_[layer], &d = derivatives_;
  RowMatrix<T>& dR = gradient_.r1;
  for (auto const map :
       {&DivergenceLayer<T>::q, &DivergenceLayer<T>::k, &DivergenceLayer<T>::gate, &DivergenceLayer<T>::up})
    add_product(cpu_, from.*map, Op::transpose, d.*map, Op::none, dR);  // W R1
  add_product(cpu_, from.down, Op::none, d.down, Op::transpose, dR);    // R1^T W
  if (from.attention_shift.size() != 0) dR.noalias() += from.attention_shift.transpose() * d.attention_shift;
  if (from.mlp_shift.size() != 0) dR.noalias() += from.mlp_shift.transpose() * d.mlp_shift;

  index_t const size = config_.head_dim, group = config_.heads / config_.kv_heads;
  RowMatrix<T> v, dO, turned_o(from.o.rows(), from.o.cols()), dV(from.v.rows(), from.v.cols());
  product(cpu_, from.v, at_.r1, v);  // v = R2^T (W R1)
  product(cpu_, at_.r1, d.o, dO);    // o = R1^T (W R2)
  for (index_t head = 0; head < config_.heads; ++head) {
    auto const shared = static_cast<std::size_t>(head / group);
    RowMatrix<T> const& R2 = at_.r2[layer][shared];
    RowMatrix<T>& dR2 = gradient_.r2[layer][shared];
    auto const o = from.o.middleCols(head * size, size);
    turned_o.middleCols(head * size, size).noalias() = o * R2;
    dR2.noalias() += o.transpose() * dO.middleCols(head * size, size);
    if (head % group != 0) continue;
    index_t const first = head / group * size;
    dR2.noalias() += v.middleRows(first, size) * d.v.middleRows(first, size).transpose();
    if (from.v_bias.size() != 0)
      dR2.noalias() += from.v_bias.middleCols(first, size).transpose() * d.v_bias.middleCols(first, size);
    dV.middleRows(first, size).noalias() = R2 * d.v.middleRows(first, size);
  }
  add_product(cpu_, from.v, Op::transpose, dV, Op::none, dR);
  add_product(cpu_, turned_o, Op::none, d.o, Op::transpose, dR);
}

template <class T>
FoldedRotations<T> OutputDivergence<T>::backward() {
  gradient_ = at_;
  gradient_.r1.setZero();
  for (auto& heads : gradient_.r2)
    for (RowMatrix<T>& each : heads) each.setZero();
  RowMatrix<T> dF, dX;
  add_product(cpu_, dY_, Op::transpose, final_normed_, Op::none, gradient_.r1);  // Y = F R1^T
  product(cpu_, dY_, at_.r1, dF);
  dX = norm_back(final_normed_, final_inverse_, dF);
  for (std::size_t layer = original_.size(); layer-- > 0;) {
    feed_forward_back(layer, dX);
    attend_back(layer, dX);
    turn_back(layer);
  }
  add_product(cpu_, embedded_, Op::transpose, dX, Op::none, gradient_.r1);
  return gradient_;
}

template class OutputDivergence<float>;
template class OutputDivergence<double>;

}  // namespace dartquant::end_to_end
