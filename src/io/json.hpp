// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>

#include <nlohmann/json.hpp>

#include <dartquant/core/error.hpp>

// Strict JSON on nlohmann's parser. Private: no public header includes this file.
namespace dartquant::detail {

using Json = nlohmann::json;

struct JsonLimits {
  std::size_t bytes = std::size_t{256} << 20;  ///< a longer text is refused before anything is parsed
  int depth = 128;                             ///< nested objects and arrays
};

/// Parses RFC 8259 JSON and refuses what the reference parser lets pass: duplicate keys, a NUL byte, nesting
/// beyond `limits.depth`. Invalid UTF-8, trailing text and numbers beyond double are refused too. Numbers do
/// not depend on the locale. `source` (a path, usually) opens every sentence. Throws Error(format), or
/// Error(memory) when the text is longer than `limits.bytes`.
[[nodiscard]] Json parse_json(std::string_view text, std::string const& source,
                              JsonLimits const& limits = {});

/// Reads a whole file and parses it. Throws Error(io) when it cannot be read, else as parse_json.
[[nodiscard]] Json read_json(std::filesystem::path const& path, JsonLimits const& limits = {});

/// The member `key` of `object`, or null when it is missing or has the value null. Throws Error(format) when
/// `object` is not an object.
[[nodiscard]] Json const* find_member(Json const& object, std::string_view key, std::string const& source);

/// The member `key` of `object`; Error(format) naming the file and the key when it is missing or null.
[[nodiscard]] Json const& member(Json const& object, std::string_view key, std::string const& source);

/// As `member`, and Error(format) unless the value is an object, or an array.
[[nodiscard]] Json const& object_member(Json const& object, std::string_view key, std::string const& source);
[[nodiscard]] Json const& array_member(Json const& object, std::string_view key, std::string const& source);

/// Conversions of one value; `key` only names it in the sentence. Error(format) on another type. An integer
/// is one without fraction and exponent, within [smallest, largest].
[[nodiscard]] std::string to_text(Json const& value, std::string_view key, std::string const& source);
[[nodiscard]] bool to_bool(Json const& value, std::string_view key, std::string const& source);
[[nodiscard]] double to_number(Json const& value, std::string_view key, std::string const& source);
[[nodiscard]] std::int64_t to_integer(Json const& value, std::string_view key, std::string const& source,
                                      std::int64_t smallest = std::numeric_limits<std::int64_t>::min(),
                                      std::int64_t largest = std::numeric_limits<std::int64_t>::max());

/// Member `key` as std::string, bool, double or a signed integer type (range checked).
template <class T>
[[nodiscard]] T get(Json const& object, std::string_view key, std::string const& source) {
  Json const& value = member(object, key, source);
  if constexpr (std::is_same_v<T, std::string>) return to_text(value, key, source);
  else if constexpr (std::is_same_v<T, bool>) return to_bool(value, key, source);
  else if constexpr (std::is_floating_point_v<T>) return static_cast<T>(to_number(value, key, source));
  else {
    static_assert(std::is_integral_v<T> && std::is_signed_v<T>,
                  "std::string, bool, floating or signed integer");
    return static_cast<T>(
        to_integer(value, key, source, std::numeric_limits<T>::min(), std::numeric_limits<T>::max()));
  }
}

/// As `get`, with `fallback` when the key is missing or null.
template <class T>
[[nodiscard]] T get_or(Json const& object, std::string_view key, std::string const& source,
                       std::type_identity_t<T> fallback) {
  return find_member(object, key, source) == nullptr ? fallback : get<T>(object, key, source);
}

}  // namespace dartquant::detail
