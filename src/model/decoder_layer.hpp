// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <variant>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/model/forward.hpp>
#include <dartquant/quant/int_matrix.hpp>
#include <dartquant/quant/packed.hpp>
#include <dartquant/transform/hadamard.hpp>

#include "model/attention.hpp"
#include "model/weights.hpp"

namespace dartquant::detail {

/// One linear map as the forward pass uses it: folded, rounded to float, quantized.
struct LinearWeights {
  RowMatrix<float> weight;  ///< [out, in]; empty for integer products
  PackedInt4 packed;        ///< for integer products
  RowMatrix<float> bias;    ///< [1, out], or empty
};

/// The weights of one layer.
struct LayerWeights {
  std::vector<LayerLinear> linears;
  std::vector<LinearWeights> maps;  ///< in the order of `linears`
  NormWeights attention_norm, attention_output_norm, mlp_norm, mlp_output_norm, query_norm, key_norm;
  RowMatrix<float> attention_shift, mlp_shift, key_shift;  ///< [1, channels], or empty: nothing to subtract
  LayerTransforms const* transforms = nullptr;             ///< those that run online act

  /// Where a map is in `linears`; nothing where the layer has none of that kind.
  [[nodiscard]] std::optional<std::size_t> find(Linear linear, index_t block = 0) const;
};

/// Not rounded yet; the weights of maps that are quantized stay empty unless asked for.
[[nodiscard]] LayerWeights load_layer(FoldedWeights const& folded, index_t layer, bool quantized_maps = true);

/// The input of linear maps [tokens, in]: floats, or for integer products levels and scales.
using LinearInput = std::variant<MatrixView<float const>, Int4Matrix, Int8Matrix>;

/// Y <- norm(X) gain + bias per token, in float with mean and mean square in double. Y may be X.
void normalize(Cpu const& cpu, MatrixView<float const> X, double epsilon, NormWeights const& norm,
               MatrixView<float> Y);

/// X <- X - shift, the same for every token; an empty shift is none.
void subtract(Cpu const& cpu, RowMatrix<float> const& shift, MatrixView<float> X);

/// Sees the input of linear maps, before it is quantized: of one MLP of a sparse layer the rows of the tokens
/// that it is given, else (block 0) all rows.
using BlockObserver = std::function<void(Site site, index_t block, MatrixView<float const> X)>;

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
  /// hidden [sequences, hidden], the next token of each: the first half, looking back into the layer's
  /// `cache`, which takes the token.
  void attend_next(LayerWeights const& weights, index_t layer, KeyValueCache& cache,
                   MatrixView<float> hidden);
  /// The half that `last`, the input of a linear map, lies in, up to there: `hidden` stays as it is.
  void observe_until(Site last, LayerWeights const& weights, index_t layer, index_t first_token,
                     MatrixView<float> hidden, BlockObserver const& observer);
  /// Tokens that each expert of a layer was given so far [layers][experts]; empty for dense layers.
  [[nodiscard]] std::vector<std::vector<index_t>> const& expert_tokens() const { return expert_tokens_; }

 private:
  void enter(LayerWeights const& weights, index_t layer, index_t first_token);
  void observe(Site site, MatrixView<float const> X) const;
  void observe_block(Site site, index_t block, MatrixView<float const> X) const;
  /// Quantized once for all maps that read it; floats are rounded in place.
  [[nodiscard]] LinearInput quantize_activations(MatrixView<float> X, Site site) const;
  void quantize_cache(MatrixView<float> X, Site site) const;
  void rotate_keys(MatrixView<float> Q, MatrixView<float> K) const;
  void project_heads(MatrixView<float> X, Positions positions, MatrixView<float> Q, MatrixView<float> K,
                     MatrixView<float> V) const;
  /// The whole half; with a cache, of one token.
  void attend(KeyValueCache* cache, MatrixView<float> hidden);
  /// Y <- X W^T + bias, added to Y where `beta` is 1.
  void multiply(std::size_t map, LinearInput const& X, float beta, MatrixView<float> Y) const;
  void multiply(Linear linear, LinearInput const& X, float beta, MatrixView<float> Y) const {
    multiply(*weights_->find(linear), X, beta, Y);
  }
  /// hidden <- hidden + norm(what the map gives).
  void add_output(Linear linear, LinearInput const& X, NormWeights const& norm, bool normed,
                  MatrixView<float> hidden);
  /// The input of down_proj of one MLP: act(X W_gate^T) X W_up^T, or act(X W_up^T), R4 applied.
  [[nodiscard]] MatrixView<float> activate(index_t block, MatrixView<float> X);
  void run_experts(MatrixView<float> X, MatrixView<float> hidden);
  void run_expert(index_t block, MatrixView<float const> X, std::vector<index_t> const& rows,
                  std::vector<float> const& shares, MatrixView<float> hidden);
  Cpu const& cpu_;
  /// Integer arithmetic has the same bytes on every instruction set, its attention too: on Eigen.
  Cpu attention_cpu_;
  ModelConfig const& config_;
  ForwardOptions const& options_;
  index_t tokens_;
  Family const& family_;
  RopeTable rope_;
  std::optional<RopeTable> local_rope_;  ///< of layers with a window, where they have their own
  std::optional<Hadamard> r3_;
  std::map<index_t, Hadamard> r4_;  ///< by width
  RowMatrix<float> normed_, q_, k_, v_, mixed_, gate_, up_, gathered_, output_;
  std::vector<std::vector<index_t>> expert_tokens_;
  LayerWeights const* weights_ = nullptr;
  index_t layer_ = 0, first_token_ = 0;
  std::optional<Site> last_;  ///< where to stop; nothing: the half runs to its end
  BlockObserver const* block_observer_ = nullptr;
};

}  // namespace dartquant::detail
