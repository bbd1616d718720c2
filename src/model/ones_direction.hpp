// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include <dartquant/core/matrix.hpp>
#include <dartquant/model/architecture.hpp>
#include <dartquant/model/rotations.hpp>

// R1 of a model with LayerNorm. x enters with its mean taken out, x u = 0 for u = (1, ..., 1) /
// sqrt(channels), where LayerNorm equals RMSNorm. A reader that takes the mean of x R1 out again changes
// nothing where R1 keeps u: then x R1 u = x u = 0.
namespace dartquant::detail {

/// max |R u - u| sqrt(channels).
[[nodiscard]] double ones_error(RowMatrix<double> const& R);
[[nodiscard]] bool keeps_ones(RowMatrix<double> const& R);
/// Errors: InvalidArgument, starting with `who`, where R1 of a model with LayerNorm does not keep u.
void require_ones_kept(std::string_view who, Model const& model, Rotations const& rotations);

/// R H with the reflection H that takes R^T u to u: the nearest change of R by one direction that keeps u.
/// Orthonormal where R is.
[[nodiscard]] RowMatrix<double> keep_ones(RowMatrix<double> R);

}  // namespace dartquant::detail
