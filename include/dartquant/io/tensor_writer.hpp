// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <dartquant/core/view.hpp>
#include <dartquant/io/atomic_file.hpp>
#include <dartquant/io/tensor.hpp>
#include <dartquant/io/tensor_file.hpp>

namespace dartquant {

/// Takes the values of tensors that were declared before, in any order and in pieces: in their order by
/// `append`, or at places of their own by `write_rows`.
class TensorSink {
 public:
  TensorSink() = default;
  TensorSink(TensorSink&&) noexcept = default;
  TensorSink& operator=(TensorSink&&) noexcept = default;
  virtual ~TensorSink() = default;

  /// Appends values to a tensor: its next rows, in one call or in many. Values are converted to the tensor's
  /// type (F64, F32, F16 or BF16 to nearest even; Q8_0 and Q4_0 as ggml's reference quantizers).
  /// InvalidArgument for an unknown name, another type, rows of another length or more values than declared;
  /// Error(numerics) with row and column for a value that is not finite or becomes infinite in that type.
  virtual void append(std::string_view name, MatrixView<float const> values) = 0;
  virtual void append(std::string_view name, MatrixView<double const> values) = 0;
  /// Appends raw bytes to a tensor: little-endian, row-major, of the declared type.
  virtual void append_bytes(std::string_view name, std::span<std::byte const> bytes) = 0;

  /// Rows [first, first + values.rows()) of a tensor, each of them once; the only calls that several threads
  /// may make at once. Of a tensor of more than two dimensions the rows of all its matrices are counted
  /// through. Conversion and errors as for append.
  virtual void write_rows(std::string_view name, index_t first, MatrixView<float const> values) = 0;
  virtual void write_rows(std::string_view name, index_t first, MatrixView<double const> values) = 0;
};

/// Writes one file of tensors through AtomicFile, whatever its format: all tensors are declared first, then
/// their values arrive, so memory stays bounded.
class TensorWriter : public TensorSink {
 public:
  TensorWriter(TensorWriter&&) noexcept;
  TensorWriter& operator=(TensorWriter&&) noexcept;
  ~TensorWriter() override;

  void append(std::string_view name, MatrixView<float const> values) override;
  void append(std::string_view name, MatrixView<double const> values) override;
  void append_bytes(std::string_view name, std::span<std::byte const> bytes) override;
  void write_rows(std::string_view name, index_t first, MatrixView<float const> values) override;
  void write_rows(std::string_view name, index_t first, MatrixView<double const> values) override;

  /// From now on what is on the disk is read back on a thread of its own, beside the writing.
  void read_back_meanwhile();
  /// Writes through to the disk, reads the temporary file again, as far as that was not done, with `threads`
  /// threads, and compares declarations and checksums. InvalidArgument for an incomplete tensor, Error(io)
  /// where something differs.
  void verify(int threads = 1);
  /// `verify`, then gives the file its name.
  void commit();

  [[nodiscard]] std::filesystem::path const& path() const noexcept;
  /// Where the bytes are before `commit`.
  [[nodiscard]] std::filesystem::path const& temporary_path() const noexcept;

 protected:
  /// Where the format puts the tensors.
  struct Place {
    TensorInfo info;
    std::uint64_t begin = 0;  ///< of the data, in the file
  };
  struct Layout {
    std::vector<Place> tensors;
    std::string head;         ///< bytes before the data
    std::uint64_t total = 0;  ///< size of the file
  };

  /// Reserves the space and writes the head; `function` opens every sentence. Throws InvalidArgument for a
  /// tensor that is declared twice, Error(io) as AtomicFile.
  TensorWriter(char const* function, std::filesystem::path const& path, Layout&& layout);

 private:
  struct Progress;
  [[nodiscard]] virtual TensorFile open(std::filesystem::path const& path) const = 0;
  template <class T>
  void append_values(std::string_view name, MatrixView<T const> values);
  template <class T>
  void write_values(std::string_view name, index_t first, MatrixView<T const> values);
  Progress& progress(std::string_view name);
  template <class T>
  void check_values(Progress const& tensor, MatrixView<T const> values) const;
  /// Converts values and writes them at a byte of the tensor's data.
  template <class T>
  void convert(Progress& tensor, std::uint64_t at, MatrixView<T const> values);
  void put(Progress& tensor, std::uint64_t at, std::span<std::byte const> bytes);
  void write(std::uint64_t at, std::span<std::byte const> bytes);
  void check_declarations() const;

  struct Output;
  char const* function_;
  std::vector<Progress> tensors_;  // by name
  std::unique_ptr<Output> output_;
  std::uint64_t total_ = 0;
  bool verified_ = false;
};

}  // namespace dartquant
