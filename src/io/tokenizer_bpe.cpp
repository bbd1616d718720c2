// SPDX-License-Identifier: Apache-2.0
#include "io/tokenizer_bpe.hpp"

#include <limits>
#include <queue>

#include "io/tokenizer_utf8.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;

constexpr std::size_t max_pieces = std::size_t{1}
                                   << 22;  // the largest published vocabularies hold 2^18 to 2^20

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) |
         static_cast<std::uint32_t>(right);
}

/// Refuses what would change ids in a way that this library does not follow.
void refuse_unsupported(Json const& model, std::string const& source) {
  // Files older than the field "type" hold a BPE model when they hold merges.
  std::string const type = get_or<std::string>(model, "type", source, "BPE");
  if (type != "BPE")
    fail(Kind::unsupported, source, ": a tokenizer model of type '", type,
         "'; only BPE is read, give token ids instead of text");
  for (char const* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!get_or<std::string>(model, affix, source, "").empty())
      fail(Kind::unsupported, source, ": the BPE option ", affix,
           " is not read; give token ids instead of text");
  if (get_or<double>(model, "dropout", source, 0.0) != 0.0)
    fail(Kind::unsupported, source, ": BPE dropout makes ids random; set it to null");
}

struct Pair {
  std::string left;
  std::string right;
};

/// A merge, written "a b" or ["a", "b"].
Pair read_pair(Json const& merge, std::size_t index, std::string const& source) {
  if (merge.is_array() && merge.size() == 2)
    return {to_text(merge[0], "merges", source), to_text(merge[1], "merges", source)};
  if (merge.is_string()) {
    auto const& text = merge.get_ref<std::string const&>();
    std::size_t const space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos)
      return {text.substr(0, space), text.substr(space + 1)};
  }
  fail(Kind::format, source, ": merge ", index, " is not two pieces, \"a b\" or [\"a\", \"b\"]");
}

}  // namespace

BpeModel::BpeModel(Json const& model, std::string const& source) : source_(source) {
  refuse_unsupported(model, source);
  read_vocabulary(object_member(model, "vocab", source), source);
  read_merges(array_member(model, "merges", source), source);
  read_bytes();
  if (find_member(model, "unk_token", source) != nullptr)
    unk_token_ = get<std::string>(model, "unk_token", source);
  fuse_unk_ = get_or<bool>(model, "fuse_unk", source, false);
  byte_fallback_ = get_or<bool>(model, "byte_fallback", source, false);
  ignore_merges_ = get_or<bool>(model, "ignore_merges", source, false);
}

void BpeModel::read_vocabulary(Json const& vocab, std::string const& source) {
  if (vocab.size() > max_pieces)
    fail(Kind::memory, source, ": ", vocab.size(), " pieces; at most ", max_pieces, " are read");
  vocabulary_.reserve(vocab.size());
  for (auto const& [piece, id] : vocab.items())
    vocabulary_.emplace(piece, static_cast<std::int32_t>(to_integer(
                                   id, piece, source, 0, std::numeric_limits<std::int32_t>::max() - 1)));
}

void BpeModel::read_merges(Json const& merges, std::string const& source) {
  if (merges.size() > 4 * max_pieces)
    fail(Kind::memory, source, ": ", merges.size(), " merges; at most ", 4 * max_pieces, " are read");
  merges_.reserve(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i) {
    Pair const pair = read_pair(merges[i], i, source);
    auto const known = [&](std::string const& piece) {
      auto const id = id_of(piece);
      if (!id)
        fail(Kind::format, source, ": merge ", i, " names '", piece, "', which is not in the vocabulary");
      return *id;
    };
    std::int32_t const left = known(pair.left);
    std::int32_t const right = known(pair.right);
    Merge const merge{static_cast<std::int32_t>(i), known(pair.left + pair.right)};
    merges_.insert_or_assign(pair_key(left, right),
                             merge);  // of a pair that comes twice the last rank counts
  }
}

void BpeModel::read_bytes() {
  byte_ids_.fill(-1);
  short_ids_.fill(-1);
  constexpr std::string_view digits = "0123456789ABCDEF";
  for (std::size_t b = 0; b < byte_ids_.size(); ++b)
    byte_ids_[b] = id_of(std::string("<0x") + digits[b / 16] + digits[b % 16] + '>').value_or(-1);
  for (std::size_t c = 0; c < short_ids_.size(); ++c)
    short_ids_[c] = id_of(to_utf8(static_cast<char32_t>(c))).value_or(-1);
}

std::optional<std::int32_t> BpeModel::id_of(std::string_view piece) const {
  auto const found = vocabulary_.find(piece);
  return found == vocabulary_.end() ? std::nullopt : std::optional(found->second);
}

std::int32_t BpeModel::id_of_character(std::string_view character) const {
  if (character.size() <= 2) return short_ids_[code_point_at(character, 0).value];
  return id_of(character).value_or(-1);
}

std::int32_t BpeModel::unk_id() const {
  auto const id = id_of(*unk_token_);
  if (!id)
    fail(Kind::format, source_, ": the text needs the unk_token '", *unk_token_,
         "', which is not in the vocabulary");
  return *id;
}

BpeModel::Merge const* BpeModel::find_merge(std::int32_t left, std::int32_t right) const {
  auto const found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

std::vector<std::int32_t> BpeModel::encode(std::string_view piece) const {
  if (piece.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()))
    fail(Kind::memory, source_, ": a piece of text of ", piece.size(),
         " bytes without a split; cut the text");
  if (ignore_merges_)
    if (auto const id = id_of(piece)) return {*id};
  std::vector<std::int32_t> const characters = split_characters(piece);
  return characters.size() < 2 ? characters : merge_all(characters);
}

std::vector<std::int32_t> BpeModel::split_characters(std::string_view piece) const {
  std::vector<std::int32_t> ids;
  ids.reserve(piece.size());
  std::int32_t pending_unk = -1;  // fused unk tokens wait for the next known character
  for (std::size_t offset = 0; offset < piece.size();) {
    std::string_view const character = piece.substr(offset, code_point_at(piece, offset).bytes);
    offset += character.size();
    if (std::int32_t const id = id_of_character(character); id >= 0) {
      if (pending_unk >= 0) ids.push_back(pending_unk);
      pending_unk = -1;
      ids.push_back(id);
      continue;
    }
    auto const byte_id = [this](char b) { return byte_ids_[static_cast<std::uint8_t>(b)]; };
    bool as_bytes = byte_fallback_;
    for (char const b : character) as_bytes = as_bytes && byte_id(b) >= 0;
    if (as_bytes) {
      for (char const b : character) ids.push_back(byte_id(b));
    } else if (unk_token_) {
      if (pending_unk >= 0 && !fuse_unk_) ids.push_back(pending_unk);
      pending_unk = unk_id();
    }
  }
  if (pending_unk >= 0) ids.push_back(pending_unk);
  return ids;
}

namespace {

struct Symbol {
  std::int32_t id;
  std::int32_t previous;  // neighbours in the list; -1 at its ends
  std::int32_t next;
};
constexpr std::int32_t removed = -1;

struct Candidate {
  std::int32_t rank;
  std::int32_t position;
  std::int32_t id;
  bool operator<(
      Candidate const& other) const {  // the top of the queue has the lowest rank, then the leftmost
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

}  // namespace

std::vector<std::int32_t> BpeModel::merge_all(std::vector<std::int32_t> const& ids) const {
  auto const count = static_cast<std::int32_t>(ids.size());
  std::vector<Symbol> symbols(ids.size());
  auto const at = [&](std::int32_t i) -> Symbol& { return symbols[static_cast<std::size_t>(i)]; };
  for (std::int32_t i = 0; i < count; ++i)
    at(i) = {ids[static_cast<std::size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1};

  std::priority_queue<Candidate> queue;
  auto const propose = [&](std::int32_t left) {
    if (left < 0 || at(left).next < 0) return;
    if (Merge const* merge = find_merge(at(left).id, at(at(left).next).id))
      queue.push({merge->rank, left, merge->id});
  };
  for (std::int32_t i = 0; i + 1 < count; ++i) propose(i);
  while (!queue.empty()) {
    Candidate const top = queue.top();
    queue.pop();
    Symbol& left = at(top.position);
    if (left.id == removed || left.next < 0) continue;
    Symbol& right = at(left.next);
    Merge const* merge = find_merge(left.id, right.id);
    if (merge == nullptr || merge->id != top.id) continue;  // a neighbour has changed since it was proposed
    left.id = top.id;
    left.next = right.next;
    right.id = removed;
    if (left.next >= 0) at(left.next).previous = top.position;
    propose(left.previous);
    propose(top.position);
  }
  std::vector<std::int32_t> merged;
  for (std::int32_t i = 0; i >= 0; i = at(i).next) merged.push_back(at(i).id);
  return merged;
}

}  // namespace dartquant::detail
