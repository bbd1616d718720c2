// SPDX-License-Identifier: Apache-2.0
#include "model/ones_direction.hpp"

#include <cmath>

namespace dartquant::detail {

double ones_error(RowMatrix<double> const& R) { return (R.rowwise().sum().array() - 1).abs().maxCoeff(); }

bool keeps_ones(RowMatrix<double> const& R) { return ones_error(R) < 1e-9; }

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
