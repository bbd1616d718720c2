// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/tokenizer.hpp>

#include <algorithm>
#include <utility>

#include "io/tokenizer_added.hpp"
#include "io/tokenizer_bpe.hpp"
#include "io/tokenizer_decoder.hpp"
#include "io/tokenizer_normalizer.hpp"
#include "io/tokenizer_split.hpp"
#include "io/tokenizer_template.hpp"
#include "io/tokenizer_utf8.hpp"

namespace dartquant {
namespace {

using detail::fail;
using detail::Json;
using detail::TextPiece;
using Kind = Error::Kind;

constexpr std::size_t max_text_bytes = std::size_t{1} << 30;
constexpr detail::JsonLimits file_limits{.bytes = std::size_t{128} << 20, .depth = 32};

struct Entry {
  std::string_view piece;  // empty data pointer: no piece has this id
  bool special = false;
};

/// The piece of every id. Refuses an id that two pieces claim, and ids so far apart that the table would be
/// much larger than the file.
std::vector<Entry> index_pieces(detail::BpeModel const& model, detail::AddedTokens const& added,
                                std::string const& source) {
  std::size_t const pieces = model.vocabulary().size() + added.all().size();
  std::vector<Entry> entries;
  auto const add = [&](std::string_view piece, std::int32_t id, bool special) {
    auto const place = static_cast<std::size_t>(id);
    if (place >= 2 * pieces + 1024)
      fail(Kind::format, source, ": the piece '", piece, "' has id ", id, ", too large for ", pieces,
           " pieces");
    if (place >= entries.size()) entries.resize(place + 1);
    Entry& entry = entries[place];
    if (entry.piece.data() != nullptr && entry.piece != piece)
      fail(Kind::format, source, ": the pieces '", std::min(entry.piece, piece), "' and '",
           std::max(entry.piece, piece), "' both have id ", id);
    entry = {piece, special};
  };
  for (auto const& [piece, id] : model.vocabulary()) add(piece, id, false);
  for (detail::AddedToken const& token : added.all()) add(token.content, token.id, token.special);
  return entries;
}

}  // namespace

struct Tokenizer::State {
  State(Json const& file, std::string const& source)
      : model(detail::object_member(file, "model", source), source),
        normalizer(detail::find_member(file, "normalizer", source), source),
        added(detail::find_member(file, "added_tokens", source), model, normalizer, source),
        entries(index_pieces(model, added, source)),
        pre_tokenizer(detail::find_member(file, "pre_tokenizer", source), source),
        token_template(detail::find_member(file, "post_processor", source),
                       static_cast<std::int64_t>(entries.size()), source),
        decoder(detail::find_member(file, "decoder", source), source) {
    for (detail::AddedToken const& token : added.all()) added_ids.emplace(token.content, token.id);
  }
  State(State const&) = delete;  // `entries` points into `model` and `added`
  State& operator=(State const&) = delete;

  void append_ids(TextPiece piece, std::vector<std::int32_t>& ids) const;

  detail::BpeModel model;
  detail::Normalizer normalizer;
  detail::AddedTokens added;
  std::vector<Entry> entries;
  detail::PreTokenizer pre_tokenizer;
  detail::TokenTemplate token_template;
  detail::Decoder decoder;
  detail::Vocabulary added_ids;
};

/// Ids of text between added tokens that are looked for in the raw text.
void Tokenizer::State::append_ids(TextPiece piece, std::vector<std::int32_t>& ids) const {
  auto normal = normalizer.apply(std::move(piece.text));
  TextPiece const whole{std::move(normal.text), piece.at_start && !normal.start_removed, -1};
  for (TextPiece& part : added.split(whole, detail::AddedTokens::Stage::normalized)) {
    if (part.token >= 0) {
      ids.push_back(part.token);
      continue;
    }
    for (TextPiece const& word : pre_tokenizer.apply(std::move(part))) {
      std::vector<std::int32_t> const word_ids = model.encode(word.text);
      ids.insert(ids.end(), word_ids.begin(), word_ids.end());
    }
  }
}

Tokenizer Tokenizer::load(std::filesystem::path const& tokenizer_json) {
  Json const file = detail::read_json(tokenizer_json, file_limits);
  return Tokenizer(std::make_shared<State const>(file, tokenizer_json.string()));
}

Tokenizer Tokenizer::parse(std::string_view json, std::string const& source) {
  Json const file = detail::parse_json(json, source, file_limits);
  return Tokenizer(std::make_shared<State const>(file, source));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, SpecialTokens special) const {
  detail::require(text.size() <= max_text_bytes, "[tokenizer] a text of ", text.size(),
                  " bytes; encode at most ", max_text_bytes, " at a time");
  std::size_t const invalid = detail::find_invalid_utf8(text);
  detail::require(invalid == std::string_view::npos, "[tokenizer] byte ", invalid,
                  " of the text begins no UTF-8 character; convert the text to UTF-8");
  std::vector<std::int32_t> ids;
  TextPiece const whole{std::string(text), true, -1};
  for (TextPiece& piece : state_->added.split(whole, detail::AddedTokens::Stage::raw)) {
    if (piece.token >= 0) ids.push_back(piece.token);
    else state_->append_ids(std::move(piece), ids);
  }
  return special == SpecialTokens::add ? state_->token_template.apply(ids) : ids;
}

std::string Tokenizer::decode(std::span<std::int32_t const> ids, SpecialTokens special) const {
  std::vector<std::string> pieces;
  pieces.reserve(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    auto const piece = piece_of(ids[i]);
    detail::require(piece.has_value(), "[tokenizer] id ", ids[i], " at position ", i,
                    " has no piece; the vocabulary ends before ", vocabulary_size());
    bool const is_special = state_->entries[static_cast<std::size_t>(ids[i])].special;
    if (special == SpecialTokens::add || !is_special) pieces.emplace_back(*piece);
  }
  return state_->decoder.apply(std::move(pieces));
}

index_t Tokenizer::vocabulary_size() const { return static_cast<index_t>(state_->entries.size()); }

std::optional<std::int32_t> Tokenizer::id_of(std::string_view piece) const {
  if (auto const id = state_->model.id_of(piece)) return id;
  auto const found = state_->added_ids.find(piece);
  return found == state_->added_ids.end() ? std::nullopt : std::optional(found->second);
}

std::optional<std::string_view> Tokenizer::piece_of(std::int32_t id) const {
  if (id < 0 || static_cast<std::size_t>(id) >= state_->entries.size()) return std::nullopt;
  std::string_view const piece = state_->entries[static_cast<std::size_t>(id)].piece;
  return piece.data() == nullptr ? std::nullopt : std::optional(piece);
}

}  // namespace dartquant
