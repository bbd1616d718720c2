// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <dartquant/io/tensor_file.hpp>
#include <dartquant/io/tensor_writer.hpp>

namespace dartquant {

/// Types of GGUF's metadata, with the numbers that the format gives them.
enum class GgufType : std::uint8_t { u8, i8, u16, i16, u32, i32, f32, boolean, text, array, u64, i64, f64 };

/// One value of the metadata: a view into the file.
struct GgufValue {
  std::string_view key;
  GgufType type = GgufType::u8;      ///< array: see `element`
  GgufType element = GgufType::u8;   ///< of an array; otherwise `type`
  std::uint64_t count = 1;           ///< elements of an array
  std::span<std::byte const> bytes;  ///< the elements; a text and each text of an array follows its length
};

/// A GGUF file (versions 2 and 3, little-endian), opened, mapped and checked: lengths against the bytes that
/// remain, known types, booleans 0 or 1, no nested array, no key and no tensor twice, alignment a power of
/// two from 8 to 65536, at most 4 dimensions, rows of whole blocks, and tensors that follow one another, each
/// at the next aligned byte, up to the end of the file. `tensors()` have the names of the file and row-major
/// shapes (the file stores dimensions innermost first), types F32, F16, BF16, Q8_0 and Q4_0. Memory beyond
/// the map: at most three times the header and 1 MB.
/// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
class GgufFile : public TensorFile {
 public:
  /// Throws Error(io) when the file cannot be opened, Error(format) or Error(unsupported) with a sentence
  /// that names the file and the key or the tensor when a check fails.
  explicit GgufFile(std::filesystem::path const& path);

  /// Sorted by key.
  [[nodiscard]] std::span<GgufValue const> metadata() const noexcept { return metadata_; }
  [[nodiscard]] GgufValue const* find_value(std::string_view key) const noexcept;

  /// The value of a key, or nothing where the file does not have it. Error(format) naming the key when its
  /// type is another: any integer type, an integer or a float, a boolean, a text; arrays of those.
  [[nodiscard]] std::optional<std::int64_t> integer(std::string_view key) const;
  [[nodiscard]] std::optional<double> number(std::string_view key) const;
  [[nodiscard]] std::optional<bool> boolean(std::string_view key) const;
  [[nodiscard]] std::optional<std::string_view> text(std::string_view key) const;
  [[nodiscard]] std::optional<std::vector<std::string_view>> texts(std::string_view key) const;
  [[nodiscard]] std::optional<std::vector<float>> numbers(std::string_view key) const;
  [[nodiscard]] std::optional<std::vector<std::int32_t>> integers(std::string_view key) const;

  /// The same file with other names: `tensors` hold their new names and views into this file, which is moved
  /// from. Error(format) where two have the same name.
  [[nodiscard]] TensorFile renamed(std::vector<Tensor> const& tensors) &&;

 private:
  [[nodiscard]] GgufValue const* find_typed(std::string_view key, bool (*wanted)(GgufType), bool array,
                                            std::string_view what) const;
  std::vector<GgufValue> metadata_;
};

/// True when the file begins with the magic of GGUF. Error(io) when it cannot be read.
[[nodiscard]] bool is_gguf(std::filesystem::path const& path);

/// A key and a value to be written.
struct GgufEntry {
  std::string key{};
  std::variant<std::uint32_t, std::uint64_t, std::int32_t, float, bool, std::string, std::vector<std::string>,
               std::vector<float>, std::vector<std::int32_t>>
      value{};
};

/// Writes one GGUF file of version 3, metadata and tensors in the order given; the same declarations and
/// values give the same bytes, those of the Python package `gguf`. Alignment 32.
class GgufWriter : public TensorWriter {
 public:
  /// Reserves the space and writes metadata and declarations. Shapes are row-major. Throws InvalidArgument
  /// for a bad or repeated key or name, a name beyond 63 bytes, no or more than 4 dimensions, or a type that
  /// GgufFile does not read; Error(io) as AtomicFile.
  GgufWriter(std::filesystem::path const& path, std::vector<GgufEntry> const& metadata,
             std::vector<TensorInfo> tensors);

 private:
  [[nodiscard]] TensorFile open(std::filesystem::path const& path) const override;
};

}  // namespace dartquant
