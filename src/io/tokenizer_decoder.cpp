// SPDX-License-Identifier: Apache-2.0
#include "io/tokenizer_decoder.hpp"

#include <charconv>
#include <limits>
#include <optional>
#include <utility>

#include "io/tokenizer_byte_level.hpp"
#include "io/tokenizer_utf8.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;
using Pieces = std::vector<std::string>;

constexpr std::size_t max_steps = 64;
constexpr std::string_view replacement_character = "\xEF\xBF\xBD";

Pieces join(Pieces const& pieces, std::string_view separator) {
  std::string text;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (i > 0) text += separator;
    text += pieces[i];
  }
  return {text};
}

Pieces apply_step(ByteLevelDecoder, Pieces pieces, std::size_t) {
  for (std::string& piece : pieces) piece = from_byte_level(piece).value_or(piece);
  return {replace_invalid_utf8(join(pieces, "").front())};
}

std::optional<char> byte_of(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece.back() != '>') return std::nullopt;
  unsigned value = 0;
  auto const [end, error] = std::from_chars(piece.data() + 3, piece.data() + 5, value, 16);
  if (error != std::errc{} || end != piece.data() + 5) return std::nullopt;
  return static_cast<char>(value);
}

Pieces apply_step(ByteFallbackDecoder, Pieces pieces, std::size_t) {
  Pieces result;
  std::string bytes;
  auto const flush = [&] {
    if (bytes.empty()) return;
    if (find_invalid_utf8(bytes) == std::string::npos) result.push_back(bytes);
    else result.insert(result.end(), bytes.size(), std::string(replacement_character));
    bytes.clear();
  };
  for (std::string& piece : pieces) {
    if (auto const byte = byte_of(piece)) {
      bytes += *byte;
    } else {
      flush();
      result.push_back(std::move(piece));
    }
  }
  flush();
  return result;
}

Pieces apply_step(FuseDecoder, Pieces pieces, std::size_t) { return join(pieces, ""); }

Pieces apply_step(ReplaceStep const& step, Pieces pieces, std::size_t limit) {
  std::size_t size = 0;
  for (std::string& piece : pieces) {
    piece = replace_all(piece, step, limit - size);
    size += piece.size();
  }
  return pieces;
}

Pieces apply_step(StripDecoder const& step, Pieces pieces, std::size_t) {
  for (std::string& piece : pieces) {
    std::size_t begin = 0;
    std::size_t end = piece.size();
    std::size_t const width = step.content.size();
    for (std::int64_t i = 0; i < step.start && piece.compare(begin, width, step.content) == 0; ++i)
      begin += width;
    for (std::int64_t i = 0; i < step.stop && end >= begin + width; ++i) {
      if (piece.compare(end - width, width, step.content) != 0) break;
      end -= width;
    }
    piece = piece.substr(begin, end - begin);
  }
  return pieces;
}

Pieces apply_step(MetaspaceDecoder const& step, Pieces pieces, std::size_t) {
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    std::string text;
    std::string_view const piece = pieces[i];
    for (std::size_t offset = 0; offset < piece.size();) {
      if (piece.substr(offset).starts_with(step.replacement)) {
        if (i > 0 || !step.drop_first) text += ' ';
        offset += step.replacement.size();
      } else {
        text += piece[offset++];
      }
    }
    pieces[i] = std::move(text);
  }
  return pieces;
}

std::string read_character(Json const& step, char const* key, std::string const& source) {
  std::string character = get<std::string>(step, key, source);
  if (character.empty() || code_point_at(character, 0).bytes != character.size())
    fail(Kind::format, source, ": '", key, "' of a decoder is '", character, "', not one character");
  return character;
}

}  // namespace

Decoder::Decoder(Json const* decoder, std::string const& source) {
  if (decoder != nullptr) add(*decoder, source);
  else separator_ = " ";
}

void Decoder::add(Json const& step, std::string const& source) {
  std::string const type = get<std::string>(step, "type", source);
  if (type == "Sequence") {
    for (Json const& inner : array_member(step, "decoders", source)) add(inner, source);
    return;
  }
  if (steps_.size() == max_steps)
    fail(Kind::unsupported, source, ": more than ", max_steps, " decoders in a row");
  auto const times = [&](char const* key) {
    return to_integer(member(step, key, source), key, source, 0, std::numeric_limits<std::int32_t>::max());
  };
  if (type == "ByteLevel") {
    steps_.push_back(ByteLevelDecoder{});
  } else if (type == "ByteFallback") {
    steps_.push_back(ByteFallbackDecoder{});
  } else if (type == "Fuse") {
    steps_.push_back(FuseDecoder{});
  } else if (type == "Replace") {
    steps_.push_back(ReplaceStep{Regex::read(member(step, "pattern", source), source),
                                 get<std::string>(step, "content", source)});
  } else if (type == "Strip") {
    steps_.push_back(StripDecoder{read_character(step, "content", source), times("start"), times("stop")});
  } else if (type == "Metaspace") {
    bool const never = get_or<std::string>(step, "prepend_scheme", source, "always") == "never" ||
                       !get_or<bool>(step, "add_prefix_space", source, true);
    steps_.push_back(MetaspaceDecoder{read_character(step, "replacement", source), !never});
  } else {
    fail(Kind::unsupported, source, ": a decoder of type '", type, "' is not read");
  }
}

std::string Decoder::apply(std::vector<std::string> pieces) const {
  auto const size = [&pieces] {
    std::size_t bytes = 0;
    for (std::string const& piece : pieces) bytes += piece.size();
    return bytes;
  };
  std::size_t const limit = growth_limit(size());
  for (Step const& step : steps_) {
    pieces = std::visit([&](auto const& s) { return apply_step(s, std::move(pieces), limit); }, step);
    if (size() > limit)
      fail(Kind::memory, "[tokenizer] the decoder grows the text beyond ", limit,
           " bytes; the tokenizer file is not sound");
  }
  return replace_invalid_utf8(join(pieces, separator_).front());
}

}  // namespace dartquant::detail
