// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/model/architecture.hpp>
#include <dartquant/model/fold.hpp>
#include <dartquant/model/forward.hpp>
#include <dartquant/model/learner.hpp>
#include <dartquant/model/method.hpp>
#include <dartquant/model/site_statistics.hpp>

namespace dartquant {

/// Default calibration windows: 128 sequences of min(2048, positions) tokens.
inline constexpr index_t calibration_samples = 128;
[[nodiscard]] index_t calibration_seqlen(ModelConfig const& config);

/// What calibrate does for a whole model (CalibrationOptions of calibrate/calibrate.hpp is for one rotation).
struct ModelCalibrationOptions {
  Method method = Method::dartquant;
  RotationSet rotations{.r1 = true, .r2 = true};  ///< R3 and R4 are never learned and ignored here
  std::uint64_t seed = 0;  ///< of the initial Hadamard matrices and of the order of the batches
  LearningOptions r1{}, r2{};
  std::optional<LearningRule> rule{};           ///< in the place of the method's own, where it learns
  std::optional<LearnedObjective> objective{};  ///< likewise
  /// Rows of weights that rotations learn on for every row of activations: R1 on those of the maps that read
  /// the residual stream, R2 and blocks on those that read their input. Absent: as many as the method does.
  std::optional<double> weight_rows{};
  /// Channels of a block of the transforms of single layers; where it does not divide them, the largest
  /// smaller block that does.
  index_t block = 128;
  Learners learners{};  ///< of another machine, such as a GPU; empty: learns on the CPU

  /// Errors: InvalidArgument.
  void validate() const;
};

/// The bounded, seeded sample that calibration keeps of one full-precision pass (gains folded, unrotated),
/// one layer in memory at a time. Every row of a site has the same chance to be kept. What learns on rows of
/// weights, which R1 turns, takes its rows of activations in a second pass over at most 2 r2_rows tokens.
struct CaptureOptions {
  index_t r1_rows = 65536;   ///< rows kept of the q_proj and up_proj inputs of all layers, pooled
  index_t r2_rows = 16384;   ///< rows kept of a layer's o_proj inputs; dropped once its R2 are found
  index_t site_rows = 1024;  ///< rows kept of each input of a layer that gets a transform of its own
  std::uint64_t seed = 0;
  Progress progress{};  ///< stages "capture" (layers), "calibrate" (runs), maybe "after R1" (layers again)

  /// Errors: InvalidArgument.
  void validate() const;
};

/// A transform that was found for one input of one layer.
struct TransformSummary {
  Site site{};
  index_t layer = 0, block = 0;
  double largest_before = 0, largest_after = 0;  ///< max |x| of the sample, smoothed
  /// DuQuant's measure of how unevenly outliers lie, before and after the (last) permutation; 0 without one.
  double block_mean_variance_before = 0, block_mean_variance_after = 0;
};

/// Rotations and how they were found.
struct ModelCalibration {
  Method method = Method::rtn;
  std::uint64_t seed = 0;
  Rotations rotations{};
  std::vector<double> r1_loss{};               ///< one value per epoch; empty where nothing was learned
  std::vector<double> r1_seconds{};            ///< of learning R1, until each value of r1_loss
  std::vector<std::vector<double>> r2_loss{};  ///< [layers], likewise, mean over the KV heads
  index_t r1_steps = 0;                        ///< taken for R1
  index_t r2_steps = 0;                        ///< taken for R2, of all layers and KV heads
  /// Whip per channel, mean of exp(-|x|), of the pooled R1 sample before and after R1. 0.523 is a Gaussian,
  /// 0.475 uniform, both at unit RMS.
  double whip_before = 0, whip_after = 0;
  double r1_orthogonality = 0, r2_orthogonality = 0;  ///< see Rotations
  std::vector<TransformSummary> transforms{};         ///< layer by layer, in the order of the sites
  index_t r1_sample_rows = 0;                         ///< rows that R1 saw
  double seconds = 0;                                 ///< spent on learning, without the capture
  std::vector<std::string> notes{};  ///< sentences where a rotation did not learn as it should
};

/// Capture and calibrate for one method. Peak memory does not grow with the number of layers.
/// Errors: InvalidArgument (options), those of hidden_states.
[[nodiscard]] ModelCalibration calibrate(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                                         ModelCalibrationOptions const& options = {},
                                         CaptureOptions const& capture = {});

/// The same for several runs (methods, seeds) with one capture; the result of each run is that of calibrate.
[[nodiscard]] std::vector<ModelCalibration> calibrate_all(Cpu const& cpu, Model const& model,
                                                          TokenWindows const& windows,
                                                          std::span<ModelCalibrationOptions const> runs,
                                                          CaptureOptions const& capture = {});

/// A model whose last hidden states are kept, for the KL divergence of others to it.
struct Baseline {
  Model model;
  TokenWindows windows{};
  RowMatrix<float> hidden{};  ///< [windows * tokens, hidden]
};

/// Runs the original model once. Memory: windows * tokens * hidden floats.
[[nodiscard]] Baseline baseline_of(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                                   Progress const& progress = {});

/// Quality on text.
struct Evaluation {
  double perplexity = 0;             ///< exp(nll)
  double nll = 0;                    ///< mean negative log-likelihood per scored token, nats
  double standard_error = 0;         ///< of nll, over windows (they are independent); 0 for a single window
  std::vector<double> window_nll{};  ///< mean per window
  bool has_kl = false;               ///< the next five are meaningful: a baseline was given
  double kl = 0;                     ///< mean KL(original || this) per scored token, nats
  double kl_median = 0, kl_p90 = 0, kl_p99 = 0, kl_max = 0;
  double top1_agreement = 1;  ///< share of scored tokens whose most likely next token is the original's
  index_t windows = 0, tokens_scored = 0;
  std::vector<std::string> notes{};  ///< sentences of online_rotations, and on the rounding of the weights
};

/// Perplexity: every window on its own, the first token of each is context only. Log-softmax and sums in
/// FP64, the vocabulary in blocks, so that memory does not hold all logits. With a baseline (same windows),
/// also KL(original || this). Errors: those of hidden_states; InvalidArgument when the baseline has other
/// windows or another vocabulary.
[[nodiscard]] Evaluation evaluate(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                                  ForwardOptions const& options = {}, Baseline const* baseline = nullptr);

/// The options of an evaluation of `calibration`'s rotations: `active` of them, and `quantization`, with
/// learned clipping of the weights where the method has it (hessian_windows are then the caller's to set).
/// The result points to `calibration`, which must outlive it.
[[nodiscard]] ForwardOptions forward_options(ModelCalibration const& calibration, RotationSet active,
                                             Quantization const& quantization);

/// How far the logits of two models (a checkpoint and its folded form) are apart, both in FP32.
struct FoldCheck {
  double max_error = 0;  ///< max |a - b| / max |a|
  index_t tokens = 0;
};

/// Compares logits on `windows`. Errors: Error(numerics) when max_error is above `bound`; InvalidArgument
/// when the vocabularies differ.
[[nodiscard]] FoldCheck check_fold(Cpu const& cpu, Model const& original, Model const& folded,
                                   TokenWindows const& windows, double bound = 1e-4);

/// A job, for `plan`.
enum class Job { inspect, calibrate, fold, evaluate, round, generate };

/// What a job will need, known before it starts. Upper estimates, not promises.
struct Plan {
  std::uint64_t memory_bytes = 0;  ///< peak, without the memory-mapped checkpoint
  std::uint64_t disk_bytes = 0;    ///< written
  double operations = 0;           ///< floating-point operations
  double seconds = 0;              ///< at the speed of a short product timed on this machine
  std::vector<std::string> notes{};
};

/// `windows` and `seqlen` as in the job (ignored by fold). `round` is what rounding weights on a text adds to
/// an evaluation or a fold.
[[nodiscard]] Plan plan(Cpu const& cpu, Model const& model, Job job, index_t windows, index_t seqlen,
                        ModelCalibrationOptions const& options = {}, CaptureOptions const& capture = {});

}  // namespace dartquant
