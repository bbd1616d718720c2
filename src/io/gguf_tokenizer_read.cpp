// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <unordered_map>
#include <utility>

#include "io/gguf_token_types.hpp"
#include "io/gguf_tokenizer.hpp"
#include "io/posix.hpp"
#include "io/tokenizer_utf8.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;

constexpr std::string_view lower_block = "\xE2\x96\x81";  // U+2581, a space in pieces
/// Longer pieces are never built from all of their pairs: files hold some of 100 to 200 bytes, of spaces.
constexpr std::size_t longest_piece = 1024;

class TokenizerReader {
 public:
  explicit TokenizerReader(GgufFile const& file)
      : file_(file), source_("[GgufFile] " + file.path().string()) {}

  std::optional<std::string> read() {
    auto const model = file_.text("tokenizer.ggml.model");
    if (!model || *model == "no_vocab" || *model == "none") return std::nullopt;
    read_pieces();
    if (*model == "llama") return text_of(scored());
    if (*model == "gpt2") return text_of(byte_level());
    fail(Kind::unsupported, source_, ": a tokenizer of model '", printable(*model),
         "'; 'llama' and 'gpt2' are read, for others give token ids instead of text");
  }

 private:
  void read_pieces() {
    auto pieces = file_.texts("tokenizer.ggml.tokens");
    if (!pieces) fail(Kind::format, source_, ": tokenizer.ggml.tokens is missing");
    pieces_ = std::move(*pieces);
    types_.assign(pieces_.size(), TokenType::normal);
    if (auto const types = file_.integers("tokenizer.ggml.token_type")) {
      require_length("tokenizer.ggml.token_type", types->size());
      for (std::size_t i = 0; i < types->size(); ++i) types_[i] = token_type((*types)[i], i);
    }
    ids_.reserve(pieces_.size());
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
      if (find_invalid_utf8(pieces_[i]) != std::string_view::npos)
        fail(Kind::format, source_, ": piece ", i, " of the tokenizer ('", printable(pieces_[i]),
             "') is no UTF-8");
      if (types_[i] == TokenType::unused) continue;
      if (!ids_.emplace(pieces_[i], static_cast<std::int32_t>(i)).second)
        fail(Kind::format, source_, ": the piece '", printable(pieces_[i]),
             "' of the tokenizer appears twice");
    }
  }

  [[nodiscard]] TokenType token_type(std::int32_t number, std::size_t i) const {
    if (number < static_cast<int>(TokenType::normal) || number > static_cast<int>(TokenType::byte))
      fail(Kind::format, source_, ": tokenizer.ggml.token_type ", number, " of piece ", i,
           "; 1 to 6 are known");
    return static_cast<TokenType>(number);
  }

  void require_length(std::string_view key, std::size_t length) const {
    if (length != pieces_.size())
      fail(Kind::format, source_, ": ", key, " has ", length, " elements, but there are ", pieces_.size(),
           " pieces");
  }

  [[nodiscard]] std::optional<std::size_t> special_id(std::string_view key) const {
    auto const id = file_.integer(key);
    if (!id || *id == 0xFFFFFFFF || *id == -1) return std::nullopt;
    if (*id < 0 || static_cast<std::uint64_t>(*id) >= pieces_.size())
      fail(Kind::format, source_, ": ", key, " is ", *id, ", but there are ", pieces_.size(), " pieces");
    return static_cast<std::size_t>(*id);
  }

  [[nodiscard]] Json vocabulary() const {
    Json::object_t vocabulary;
    for (std::size_t i = 0; i < pieces_.size(); ++i)
      if (types_[i] != TokenType::unused) vocabulary.emplace(pieces_[i], i);
    return vocabulary;
  }

  [[nodiscard]] Json added_tokens() const {
    Json tokens = Json::array();
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
      bool const special = types_[i] == TokenType::control || types_[i] == TokenType::unknown;
      if (!special && types_[i] != TokenType::user_defined) continue;
      tokens.push_back({{"id", i},
                        {"content", pieces_[i]},
                        {"single_word", false},
                        {"lstrip", false},
                        {"rstrip", false},
                        {"normalized", false},
                        {"special", special}});
    }
    return tokens;
  }

  /// Adds <s> in front and </s> at the end where the file wants it.
  [[nodiscard]] Json post_processor(bool add_bos, bool add_eos) const {
    auto const bos = add_bos ? special_id("tokenizer.ggml.bos_token_id") : std::nullopt;
    auto const eos = add_eos ? special_id("tokenizer.ggml.eos_token_id") : std::nullopt;
    if (!bos && !eos) return nullptr;
    Json single = Json::array(), pair = Json::array(), special = Json::object();
    auto const sequence = [&](char const* name, int type) {
      auto const token = [&](std::optional<std::size_t> id) {
        if (!id) return;
        std::string const piece(pieces_[*id]);
        Json const entry{{"SpecialToken", {{"id", piece}, {"type_id", type}}}};
        if (type == 0) single.push_back(entry);
        pair.push_back(entry);
        special[piece] = {{"id", piece}, {"ids", {*id}}, {"tokens", {piece}}};
      };
      Json const text{{"Sequence", {{"id", name}, {"type_id", type}}}};
      token(bos);
      if (type == 0) single.push_back(text);
      pair.push_back(text);
      token(eos);
    };
    sequence("A", 0);
    sequence("B", 1);
    return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
  }

  /// "ab" from "a" and "b": (left, right) of every pair of pieces whose union is a piece, best score first.
  [[nodiscard]] Json merges_by_score() const {
    auto const scores = file_.numbers("tokenizer.ggml.scores");
    if (!scores) fail(Kind::format, source_, ": tokenizer.ggml.scores is missing");
    require_length("tokenizer.ggml.scores", scores->size());
    struct Merge {
      float score;
      std::int32_t left, right;
    };
    std::vector<Merge> merges;
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
      if (types_[i] != TokenType::normal || pieces_[i].size() > longest_piece) continue;
      if (!((*scores)[i] == (*scores)[i]))
        fail(Kind::format, source_, ": the score of piece ", i, " is not a number");
      std::string_view const piece = pieces_[i];
      for (std::size_t at = 0; at < piece.size();) {
        at += code_point_at(piece, at).bytes;
        auto const left = ids_.find(piece.substr(0, at)), right = ids_.find(piece.substr(at));
        if (at < piece.size() && left != ids_.end() && right != ids_.end())
          merges.push_back({(*scores)[i], left->second, right->second});
      }
    }
    std::stable_sort(merges.begin(), merges.end(),
                     [](Merge const& a, Merge const& b) { return a.score > b.score; });
    Json list = Json::array();
    for (Merge const& merge : merges)
      list.push_back(
          {pieces_[static_cast<std::size_t>(merge.left)], pieces_[static_cast<std::size_t>(merge.right)]});
    return list;
  }

  [[nodiscard]] Json scored() const {
    Json normalizers = Json::array();
    bool const prefix = file_.boolean("tokenizer.ggml.add_space_prefix").value_or(true);
    if (prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", lower_block}});
    normalizers.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", lower_block}});
    Json decoders =
        Json::array({{{"type", "Replace"}, {"pattern", {{"String", lower_block}}}, {"content", " "}},
                     {{"type", "ByteFallback"}},
                     {{"type", "Fuse"}}});
    if (prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
    auto const unknown = special_id("tokenizer.ggml.unknown_token_id");
    return {{"added_tokens", added_tokens()},
            {"normalizer", {{"type", "Sequence"}, {"normalizers", normalizers}}},
            {"pre_tokenizer", nullptr},
            {"post_processor", post_processor(file_.boolean("tokenizer.ggml.add_bos_token").value_or(true),
                                              file_.boolean("tokenizer.ggml.add_eos_token").value_or(false))},
            {"decoder", {{"type", "Sequence"}, {"decoders", decoders}}},
            {"model",
             {{"type", "BPE"},
              {"unk_token", unknown ? Json(pieces_[*unknown]) : Json(nullptr)},
              {"fuse_unk", true},
              {"byte_fallback", true},
              {"ignore_merges", false},
              {"vocab", vocabulary()},
              {"merges", merges_by_score()}}}};
  }

  [[nodiscard]] Json merges_as_stored() const {
    auto const merges = file_.texts("tokenizer.ggml.merges");
    if (!merges) fail(Kind::format, source_, ": tokenizer.ggml.merges is missing");
    Json list = Json::array();
    for (std::string_view const merge : *merges) {
      std::size_t const space = merge.find(' ', 1);
      if (space == std::string_view::npos || find_invalid_utf8(merge) != std::string_view::npos)
        fail(Kind::format, source_, ": the merge '", printable(merge), "' is not two pieces");
      list.push_back({merge.substr(0, space), merge.substr(space + 1)});
    }
    return list;
  }

  [[nodiscard]] GgufPreTokenizer const& pre_tokenizer() const {
    std::string const name(file_.text("tokenizer.ggml.pre").value_or("default"));
    std::string known;
    for (GgufPreTokenizer const& row : gguf_pre_tokenizers()) {
      if (row.name == name) return row;
      known.append(known.empty() ? "" : ", ").append(row.name);
    }
    fail(Kind::unsupported, source_, ": the pre-tokenizer '", printable(name),
         "' is not known here (known: ", known, "); give token ids instead of text");
  }

  [[nodiscard]] Json byte_level() const {
    GgufPreTokenizer const& row = pre_tokenizer();
    Json steps = Json::array();
    if (row.single_digits) steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
    if (!row.pattern.empty())
      steps.push_back({{"type", "Split"},
                       {"pattern", {{"Regex", row.pattern}}},
                       {"behavior", "Isolated"},
                       {"invert", false}});
    Json const bytes{{"type", "ByteLevel"},
                     {"add_prefix_space", file_.boolean("tokenizer.ggml.add_space_prefix").value_or(false)},
                     {"trim_offsets", true},
                     {"use_regex", row.pattern.empty()}};
    steps.push_back(bytes);
    return {
        {"added_tokens", added_tokens()},
        {"normalizer", row.normalizer.empty() ? Json(nullptr) : Json{{"type", row.normalizer}}},
        {"pre_tokenizer", steps.size() == 1 ? bytes : Json{{"type", "Sequence"}, {"pretokenizers", steps}}},
        {"post_processor", post_processor(file_.boolean("tokenizer.ggml.add_bos_token").value_or(row.add_bos),
                                          file_.boolean("tokenizer.ggml.add_eos_token").value_or(false))},
        {"decoder",
         {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
        {"model",
         {{"type", "BPE"},
          {"unk_token", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", row.ignore_merges},
          {"vocab", vocabulary()},
          {"merges", merges_as_stored()}}}};
  }

  [[nodiscard]] static std::string text_of(Json parts) {
    parts["version"] = "1.0";
    parts["truncation"] = nullptr;
    parts["padding"] = nullptr;
    return parts.dump();
  }

  GgufFile const& file_;
  std::string source_;
  std::vector<std::string_view> pieces_;
  std::vector<TokenType> types_;
  std::unordered_map<std::string_view, std::int32_t> ids_;
};

}  // namespace

std::optional<std::string> tokenizer_json_of(GgufFile const& file) { return TokenizerReader(file).read(); }

}  // namespace dartquant::detail
