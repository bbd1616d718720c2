// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>

namespace dartquant {

/// H = sum over tokens of x^T x for the inputs X [tokens, channels] of a linear layer, in FP64, batch after
/// batch: the second derivative of the layer's squared output error by a row of its weight, up to a factor.
/// The inputs are those that the quantized layer will see, online rotations included. Memory: 8 channels^2
/// bytes.
class Hessian {
 public:
  /// `name` says in sentences which layer it is; it may be empty. Errors: InvalidArgument for channels < 1.
  explicit Hessian(index_t channels, std::string name = {}) : name_(std::move(name)) {
    detail::require(channels >= 1, "[Hessian] ", place(), channels, " channels: at least one is needed");
    sum_.setZero(channels, channels);
  }

  /// A sum that was accumulated elsewhere. Errors: InvalidArgument unless it is square, finite, symmetric to
  /// 1e-6 of its diagonal, its diagonal not negative, and tokens are not negative.
  Hessian(RowMatrix<double> sum, index_t tokens, std::string name = {})
      : name_(std::move(name)), sum_(std::move(sum)), tokens_(tokens) {
    detail::require(sum_.rows() == sum_.cols() && sum_.rows() >= 1 && tokens >= 0, "[Hessian] ", place(),
                    sum_.rows(), " x ", sum_.cols(), " over ", tokens,
                    " tokens: a square matrix that is not empty and a count are needed");
    for (index_t i = 0; i < channels(); ++i)
      for (index_t j = 0; j <= i; ++j) {
        double const lower = sum_(i, j), upper = sum_(j, i), limit = std::sqrt(sum_(i, i) * sum_(j, j));
        detail::require(std::isfinite(lower) && std::isfinite(upper) && sum_(i, i) >= 0 &&
                            std::abs(lower - upper) <= 1e-6 * limit,
                        "[Hessian] ", place(), "entries (", i, ", ", j, ") are ", lower, " and ", upper,
                        ": a finite symmetric matrix with a diagonal that is not negative is needed");
      }
  }

  [[nodiscard]] index_t channels() const { return sum_.rows(); }
  [[nodiscard]] index_t tokens() const { return tokens_; }
  [[nodiscard]] std::string const& name() const { return name_; }

  /// The sum [channels, channels]; only its lower triangle is promised.
  [[nodiscard]] MatrixView<double const> sum() const { return sum_; }

  /// H <- H + X^T X. The bytes of H depend on how the tokens are cut into batches, not on threads. Errors:
  /// InvalidArgument, with the layer's name, unless X has as many columns as H and is finite; H is then
  /// unchanged. Cost: tokens channels^2 / 2 multiply-adds; 8192 channels bytes.
  void add(Cpu const& cpu, MatrixView<float const> X) { accumulate(cpu, X); }
  void add(Cpu const& cpu, MatrixView<double const> X) { accumulate(cpu, X); }

  /// "name: ", or nothing if there is no name: the start of a sentence.
  [[nodiscard]] std::string place() const { return name_.empty() ? "" : name_ + ": "; }

 private:
  template <class T>
  void accumulate(Cpu const& cpu, MatrixView<T const> X);

  std::string name_;
  RowMatrix<double> sum_;
  index_t tokens_ = 0;
};

template <class T>
void Hessian::accumulate(Cpu const& cpu, MatrixView<T const> X) {
  detail::require(X.cols() == channels(), "[Hessian::add] ", place(), "inputs of ", X.rows(), " x ", X.cols(),
                  ": there are ", channels(), " channels");
  for (index_t i = 0; i < X.rows(); ++i)
    for (index_t j = 0; j < X.cols(); ++j)
      if (!std::isfinite(X(i, j)))  // asked first: the sentence costs more than the sum
        detail::require(false, "[Hessian::add] ", place(), "the input at token ", i, ", channel ", j, " is ",
                        X(i, j), ": only finite inputs can be calibrated on");
  constexpr index_t slice = 1024;
  index_t const n = channels(), tile = detail::triangle_tile;
  MatrixView<double> const H = sum_;
  RowMatrix<double> wide;
  for (index_t first = 0; first < X.rows(); first += slice) {
    wide = as_eigen(X.rows(first, std::min(slice, X.rows() - first))).template cast<double>();
    MatrixView<double const> const z = wide;
    detail::for_lower_tiles(cpu, (n + tile - 1) / tile, [&](index_t i, index_t j) {
      index_t const row = i * tile, col = j * tile, height = std::min(tile, n - row),
                    width = std::min(tile, n - col);
      detail::gemm_tile<double>(cpu, 1, z.columns(row, height), Op::transpose, z.columns(col, width),
                                Op::none, 1, H.block(row, col, height, width));
    });
  }
  tokens_ += X.rows();
}

namespace detail {

/// e H e^T / tokens for every row e of W - Q, from the tiles of H on and below the diagonal.
template <class = void>
[[nodiscard]] std::vector<double> row_proxy_losses(Cpu const& cpu, Hessian const& hessian,
                                                   MatrixView<float const> W, MatrixView<float const> Q) {
  constexpr index_t rows_per_range = 64, tile = triangle_tile;
  index_t const n = hessian.channels();
  MatrixView<double const> const H = hessian.sum();
  std::vector<double> loss(static_cast<std::size_t>(W.rows()), 0.0);
  cpu.parallel_for(W.rows(), rows_per_range, [&](index_t first, index_t last) {
    RowMatrix<double> E(last - first, n), C;
    for (index_t i = first; i < last; ++i)
      for (index_t j = 0; j < n; ++j)
        E(i - first, j) = static_cast<double>(W(i, j)) - static_cast<double>(Q(i, j));
    MatrixView<double const> const e = E;
    for (index_t col = 0; col < n; col += tile) {
      index_t const width = std::min(tile, n - col), next = col + width;
      C.resize(E.rows(), width);
      auto const add = [&](double factor) {
        for (index_t i = first; i < last; ++i)
          loss[static_cast<std::size_t>(i)] +=
              factor * dot<double>(&C(i - first, 0), &E(i - first, col), width);
      };
      gemm_tile<double>(cpu, 1, e.columns(col, width), Op::none, H.block(col, col, width, width), Op::none, 0,
                        C);
      add(1);
      if (next == n) break;
      gemm_tile<double>(cpu, 1, e.columns(next, n - next), Op::none, H.block(next, col, n - next, width),
                        Op::none, 0, C);
      add(2);
    }
    for (index_t i = first; i < last; ++i)
      loss[static_cast<std::size_t>(i)] /= static_cast<double>(std::max<index_t>(1, hessian.tokens()));
  });
  return loss;
}

}  // namespace detail

/// tr((W - Q) H (W - Q)^T) / tokens: the squared error of the layer's output, summed over outputs, mean over
/// the tokens of the Hessian, when Q [out, channels] stands for W. Errors: InvalidArgument when the shapes
/// differ. Cost: out channels^2 multiply-adds.
[[nodiscard]] inline double proxy_loss(Cpu const& cpu, Hessian const& hessian, MatrixView<float const> W,
                                       MatrixView<float const> Q) {
  detail::require(W.rows() == Q.rows() && W.cols() == Q.cols() && W.cols() == hessian.channels(),
                  "[proxy_loss] ", hessian.place(), "weights of ", W.rows(), " x ", W.cols(), " and ",
                  Q.rows(), " x ", Q.cols(), ": equal shapes of ", hessian.channels(),
                  " channels are needed");
  double sum = 0;
  for (double const loss : detail::row_proxy_losses(cpu, hessian, W, Q)) sum += loss;
  return sum;
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template void Hessian::accumulate<float>(Cpu const&, MatrixView<float const>);
DARTQUANT_COMPILED template void Hessian::accumulate<double>(Cpu const&, MatrixView<double const>);
DARTQUANT_COMPILED template std::vector<double> detail::row_proxy_losses<void>(Cpu const&, Hessian const&,
                                                                               MatrixView<float const>,
                                                                               MatrixView<float const>);
}  // namespace dartquant
#endif
