// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <dartquant/core/matrix.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/io/atomic_file.hpp>
#include <dartquant/io/mapped_file.hpp>

namespace dartquant {

/// Element types of the safetensors format. The 8-bit and smaller floats and c64 are recognised (their sizes
/// are checked) but not converted.
enum class Dtype : std::uint8_t {
  f64,
  f32,
  f16,
  bf16,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean,
  c64,
  f8_e4m3,
  f8_e5m2,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  f6_e2m3,
  f6_e3m2,
  f4
};

/// The name in the file: "F32", "BF16"...
[[nodiscard]] std::string_view to_string(Dtype dtype) noexcept;
[[nodiscard]] std::optional<Dtype> parse_dtype(std::string_view name) noexcept;
/// Size of one element in bits.
[[nodiscard]] int bit_width(Dtype dtype) noexcept;

/// One tensor of an open file: views into that file's object, valid while it lives. `bytes` is row-major and
/// little-endian, and need not be aligned.
struct Tensor {
  std::string_view name;
  Dtype dtype = Dtype::f32;
  std::span<index_t const> shape;  ///< empty for a scalar
  std::span<std::byte const> bytes;
};

/// "F32 [512, 64]"
[[nodiscard]] std::string describe(Tensor const& tensor);

/// What a reader does with NaN and infinity.
enum class NonFinite { refuse, allow };

/// A safetensors file, opened, mapped and checked: header length, strict JSON without duplicate keys, known
/// dtypes, shapes that match their bytes, and byte ranges that cover the data exactly, without hole, overlap
/// or rest. Memory beyond the map: at most twice the header and 1 MB. Header at most 100 MB, rank at most 8.
/// Format: https://github.com/huggingface/safetensors
class SafetensorsFile {
 public:
  /// Throws Error(io) when the file cannot be opened, Error(format) or Error(unsupported) with a sentence
  /// that names the file and the tensor when a check fails.
  explicit SafetensorsFile(std::filesystem::path const& path);

  [[nodiscard]] std::filesystem::path const& path() const noexcept { return map_.path(); }
  /// All tensors in the order of their data.
  [[nodiscard]] std::span<Tensor const> tensors() const noexcept { return tensors_; }
  /// The tensor of that name, or null. O(log tensors).
  [[nodiscard]] Tensor const* find(std::string_view name) const noexcept;
  [[nodiscard]] std::map<std::string, std::string> const& metadata() const noexcept { return metadata_; }

  /// Copies a tensor of this file into a matrix, converting F64, F32, F16 and BF16: [rows, cols] for rank 2,
  /// [1, n] for rank 1, [1, 1] for a scalar. T is float or double. The file's pages are given back to the
  /// system on the way. Throws Error(unsupported) for other types and ranks, Error(format) with row and
  /// column at the first value that is not finite (unless allowed; also a double beyond float), Error(io)
  /// when the file changed on the disk.
  template <class T>
  [[nodiscard]] RowMatrix<T> read_matrix(Tensor const& tensor,
                                         NonFinite non_finite = NonFinite::refuse) const;

  /// Copies a tensor of a signed or unsigned integer type, of any rank, in row-major order. Error(format) for
  /// a U64 beyond the signed range.
  [[nodiscard]] std::vector<std::int64_t> read_integers(Tensor const& tensor) const;

  /// Gives the memory pages of a tensor back to the system; it stays readable.
  void release(Tensor const& tensor) const noexcept;

 private:
  MappedFile map_;
  std::vector<char> names_;
  std::vector<index_t> dimensions_;
  std::vector<Tensor> tensors_;
  std::vector<std::uint32_t> by_name_;
  std::map<std::string, std::string> metadata_;
};

/// Name, element type and shape of a tensor to be written.
struct TensorInfo {
  std::string name{};
  Dtype dtype = Dtype::f32;
  std::vector<index_t> shape{};
};

/// Size of the data of a tensor. Throws InvalidArgument for a negative dimension, a product beyond 64 bits,
/// or a number of bits that is no multiple of 8.
[[nodiscard]] std::uint64_t byte_size(TensorInfo const& tensor);

/// Writes one safetensors file through AtomicFile: all tensors are declared first, then their values arrive
/// in any order and in pieces, so memory stays bounded. The data is ordered as the reference writer does it
/// (wider types first, then by name); the same declarations and values give the same bytes.
class SafetensorsWriter {
 public:
  /// Reserves the space and writes the header, padded so that the data begins at a multiple of
  /// `data_alignment` bytes (8: as the reference writer; any multiple of 8). Throws InvalidArgument for a
  /// duplicate or empty name or a bad shape, Error(io) as AtomicFile.
  SafetensorsWriter(std::filesystem::path const& path, std::vector<TensorInfo> tensors,
                    std::map<std::string, std::string> const& metadata = {}, index_t data_alignment = 8);
  SafetensorsWriter(SafetensorsWriter&&) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) noexcept;
  ~SafetensorsWriter();

  /// Appends values to a tensor: its next rows, in one call or in many. Values are converted to the tensor's
  /// type (F64, F32, F16 or BF16), rounding to nearest even. InvalidArgument for an unknown name, another
  /// type, rows of another length or more values than declared; Error(numerics) with row and column for a
  /// value that is not finite or becomes infinite in that type.
  void append(std::string_view name, MatrixView<float const> values);
  void append(std::string_view name, MatrixView<double const> values);
  /// Appends raw bytes to a tensor: little-endian, row-major, of the declared type.
  void append_bytes(std::string_view name, std::span<std::byte const> bytes);

  /// Writes through to the disk, reads the temporary file again and compares every tensor's declaration and
  /// checksum. InvalidArgument when a tensor is incomplete, Error(io) when what was read differs.
  void verify();
  /// `verify`, then gives the file its name.
  void commit();

  [[nodiscard]] std::filesystem::path const& path() const noexcept { return file_.path(); }

 private:
  struct Progress;
  struct Layout;
  SafetensorsWriter(Layout&& layout, std::filesystem::path const& path);
  template <class T>
  void append_values(std::string_view name, MatrixView<T const> values);
  Progress& progress(std::string_view name);
  void put(Progress& tensor, std::span<std::byte const> bytes);

  std::vector<Progress> tensors_;  // by name
  AtomicFile file_;
  bool verified_ = false;
};

}  // namespace dartquant
