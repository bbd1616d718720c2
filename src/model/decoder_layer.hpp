// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <optional>
#include <variant>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/model/forward.hpp>
#include <dartquant/quant/int_matrix.hpp>
#include <dartquant/quant/packed.hpp>
#include <dartquant/transform/hadamard.hpp>

#include "model/attention.hpp"
#include "model/weights.hpp"

namespace dartquant::detail {

/// The weights of one layer as the forward pass uses them: folded, rounded to float, quantized. In the order
/// of enum Linear.
struct LayerWeights {
  std::array<RowMatrix<float>, linear_count> weight;       ///< [out, in]; empty for integer products
  std::array<PackedInt4, linear_count> packed;             ///< for integer products
  std::array<RowMatrix<float>, linear_count> bias;         ///< [1, out], or empty
  RowMatrix<float> attention_gain, mlp_gain;               ///< [1, hidden], or empty where they are 1
  RowMatrix<float> attention_shift, mlp_shift, key_shift;  ///< [1, channels], or empty: nothing to subtract
  LayerTransforms const* transforms = nullptr;             ///< those that run online act
};

/// Not rounded yet.
[[nodiscard]] LayerWeights load_layer(FoldedWeights const& folded, index_t layer);

/// The input of linear maps [tokens, in]: floats, or for integer products levels and scales.
using LinearInput = std::variant<MatrixView<float const>, Int4Matrix, Int8Matrix>;

/// Y <- X / RMS(X) * gain per token, in float with the mean square in double. An empty gain is 1.
void rms_norm(Cpu const& cpu, MatrixView<float const> X, double epsilon, RowMatrix<float> const& gain,
              MatrixView<float> Y);

/// Runs decoder layers over groups of sequences that fit a bounded buffer.
class DecoderLayer {
 public:
  /// Sequences of `tokens`, at most `rows` rows at a time. All references must outlive this.
  DecoderLayer(Cpu const& cpu, Model const& model, ForwardOptions const& options, index_t tokens,
               index_t rows);

  /// hidden [sequences * tokens, hidden] <- hidden + that half of the layer; `first_token` is counted over
  /// all windows.
  void attend(LayerWeights const& weights, index_t layer, index_t first_token, MatrixView<float> hidden);
  void feed_forward(LayerWeights const& weights, index_t layer, index_t first_token,
                    MatrixView<float> hidden);
  /// The half that `last`, the input of a linear map, lies in, up to there: `hidden` stays as it is.
  void observe_until(Site last, LayerWeights const& weights, index_t layer, index_t first_token,
                     MatrixView<float> hidden);

 private:
  void enter(LayerWeights const& weights, index_t layer, index_t first_token);
  /// False where the half ends.
  [[nodiscard]] bool observe_input(Site site, MatrixView<float const> X) const;
  void observe(Site site, MatrixView<float const> X) const;
  /// Quantized once for all maps that read it; floats are rounded in place.
  [[nodiscard]] LinearInput quantize_activations(MatrixView<float> X, Site site) const;
  void quantize_cache(MatrixView<float> X, Site site) const;
  void rotate_keys(MatrixView<float> Q, MatrixView<float> K) const;
  /// Y <- X W^T + bias, added to Y where `beta` is 1.
  void multiply(Linear linear, LinearInput const& X, float beta, MatrixView<float> Y) const;
  Cpu const& cpu_;
  ModelConfig const& config_;
  ForwardOptions const& options_;
  index_t tokens_;
  RopeTable rope_;
  std::optional<Hadamard> r3_, r4_;
  RowMatrix<float> normed_, q_, k_, v_, mixed_, gate_, up_;
  LayerWeights const* weights_ = nullptr;
  index_t layer_ = 0, first_token_ = 0;
  std::optional<Site> last_;
};

}  // namespace dartquant::detail
