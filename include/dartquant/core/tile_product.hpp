// SPDX-License-Identifier: Apache-2.0
#pragma once

// Plain data only: the files of src/cpu that include this are compiled for different processors.

#include <cstddef>
#include <cstdint>

namespace dartquant {

/// C [rows, cols] <- alpha A B + beta C on one thread. A [rows, depth] and B [depth, cols] have a step in
/// either direction, one of which is 1, so that a transposed operand is its steps exchanged; C is row-major
/// and overlaps neither. Where beta is 0, C is not read. Steps count elements.
template <class T>
struct TileProduct {
  std::int64_t rows, cols, depth;
  T alpha;
  T const* a;
  std::int64_t a_row, a_depth;
  T const* b;
  std::int64_t b_depth, b_col;
  T beta;
  T* c;
  std::int64_t c_row;
  std::byte* scratch;  ///< as many bytes as TileKernel::scratch_bytes says, 64-byte aligned
};

/// How an instruction set multiplies tiles. Every element of C is one chain of FMAs over fixed slices of the
/// depth, in order, so its bytes are the same for every instruction set that has such a kernel.
template <class T>
struct TileKernel {
  std::size_t (*scratch_bytes)(std::int64_t rows, std::int64_t depth);
  void (*multiply)(TileProduct<T> const* product);
};

/// Both types of elements.
struct TileKernels {
  TileKernel<float> float32;
  TileKernel<double> float64;
};

}  // namespace dartquant
