// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/model/architecture.hpp>
#include <dartquant/model/forward.hpp>

namespace dartquant::detail {

/// X [rows, hidden], and below it `share` rows of weights for each of its own; empty where that is none.
///
/// They are rows of the linear maps that read R1's side of the residual stream, gains folded, at unit RMS:
/// rounding sees W R1 row by row, as it sees X R1 token by token. Spread evenly over all rows of all layers,
/// or where there are fewer, each taken equally often. Routers are left out, as they are not rounded. Memory:
/// the result and one tensor. Errors: Error(format) naming a weight that is not finite.
[[nodiscard]] RowMatrix<float> with_weight_rows(Cpu const& cpu, Model const& model, MatrixView<float const> X,
                                                double share);

/// The same for one input of one layer: rows of the maps that read it, with R1 and the layer's R2 where
/// `rotations` have them. Preconditions: a Site of a linear map's input; the layer has no transform of that
/// input yet; no experts.
[[nodiscard]] RowMatrix<float> with_weight_rows_of(Cpu const& cpu, Model const& model,
                                                   Rotations const& rotations, index_t layer, Site site,
                                                   MatrixView<float const> X, double share);

}  // namespace dartquant::detail
