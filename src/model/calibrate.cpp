// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <string_view>
#include <utility>

#include <dartquant/calibrate/calibrate.hpp>
#include <dartquant/calibrate/sample.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/random.hpp>
#include <dartquant/model/pipeline.hpp>
#include <dartquant/transform/hadamard.hpp>
#include <dartquant/transform/rotation.hpp>

#include "model/balanced_scales.hpp"
#include "model/centred_sample.hpp"
#include "model/find_transforms.hpp"
#include "model/learn.hpp"
#include "model/learned_blocks.hpp"
#include "model/ones_direction.hpp"
#include "model/weight_rows.hpp"

namespace dartquant {
namespace {

using detail::CentredSample;
using detail::learner_of;
using detail::require;
using detail::sentence;

/// A seed of its own for the rotations of each layer.
std::uint64_t layer_seed(std::uint64_t seed, index_t layer) {
  return Philox(seed, 0x5232u).bits(static_cast<std::uint64_t>(layer));
}

/// How many rotations of one kind did not learn as they should: one sentence each, not one per head.
class StatusCount {
 public:
  void add(Calibration const& found) {
    ++total_;
    if (found.status == CalibrationStatus::stalled) ++stalled_;
    if (found.status != CalibrationStatus::not_finite) return;
    ++not_finite_;
    rate_ = found.learning_rate;
  }
  void note(std::string_view name, std::vector<std::string>& notes) const {
    if (stalled_ > 0)
      notes.push_back(sentence(name, " did not learn in ", stalled_, " of ", total_,
                               " calibrations: no epoch was better than the start"));
    if (not_finite_ > 0)
      notes.push_back(sentence(
          name, " stopped in ", not_finite_, " of ", total_,
          " calibrations at a loss or gradient that is not finite; the best rotation so far is kept, "
          "lower the learning rate of ",
          rate_));
  }

 private:
  index_t total_ = 0, stalled_ = 0, not_finite_ = 0;
  double rate_ = 0;
};

/// One run of calibrate_all: its result, and the clock of its learning.
struct Run {
  ModelCalibrationOptions const& options;
  ModelCalibration result{};
  StatusCount r1_status{}, r2_status{};

  template <class Body>
  void timed(Body const& body) {
    auto const start = std::chrono::steady_clock::now();
    body();
    result.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
};

void find_r1(Cpu const& cpu, Model const& model, MatrixView<float const> X,
             std::function<void(CalibrationProgress const&)> const& progress, Run& run) {
  ModelCalibrationOptions const& options = run.options;
  MethodTraits const& method = traits(options.method);
  if (!options.rotations.r1 || !method.rotates()) return;
  RotationSupport const support = rotation_support(model.family()).r1;
  if (support.how == RotationSupport::How::impossible) {
    run.result.notes.push_back(
        sentence("there is no R1 in ", model.config().architecture, ": ", support.reason));
    return;
  }
  run.timed([&] {
    if (!method.learns()) {
      run.result.rotations.r1 = random_hadamard(X.cols(), options.seed);
      return;
    }
    Learning learning{.options = options.r1, .seed = options.seed, .progress = progress};
    RowMatrix<double> factor;
    if (detail::objective_of(options) == LearnedObjective::output_error) {
      factor = detail::output_factor(cpu, model);
      learning.output_factor = &factor;
    }
    RowMatrix<float> const extended =
        detail::with_weight_rows(cpu, model, X, detail::weight_rows_of(options));
    Calibration found = learner_of(cpu, options).rotation(extended.size() != 0 ? extended : X, learning);
    run.r1_status.add(found);
    run.result.r1_steps = found.steps;
    run.result.r1_loss = std::move(found.loss);
    run.result.r1_seconds = std::move(found.seconds);
    run.result.rotations.r1 = std::move(found.rotation);
  });
}

/// The mean over heads of the loss after each epoch; heads that stopped early count with their last loss.
std::vector<double> mean_loss(std::vector<Calibration> const& heads) {
  std::size_t epochs = 0;
  for (Calibration const& head : heads) epochs = std::max(epochs, head.loss.size());
  std::vector<double> mean(epochs, 0.0);
  for (Calibration const& head : heads)
    for (std::size_t epoch = 0; epoch < epochs && !head.loss.empty(); ++epoch)
      mean[epoch] += head.loss[std::min(epoch, head.loss.size() - 1)] / static_cast<double>(heads.size());
  return mean;
}

/// Random Hadamard matrices, one per KV head.
std::vector<RowMatrix<double>> random_heads(ModelConfig const& config, std::uint64_t seed) {
  std::vector<RowMatrix<double>> rotations;
  for (index_t head = 0; head < config.kv_heads; ++head)
    rotations.push_back(random_hadamard(config.head_dim, layer_seed(seed, head)));
  return rotations;
}

/// X are rows of the o_proj input of a layer, as it is.
void find_r2(Cpu const& cpu, Model const& model, index_t layer, MatrixView<float const> X, Run& run) {
  ModelCalibrationOptions const& options = run.options;
  MethodTraits const& method = traits(options.method);
  ModelConfig const& config = model.config();
  std::uint64_t const seed = layer_seed(options.seed, layer);
  run.timed([&] {
    if (!method.learns()) {
      run.result.rotations.r2.push_back(random_heads(config, seed));
      return;
    }
    RowMatrix<float> const extended = detail::with_weight_rows_of(
        cpu, model, run.result.rotations, layer, Site::o_proj_input, X, detail::weight_rows_of(options));
    HeadCalibration found =
        learner_of(cpu, options)
            .heads(extended.size() != 0 ? extended : X, config.heads, config.kv_heads,
                   {.options = options.r2, .row_scale = RowScale::unit_rms, .seed = seed});
    std::vector<RowMatrix<double>> rotations;
    for (Calibration& head : found.heads) {
      run.r2_status.add(head);
      run.result.r2_steps += head.steps;
      rotations.push_back(std::move(head.rotation));
    }
    run.result.r2_loss.push_back(mean_loss(found.heads));
    run.result.rotations.r2.push_back(std::move(rotations));
  });
}

/// What R2 learn from: rows of the o_proj input of the present layer.
class R2Sample {
 public:
  /// Of a pass over `tokens` tokens.
  R2Sample(ModelConfig const& config, index_t tokens, CaptureOptions const& capture)
      : channels_(config.query_channels()), tokens_(tokens), capture_(capture) {}

  /// As an Observer. The rows of a layer once all of it has been seen, else nothing.
  [[nodiscard]] std::optional<RowMatrix<float>> observe(Site site, index_t layer, index_t first_token,
                                                        MatrixView<float const> X) {
    if (site != Site::o_proj_input) return std::nullopt;
    if (!sample_) sample_.emplace(channels_, capture_.r2_rows, capture_.seed);
    sample_->add(X, static_cast<std::uint64_t>(layer * tokens_ + first_token));
    if (first_token + X.rows() < tokens_) return std::nullopt;
    return std::exchange(sample_, std::nullopt)->rows();
  }

 private:
  index_t channels_, tokens_;
  CaptureOptions const& capture_;
  std::optional<ActivationSample> sample_;
};

bool learns_blocks(Run const& run) { return traits(run.options.method).sites == SiteChain::learned_blocks; }

/// In the basis as it is.
bool transforms_layers(Run const& run) {
  return traits(run.options.method).transforms() && !learns_blocks(run);
}

bool finds_r2(Run const& run) { return run.options.rotations.r2 && traits(run.options.method).rotates(); }

/// Rows of weights are those that R1 has turned.
bool finds_r2_after_r1(Run const& run) { return finds_r2(run) && detail::weight_rows_of(run.options) > 0; }

bool centres(Run const& run) { return traits(run.options.method).means == InputMeans::subtracted; }

bool balances(Run const& run) { return traits(run.options.method).balanced_scales; }

/// What R1 learns from [rows, hidden], as it is and about its means, and these. Empty where no run asks.
struct Captured {
  RowMatrix<float> inputs, centred;
  std::vector<index_t> centred_starts{};
  std::vector<LayerTransforms> shifts{};
  std::vector<std::vector<double>> down_powers{};
  [[nodiscard]] RowMatrix<float> const& of(Run const& run) const { return centres(run) ? centred : inputs; }
};

/// Runs the model in full precision, gains folded and nothing rotated; `stage` is what its progress is
/// called.
void observed_pass(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                   CaptureOptions const& capture, std::string_view stage, Observer observer) {
  ForwardOptions options;
  options.gains = NormGains::folded;
  options.observer = std::move(observer);
  if (capture.progress)
    options.progress = [&](std::string_view, index_t done, index_t total) {
      capture.progress(stage, done, total);
    };
  static_cast<void>(hidden_states(cpu, model, windows, options));
}

/// The first full-precision pass: takes the pooled R1 samples and, layer by layer, finds what does not need
/// R1: the transforms of most runs, the R2 of some.
Captured capture_pass(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                      CaptureOptions const& capture, std::vector<Run>& runs) {
  ModelConfig const& config = model.config();
  index_t const tokens = windows.size();
  ActivationSample r1_sample(config.hidden, capture.r1_rows, capture.seed);
  std::optional<CentredSample> centred;
  if (std::ranges::any_of(runs, [](Run const& run) { return centres(run) || balances(run); }))
    centred.emplace(config, capture.r1_rows, capture.seed);
  bool const as_given = !std::all_of(runs.begin(), runs.end(), centres);
  auto const finds_r2_here = [](Run const& run) { return finds_r2(run) && !finds_r2_after_r1(run); };
  bool const any_r2 = std::ranges::any_of(runs, finds_r2_here);
  R2Sample r2_sample(config, tokens, capture);
  std::optional<detail::LayerTransformSearch> search;
  if (std::ranges::any_of(runs, transforms_layers)) search.emplace(cpu, model, tokens, capture);
  auto const observer = [&](Site site, index_t layer, index_t first_token, MatrixView<float const> X) {
    auto const id = [&](index_t source) { return static_cast<std::uint64_t>(source * tokens + first_token); };
    if (as_given && site == Site::q_proj_input) r1_sample.add(X, id(2 * layer));
    if (as_given && site == Site::up_proj_input) r1_sample.add(X, id(2 * layer + 1));
    if (centred) centred->add(site, layer, first_token, X);
    if (search && search->observe(site, layer, first_token, X))
      for (Run& run : runs)
        if (transforms_layers(run)) run.timed([&] { search->find(run.options, run.result); });
    if (!any_r2) return;
    if (auto const rows = r2_sample.observe(site, layer, first_token, X))
      for (Run& run : runs)
        if (finds_r2_here(run)) find_r2(cpu, model, layer, *rows, run);
  };
  observed_pass(cpu, model, windows, capture, "capture", observer);
  Captured captured;
  if (as_given) captured.inputs = r1_sample.rows();
  if (centred)
    captured = {std::move(captured.inputs), centred->rows(), centred->starts(), centred->shifts(),
                centred->down_powers()};
  return captured;
}

/// Those of the second pass, evenly spaced.
TokenWindows few_of(TokenWindows const& windows, CaptureOptions const& capture) {
  TokenWindows few(detail::second_pass_windows(windows.rows(), windows.cols(), capture), windows.cols());
  for (index_t i = 0; i < few.rows(); ++i) few.row(i) = windows.row(i * windows.rows() / few.rows());
  return few;
}

/// The second pass, over few windows: what learns on rows of weights, which R1 has turned by now. First R2 of
/// a layer, then its blocks.
void second_pass(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                 CaptureOptions const& capture, std::vector<Run>& runs) {
  if (std::ranges::none_of(runs, [](Run const& run) { return finds_r2_after_r1(run) || learns_blocks(run); }))
    return;
  TokenWindows const few = few_of(windows, capture);
  R2Sample r2_sample(model.config(), few.size(), capture);
  detail::LearnedBlocks blocks(cpu, model, few.size(), capture);
  auto const observer = [&](Site site, index_t layer, index_t first_token, MatrixView<float const> X) {
    if (auto const rows = r2_sample.observe(site, layer, first_token, X))
      for (Run& run : runs)
        if (finds_r2_after_r1(run)) find_r2(cpu, model, layer, *rows, run);
    if (!blocks.observe(site, layer, first_token, X)) return;
    for (Run& run : runs)
      if (learns_blocks(run)) run.timed([&] { blocks.find(run.options, run.result); });
  };
  observed_pass(cpu, model, few, capture, "after R1", observer);
}

/// Gives every layer its shifts.
void add_shifts(std::vector<LayerTransforms> const& shifts, std::vector<LayerTransforms>& layers) {
  layers.resize(shifts.size());
  for (std::size_t i = 0; i < shifts.size(); ++i) {
    layers[i].attention_shift = shifts[i].attention_shift;
    layers[i].mlp_shift = shifts[i].mlp_shift;
    layers[i].key_shift = shifts[i].key_shift;
  }
}

/// What needs all layers: R1, and what follows from it on the same rows.
void finish_r1(Cpu const& cpu, Model const& model, Captured const& captured,
               std::function<void(CalibrationProgress const&)> const& progress, Run& run) {
  ModelCalibration& result = run.result;
  MatrixView<float const> const X = captured.of(run);
  if (centres(run)) add_shifts(captured.shifts, result.rotations.layers);
  find_r1(cpu, model, X, progress, run);
  if (result.rotations.r1.size() != 0 && model.family().norm == NormKind::layer)
    result.rotations.r1 = detail::keep_ones(std::move(result.rotations.r1));
  if (balances(run))
    run.timed([&] {
      detail::add_balanced_scales(
          cpu, model, {captured.centred, captured.centred_starts, captured.shifts, captured.down_powers},
          result.rotations);
    });
  if (learns_blocks(run))
    run.timed(
        [&] { detail::learn_input_blocks(cpu, model, X, captured.centred_starts, run.options, result); });
  result.r1_sample_rows = X.rows();
  result.whip_before = result.whip_after = loss_per_channel(cpu, X, Whip{});
  if (result.rotations.r1.size() != 0)
    result.whip_after = loss_per_channel(cpu, apply(cpu, result.rotations.r1, X), Whip{});
}

/// What is said of a run when all is found.
ModelCalibration finished(Model const& model, Run& run) {
  ModelCalibration& result = run.result;
  result.method = run.options.method;
  result.seed = run.options.seed;
  std::ranges::stable_sort(result.transforms, {},
                           [](TransformSummary const& one) { return std::pair(one.layer, one.site); });
  for (std::string& note :
       detail::transform_notes(traits(run.options.method), model.config(), run.options.block))
    result.notes.push_back(std::move(note));
  run.r1_status.note("R1", result.notes);
  run.r2_status.note("R2", result.notes);
  result.r1_orthogonality = result.rotations.r1_orthogonality();
  result.r2_orthogonality = result.rotations.r2_orthogonality();
  return std::move(result);
}

}  // namespace

std::vector<ModelCalibration> calibrate_all(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                                            std::span<ModelCalibrationOptions const> options,
                                            CaptureOptions const& capture) {
  capture.validate();
  require(!options.empty(), "[calibrate_all] 0 runs: at least one is needed");
  require(!model.needs_r4(), "[calibrate_all] ", model.folder().string(),
          ": this checkpoint holds R4 already; calibrate on the original");
  std::vector<Run> runs;
  for (ModelCalibrationOptions const& run : options) {
    run.validate();
    runs.push_back({run});
    bool const dense_only = balances(runs.back()) || learns_blocks(runs.back());
    require(!dense_only || model.config().mixture.experts == 0, "[calibrate_all] method ",
            name_of(run.method), " needs one down_proj input per layer, and ", model.config().architecture,
            " has ", model.config().mixture.experts, " experts; use centred or dartquant");
  }
  Captured const captured = capture_pass(cpu, model, windows, capture, runs);
  constexpr index_t steps = 100;  // of the progress of one run
  index_t done = 0;
  auto const report = [&](index_t within) {
    if (capture.progress)
      capture.progress("calibrate", done * steps + within, static_cast<index_t>(runs.size()) * steps);
  };
  for (Run& run : runs) {
    finish_r1(
        cpu, model, captured,
        [&](CalibrationProgress const& epoch) { report((steps - 1) * epoch.epoch / epoch.epochs); }, run);
    ++done;
    report(0);
  }
  second_pass(cpu, model, windows, capture, runs);
  std::vector<ModelCalibration> results;
  for (Run& run : runs) results.push_back(finished(model, run));
  return results;
}

ModelCalibration calibrate(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                           ModelCalibrationOptions const& options, CaptureOptions const& capture) {
  return std::move(calibrate_all(cpu, model, windows, std::span(&options, 1), capture).front());
}

}  // namespace dartquant
