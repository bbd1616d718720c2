// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include <dartquant/core/matrix.hpp>
#include <dartquant/io/mapped_file.hpp>
#include <dartquant/io/tensor.hpp>

namespace dartquant {

/// Tensors with their names and shapes in three arrays of known size. The tensors point into the other two.
struct TensorTable {
  std::vector<char> names;
  std::vector<index_t> dimensions;
  std::vector<Tensor> tensors;
  std::vector<std::uint32_t> by_name;  ///< indices into `tensors`, sorted by name
};

/// An open, mapped and checked file of named tensors, whatever its format.
class TensorFile {
 public:
  /// The bytes of `table` lie in `map`.
  TensorFile(MappedFile map, TensorTable table);

  [[nodiscard]] std::filesystem::path const& path() const noexcept { return map_.path(); }
  /// All tensors in the order of their data.
  [[nodiscard]] std::span<Tensor const> tensors() const noexcept { return table_.tensors; }
  /// The tensor of that name, or null. O(log tensors).
  [[nodiscard]] Tensor const* find(std::string_view name) const noexcept;

  /// Copies a tensor of this file into a matrix, converting F64, F32, F16, BF16, Q8_0 and Q4_0: [rows, cols]
  /// for rank 2, [1, n] for rank 1, [1, 1] for a scalar. T is float or double. It reads the file and maps
  /// nothing. Throws Error(unsupported) for other types and ranks, Error(format) with row and column at the
  /// first value that is not finite (unless allowed; also a double beyond float), Error(io) when the file
  /// changed on the disk or cannot be read.
  template <class T>
  [[nodiscard]] RowMatrix<T> read_matrix(Tensor const& tensor,
                                         NonFinite non_finite = NonFinite::refuse) const;
  /// Rows [first, first + count) of it likewise; whole heads where its rows are interleaved. A tensor of rank
  /// below 2 has one row. InvalidArgument for rows that are not there.
  template <class T>
  [[nodiscard]] RowMatrix<T> read_rows(Tensor const& tensor, index_t first, index_t count,
                                       NonFinite non_finite = NonFinite::refuse) const;

  /// Where the tensor's bytes begin in the file.
  [[nodiscard]] std::uint64_t offset_of(Tensor const& tensor) const noexcept {
    return static_cast<std::uint64_t>(tensor.bytes.data() - map_.bytes().data());
  }
  /// Gives the memory pages of a tensor back to the system; it stays readable.
  void release(Tensor const& tensor) const noexcept;

 protected:
  explicit TensorFile(MappedFile map) : map_(std::move(map)) {}
  MappedFile map_;
  TensorTable table_;
};

}  // namespace dartquant
