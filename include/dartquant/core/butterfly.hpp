// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

#include <dartquant/core/error.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

namespace detail {

/// Stages h and 2h of the butterfly at once: half the memory traffic of two passes, the same additions.
/// Inner loops run over contiguous segments of h elements, which compilers vectorise.
template <class T>
void butterfly_radix4(T* x, index_t length, index_t h) {
  for (index_t first = 0; first < length; first += 4 * h) {
    T* const a = x + first;
    T* const b = a + h;
    T* const c = b + h;
    T* const d = c + h;
    for (index_t i = 0; i < h; ++i) {
      T const ab = a[i] + b[i], a_b = a[i] - b[i], cd = c[i] + d[i], c_d = c[i] - d[i];
      a[i] = ab + cd;
      b[i] = a_b + c_d;
      c[i] = ab - cd;
      d[i] = a_b - c_d;
    }
  }
}

/// Stage h of the butterfly.
template <class T>
void butterfly_radix2(T* x, index_t length, index_t h) {
  for (index_t first = 0; first < length; first += 2 * h) {
    T* const a = x + first;
    T* const b = a + h;
    for (index_t i = 0; i < h; ++i) {
      T const sum = a[i] + b[i], difference = a[i] - b[i];
      a[i] = sum;
      b[i] = difference;
    }
  }
}

}  // namespace detail

/// In every row of X [rows, cols], each consecutive segment of `length` channels (a power of two that divides
/// cols) is multiplied from the right by the Sylvester-Hadamard matrix of that order, entries +-1, in place:
/// x <- x H, H_1 = [1], H_2n = [[H_n, H_n], [H_n, -H_n]]. Not normalised: twice gives `length` times the
/// input. Runs on the calling thread. Cost: rows cols log2(length) additions. Errors: InvalidArgument.
/// Source: Fino and Algazi, "Unified matrix treatment of the fast Walsh-Hadamard transform", 1976.
template <class T>
void walsh_hadamard(MatrixView<T> X, index_t length) {
  detail::require(length >= 1 && std::has_single_bit(static_cast<std::uint64_t>(length)),
                  "[walsh_hadamard] length ", length, ": must be a power of two");
  detail::require(X.cols() % length == 0, "[walsh_hadamard] ", X.cols(),
                  " channels are not a multiple of length ", length, "; use a length that divides them");
  for (index_t row = 0; row < X.rows(); ++row) {
    for (index_t first = 0; first < X.cols(); first += length) {
      T* const x = X.data() + row * X.stride() + first;
      if (length >= 4) detail::butterfly_radix4(x, length, 1);  // a constant, so that it is unrolled
      index_t h = length >= 4 ? 4 : 1;
      for (; 4 * h <= length; h *= 4) detail::butterfly_radix4(x, length, h);
      if (h < length) detail::butterfly_radix2(x, length, h);
    }
  }
}

}  // namespace dartquant
