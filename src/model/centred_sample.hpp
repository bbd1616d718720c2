// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include <dartquant/calibrate/sample.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/model/forward.hpp>
#include <dartquant/model/rotations.hpp>

namespace dartquant::detail {

/// The means of the q_proj inputs, up_proj inputs and keys of every layer over all tokens of a pass, the mean
/// squares of the down_proj inputs, and a sample of the first two about their means. Every site gives the
/// same number of rows. Memory: `rows` hidden floats and four vectors per layer.
class CentredSample {
 public:
  /// At most about `rows` rows in all. Errors: those of ActivationSample.
  CentredSample(ModelConfig const& config, index_t rows, std::uint64_t seed);

  /// Called as an Observer, in the order of the tokens; other sites are ignored.
  void add(Site site, index_t layer, index_t first_token, MatrixView<float const> X);

  /// The means as the shifts of each layer.
  [[nodiscard]] std::vector<LayerTransforms> shifts() const;
  /// x - mean of its site [rows, hidden], site by site.
  [[nodiscard]] RowMatrix<float> rows() const;
  /// The first of these rows of each site, then their number: of the q_proj and up_proj input of layer 0, ...
  [[nodiscard]] std::vector<index_t> starts() const;
  /// The mean square of every channel of the down_proj inputs, layer by layer.
  [[nodiscard]] std::vector<std::vector<double>> down_powers() const;

 private:
  struct Mean {
    std::vector<double> sum{};  ///< [channels]
    index_t tokens = 0;
    void add(MatrixView<float const> X);
    void add_squares(MatrixView<float const> X);
    [[nodiscard]] std::vector<double> value() const;
  };
  struct Input {
    explicit Input(ActivationSample empty) : sample(std::move(empty)) {}
    Mean mean{};
    ActivationSample sample;
  };

  std::vector<Input> inputs_;  ///< q_proj and up_proj input of layer 0, of layer 1, ...
  std::vector<Mean> keys_, down_squares_;
  bool shifts_keys_;  ///< exact unless scores are capped
};

}  // namespace dartquant::detail
