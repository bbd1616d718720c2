// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/tensor_writer.hpp>

#include <algorithm>
#include <iterator>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include <dartquant/core/error.hpp>

#include "io/posix.hpp"
#include "io/read_back.hpp"
#include "io/tensor_values.hpp"

namespace dartquant {

using detail::fail;
using detail::printable;
using detail::require;
using Kind = Error::Kind;

struct TensorWriter::Progress {
  TensorInfo info;
  std::uint64_t size = 0;                            ///< bytes of data
  std::uint64_t begin = 0;                           ///< of the data, in the file
  std::uint64_t appended = 0;                        ///< bytes
  std::map<std::uint64_t, std::uint64_t> written{};  ///< first byte and end of what was, never adjacent
};

struct TensorWriter::Output {
  Output(std::filesystem::path const& path, std::uint64_t bytes) : file(path, bytes), read_back(file) {}
  AtomicFile file;
  detail::ReadBack read_back;
  std::mutex mutex{};  ///< of Progress::written
};

namespace {

/// Adds [begin, end) to parts that are never adjacent; false where some of it is in them already.
bool add_part(std::map<std::uint64_t, std::uint64_t>& parts, std::uint64_t begin, std::uint64_t end) {
  auto const after = parts.lower_bound(begin);
  if (after != parts.end() && after->first < end) return false;
  if (after != parts.begin() && std::prev(after)->second > begin) return false;
  if (after != parts.end() && after->first == end) {
    end = after->second;
    parts.erase(after);
  }
  auto const next = parts.lower_bound(begin);
  if (next != parts.begin() && std::prev(next)->second == begin) std::prev(next)->second = end;
  else parts.emplace(begin, end);
  return true;
}

}  // namespace

TensorWriter::TensorWriter(char const* function, std::filesystem::path const& path, Layout&& layout)
    : function_(function), output_(std::make_unique<Output>(path, layout.total)), total_(layout.total) {
  for (Place& place : layout.tensors) {
    std::uint64_t const size = byte_size(place.info);
    tensors_.push_back({.info = std::move(place.info), .size = size, .begin = place.begin});
  }
  std::sort(tensors_.begin(), tensors_.end(),
            [](Progress const& a, Progress const& b) { return a.info.name < b.info.name; });
  auto const twice = std::adjacent_find(tensors_.begin(), tensors_.end(),
                                        [](auto& a, auto& b) { return a.info.name == b.info.name; });
  require(twice == tensors_.end(), "[", function_, "] the tensor '",
          twice == tensors_.end() ? std::string() : printable(twice->info.name), "' is declared twice");
  write(0, std::as_bytes(std::span(layout.head)));
}

void TensorWriter::write(std::uint64_t at, std::span<std::byte const> bytes) {
  for (std::size_t first = 0; first < bytes.size(); first += detail::ReadBack::largest_piece) {
    auto const part = bytes.subspan(first, std::min(detail::ReadBack::largest_piece, bytes.size() - first));
    output_->file.write_at(at + first, part);
    output_->read_back.add(at + first, part);
  }
}

std::filesystem::path const& TensorWriter::path() const noexcept { return output_->file.path(); }
std::filesystem::path const& TensorWriter::temporary_path() const noexcept {
  return output_->file.temporary_path();
}

TensorWriter::TensorWriter(TensorWriter&&) noexcept = default;
TensorWriter& TensorWriter::operator=(TensorWriter&&) noexcept = default;
TensorWriter::~TensorWriter() = default;

TensorWriter::Progress& TensorWriter::progress(std::string_view name) {
  auto const place =
      std::lower_bound(tensors_.begin(), tensors_.end(), name,
                       [](Progress const& t, std::string_view wanted) { return t.info.name < wanted; });
  require(place != tensors_.end() && place->info.name == name, "[", function_, "] the tensor '",
          printable(name), "' was not declared");
  return *place;
}

void TensorWriter::put(Progress& tensor, std::uint64_t at, std::span<std::byte const> bytes) {
  if (bytes.empty()) return;
  {
    std::lock_guard const lock(output_->mutex);
    require(add_part(tensor.written, at, at + bytes.size()), "[", function_, "] tensor '",
            printable(tensor.info.name), "': some of its bytes ", at, " to ", at + bytes.size(),
            " were written before");
  }
  write(tensor.begin + at, bytes);
}

void TensorWriter::append_bytes(std::string_view name, std::span<std::byte const> bytes) {
  Progress& tensor = progress(name);
  require(bytes.size() <= tensor.size - tensor.appended, "[", function_, "] tensor '", printable(name),
          "': ", bytes.size(), " more bytes after ", tensor.appended, " of ", tensor.size);
  put(tensor, tensor.appended, bytes);
  tensor.appended += bytes.size();
}

template <class T>
void TensorWriter::check_values(Progress const& tensor, MatrixView<T const> values) const {
  Dtype const dtype = tensor.info.dtype;
  require(is_convertible(dtype), "[", function_, "] tensor '", printable(tensor.info.name),
          "' was declared as ", to_string(dtype),
          ": values can be written to F64, F32, F16, BF16, Q8_0 and Q4_0, for others use append_bytes");
  std::vector<index_t> const& shape = tensor.info.shape;
  require((shape.size() < 2 && block_elements(dtype) == 1) || values.cols() == shape.back(), "[", function_,
          "] tensor '", printable(tensor.info.name), "': rows of ", values.cols(), " values, declared with ",
          shape.empty() ? 1 : shape.back());
}

template <class T>
void TensorWriter::append_values(std::string_view name, MatrixView<T const> values) {
  Progress& tensor = progress(name);
  check_values(tensor, values);
  std::uint64_t const size = byte_size({.dtype = tensor.info.dtype, .shape = {values.rows(), values.cols()}});
  require(size <= tensor.size - tensor.appended, "[", function_, "] tensor '", printable(name), "': ", size,
          " more bytes after ", tensor.appended, " of ", tensor.size);
  convert(tensor, tensor.appended, values);
  tensor.appended += size;
}

template <class T>
void TensorWriter::write_values(std::string_view name, index_t first, MatrixView<T const> values) {
  Progress& tensor = progress(name);
  check_values(tensor, values);
  std::uint64_t const row = byte_size({.dtype = tensor.info.dtype, .shape = {values.cols()}});
  std::uint64_t const rows = row == 0 ? 0 : tensor.size / row;
  require(first >= 0 && static_cast<std::uint64_t>(first) <= rows &&
              static_cast<std::uint64_t>(values.rows()) <= rows - static_cast<std::uint64_t>(first),
          "[", function_, "] tensor '", printable(name), "': ", values.rows(), " rows from row ", first,
          " on do not fit into its ", rows, " rows of ", values.cols(), " values");
  convert(tensor, static_cast<std::uint64_t>(first) * row, values);
}

template <class T>
void TensorWriter::convert(Progress& tensor, std::uint64_t at, MatrixView<T const> values) {
  Dtype const dtype = tensor.info.dtype;
  constexpr index_t piece = index_t{1} << 16;  // values of a write; a multiple of every block
  auto const bytes_of = [dtype](index_t count) {
    return static_cast<std::size_t>(byte_size({.dtype = dtype, .shape = {count}}));
  };
  index_t const width = std::min(piece, values.cols()), height = piece / std::max<index_t>(1, width);
  std::vector<std::byte> buffer(bytes_of(width) * static_cast<std::size_t>(std::min(height, values.rows())));
  for (index_t first = 0; first < values.rows(); first += height)
    for (index_t col = 0; col < values.cols(); col += piece) {
      index_t const count = std::min(piece, values.cols() - col);
      std::size_t const row_bytes = bytes_of(count);
      std::size_t filled = 0;
      for (index_t row = first; row < std::min(first + height, values.rows()); ++row) {
        auto const bad = static_cast<index_t>(detail::encode(
            dtype, values.row(row).data() + col, static_cast<std::size_t>(count), buffer.data() + filled));
        if (bad != count)
          fail(Kind::numerics, "[", function_, "] tensor '", printable(tensor.info.name), "': the value ",
               values(row, col + bad), " at row ", row, ", column ", col + bad,
               " of the rows given is not finite as ", to_string(dtype));
        filled += row_bytes;
      }
      put(tensor, at, std::span(buffer).first(filled));
      at += filled;
    }
}

void TensorWriter::append(std::string_view name, MatrixView<float const> values) {
  append_values(name, values);
}
void TensorWriter::append(std::string_view name, MatrixView<double const> values) {
  append_values(name, values);
}
void TensorWriter::write_rows(std::string_view name, index_t first, MatrixView<float const> values) {
  write_values(name, first, values);
}
void TensorWriter::write_rows(std::string_view name, index_t first, MatrixView<double const> values) {
  write_values(name, first, values);
}

void TensorWriter::check_declarations() const {
  TensorFile const written = open(temporary_path());
  for (Progress const& tensor : tensors_) {
    Tensor const* const found = written.find(tensor.info.name);
    if (found == nullptr || found->dtype != tensor.info.dtype ||
        (tensor.size > 0 && written.offset_of(*found) != tensor.begin) ||
        !std::ranges::equal(found->shape, tensor.info.shape))
      fail(Kind::io, "[", function_, "] ", path().string(), ": tensor '", printable(tensor.info.name),
           "' reads back with another declaration; the disk or the memory is faulty");
  }
}

void TensorWriter::read_back_meanwhile() { output_->read_back.start(); }

void TensorWriter::verify(int threads) {
  for (Progress const& tensor : tensors_) {
    std::uint64_t got = 0;
    for (auto const& [begin, end] : tensor.written) got += end - begin;
    require(got == tensor.size, "[", function_, "] tensor '", printable(tensor.info.name), "' got ", got,
            " of ", tensor.size, " bytes");
  }
  AtomicFile& file = output_->file;
  if (file.size() < total_) {  // padding after the last tensor
    std::byte const zero{};
    file.write_at(total_ - 1, {&zero, 1});
  }
  file.sync();
  check_declarations();
  if (std::optional<std::uint64_t> const bad = output_->read_back.finish(threads)) {
    auto const tensor = std::ranges::find_if(
        tensors_, [at = *bad](Progress const& t) { return t.begin <= at && at - t.begin < t.size; });
    fail(Kind::io, "[", function_, "] ", path().string(), ": ",
         tensor == tensors_.end() ? "its header" : "tensor '" + printable(tensor->info.name) + "'",
         " reads back differently from what was written; the disk or the memory is faulty");
  }
  verified_ = true;
}

void TensorWriter::commit() {
  if (!verified_) verify();
  output_->file.commit();
}

}  // namespace dartquant
