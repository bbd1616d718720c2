// SPDX-License-Identifier: Apache-2.0
#include "integers.hpp"

#include <cmath>
#include <vector>

#include <fmt/core.h>

#include <dartquant/core/cpu_kernels.hpp>

namespace dartquant::program {
namespace {

/// The standard error of the mean of b - a over windows. A difference of one rounding anywhere in a window
/// can move a value to the next level and with it all later tokens, so windows are equal or quite different.
double paired_error(std::vector<double> const& a, std::vector<double> const& b) {
  auto const count = static_cast<double>(a.size());
  if (a.size() < 2) return 0;
  double mean = 0, squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i) mean += (b[i] - a[i]) / count;
  for (std::size_t i = 0; i < a.size(); ++i) squares += (b[i] - a[i] - mean) * (b[i] - a[i] - mean);
  return std::sqrt(squares / (count - 1) / count);
}

}  // namespace

Quantization on_integers(Quantization quantization) {
  quantization.arithmetic = Arithmetic::integer;
  quantization.validate();
  return quantization;
}

IntegerResult measure_integers(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                               ForwardOptions options, Evaluation const& fake_quantized,
                               ProgressDisplay& progress) {
  options.quantization = on_integers(options.quantization);
  options.progress = progress.callback();
  progress.start("integers");
  IntegerResult result{evaluate(cpu, model, windows, options), 0, 0, cpu.kernels()->name()};
  progress.finish();
  result.difference = result.evaluation.perplexity / fake_quantized.perplexity - 1;
  result.standard_error = paired_error(fake_quantized.window_nll, result.evaluation.window_nll);
  return result;
}

std::string describe(IntegerResult const& result) {
  return fmt::format("{}, {:+.4f} {} {:.4f} % from fake quantization, {}",
                     format_perplexity(result.evaluation), 100 * result.difference, plus_minus(),
                     100 * result.standard_error, result.isa);
}

Json to_json(IntegerResult const& result) {
  Json json = to_json(result.evaluation);
  json["relative_difference"] = result.difference;
  json["relative_difference_standard_error"] = result.standard_error;
  json["isa"] = result.isa;
  return json;
}

}  // namespace dartquant::program
