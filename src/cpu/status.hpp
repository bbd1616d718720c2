// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <dartquant/kernels.h>

namespace dartquant::cpu {

[[nodiscard]] constexpr dartquant_status status(dartquant_argument argument, dartquant_reason reason) {
  return 256 * static_cast<dartquant_status>(argument) + static_cast<dartquant_status>(reason);
}

/// A size computed step by step that remembers whether any step overflowed.
class Size {
 public:
  constexpr Size(std::int64_t value) : value_(value), ok_(value >= 0) {}  // NOLINT: numbers are sizes
  [[nodiscard]] constexpr bool ok() const { return ok_; }
  [[nodiscard]] constexpr std::int64_t value() const { return value_; }
  friend constexpr Size operator+(Size a, Size b) {
    Size sum(0);
    sum.ok_ = !__builtin_add_overflow(a.value_, b.value_, &sum.value_) && a.ok_ && b.ok_;
    return sum;
  }
  friend constexpr Size operator*(Size a, Size b) {
    Size product(0);
    product.ok_ = !__builtin_mul_overflow(a.value_, b.value_, &product.value_) && a.ok_ && b.ok_;
    return product;
  }
  /// The next multiple of `unit`.
  [[nodiscard]] constexpr Size round_up(std::int64_t unit) const {
    Size const raised = *this + (unit - 1);
    return raised.ok_ ? Size(raised.value_ / unit * unit) : raised;
  }

 private:
  std::int64_t value_;
  bool ok_;
};

[[nodiscard]] inline bool aligned(void const* pointer, std::size_t alignment) {
  return reinterpret_cast<std::uintptr_t>(pointer) % alignment == 0;
}

/// The number in an enumeration that a caller filled. A C caller may have stored any; reading one that is no
/// enumerator as an enumeration would be undefined.
template <class E>
[[nodiscard]] std::int32_t number_of(E const& enumeration) {
  static_assert(sizeof(E) == sizeof(std::int32_t));
  std::int32_t number = 0;
  std::memcpy(&number, &enumeration, sizeof number);
  return number;
}

/// Collects the first thing that is wrong: every check after a failed one is skipped.
class Checks {
 public:
  Checks& require(bool condition, dartquant_argument argument, dartquant_reason reason) {
    if (status_ == 0 && !condition) status_ = status(argument, reason);
    return *this;
  }
  /// A pointer that is needed, aligned to `alignment`.
  Checks& pointer(void const* p, std::size_t alignment, dartquant_argument argument) {
    require(p != nullptr, argument, dartquant_null);
    return require(aligned(p, alignment), argument, dartquant_misaligned);
  }
  /// A buffer of at least `needed` bytes.
  Checks& buffer(void const* p, std::size_t bytes, std::size_t needed, dartquant_argument argument) {
    pointer(p, dartquant_alignment, argument);
    return require(bytes >= needed, argument, dartquant_too_small);
  }
  Checks& part(std::int64_t part, std::int64_t parts) {
    return require(part >= 0 && part < parts, dartquant_arg_part, dartquant_bad_value);
  }
  /// What another call found.
  Checks& merge(dartquant_status found) {
    if (status_ == 0) status_ = found;
    return *this;
  }
  /// Whether everything was right so far: what follows may rely on it.
  [[nodiscard]] bool ok() const { return status_ == 0; }
  [[nodiscard]] dartquant_status result() const { return status_; }

 private:
  dartquant_status status_ = 0;
};

/// The share [first, last) of `count` things that falls to `part`.
struct Share {
  std::int64_t first, last;
};
[[nodiscard]] constexpr Share share(std::int64_t count, std::int64_t part, std::int64_t parts) {
  std::int64_t const each = count / parts, more = count % parts;  // the first `more` parts get one more
  std::int64_t const first = part * each + (part < more ? part : more);
  return {first, first + each + (part < more ? 1 : 0)};
}

/// Checks of the descriptions that several calls take; status.cpp.
void check(Checks& checks, dartquant_matrix const* matrix, dartquant_argument argument);
void check(Checks& checks, dartquant_quantized const* q);
void check(Checks& checks, dartquant_weights const* weights);

[[nodiscard]] constexpr std::int64_t element_bytes(dartquant_type type) {
  return type == dartquant_float32 ? 4 : 2;
}
/// Channels under one scale, and scales of a row.
[[nodiscard]] constexpr std::int64_t group_width(dartquant_quantized const& q) {
  return q.group == 0 || q.group > q.cols ? q.cols : q.group;
}
[[nodiscard]] constexpr std::int64_t groups_of(dartquant_quantized const& q) {
  return (q.cols - 1) / group_width(q) + 1;
}
[[nodiscard]] constexpr std::int64_t row_bytes(dartquant_quantized const& q) {
  return q.bits == 4 ? q.cols / 2 + q.cols % 2 : q.cols;
}

/// Whether every zero point of a checked `q` is one of its levels.
[[nodiscard]] bool zero_points_in_range(dartquant_quantized const& q);

}  // namespace dartquant::cpu
