// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>

namespace dartquant::end_to_end {

/// Asymmetric fake quantization of the rows of X that gradients can pass. With the scale s of `group`
/// consecutive channels, (max - min) / (2^bits - 1) of the range with zero in it, and the residuals u,
///
///     y = s (q - z) = x + s u,   dL/dx_i = dL/dy_i + sum_j dL/dy_j u_j ds/dx_i,   |u| <= 1/2 but at the ends
///
/// u held constant, as straight-through training does; s follows the ends of the range. The backward pass is
/// the exact derivative of x + s(x) u.
template <class T>
class StraightThrough {
 public:
  /// At most 8 bits; 16 changes nothing.
  explicit StraightThrough(int bits) : bits_(bits) {}

  /// X <- y. While `hold` was called, with the residuals and range ends of the pass before it: then y is a
  /// smooth function of X.
  void forward(Cpu const& cpu, index_t group, MatrixView<T> X);
  /// Gradient <- dL/dX, of dL/dy and the last forward.
  void backward(Cpu const& cpu, MatrixView<T> gradient) const;
  void hold() { held_ = true; }

 private:
  struct Ends {
    index_t low = -1, high = -1;  ///< channels of the group; -1: zero is the end
  };
  int bits_;
  index_t group_ = 0;
  bool held_ = false;
  RowMatrix<T> residuals_;  ///< [rows, channels]
  std::vector<Ends> ends_;  ///< of every group of every row
};

}  // namespace dartquant::end_to_end
