// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <unordered_map>
#include <utility>

#include "io/gguf_token_types.hpp"
#include "io/gguf_tokenizer.hpp"
#include "io/posix.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;

struct Piece {
  std::string text;
  TokenType type = TokenType::unused;
  float score = 0;
};

std::string type_of(Json const* step, std::string const& source) {
  return step == nullptr ? "" : get<std::string>(*step, "type", source);
}

/// The steps of a normalizer, pre-tokenizer or post-processor: those of a Sequence, or the one.
std::vector<Json const*> steps_of(Json const* step, char const* members, std::string const& source) {
  if (step == nullptr) return {};
  if (type_of(step, source) != "Sequence") return {step};
  std::vector<Json const*> steps;
  for (Json const& inner : array_member(*step, members, source)) steps.push_back(&inner);
  return steps;
}

bool is_byte_piece(std::string_view piece) {
  return piece.size() == 6 && piece.starts_with("<0x") && piece.back() == '>';
}

class TokenizerWriter {
 public:
  TokenizerWriter(Json const& file, std::string const& source, SpecialIds ids, index_t size)
      : file_(file), source_(source), ids_(ids), pieces_(static_cast<std::size_t>(size)) {}

  GgufTokenizer write() {
    model_ = &object_member(file_, "model", source_);
    if (get_or<std::string>(*model_, "type", source_, "BPE") != "BPE")
      return without("its model is " + get<std::string>(*model_, "type", source_));
    read_pieces();
    read_template();
    bool const scored = get_or<bool>(*model_, "byte_fallback", source_, false);
    if (std::string const reason = scored ? write_scored() : write_byte_level(); !reason.empty())
      return without(reason);
    write_common();
    return std::move(result_);
  }

 private:
  GgufTokenizer without(std::string const& reason) const {
    return {{{"tokenizer.ggml.model", std::string("no_vocab")}},
            sentence("the GGUF file has no tokenizer, since ", reason,
                     ", which it cannot express: give token ids to the engine")};
  }

  void put_piece(std::string const& text, Json const& id, TokenType type) {
    std::int64_t const place =
        to_integer(id, text, source_, 0, static_cast<std::int64_t>(pieces_.size()) - 1);
    pieces_[static_cast<std::size_t>(place)] = {text, type, 0};
  }

  void read_pieces() {
    std::string const unknown = get_or<std::string>(*model_, "unk_token", source_, "");
    for (auto const& [text, id] : object_member(*model_, "vocab", source_).items())
      put_piece(text, id, is_byte_piece(text) ? TokenType::byte : TokenType::normal);
    if (find_member(file_, "added_tokens", source_) != nullptr)
      for (Json const& token : array_member(file_, "added_tokens", source_)) {
        std::string const text = get<std::string>(token, "content", source_);
        TokenType type =
            get_or<bool>(token, "special", source_, false) ? TokenType::control : TokenType::user_defined;
        if (text == unknown) type = TokenType::unknown;
        put_piece(text, member(token, "id", source_), type);
      }
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
      if (pieces_[i].type == TokenType::unused) pieces_[i].text = sentence("[PAD", i, ']');
      if (!unknown.empty() && pieces_[i].text == unknown && !ids_.unknown)
        ids_.unknown = static_cast<std::int64_t>(i);
    }
  }

  /// Which tokens the post-processor puts around a text.
  void read_template() {
    for (Json const* const step :
         steps_of(find_member(file_, "post_processor", source_), "processors", source_)) {
      if (type_of(step, source_) != "TemplateProcessing") continue;
      bool in_front = true;
      for (Json const& part : array_member(*step, "single", source_)) {
        Json const* const special = find_member(part, "SpecialToken", source_);
        if (special == nullptr) {
          in_front = false;
          continue;
        }
        std::string const text = get<std::string>(*special, "id", source_);
        auto const piece =
            std::find_if(pieces_.begin(), pieces_.end(), [&](auto& p) { return p.text == text; });
        if (piece == pieces_.end()) continue;
        (in_front ? add_bos_ : add_eos_) = true;
        (in_front ? ids_.bos : ids_.eos) = piece - pieces_.begin();
      }
    }
  }

  /// The pairs of "merges", which are texts "a b" or arrays.
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> merges() const {
    std::vector<std::pair<std::string, std::string>> pairs;
    for (Json const& merge : array_member(*model_, "merges", source_)) {
      if (merge.is_array() && merge.size() == 2) {
        pairs.emplace_back(to_text(merge[0], "merges", source_), to_text(merge[1], "merges", source_));
        continue;
      }
      std::string const text = to_text(merge, "merges", source_);
      std::size_t const space = text.find(' ', 1);
      if (space == std::string::npos)
        fail(Kind::format, source_, ": the merge '", printable(text), "' is not two pieces");
      pairs.emplace_back(text.substr(0, space), text.substr(space + 1));
    }
    return pairs;
  }

  /// A merge of rank r gives its piece the score -r: engines then merge in the same order. Returns why not.
  std::string write_scored() {
    bool prefix = false;
    for (Json const* const step :
         steps_of(find_member(file_, "normalizer", source_), "normalizers", source_)) {
      std::string const type = type_of(step, source_);
      if (type == "Prepend") prefix = true;
      else if (type != "Replace") return "a normalizer is " + type;
    }
    for (Json const* const step :
         steps_of(find_member(file_, "pre_tokenizer", source_), "pretokenizers", source_)) {
      if (type_of(step, source_) != "Metaspace") return "a pre-tokenizer is " + type_of(step, source_);
      prefix = get_or<std::string>(*step, "prepend_scheme", source_, "always") != "never" &&
               get_or<bool>(*step, "add_prefix_space", source_, true);
    }
    std::unordered_map<std::string_view, std::size_t> place;
    for (std::size_t i = 0; i < pieces_.size(); ++i) place.emplace(pieces_[i].text, i);
    std::vector<bool> merged(pieces_.size(), false);
    auto const pairs = merges();
    for (std::size_t rank = 0; rank < pairs.size(); ++rank) {
      auto const piece = place.find(pairs[rank].first + pairs[rank].second);
      if (piece == place.end() || merged[piece->second]) continue;
      merged[piece->second] = true;
      pieces_[piece->second].score = -static_cast<float>(rank);
    }
    float const last = -static_cast<float>(pairs.size());
    for (std::size_t i = 0; i < pieces_.size(); ++i)
      if (!merged[i] && pieces_[i].type == TokenType::normal) pieces_[i].score = last;
    add("tokenizer.ggml.model", std::string("llama"));
    add("tokenizer.ggml.pre", std::string("default"));
    add("tokenizer.ggml.add_space_prefix", prefix);
    std::vector<float> scores;
    for (Piece const& piece : pieces_) scores.push_back(piece.score);
    add("tokenizer.ggml.scores", std::move(scores));
    return "";
  }

  std::string write_byte_level() {
    bool bytes = false, words = false, single_digits = false;
    for (Json const* const step :
         steps_of(find_member(file_, "pre_tokenizer", source_), "pretokenizers", source_)) {
      std::string const type = type_of(step, source_);
      if (type == "ByteLevel") {
        bytes = true;
        words = words || get_or<bool>(*step, "use_regex", source_, true);
        if (get_or<bool>(*step, "add_prefix_space", source_, true)) return "ByteLevel adds a space in front";
      } else if (type == "Digits" && get_or<bool>(*step, "individual_digits", source_, false)) {
        single_digits = true;
      } else if (type == "Split" && pattern_.empty()) {
        Json const* const pattern = find_member(member(*step, "pattern", source_), "Regex", source_);
        if (pattern == nullptr || get_or<std::string>(*step, "behavior", source_, "") != "Isolated")
          return "a Split is not by a regular expression";
        pattern_ = to_text(*pattern, "Regex", source_);
      } else {
        return "a pre-tokenizer is " + type;
      }
    }
    if (!bytes) return "it is not byte-level";
    if (words && !pattern_.empty()) return "its pre-tokenizer cuts words twice";
    for (GgufPreTokenizer const& row : gguf_pre_tokenizers()) {
      if (row.pattern != pattern_ || row.single_digits != single_digits) continue;
      add("tokenizer.ggml.model", std::string("gpt2"));
      add("tokenizer.ggml.pre", std::string(row.name));
      std::vector<std::string> list;
      for (auto const& [left, right] : merges()) list.push_back(left + ' ' + right);
      add("tokenizer.ggml.merges", std::move(list));
      return "";
    }
    return "its pre-tokenizer is none that has a name there";
  }

  void write_common() {
    std::vector<std::string> texts;
    std::vector<std::int32_t> types;
    for (Piece const& piece : pieces_) {
      texts.push_back(piece.text);
      types.push_back(static_cast<std::int32_t>(piece.type));
    }
    add("tokenizer.ggml.tokens", std::move(texts));
    add("tokenizer.ggml.token_type", std::move(types));
    auto const id = [&](char const* key, std::optional<std::int64_t> value) {
      if (value && *value >= 0 && *value < static_cast<std::int64_t>(pieces_.size()))
        add(key, static_cast<std::uint32_t>(*value));
    };
    id("tokenizer.ggml.bos_token_id", ids_.bos);
    id("tokenizer.ggml.eos_token_id", ids_.eos);
    id("tokenizer.ggml.unknown_token_id", ids_.unknown);
    id("tokenizer.ggml.padding_token_id", ids_.padding);
    add("tokenizer.ggml.add_bos_token", add_bos_);
    add("tokenizer.ggml.add_eos_token", add_eos_);
  }

  template <class T>
  void add(char const* key, T value) {
    result_.entries.push_back({key, std::move(value)});
  }

  Json const& file_;
  Json const* model_ = nullptr;
  std::string const& source_;
  SpecialIds ids_;
  std::vector<Piece> pieces_;
  std::string pattern_;
  bool add_bos_ = false, add_eos_ = false;
  GgufTokenizer result_{};
};

}  // namespace

GgufTokenizer gguf_tokenizer(std::string_view tokenizer_json, std::string const& source, SpecialIds ids,
                             index_t size) {
  Json const file = parse_json(tokenizer_json, source);
  return TokenizerWriter(file, source, ids, size).write();
}

}  // namespace dartquant::detail
