// SPDX-License-Identifier: Apache-2.0
#include "rounding.hpp"

namespace dartquant::program {

TokenWindows rounding_windows(LearningText& text, WeightQuantization const& weights) {
  if (!weights.needs_text()) return {};
  return text.windows();
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
