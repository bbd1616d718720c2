// SPDX-License-Identifier: Apache-2.0
#pragma once

// Memory for the tests of the kernels: allocations that end where the documented buffer ends.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include <dartquant/kernels.h>

namespace kernel_test {

/// `size` bytes that begin `offset` bytes behind a multiple of 64 and end with the allocation, so that the
/// address sanitizer sees the first byte beyond. Filled with 0xA5.
class Exact {
 public:
  explicit Exact(std::size_t size, std::size_t offset = 0)
      : memory_(static_cast<std::uint8_t*>(::operator new (size + offset, std::align_val_t{64}))),
        size_(size),
        offset_(offset) {
    std::memset(memory_, 0xA5, size + offset);
  }
  Exact(Exact&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)), size_(other.size_), offset_(other.offset_) {}
  Exact(Exact const&) = delete;
  Exact& operator=(Exact const&) = delete;
  Exact& operator=(Exact&&) = delete;
  ~Exact() { ::operator delete (memory_, std::align_val_t{64}); }

  [[nodiscard]] std::uint8_t* data() const { return memory_ + offset_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  template <class T>
  [[nodiscard]] T* as() const {
    return reinterpret_cast<T*>(data());
  }
  [[nodiscard]] std::vector<std::uint8_t> bytes() const { return {data(), data() + size_}; }
  [[nodiscard]] bool operator==(Exact const& other) const {
    return size_ == other.size_ && (size_ == 0 || std::memcmp(data(), other.data(), size_) == 0);
  }

 private:
  std::uint8_t* memory_;
  std::size_t size_, offset_;
};

/// Bytes of `rows` rows of `row` elements, `stride` apart.
[[nodiscard]] inline std::size_t span(std::int64_t rows, std::int64_t row, std::int64_t stride,
                                      std::int64_t element) {
  return static_cast<std::size_t>(((rows - 1) * stride + row) * element);
}

/// What a quantized matrix is like; the extra elements lie between rows.
struct PlainShape {
  std::int64_t rows = 1, cols = 1;
  std::int32_t bits = 4;
  dartquant_symmetry symmetry = dartquant_symmetric;
  std::int64_t group = 0;
  std::int64_t extra = 0;  ///< of every stride
  std::size_t offset = 0;  ///< elements past 64-byte alignment

  [[nodiscard]] std::int64_t groups() const {
    return group == 0 || group > cols ? 1 : (cols - 1) / group + 1;
  }
  [[nodiscard]] std::int64_t row_bytes() const { return bits == 4 ? (cols + 1) / 2 : cols; }
};

/// A quantized matrix with its memory.
struct Plain {
  Exact levels, scales, zero_points;
  dartquant_quantized q;

  explicit Plain(PlainShape const& s)
      : levels(span(s.rows, s.row_bytes(), s.row_bytes() + s.extra, 1), s.offset),
        scales(span(s.rows, s.groups(), s.groups() + s.extra, 4), 4 * s.offset),
        zero_points(s.symmetry == dartquant_symmetric ? 0 : span(s.rows, s.groups(), s.groups() + s.extra, 4),
                    4 * s.offset),
        q{s.rows,
          s.cols,
          s.bits,
          s.symmetry,
          s.group,
          levels.data(),
          s.row_bytes() + s.extra,
          scales.as<float>(),
          s.groups() + s.extra,
          s.symmetry == dartquant_symmetric ? nullptr : zero_points.as<std::int32_t>(),
          s.groups() + s.extra} {}

  [[nodiscard]] std::int64_t groups() const {
    return q.group == 0 || q.group > q.cols ? 1 : (q.cols - 1) / q.group + 1;
  }
  [[nodiscard]] float& scale(std::int64_t i, std::int64_t g) const {
    return q.scales[i * q.scale_stride + g];
  }
  [[nodiscard]] std::int32_t& zero_point(std::int64_t i, std::int64_t g) const {
    return q.zero_points[i * q.zero_point_stride + g];
  }
  /// The level as an unsigned number: level + 2^(bits-1) where symmetric.
  [[nodiscard]] int code(std::int64_t i, std::int64_t j) const {
    std::uint8_t const* const row = levels.data() + i * q.level_stride;
    int const raw = q.bits == 8 ? row[j] : j % 2 == 0 ? row[j / 2] & 15 : row[j / 2] >> 4;
    return q.symmetry == dartquant_asymmetric ? raw : raw ^ (1 << (q.bits - 1));
  }
  /// Rows in order; an odd last high nibble becomes 0.
  void set_code(std::int64_t i, std::int64_t j, int code) const {
    int const raw = q.symmetry == dartquant_asymmetric ? code : code ^ (1 << (q.bits - 1));
    std::uint8_t* const row = levels.data() + i * q.level_stride;
    if (q.bits == 8) row[j] = static_cast<std::uint8_t>(raw);
    else if (j % 2 == 0) row[j / 2] = static_cast<std::uint8_t>(raw);
    else row[j / 2] = static_cast<std::uint8_t>(row[j / 2] | raw << 4);
  }
  [[nodiscard]] bool operator==(Plain const& other) const {
    return levels == other.levels && scales == other.scales && zero_points == other.zero_points;
  }
};

/// A matrix of any type with its memory.
struct Values {
  Exact memory;
  dartquant_matrix m;

  Values(dartquant_type type, std::int64_t rows, std::int64_t cols, std::int64_t extra = 0,
         std::size_t offset = 0)
      : memory(span(rows, cols, cols + extra, type == dartquant_float32 ? 4 : 2),
               offset * (type == dartquant_float32 ? 4 : 2)),
        m{memory.data(), type, rows, cols, cols + extra} {}
};

}  // namespace kernel_test
