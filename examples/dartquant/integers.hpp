// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <dartquant/core/cpu.hpp>
#include <dartquant/model/pipeline.hpp>

#include "progress.hpp"
#include "report.hpp"

namespace dartquant::program {

/// `quantization` on integer products. Errors: InvalidArgument for bits that have none.
[[nodiscard]] Quantization on_integers(Quantization quantization);

/// Quality where the linear layers multiply levels, beside that of fake quantization.
struct IntegerResult {
  Evaluation evaluation;
  double difference = 0;      ///< of the perplexity, relative to that of fake quantization
  double standard_error = 0;  ///< of the difference, paired over windows
  std::string isa;            ///< that the kernels used
};

/// Runs `options` on integer products. Errors: as evaluate.
[[nodiscard]] IntegerResult measure_integers(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                                             ForwardOptions options, Evaluation const& fake_quantized,
                                             ProgressDisplay& progress);

/// "5.1234 +- 0.0123, +0.0012 +- 0.0034 % from fake quantization, avx512_vnni".
[[nodiscard]] std::string describe(IntegerResult const& result);
[[nodiscard]] Json to_json(IntegerResult const& result);

}  // namespace dartquant::program
