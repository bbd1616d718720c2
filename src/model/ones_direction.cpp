// SPDX-License-Identifier: Apache-2.0
#include "model/ones_direction.hpp"

#include <cmath>

#include <dartquant/core/error.hpp>

namespace dartquant::detail {

double ones_error(RowMatrix<double> const& R) { return (R.rowwise().sum().array() - 1).abs().maxCoeff(); }

bool keeps_ones(RowMatrix<double> const& R) { return ones_error(R) < 1e-9; }

void require_ones_kept(std::string_view who, Model const& model, Rotations const& rotations) {
  if (model.family().norm != NormKind::layer || rotations.r1.size() == 0) return;
  require(keeps_ones(rotations.r1), who, " R1 turns the direction of equal channels by ",
          ones_error(rotations.r1), ", which the LayerNorms of ", model.config().architecture,
          " take out: rotations of this model must come from `dartquant calibrate`, which keeps it");
}

RowMatrix<double> keep_ones(RowMatrix<double> R) {
  Eigen::VectorXd const u = Eigen::VectorXd::Constant(R.rows(), 1 / std::sqrt(static_cast<double>(R.rows())));
  Eigen::VectorXd w = R.transpose() * u - u;
  double const length = w.norm();
  if (length < 1e-13) return R;
  w /= length;
  R -= 2 * (R * w) * w.transpose();
  return R;
}

}  // namespace dartquant::detail
