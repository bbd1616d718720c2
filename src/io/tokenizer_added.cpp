// SPDX-License-Identifier: Apache-2.0
#include "io/tokenizer_added.hpp"

#include <limits>
#include <unordered_set>

#include "io/tokenizer_utf8.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;

constexpr std::size_t max_bytes = std::size_t{1} << 20;  // the search tree takes about 100 times as much

AddedToken read_token(Json const& token, std::string const& source) {
  auto const flag = [&](char const* key) { return get_or<bool>(token, key, source, false); };
  auto const id = to_integer(member(token, "id", source), "added_tokens id", source, 0,
                             std::numeric_limits<std::int32_t>::max() - 1);
  return {get<std::string>(token, "content", source),
          static_cast<std::int32_t>(id),
          flag("single_word"),
          flag("lstrip"),
          flag("rstrip"),
          get_or<bool>(token, "normalized", source, !flag("special")),
          flag("special")};
}

}  // namespace

void TokenTree::insert(std::string_view content, std::size_t token) {
  std::size_t node = 0;
  for (char const c : content) {
    auto const [child, is_new] = nodes_[node].children.emplace(c, nodes_.size());
    std::size_t const next = child->second;
    if (is_new) nodes_.emplace_back();
    node = next;
  }
  nodes_[node].token = token;
  nodes_[node].ends = !content.empty();
}

TokenTree::Match TokenTree::longest_at(std::string_view text, std::size_t offset) const {
  Match match;
  std::size_t node = 0;
  for (std::size_t i = offset; i < text.size(); ++i) {
    auto const child = nodes_[node].children.find(text[i]);
    if (child == nodes_[node].children.end()) break;
    node = child->second;
    if (nodes_[node].ends) match = {i + 1 - offset, nodes_[node].token};
  }
  return match;
}

AddedTokens::AddedTokens(Json const* added_tokens, BpeModel const& model, Normalizer const& normalizer,
                         std::string const& source)
    : word_character_("[\\w\\p{Join_Control}]", Regex::Syntax::pattern, source) {
  if (added_tokens == nullptr) return;
  if (!added_tokens->is_array()) fail(Kind::format, source, ": 'added_tokens' is not an array");
  std::unordered_set<std::string> contents;
  std::size_t bytes = 0;
  for (Json const& entry : *added_tokens) {
    AddedToken token = read_token(entry, source);
    if (token.content.empty()) continue;  // names nothing that a text could hold
    if (!contents.insert(token.content).second)
      fail(Kind::format, source, ": the added token '", token.content, "' comes twice");
    bytes += token.content.size();
    if (bytes > max_bytes)
      fail(Kind::memory, source, ": added tokens of more than ", max_bytes, " bytes together");
    if (auto const id = model.id_of(token.content); id && *id != token.id)
      fail(Kind::format, source, ": the added token '", token.content, "' has id ", token.id,
           ", and the vocabulary gives the same piece id ", *id);
    if (token.normalized) normalized_.insert(normalizer.apply(token.content).text, tokens_.size());
    else raw_.insert(token.content, tokens_.size());
    tokens_.push_back(std::move(token));
  }
}

bool AddedTokens::accepts(AddedToken const& token, std::string_view text, TextRange match) const {
  if (!token.single_word) return true;
  auto const is_word = [&](std::size_t offset, CodePoint c) {
    return !word_character_.find_all(text.substr(offset, c.bytes)).empty();
  };
  if (match.begin > 0) {
    CodePoint const before = code_point_before(text, match.begin);
    if (is_word(match.begin - before.bytes, before)) return false;
  }
  return match.end == text.size() || !is_word(match.end, code_point_at(text, match.end));
}

std::vector<TextPiece> AddedTokens::split(TextPiece const& piece, Stage stage) const {
  TokenTree const& tree = stage == Stage::raw ? raw_ : normalized_;
  std::string_view const text = piece.text;
  std::vector<TextPiece> pieces;
  std::size_t end = 0;  // of the last token
  auto const push = [&](std::size_t begin, std::size_t stop, std::int32_t token) {
    if (begin < stop)
      pieces.push_back({std::string(text.substr(begin, stop - begin)), piece.at_start && begin == 0, token});
  };
  for (std::size_t offset = 0; offset < text.size();) {
    TokenTree::Match const found = tree.longest_at(text, offset);
    if (found.bytes == 0) {
      ++offset;
      continue;
    }
    AddedToken const& token = tokens_[found.token];
    TextRange match{offset, offset + found.bytes};
    offset = match.end;
    if (!accepts(token, text, match)) continue;
    if (token.lstrip) match.begin -= trailing_white_space(text.substr(end, match.begin - end));
    if (token.rstrip) match.end += leading_white_space(text.substr(match.end));
    push(end, match.begin, -1);
    push(match.begin, match.end, token.id);
    end = offset = match.end;
  }
  push(end, text.size(), -1);
  return pieces;
}

}  // namespace dartquant::detail
