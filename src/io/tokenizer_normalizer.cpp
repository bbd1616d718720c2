// SPDX-License-Identifier: Apache-2.0
#include "io/tokenizer_normalizer.hpp"

#include <algorithm>
#include <utility>

#include "io/tokenizer_utf8.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;
using Result = Normalizer::Result;

constexpr std::size_t max_steps = 64;

std::size_t find_at_least(std::string_view text, char32_t bound) {
  for (std::size_t offset = 0; offset < text.size();) {
    CodePoint const next = code_point_at(text, offset);
    if (next.value >= bound) return offset;
    offset += next.bytes;
  }
  return std::string_view::npos;
}

Result apply_step(PrependStep const& step, Result now, std::size_t) {
  if (!now.text.empty()) now.text.insert(0, step.prefix);
  return now;
}

Result apply_step(ReplaceStep const& step, Result now, std::size_t limit) {
  now.text = replace_all(now.text, step, limit);
  return now;
}

Result apply_step(StripStep const& step, Result now, std::size_t) {
  std::size_t const front = step.left ? leading_white_space(now.text) : 0;
  now.text.erase(0, front);
  if (step.right) now.text.erase(now.text.size() - trailing_white_space(now.text));
  now.start_removed = now.start_removed || front > 0;
  return now;
}

Result apply_step(LowercaseStep const& step, Result now, std::size_t) {
  if (std::size_t const offset = find_at_least(now.text, 0x80); offset != std::string::npos)
    fail(Kind::unsupported, step.source, ": the normalizer Lowercase takes ASCII text only here, and byte ",
         offset, " is not; lower-case the text beforehand, or give token ids");
  for (char& c : now.text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return now;
}

Result apply_step(NormalFormStep const& step, Result now, std::size_t) {
  using Form = NormalFormStep::Form;
  std::size_t const offset = step.form == Form::nfc   ? find_not_nfc(now.text)
                             : step.form == Form::nfd ? find_at_least(now.text, 0xC0)
                                                      : find_at_least(now.text, 0xA0);
  if (offset != std::string::npos)
    fail(Kind::unsupported, step.source, ": the character at byte ", offset,
         " may change under the normalizer ", step.name,
         ", whose tables are not here; give token ids instead of text");
  return now;
}

}  // namespace

std::size_t growth_limit(std::size_t size) { return 64 * size + 4096; }

std::string replace_all(std::string_view text, ReplaceStep const& step, std::size_t limit) {
  std::string result;
  std::size_t end = 0;
  auto const append = [&](std::string_view part) {
    if (part.size() > limit - std::min(limit, result.size()))
      fail(Kind::memory, "[tokenizer] a Replace step grows a text of ", text.size(), " bytes beyond ", limit,
           " bytes; the tokenizer file is not sound");
    result += part;
  };
  for (TextRange const match : step.pattern.find_all(text)) {
    append(text.substr(end, match.begin - end));
    append(step.content);
    end = match.end;
  }
  append(text.substr(end));
  return result;
}

Normalizer::Normalizer(Json const* normalizer, std::string const& source) {
  if (normalizer != nullptr) add(*normalizer, source);
}

void Normalizer::add(Json const& step, std::string const& source) {
  using Form = NormalFormStep::Form;
  std::string const type = get<std::string>(step, "type", source);
  if (type == "Sequence") {
    for (Json const& inner : array_member(step, "normalizers", source)) add(inner, source);
    return;
  }
  if (steps_.size() == max_steps)
    fail(Kind::unsupported, source, ": more than ", max_steps, " normalizers in a row");
  if (type == "Prepend") {
    steps_.push_back(PrependStep{get<std::string>(step, "prepend", source)});
  } else if (type == "Replace") {
    steps_.push_back(ReplaceStep{Regex::read(member(step, "pattern", source), source),
                                 get<std::string>(step, "content", source)});
  } else if (type == "Strip") {
    steps_.push_back(StripStep{get_or<bool>(step, "strip_left", source, true),
                               get_or<bool>(step, "strip_right", source, true)});
  } else if (type == "Lowercase") {
    steps_.push_back(LowercaseStep{source});
  } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    Form const form = type == "NFC"    ? Form::nfc
                      : type == "NFD"  ? Form::nfd
                      : type == "NFKC" ? Form::nfkc
                                       : Form::nfkd;
    steps_.push_back(NormalFormStep{form, type, source});
  } else {
    fail(Kind::unsupported, source, ": a normalizer of type '", type,
         "' is not read; give token ids instead of text");
  }
}

Result Normalizer::apply(std::string text) const {
  std::size_t const limit = growth_limit(text.size());
  Result now{std::move(text), false};
  for (Step const& step : steps_) {
    now = std::visit([&](auto const& s) { return apply_step(s, std::move(now), limit); }, step);
    if (now.text.size() > limit)
      fail(Kind::memory, "[tokenizer] the normalizer grows a text to ", now.text.size(), " bytes, more than ",
           limit, "; the tokenizer file is not sound");
  }
  return now;
}

}  // namespace dartquant::detail
