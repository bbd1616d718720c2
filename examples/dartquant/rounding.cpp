// SPDX-License-Identifier: Apache-2.0
#include "rounding.hpp"

#include <algorithm>

#include <dartquant/core/error.hpp>

#include "windows.hpp"

namespace dartquant::program {

TokenWindows rounding_windows(Model const& model, TextSource const& source, index_t seqlen, index_t samples,
                              WeightQuantization const& weights) {
  if (!weights.needs_text()) return {};
  detail::require(source.given(), "--weights ", dartquant::name_of(weights.rounding),
                  " looks at what the layers read on a text: add --calibration TEXT or --calibration-tokens "
                  "FILE.npy, or take --weights rtn");
  return spread_windows(model, source, seqlen, samples);
}

Plan with_rounding(Plan plan, Cpu const& cpu, Model const& model, TokenWindows const& text, double times) {
  if (text.rows() == 0) return plan;
  Plan const rounding = dartquant::plan(cpu, model, Job::round, text.rows(), text.cols());
  plan.memory_bytes += rounding.memory_bytes;
  plan.operations += times * rounding.operations;
  plan.seconds += times * rounding.seconds;
  return plan;
}

}  // namespace dartquant::program
