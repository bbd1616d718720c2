// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/model/architecture.hpp>
#include <dartquant/model/fold.hpp>

namespace dartquant {

/// Cuts `ids` into consecutive windows of `seqlen` from index 0; the incomplete tail is dropped; at most
/// `limit` windows (0: all). Errors: InvalidArgument when seqlen < 2 or not one window fits (the sentence
/// gives both numbers).
[[nodiscard]] TokenWindows windows_of(VectorView<std::int32_t const> ids, index_t seqlen, index_t limit = 0);

/// Where activations are observed and fake-quantized, each after the transforms of its layer.
enum class Site {
  q_proj_input,    ///< also of k_proj and v_proj: normalised residual stream [tokens, hidden]
  key,             ///< after RoPE and R3 [tokens, kv_heads * head_dim]
  value,           ///< the output of v_proj [tokens, kv_heads * head_dim]
  o_proj_input,    ///< [tokens, heads * head_dim]
  up_proj_input,   ///< also of gate_proj [tokens, hidden]
  down_proj_input  ///< [tokens, intermediate], after R4; once for each expert, with the tokens it is given
};
inline constexpr std::size_t site_count = 6;

/// Such as "q_proj input".
[[nodiscard]] std::string_view name_of(Site site);

/// Bits of weights, activations and KV cache; 16 is off.
struct Scheme {
  int weights = 16, activations = 16, kv = 16;

  /// From wNaN or wNaNkvN, N = 2..8 or 16, such as w4a4kv4 or w16a4. Errors: InvalidArgument for anything
  /// else.
  [[nodiscard]] static Scheme parse(std::string_view text);
  /// Such as "w4a4kv4"; kv is always written.
  [[nodiscard]] std::string name() const;
  friend bool operator==(Scheme const&, Scheme const&) = default;
};

/// How a forward pass multiplies quantized values. floating_point: they are rounded to their grid and stay
/// floats (fake quantization), so that any number of bits can be tried. integer: weights are packed,
/// activations and the KV cache are stored as levels, and the products of the linear layers are those of
/// levels: what an inference engine runs, for weights of 2 to 4 bits and activations of 2 to 8. Levels and
/// scales are the same in both; outputs differ by the rounding of float sums.
enum class Arithmetic { floating_point, integer };

/// Everything that is quantized in a forward pass. Embedding and lm_head stay in full precision.
struct Quantization {
  /// Which channels of an o_proj input share a scale: all of a token, or those of one head.
  enum class OutputInput { per_token, per_head };

  Scheme scheme{};  ///< bits
  ClipSearch weight_clip = ClipSearch::mse;
  index_t weight_group = 0;  ///< 0: per output channel
  Symmetry weight_symmetry = Symmetry::symmetric;
  WeightRounding weight_rounding = WeightRounding::nearest;
  GptqOrder weight_order = GptqOrder::natural;
  double weight_damping = WeightQuantization{}.damping;
  Symmetry activation_symmetry = Symmetry::asymmetric;  ///< one scale (and zero point) per token
  double activation_clip = 1;                           ///< ratio of the range that is kept, (0, 1]
  OutputInput o_proj_input = OutputInput::per_token;
  double kv_clip = 1;  ///< K and V: asymmetric per token and head
  Arithmetic arithmetic = Arithmetic::floating_point;

  [[nodiscard]] WeightQuantization weights() const {
    return {scheme.weights,  weight_group, weight_clip,   weight_symmetry,
            weight_rounding, weight_order, weight_damping};
  }
  /// How the values of a site [tokens, channels] are rounded; nothing where the scheme leaves them as they
  /// are.
  [[nodiscard]] std::optional<QuantizeOptions> at(Site site, index_t head_dim) const;
  /// Errors: InvalidArgument.
  void validate() const;
};

/// Sees the activations of one site of one layer, before they are quantized: X [tokens, channels] of the
/// consecutive tokens that start at `first_token` (counted over all windows). Called on the calling thread,
/// sites in the order of the computation, tokens in rising order within (site, layer).
using Observer =
    std::function<void(Site site, index_t layer, index_t first_token, MatrixView<float const> X)>;

/// How a forward pass treats the weights and activations.
struct ForwardOptions {
  using Gains = NormGains;
  Gains gains = Gains::kept;  ///< folded: observers see inputs without gain; R1 and layers imply it
  Rotations const* rotations = nullptr;  ///< folded on the fly, nothing is written; must outlive the call;
                                         ///< its `layers` always act
  RotationSet active{};                  ///< which of R1 R2 (of `rotations`) R3 R4 (Hadamard) act
  Quantization quantization{};
  TokenWindows const* hessian_windows = nullptr;  ///< where the rounding needs text; must outlive the call
  Observer observer{};
  Progress progress{};

  /// Errors: InvalidArgument.
  void validate() const;
};

/// The Hadamard transforms that run online, and sentences where a size forces a block-diagonal one. A block
/// is the whole width where a Hadamard matrix of that order is known, else the largest power of two that
/// divides it; 0 is off.
struct OnlineRotations {
  index_t r3_block = 0;  ///< of head_dim
  index_t r4_block = 0;  ///< of the widest input of down_proj; experts of another width have their own
  std::vector<std::string> notes{};
};
[[nodiscard]] OnlineRotations online_rotations(Model const& model, ForwardOptions const& options);

/// The hidden states after the last layer, before the final norm [windows * tokens, hidden], float32:
/// embedding, then one decoder layer at a time (RMSNorm, RoPE on (i, i + head_dim / 2), causal grouped-query
/// attention, SwiGLU, residuals). One layer's weights are in memory at a time. Same bytes for any number of
/// threads.
///   Where the rounding of the weights needs text, its windows run beside, layer by layer, in full precision
/// with the rotations active: the inputs of q, k, v with the layers below rounded, those of o_proj with q, k,
/// v rounded too, and so on to down_proj. R3 is left out: it cancels where the cache is not quantized. Memory
/// then also holds their hidden states and the Hessian of one input in FP64, three times while it is
/// factored.
///   Integer arithmetic takes compiled_kernels() where `cpu` has none; the bytes of its products do not
///   depend
/// on the instruction set (those of float and double products beside them may: routers of experts, dense
/// rotations, weights rounded by GPTQ or learned ranges; see Cpu::with_kernels). Errors: InvalidArgument
/// (options, a token id outside the vocabulary, more tokens than positions), Error(format) naming a weight
/// that is not finite, Error(numerics) naming the layer whose output is not.
[[nodiscard]] RowMatrix<float> hidden_states(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                                             ForwardOptions const& options = {});

/// Final norm and lm_head: the logits [rows of `hidden`, vocabulary] of some hidden states of the same
/// options. Memory: the whole result; for many tokens see evaluate.
[[nodiscard]] RowMatrix<float> logits_of(Cpu const& cpu, Model const& model, MatrixView<float const> hidden,
                                         ForwardOptions const& options = {});

/// hidden_states, then logits_of: [windows * tokens, vocabulary].
[[nodiscard]] RowMatrix<float> logits(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                                      ForwardOptions const& options = {});

}  // namespace dartquant
