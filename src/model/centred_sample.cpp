// SPDX-License-Identifier: Apache-2.0
#include "model/centred_sample.hpp"

#include <algorithm>

namespace dartquant::detail {

void CentredSample::Mean::add(MatrixView<float const> X) {
  sum.resize(static_cast<std::size_t>(X.cols()));
  for (index_t row = 0; row < X.rows(); ++row)
    for (index_t col = 0; col < X.cols(); ++col)
      sum[static_cast<std::size_t>(col)] += static_cast<double>(X(row, col));
  tokens += X.rows();
}

void CentredSample::Mean::add_squares(MatrixView<float const> X) {
  sum.resize(static_cast<std::size_t>(X.cols()));
  for (index_t row = 0; row < X.rows(); ++row)
    for (index_t col = 0; col < X.cols(); ++col)
      sum[static_cast<std::size_t>(col)] +=
          static_cast<double>(X(row, col)) * static_cast<double>(X(row, col));
  tokens += X.rows();
}

std::vector<double> CentredSample::Mean::value() const {
  std::vector<double> mean = sum;
  for (double& each : mean) each /= static_cast<double>(std::max<index_t>(tokens, 1));
  return mean;
}

CentredSample::CentredSample(ModelConfig const& config, index_t rows, std::uint64_t seed)
    : keys_(static_cast<std::size_t>(config.layers)),
      down_squares_(keys_.size()),
      shifts_keys_(config.attention_cap == 0) {
  index_t const sites = 2 * config.layers;
  for (index_t site = 0; site < sites; ++site)
    inputs_.emplace_back(ActivationSample(config.hidden, (rows + sites - 1) / sites, seed));
}

void CentredSample::add(Site site, index_t layer, index_t first_token, MatrixView<float const> X) {
  auto const index = static_cast<std::size_t>(layer);
  if (site == Site::key) keys_[index].add(X);
  if (site == Site::down_proj_input) down_squares_[index].add_squares(X);
  if (site != Site::q_proj_input && site != Site::up_proj_input) return;
  Input& input = inputs_[2 * index + (site == Site::up_proj_input ? 1 : 0)];
  input.mean.add(X);
  input.sample.add(X, static_cast<std::uint64_t>(first_token));
}

std::vector<LayerTransforms> CentredSample::shifts() const {
  std::vector<LayerTransforms> layers(keys_.size());
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    layers[layer].attention_shift = inputs_[2 * layer].mean.value();
    layers[layer].mlp_shift = inputs_[2 * layer + 1].mean.value();
    if (shifts_keys_) layers[layer].key_shift = keys_[layer].value();
  }
  return layers;
}

std::vector<std::vector<double>> CentredSample::down_powers() const {
  std::vector<std::vector<double>> powers;
  for (Mean const& squares : down_squares_) powers.push_back(squares.value());
  return powers;
}

std::vector<index_t> CentredSample::starts() const {
  std::vector<index_t> starts{0};
  for (Input const& input : inputs_) starts.push_back(starts.back() + input.sample.size());
  return starts;
}

RowMatrix<float> CentredSample::rows() const {
  RowMatrix<float> all(starts().back(), inputs_.front().sample.channels());
  index_t first = 0;
  for (Input const& input : inputs_) {
    RowMatrix<float> const rows = input.sample.rows();
    std::vector<double> const mean = input.mean.value();
    auto const shift = Eigen::Map<Eigen::RowVectorXd const>(mean.data(), all.cols()).cast<float>().eval();
    all.middleRows(first, rows.rows()) = rows.rowwise() - shift;
    first += rows.rows();
  }
  return all;
}

}  // namespace dartquant::detail
