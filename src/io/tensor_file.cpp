// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/tensor_file.hpp>

#include <algorithm>
#include <memory>
#include <new>
#include <utility>

#include <dartquant/core/error.hpp>

#include "io/posix.hpp"
#include "io/tensor_values.hpp"

namespace dartquant {

using Kind = Error::Kind;
using detail::fail;

TensorFile::TensorFile(MappedFile map, TensorTable table) : map_(std::move(map)), table_(std::move(table)) {}

Tensor const* TensorFile::find(std::string_view name) const noexcept {
  auto const place =
      std::lower_bound(table_.by_name.begin(), table_.by_name.end(), name,
                       [this](auto i, std::string_view wanted) { return table_.tensors[i].name < wanted; });
  return place == table_.by_name.end() || table_.tensors[*place].name != name ? nullptr
                                                                              : &table_.tensors[*place];
}

namespace {

/// Bytes of `count` elements, which are whole blocks.
std::size_t stored_bytes(Dtype dtype, std::size_t count) {
  auto const block = static_cast<std::size_t>(block_elements(dtype));
  std::size_t const block_bits = block * static_cast<std::size_t>(bit_width(dtype)) + (block > 1 ? 16 : 0);
  return count / block * block_bits / 8;
}

/// Whole heads of rows (of a vector: elements) from the order of Tensor::interleaved_heads to that of the
/// model.
template <class T>
RowMatrix<T> without_interleaving(RowMatrix<T> const& stored, Tensor const& tensor) {
  index_t const half = tensor.shape[0] / tensor.interleaved_heads / 2;
  bool const vector = tensor.shape.size() == 1;
  RowMatrix<T> turned(stored.rows(), stored.cols());
  for (index_t to = 0; to < (vector ? stored.cols() : stored.rows()); ++to) {
    index_t const head = to / (2 * half), part = to / half % 2, i = to % half;
    index_t const from = 2 * half * head + 2 * i + part;
    if (vector) turned(0, to) = stored(0, from);
    else turned.row(to) = stored.row(from);
  }
  return turned;
}

}  // namespace

template <class T>
RowMatrix<T> TensorFile::read_matrix(Tensor const& tensor, NonFinite non_finite) const {
  return read_rows<T>(tensor, 0, tensor.shape.size() == 2 ? tensor.shape[0] : 1, non_finite);
}

template <class T>
RowMatrix<T> TensorFile::read_rows(Tensor const& tensor, index_t first, index_t count,
                                   NonFinite non_finite) const {
  auto const shown = [&] {
    return detail::sentence("[read_rows] ", path().string(), ": tensor '", detail::printable(tensor.name),
                            "'");
  };
  std::size_t const rank = tensor.shape.size();
  if (!is_convertible(tensor.dtype) || rank > 2)
    fail(Kind::unsupported, shown(), " is ", describe(tensor),
         "; only F64, F32, F16, BF16, Q8_0 and Q4_0 of at most two dimensions can be read as a matrix");
  index_t const rows = rank == 2 ? tensor.shape[0] : 1;
  index_t const cols = rank == 0 ? 1 : tensor.shape[rank - 1];
  index_t const head =
      tensor.interleaved_heads > 0 ? std::max<index_t>(1, tensor.shape[0] / tensor.interleaved_heads) : 1;
  detail::require(first >= 0 && count >= 0 && first <= rows && count <= rows - first, shown(), " is ",
                  describe(tensor), ": rows ", first, " to ", first + count, " are not in it");
  detail::require(rank < 2 || (first % head == 0 && count % head == 0), shown(), ": rows ", first, " to ",
                  first + count, " are no whole heads of ", head);
  map_.check_unchanged();
  RowMatrix<T> matrix;
  try {
    matrix.resize(count, cols);
  } catch (std::bad_alloc const&) {
    fail(Kind::memory, shown(), " needs ", count, " x ", cols, " x ", sizeof(T),
         " bytes, and there is no room for them");
  }
  constexpr std::size_t piece = std::size_t{1} << 16;  // a multiple of every block
  auto const values = static_cast<std::size_t>(matrix.size());
  std::uint64_t const begin =
      offset_of(tensor) + stored_bytes(tensor.dtype, static_cast<std::size_t>(first * cols));
  auto const buffer =
      std::make_unique_for_overwrite<std::byte[]>(stored_bytes(tensor.dtype, std::min(piece, values)));
  for (std::size_t at = 0; at < values; at += piece) {
    std::size_t const part = std::min(piece, values - at);
    map_.read_at(begin + stored_bytes(tensor.dtype, at), {buffer.get(), stored_bytes(tensor.dtype, part)});
    std::size_t const bad = at + detail::decode(tensor.dtype, buffer.get(), part, matrix.data() + at);
    if (bad != at + part && non_finite == NonFinite::refuse)
      fail(Kind::format, shown(), " holds a value that is not finite (", matrix.data()[bad], ") at row ",
           first + static_cast<index_t>(bad) / cols, ", column ", static_cast<index_t>(bad) % cols,
           "; the weights are damaged");
  }
  if (tensor.added != 0) matrix.array() -= static_cast<T>(tensor.added);
  if (tensor.interleaved_heads > 0) return without_interleaving(matrix, tensor);
  return matrix;
}

template RowMatrix<float> TensorFile::read_matrix(Tensor const&, NonFinite) const;
template RowMatrix<double> TensorFile::read_matrix(Tensor const&, NonFinite) const;
template RowMatrix<float> TensorFile::read_rows(Tensor const&, index_t, index_t, NonFinite) const;
template RowMatrix<double> TensorFile::read_rows(Tensor const&, index_t, index_t, NonFinite) const;

void TensorFile::release(Tensor const& tensor) const noexcept {
  map_.release(static_cast<std::size_t>(offset_of(tensor)), tensor.bytes.size());
}

}  // namespace dartquant
