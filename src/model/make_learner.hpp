// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/calibrate/calibrate.hpp>

#include "model/learn.hpp"

namespace dartquant::detail {

template <class Objective, class Optimizer>
[[nodiscard]] CalibrationOptions<Objective, Optimizer> calibration_options(Learning const& learning) {
  CalibrationOptions<Objective, Optimizer> options;
  options.epochs = learning.options.epochs;
  if (learning.options.batch_rows > 0) options.batch_rows = learning.options.batch_rows;
  if (learning.options.learning_rate > 0)
    options.learning_rate = static_cast<float>(learning.options.learning_rate);
  options.row_scale = learning.row_scale;
  options.initial = learning.initial;
  options.seed = learning.seed;
  options.progress = learning.progress;
  return options;
}

/// Instantiates the calibration of one objective and optimizer, which takes the compiler seconds.
template <class Objective, class Optimizer>
[[nodiscard]] Learner make_learner() {
  return {[](Cpu const& cpu, MatrixView<float const> X, Learning const& learning) {
            return calibrate_rotation(cpu, X, calibration_options<Objective, Optimizer>(learning));
          },
          [](Cpu const& cpu, MatrixView<float const> X, index_t query_heads, index_t kv_heads,
             Learning const& learning) {
            return calibrate_heads(cpu, X, query_heads, kv_heads,
                                   calibration_options<Objective, Optimizer>(learning));
          }};
}

}  // namespace dartquant::detail
