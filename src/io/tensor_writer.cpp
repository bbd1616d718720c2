// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/tensor_writer.hpp>

#include <algorithm>
#include <utility>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>

#include "io/checksum.hpp"
#include "io/posix.hpp"
#include "io/tensor_values.hpp"

namespace dartquant {

using detail::fail;
using detail::printable;
using detail::require;
using Kind = Error::Kind;

struct TensorWriter::Progress {
  TensorInfo info;
  std::uint64_t size = 0;     ///< bytes of data
  std::uint64_t begin = 0;    ///< of the data, in the file
  std::uint64_t written = 0;  ///< bytes so far
  detail::Checksum checksum{};
};

namespace {

std::uint64_t checksum_of(TensorFile const& file, Tensor const& tensor) {
  constexpr std::size_t piece = std::size_t{8} << 20;
  detail::Checksum sum;
  for (std::size_t at = 0; at < tensor.bytes.size(); at += piece) {
    Tensor part = tensor;
    part.bytes = tensor.bytes.subspan(at, std::min(piece, tensor.bytes.size() - at));
    sum.add(part.bytes);
    file.forget(part);
  }
  return sum.value();
}

}  // namespace

TensorWriter::TensorWriter(char const* function, std::filesystem::path const& path, Layout&& layout)
    : function_(function), file_(path, layout.total), total_(layout.total) {
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
  file_.write(layout.head);
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

void TensorWriter::put(Progress& tensor, std::span<std::byte const> bytes) {
  require(bytes.size() <= tensor.size - tensor.written, "[", function_, "] tensor '",
          printable(tensor.info.name), "': ", bytes.size(), " more bytes after ", tensor.written, " of ",
          tensor.size);
  file_.write_at(tensor.begin + tensor.written, bytes);
  tensor.checksum.add(bytes);
  tensor.written += bytes.size();
}

void TensorWriter::append_bytes(std::string_view name, std::span<std::byte const> bytes) {
  put(progress(name), bytes);
}

template <class T>
void TensorWriter::append_values(std::string_view name, MatrixView<T const> values) {
  Progress& tensor = progress(name);
  Dtype const dtype = tensor.info.dtype;
  require(is_convertible(dtype), "[", function_, "] tensor '", printable(name), "' was declared as ",
          to_string(dtype),
          ": values can be appended to F64, F32, F16, BF16, Q8_0 and Q4_0, for others use append_bytes");
  std::vector<index_t> const& shape = tensor.info.shape;
  require((shape.size() < 2 && block_elements(dtype) == 1) || values.cols() == shape.back(), "[", function_,
          "] tensor '", printable(name), "': rows of ", values.cols(), " values, declared with ",
          shape.empty() ? 1 : shape.back());
  constexpr index_t piece = index_t{1} << 18;  // values of a write; a multiple of every block
  auto const bytes_of = [dtype](index_t count) {
    return static_cast<std::size_t>(byte_size({.dtype = dtype, .shape = {count}}));
  };
  index_t const width = std::min(piece, values.cols()), height = piece / std::max<index_t>(1, width);
  std::vector<std::byte> buffer(bytes_of(width) * static_cast<std::size_t>(std::min(height, values.rows())));
  for (index_t first = 0; first < values.rows(); first += height)
    for (index_t col = 0; col < values.cols(); col += piece) {
      index_t const count = std::min(piece, values.cols() - col);
      std::size_t filled = 0;
      for (index_t row = first; row < std::min(first + height, values.rows()); ++row) {
        auto const bad = static_cast<index_t>(detail::encode(
            dtype, values.row(row).data() + col, static_cast<std::size_t>(count), buffer.data() + filled));
        if (bad != count)
          fail(Kind::numerics, "[", function_, "] tensor '", printable(name), "': the value ",
               values(row, col + bad), " at row ", row, ", column ", col + bad,
               " of the rows given is not finite as ", to_string(dtype));
        filled += bytes_of(count);
      }
      put(tensor, std::span(buffer).first(filled));
    }
}

void TensorWriter::append(std::string_view name, MatrixView<float const> values) {
  append_values(name, values);
}
void TensorWriter::append(std::string_view name, MatrixView<double const> values) {
  append_values(name, values);
}

void TensorWriter::verify(int threads) {
  for (Progress const& tensor : tensors_)
    require(tensor.written == tensor.size, "[", function_, "] tensor '", printable(tensor.info.name),
            "' got ", tensor.written, " of ", tensor.size, " bytes");
  if (file_.size() < total_) {  // padding after the last tensor
    std::byte const zero{};
    file_.write_at(total_ - 1, {&zero, 1});
  }
  file_.sync();
  TensorFile const written = open(file_.temporary_path());
  auto const check = [&](index_t first, index_t) {
    Progress const& tensor = tensors_[static_cast<std::size_t>(first)];
    Tensor const* const found = written.find(tensor.info.name);
    bool const same = found != nullptr && found->dtype == tensor.info.dtype &&
                      std::equal(found->shape.begin(), found->shape.end(), tensor.info.shape.begin(),
                                 tensor.info.shape.end()) &&
                      checksum_of(written, *found) == tensor.checksum.value();
    if (!same)
      fail(Kind::io, "[", function_, "] ", path().string(), ": tensor '", printable(tensor.info.name),
           "' reads back differently from what was written; the disk or the memory is faulty");
  };
  Cpu(threads).parallel_for(static_cast<index_t>(tensors_.size()), 1, check);
  verified_ = true;
}

void TensorWriter::commit() {
  if (!verified_) verify();
  file_.commit();
}

}  // namespace dartquant
