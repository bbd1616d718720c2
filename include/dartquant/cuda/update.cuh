// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <dartquant/cuda/elements.cuh>
#include <dartquant/cuda/gpu.hpp>
#include <dartquant/cuda/head_steps.cuh>
#include <dartquant/cuda/launch.cuh>

/// Gpu::update and update_heads for any optimizer rule. Include it in a file that nvcc compiles, with the
/// rule's struct (its `update` marked DARTQUANT_HD), and calibrate there.
namespace dartquant::cuda {

template <class T, class Rule>
void Gpu::update(Rule const& rule, T rate, std::type_identity_t<DeviceMatrixView<T const>> gradient,
                 std::type_identity_t<DeviceMatrixView<T>> first,
                 std::type_identity_t<DeviceMatrixView<T>> second,
                 std::type_identity_t<DeviceMatrixView<T>> value) const {
  auto const scope = enter();
  launch(stream(), element_grid(value.rows(), value.cols()),
         UpdateElements<T, Rule>{rule, rate, gradient, first, second, value});
}

template <class Rule>
void Gpu::update_heads(Rule const& rule, StepRate const& rate, DeviceMatrixView<float const> gradient,
                       DeviceMatrixView<float> first, DeviceMatrixView<float> second,
                       DeviceMatrixView<float> value, DeviceMatrixView<double> state) const {
  HeadStates<Space::device> const states{state};
  index_t const n = value.cols(), heads = state.cols();
  constexpr index_t threads = PrepareHeads<Rule>::threads;
  auto const scope = enter();
  launch(stream(), {.blocks_x = static_cast<int>((heads + threads - 1) / threads)},
         PrepareHeads<Rule>{rule, n, rate, states});
  launch(stream(), element_grid(value.rows(), n),
         UpdateHeads<Rule>{rule, n, gradient, first, second, value, states});
}

}  // namespace dartquant::cuda
