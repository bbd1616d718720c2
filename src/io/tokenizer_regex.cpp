// SPDX-License-Identifier: Apache-2.0
#include "io/tokenizer_regex.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <cstdint>
#include <new>
#include <optional>

#include "io/tokenizer_utf8.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;

constexpr std::size_t max_pattern_bytes = 65536;
constexpr std::uint32_t max_steps = 10'000'000;  // per match; real patterns need a few thousand
constexpr std::uint32_t max_heap_kib = 64 * 1024;

using CompileContext = std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)>;
using MatchContext = std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)>;
using MatchData = std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)>;

std::string explain(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<char const*>(text.data());
}

template <class T>
T* allocated(T* pointer) {
  if (pointer == nullptr) throw std::bad_alloc();
  return pointer;
}

/// How `\letter` is written for PCRE2; nothing when it must be refused.
std::optional<std::string> translate_escape(char letter, bool in_class) {
  std::string const word = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
  switch (letter) {
    case 's':
      return "\\p{White_Space}";
    case 'S':
      return "\\P{White_Space}";
    case 'w':
      return in_class ? word : "[" + word + "]";
    case 'W':
      return in_class ? std::nullopt : std::optional("[^" + word + "]");
    case 'h':
    case 'H':
      return std::nullopt;  // a hexadecimal digit in Oniguruma, a horizontal space in PCRE2
    default:
      return std::string{'\\', letter};
  }
}

/// Rewrites the shorthands whose meaning differs, and refuses set operations inside classes.
std::string translate(std::string_view pattern, std::string const& source) {
  std::string result;
  bool in_class = false;
  std::size_t class_begin = 0;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    char const c = pattern[i];
    if (pattern.substr(i, 2) == "\\u" && i + 6 <= pattern.size()) {  // \uHHHH
      result += "\\x{" + std::string(pattern.substr(i + 2, 4)) + "}";
      i += 5;
      continue;
    }
    if (c == '\\' && i + 1 < pattern.size()) {
      auto const escape = translate_escape(pattern[++i], in_class);
      if (!escape)
        fail(Kind::unsupported, source, ": the escape \\", pattern[i], " at byte ", i - 1,
             " of the pattern '", pattern, "' has another meaning here; spell the class out");
      result += *escape;
      continue;
    }
    if (!in_class && c == '[') {
      in_class = true;
      class_begin = i + (i + 1 < pattern.size() && pattern[i + 1] == '^' ? 2 : 1);
    } else if (in_class && c == ']' && i != class_begin) {
      in_class = false;
    } else if (in_class && (pattern.substr(i, 2) == "&&" || (c == '[' && pattern.substr(i, 2) != "[:"))) {
      fail(Kind::unsupported, source, ": the pattern '", pattern, "' combines character sets at byte ", i,
           ", which this library does not read; spell the class out");
    } else if (in_class && c == '[') {  // [:name:] is one unit, its bracket does not end the class
      std::size_t const end = pattern.find(":]", i);
      if (end != std::string_view::npos) {
        result += pattern.substr(i, end - i);
        result += ":]";
        i = end + 1;
        continue;
      }
    }
    result += c;
  }
  return result;
}

PCRE2_SPTR units(std::string_view text) {
  // PCRE2 wants a pointer even for an empty text.
  return reinterpret_cast<PCRE2_SPTR>(text.empty() ? "" : text.data());
}

}  // namespace

Regex::Regex(std::string_view pattern, Syntax syntax, std::string const& source)
    : pattern_(pattern), source_(source) {
  if (pattern.size() > max_pattern_bytes)
    fail(Kind::unsupported, source, ": a pattern of ", pattern.size(), " bytes; at most ", max_pattern_bytes,
         " are read");
  bool const literal = syntax == Syntax::literal;
  std::string const translated = literal ? pattern_ : translate(pattern, source);
  CompileContext const context(allocated(pcre2_compile_context_create(nullptr)), &pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  std::uint32_t const options =
      PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* const code =
      pcre2_compile(units(translated), translated.size(), options, &error, &offset, context.get());
  if (code == nullptr)
    fail(Kind::format, source, ": the pattern '", pattern, "' does not compile: ", explain(error));
  code_ = std::shared_ptr<void const>(code, [code](void const*) { pcre2_code_free(code); });
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without it the interpreter gives the same matches
}

Regex Regex::read(Json const& pattern, std::string const& source) {
  if (find_member(pattern, "String", source) != nullptr)
    return {get<std::string>(pattern, "String", source), Syntax::literal, source};
  return {get<std::string>(pattern, "Regex", source), Syntax::pattern, source};
}

std::vector<TextRange> Regex::find_all(std::string_view text) const {
  auto const* const code = static_cast<pcre2_code const*>(code_.get());
  MatchContext const context(allocated(pcre2_match_context_create(nullptr)), &pcre2_match_context_free);
  pcre2_set_match_limit(context.get(), max_steps);
  pcre2_set_heap_limit(context.get(), max_heap_kib);
  MatchData const data(allocated(pcre2_match_data_create_from_pattern(code, nullptr)),
                       &pcre2_match_data_free);

  std::vector<TextRange> found;
  for (std::size_t offset = 0; offset <= text.size();) {
    auto const match = [&](std::uint32_t options) {
      return pcre2_match(code, units(text), text.size(), offset, options | PCRE2_NO_UTF_CHECK, data.get(),
                         context.get());
    };
    int result = match(0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(PCRE2_NO_JIT);
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result < 0)
      fail(Kind::unsupported, source_, ": the pattern '", pattern_, "' failed at byte ", offset,
           " of a text of ", text.size(), " bytes: ", explain(result));
    PCRE2_SIZE const* const ends = pcre2_get_ovector_pointer(data.get());
    TextRange const range{ends[0], ends[1]};
    if (range.begin < offset || range.end < range.begin)
      fail(Kind::unsupported, source_, ": the pattern '", pattern_, "' moves the start of its match");
    bool const empty = range.begin == range.end;
    if (empty && !found.empty() && found.back().end == range.end) {
      offset = range.end + (range.end < text.size() ? code_point_at(text, range.end).bytes : 1);
      continue;
    }
    found.push_back(range);
    offset = range.end;
  }
  return found;
}

}  // namespace dartquant::detail
