// SPDX-License-Identifier: Apache-2.0
#include "experiment.hpp"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include <fmt/core.h>

#include "summary.hpp"

namespace dartquant::program {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

TokenWindows few_windows(Experiment const& experiment) {
  return experiment.measure.topRows(std::min<index_t>(experiment.measure.rows(), 8));
}

RotationSet active_of(Experiment const& experiment, Method method) {
  return traits(method).rotates() ? experiment.rotations : RotationSet{};
}

Comparison measure_original(Experiment const& experiment, Progress const& progress) {
  Comparison comparison;
  comparison.model = name_of(experiment.model);
  comparison.device = experiment.device;
  comparison.reference = experiment.reference;
  ForwardOptions plain;
  plain.progress = progress;
  comparison.baseline = evaluate(experiment.cpu, experiment.model, experiment.measure, plain);
  return comparison;
}

void learn(Experiment const& experiment, Progress progress, Comparison& comparison) {
  Clock::time_point const started = Clock::now();
  CalibrationMemory memory(static_cast<index_t>(experiment.runs.size()));
  CaptureOptions capture = experiment.capture;
  capture.progress = memory.around(std::move(progress));
  comparison.calibrations =
      calibrate_all(experiment.cpu, experiment.model, experiment.learn, experiment.runs, capture);
  comparison.capture_seconds = seconds_since(started);
  for (ModelCalibration const& found : comparison.calibrations) comparison.capture_seconds -= found.seconds;
  comparison.capture_peak = memory.capture();
  comparison.learning_peaks = memory.learning();
  comparison.whip_before = comparison.calibrations.front().whip_before;
}

Result measure(Experiment const& experiment, ModelCalibration const& found, ForwardOptions const& options,
               Baseline const& baseline) {
  bool const measured = reset_peak_memory();
  Clock::time_point const started = Clock::now();
  Evaluation evaluation = evaluate(experiment.cpu, experiment.model, experiment.measure, options, &baseline);
  return {.method = found.method,
          .scheme = options.quantization.scheme,
          .weights = options.quantization.weight_rounding,
          .rotations = active_of(experiment, found.method),
          .seed = found.seed,
          .evaluation = std::move(evaluation),
          .whip_per_channel = found.whip_after,
          .seconds = found.seconds,
          .evaluation_seconds = seconds_since(started),
          .evaluation_peak = measured ? peak_memory() : 0};
}

void measure_all(Experiment const& experiment, Baseline const& baseline, ProgressDisplay& progress,
                 Comparison& comparison) {
  std::vector<ModelCalibration> const& all = comparison.calibrations;
  index_t const count = static_cast<index_t>(all.size() * experiment.quantizations.size());
  for (Quantization const& quantization : experiment.quantizations)
    for (std::size_t i = 0; i < all.size(); ++i) {
      ForwardOptions options = forward_options(all[i], active_of(experiment, all[i].method), quantization);
      options.hessian_windows = &experiment.learn;
      options.progress = progress.callback();
      progress.start(fmt::format("{} {} seed {}", quantization.scheme.name(),
                                 dartquant::name_of(all[i].method), all[i].seed),
                     static_cast<index_t>(comparison.results.size()), count);
      Result result = measure(experiment, all[i], options, baseline);
      if (i < comparison.learning_peaks.size()) result.learning_peak = comparison.learning_peaks[i];
      if (i == 0 || all[i - 1].method != all[i].method)
        result.errors =
            quantization_errors(experiment.cpu, experiment.model, few_windows(experiment), options);
      progress.finish(fmt::format("perplexity {:.4f}", result.evaluation.perplexity));
      comparison.results.push_back(std::move(result));
    }
}

}  // namespace

Comparison run(Experiment const& experiment, ProgressDisplay& progress) {
  progress.start("original");
  Baseline const baseline =
      baseline_of(experiment.cpu, experiment.model, experiment.measure, progress.callback());
  Comparison comparison = measure_original(experiment, progress.callback());
  progress.finish();
  progress.start("calibrate");
  learn(experiment, progress.callback(), comparison);
  progress.finish();
  measure_all(experiment, baseline, progress, comparison);
  return comparison;
}

void draw_portraits(Experiment const& experiment, ProgressDisplay& progress, Comparison& comparison) {
  auto const draw = [&](std::string label, ForwardOptions options) {
    options.progress = progress.callback();
    progress.start("inspect");
    comparison.portraits.push_back(
        {std::move(label), inspect(experiment.cpu, experiment.model, few_windows(experiment), options)});
    progress.finish();
  };
  draw("original", {});
  for (Method const method : {comparison.reference, summarize(comparison).front().best().method()}) {
    auto const found = std::find_if(comparison.calibrations.begin(), comparison.calibrations.end(),
                                    [&](ModelCalibration const& one) { return one.method == method; });
    std::string const label(dartquant::name_of(method));
    RotationSet const active = active_of(experiment, method);
    bool const unchanged = active == RotationSet{} && !traits(method).transforms();
    if (unchanged || comparison.portraits.back().label == label) continue;
    ForwardOptions options = forward_options(*found, active, {});
    options.active.r3 = active.r3;
    draw(label, options);
  }
}

}  // namespace dartquant::program
