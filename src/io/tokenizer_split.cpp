// SPDX-License-Identifier: Apache-2.0
#include "io/tokenizer_split.hpp"

#include <algorithm>
#include <utility>

#include "io/tokenizer_byte_level.hpp"
#include "io/tokenizer_normalizer.hpp"
#include "io/tokenizer_utf8.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;

constexpr std::size_t max_steps = 64;
constexpr std::string_view gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

struct Part {
  TextRange range;
  bool delimiter;
};

/// The whole text as matches and the parts between them, in order.
std::vector<Part> find_parts(std::string_view text, SplitStep const& step) {
  std::vector<Part> parts;
  std::size_t end = 0;
  for (TextRange const match : step.delimiter.find_all(text)) {
    if (end != match.begin) parts.push_back({{end, match.begin}, step.invert});
    parts.push_back({match, !step.invert});
    end = match.end;
  }
  if (end != text.size()) parts.push_back({{end, text.size()}, step.invert});
  return parts;
}

std::vector<TextRange> merge_contiguous(std::vector<Part> const& parts) {
  std::vector<TextRange> ranges;
  bool previous = false;
  for (Part const& part : parts) {
    if (part.delimiter == previous && !ranges.empty()) ranges.back().end = part.range.end;
    else ranges.push_back(part.range);
    previous = part.delimiter;
  }
  return ranges;
}

std::vector<TextRange> merge_with_previous(std::vector<Part> const& parts) {
  std::vector<TextRange> ranges;
  bool previous = false;
  for (Part const& part : parts) {
    if (part.delimiter && !previous && !ranges.empty()) ranges.back().end = part.range.end;
    else ranges.push_back(part.range);
    previous = part.delimiter;
  }
  return ranges;
}

std::vector<TextRange> merge_with_next(std::vector<Part> const& parts) {
  std::vector<TextRange> ranges;
  bool next = false;
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    if (part->delimiter && !next && !ranges.empty()) ranges.back().begin = part->range.begin;
    else ranges.push_back(part->range);
    next = part->delimiter;
  }
  std::reverse(ranges.begin(), ranges.end());
  return ranges;
}

std::vector<TextRange> split_ranges(std::string_view text, SplitStep const& step) {
  std::vector<Part> const parts = find_parts(text, step);
  switch (step.behavior) {
    case SplitBehavior::contiguous:
      return merge_contiguous(parts);
    case SplitBehavior::merged_with_previous:
      return merge_with_previous(parts);
    case SplitBehavior::merged_with_next:
      return merge_with_next(parts);
    case SplitBehavior::removed:
    case SplitBehavior::isolated:
      break;
  }
  std::vector<TextRange> ranges;
  for (Part const& part : parts)
    if (!part.delimiter || step.behavior == SplitBehavior::isolated) ranges.push_back(part.range);
  return ranges;
}

std::vector<TextPiece> cut(TextPiece const& piece, SplitStep const& step) {
  std::vector<TextPiece> pieces;
  for (TextRange const range : split_ranges(piece.text, step))
    if (range.begin != range.end)
      pieces.push_back(
          {piece.text.substr(range.begin, range.end - range.begin), piece.at_start && range.begin == 0});
  return pieces;
}

std::vector<TextPiece> cut_all(TextPiece piece, std::vector<SplitStep> const& steps) {
  if (!steps.empty()) return cut(piece, steps.front());
  std::vector<TextPiece> pieces;
  if (!piece.text.empty()) pieces.push_back(std::move(piece));
  return pieces;
}

std::vector<TextPiece> apply_step(SplitStep const& step, TextPiece piece) { return cut(piece, step); }

std::vector<TextPiece> apply_step(ByteLevelStep const& step, TextPiece piece) {
  if (step.add_prefix_space && !piece.text.empty() && piece.text.front() != ' ') piece.text.insert(0, " ");
  std::vector<TextPiece> pieces = cut_all(std::move(piece), step.words);
  for (TextPiece& word : pieces) word.text = to_byte_level(word.text);
  return pieces;
}

std::vector<TextPiece> apply_step(MetaspaceStep const& step, TextPiece piece) {
  std::string text;
  for (char const c : piece.text) {
    if (c == ' ') text += step.replacement;
    else text += c;
  }
  bool const wanted =
      step.prepend == PrependScheme::always || (step.prepend == PrependScheme::first && piece.at_start);
  if (wanted && !text.empty() && !text.starts_with(step.replacement)) text.insert(0, step.replacement);
  piece.text = std::move(text);
  return cut_all(std::move(piece), step.words);
}

SplitBehavior read_behavior(Json const& step, std::string const& source, std::string const& fallback) {
  std::string const name = get_or<std::string>(step, "behavior", source, fallback);
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  fail(Kind::format, source, ": '", name, "' is no behavior of a pre-tokenizer");
}

SplitStep pattern_step(std::string_view pattern, SplitBehavior behavior, std::string const& source) {
  return {Regex(pattern, Regex::Syntax::pattern, source), behavior, false};
}

MetaspaceStep read_metaspace(Json const& step, std::string const& source) {
  MetaspaceStep metaspace{get<std::string>(step, "replacement", source), PrependScheme::always, {}};
  if (metaspace.replacement.empty() ||
      code_point_at(metaspace.replacement, 0).bytes != metaspace.replacement.size())
    fail(Kind::format, source, ": the replacement '", metaspace.replacement,
         "' of Metaspace is not one character");
  std::string const scheme = get_or<std::string>(step, "prepend_scheme", source, "always");
  if (scheme == "first") metaspace.prepend = PrependScheme::first;
  else if (scheme == "never") metaspace.prepend = PrependScheme::never;
  else if (scheme != "always")
    fail(Kind::format, source, ": '", scheme, "' is no prepend_scheme of Metaspace");
  // Older files say add_prefix_space instead.
  if (!get_or<bool>(step, "add_prefix_space", source, true)) metaspace.prepend = PrependScheme::never;
  if (get_or<bool>(step, "split", source, true))
    metaspace.words.push_back({Regex(metaspace.replacement, Regex::Syntax::literal, source),
                               SplitBehavior::merged_with_next, false});
  return metaspace;
}

}  // namespace

PreTokenizer::PreTokenizer(Json const* pre_tokenizer, std::string const& source) {
  if (pre_tokenizer != nullptr) add(*pre_tokenizer, source);
}

void PreTokenizer::add_step(Step step, std::string const& source) {
  if (steps_.size() == max_steps)
    fail(Kind::unsupported, source, ": more than ", max_steps, " pre-tokenizers in a row");
  steps_.push_back(std::move(step));
}

void PreTokenizer::add(Json const& step, std::string const& source) {
  std::string const type = get<std::string>(step, "type", source);
  if (type == "Sequence") {
    for (Json const& inner : array_member(step, "pretokenizers", source)) add(inner, source);
  } else if (type == "ByteLevel") {
    ByteLevelStep byte_level{get_or<bool>(step, "add_prefix_space", source, true), {}};
    if (get_or<bool>(step, "use_regex", source, true))
      byte_level.words.push_back(pattern_step(gpt2_pattern, SplitBehavior::isolated, source));
    add_step(std::move(byte_level), source);
  } else if (type == "Split") {
    add_step(SplitStep{Regex::read(member(step, "pattern", source), source), read_behavior(step, source, ""),
                       get_or<bool>(step, "invert", source, false)},
             source);
  } else if (type == "Metaspace") {
    add_step(read_metaspace(step, source), source);
  } else if (type == "Digits") {
    bool const individual = get_or<bool>(step, "individual_digits", source, false);
    add_step(pattern_step("\\p{N}", individual ? SplitBehavior::isolated : SplitBehavior::contiguous, source),
             source);
  } else if (type == "Whitespace") {
    SplitStep words =
        pattern_step("[\\w\\p{Join_Control}]+|[^\\w\\s\\p{Join_Control}]+", SplitBehavior::removed, source);
    words.invert = true;
    add_step(std::move(words), source);
  } else if (type == "WhitespaceSplit") {
    add_step(pattern_step("\\s", SplitBehavior::removed, source), source);
  } else if (type == "Punctuation") {
    add_step(pattern_step("[\\p{P}$+<=>^`|~]", read_behavior(step, source, "Isolated"), source), source);
  } else {
    fail(Kind::unsupported, source, ": a pre-tokenizer of type '", type,
         "' is not read; give token ids instead of text");
  }
}

std::vector<TextPiece> PreTokenizer::apply(TextPiece piece) const {
  std::size_t const limit = growth_limit(piece.text.size());
  std::vector<TextPiece> pieces;
  pieces.push_back(std::move(piece));
  for (Step const& step : steps_) {
    std::vector<TextPiece> next;
    std::size_t size = 0;
    for (TextPiece& part : pieces) {
      for (TextPiece& word :
           std::visit([&](auto const& s) { return apply_step(s, std::move(part)); }, step)) {
        size += word.text.size();
        next.push_back(std::move(word));
      }
    }
    if (size > limit)  // repeated byte-level steps double a text every time
      fail(Kind::memory, "[tokenizer] the pre-tokenizer grows a text beyond ", limit,
           " bytes; the tokenizer file is not sound");
    pieces = std::move(next);
  }
  return pieces;
}

}  // namespace dartquant::detail
