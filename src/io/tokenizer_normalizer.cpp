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

Result apply_step(LowercaseStep, Result now, std::size_t) {
  now.text = to_lower_case(now.text);
  return now;
}

Result apply_step(NormalFormStep step, Result now, std::size_t) {
  now.text = to_normal_form(now.text, step.form);
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
  using Form = NormalForm;
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
    steps_.push_back(LowercaseStep{});
  } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    Form const form = type == "NFC"    ? Form::nfc
                      : type == "NFD"  ? Form::nfd
                      : type == "NFKC" ? Form::nfkc
                                       : Form::nfkd;
    steps_.push_back(NormalFormStep{form});
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
