// SPDX-License-Identifier: Apache-2.0
#include "io/json.hpp"

#include <charconv>
#include <utility>
#include <vector>

#include "io/posix.hpp"
#include "io/read_file.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;

/// Builds the value from the parser's events, so that a second use of a key can be refused.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string const& source, JsonLimits const& limits) : source_(source), limits_(limits) {}
  Json take() { return std::move(root_); }

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // never sent for JSON text

  bool number_float(number_float_t value, string_t const& text) override {
    // The parser went through strtod, which obeys the process's locale; std::from_chars does not. The text
    // holds the locale's decimal mark instead of the point.
    std::string plain = text;
    for (char& c : plain)
      if (std::string_view("0123456789+-eE").find(c) == std::string_view::npos) c = '.';
    double exact = value;
    auto const [end, error] = std::from_chars(plain.data(), plain.data() + plain.size(), exact);
    bool const whole = error == std::errc{} && end == plain.data() + plain.size();
    return put(whole ? exact : value);  // an underflow is no error of strtod
  }

  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    auto const [place, inserted] = stack_.back()->get_ref<Json::object_t&>().emplace(name, nullptr);
    if (!inserted)
      fail(Kind::format, "[json] ", source_, ": the key '", printable(name), "' appears twice in one JSON object");
    member_ = &place->second;
    return true;
  }

  bool parse_error(std::size_t position, std::string const&,
                   nlohmann::detail::exception const& error) override {
    std::string const reason = error.what();  // "[json.exception.parse_error.101] parse error at ...: ..."
    std::size_t const start = reason.find("] ");
    fail(Kind::format, "[json] ", source_, ": not valid JSON near byte ", position, ": ",
         printable(start == std::string::npos ? reason : reason.substr(start + 2)));
  }

 private:
  template <class Value>
  Json* place(Value&& value) {
    if (stack_.empty()) return &(root_ = std::forward<Value>(value));
    if (stack_.back()->is_object()) return &(*member_ = std::forward<Value>(value));
    return &stack_.back()->get_ref<Json::array_t&>().emplace_back(std::forward<Value>(value));
  }
  template <class Value>
  bool put(Value&& value) {
    place(std::forward<Value>(value));
    return true;
  }
  bool open(Json container) {
    if (stack_.size() >= static_cast<std::size_t>(limits_.depth))
      fail(Kind::format, "[json] ", source_, ": JSON nested deeper than ", limits_.depth, " levels");
    stack_.push_back(place(std::move(container)));
    return true;
  }
  bool close() {
    stack_.pop_back();
    return true;
  }

  std::string const& source_;
  JsonLimits const& limits_;
  Json root_;
  Json* member_ = nullptr;
  std::vector<Json*> stack_;
};

[[noreturn]] void wrong_type(Json const& value, std::string_view key, std::string const& source,
                             char const* wanted) {
  fail(Kind::format, "[json] ", source, ": '", key, "' must be ", wanted, ", but it is ",
       value.is_number_integer() ? "an integer"
       : value.is_number()       ? "a number with a fraction"
                                 : value.type_name());
}

}  // namespace

Json parse_json(std::string_view text, std::string const& source, JsonLimits const& limits) {
  if (text.size() > limits.bytes)
    fail(Kind::memory, "[json] ", source, ": ", text.size(), " bytes of JSON, more than the limit of ",
         limits.bytes);
  // The parser takes a NUL for the end of the text and would not look at what follows.
  if (std::size_t const nul = text.find('\0'); nul != std::string_view::npos)
    fail(Kind::format, "[json] ", source, ": not valid JSON: a NUL byte at byte ", nul);
  Builder builder(source, limits);
  if (!Json::sax_parse(text.begin(), text.end(), &builder))
    fail(Kind::format, "[json] ", source, ": not valid JSON");
  return builder.take();
}

Json read_json(std::filesystem::path const& path, JsonLimits const& limits) {
  return parse_json(read_file(path, limits.bytes), path.string(), limits);
}

Json const* find_member(Json const& object, std::string_view key, std::string const& source) {
  if (!object.is_object())
    fail(Kind::format, "[json] ", source, ": a JSON object with the key '", key, "' is needed, but this is ",
         object.type_name());
  auto const found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

Json const& member(Json const& object, std::string_view key, std::string const& source) {
  Json const* const found = find_member(object, key, source);
  if (found == nullptr) fail(Kind::format, "[json] ", source, ": the key '", key, "' is missing");
  return *found;
}

Json const& object_member(Json const& object, std::string_view key, std::string const& source) {
  Json const& value = member(object, key, source);
  if (!value.is_object()) wrong_type(value, key, source, "an object");
  return value;
}

Json const& array_member(Json const& object, std::string_view key, std::string const& source) {
  Json const& value = member(object, key, source);
  if (!value.is_array()) wrong_type(value, key, source, "an array");
  return value;
}

std::string to_text(Json const& value, std::string_view key, std::string const& source) {
  if (!value.is_string()) wrong_type(value, key, source, "a string");
  return value.get<std::string>();
}

bool to_bool(Json const& value, std::string_view key, std::string const& source) {
  if (!value.is_boolean()) wrong_type(value, key, source, "true or false");
  return value.get<bool>();
}

double to_number(Json const& value, std::string_view key, std::string const& source) {
  if (!value.is_number()) wrong_type(value, key, source, "a number");
  return value.get<double>();
}

std::int64_t to_integer(Json const& value, std::string_view key, std::string const& source,
                        std::int64_t smallest, std::int64_t largest) {
  if (!value.is_number_integer()) wrong_type(value, key, source, "an integer");
  bool const too_large =
      value.is_number_unsigned() &&
      value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  std::int64_t const number = too_large ? 0 : value.get<std::int64_t>();
  if (too_large || number < smallest || number > largest)
    fail(Kind::format, "[json] ", source, ": '", key, "' is ", value.dump(), ", outside ", smallest, "..",
         largest);
  return number;
}

}  // namespace dartquant::detail
