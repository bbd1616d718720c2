// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <dartquant/core/view.hpp>
#include <dartquant/io/atomic_file.hpp>
#include <dartquant/io/tensor.hpp>
#include <dartquant/io/tensor_file.hpp>

namespace dartquant {

/// Takes the values of tensors that were declared before, in any order and in pieces.
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

  /// Writes through to the disk, reads the temporary file again, several tensors at a time, and compares each
  /// one's declaration and checksum. InvalidArgument for an incomplete tensor, Error(io) where it differs.
  void verify(int threads = 1);
  /// `verify`, then gives the file its name.
  void commit();

  [[nodiscard]] std::filesystem::path const& path() const noexcept { return file_.path(); }
  /// Where the bytes are before `commit`.
  [[nodiscard]] std::filesystem::path const& temporary_path() const noexcept {
    return file_.temporary_path();
  }

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
  Progress& progress(std::string_view name);
  void put(Progress& tensor, std::span<std::byte const> bytes);

  char const* function_;
  std::vector<Progress> tensors_;  // by name
  AtomicFile file_;
  std::uint64_t total_ = 0;
  bool verified_ = false;
};

}  // namespace dartquant
