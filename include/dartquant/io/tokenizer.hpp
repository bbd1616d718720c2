// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dartquant/core/view.hpp>

namespace dartquant {

/// Whether special tokens take part. In `encode`: whether the file's post-processor adds its own (`<s>` in
/// front, for instance); literal special tokens in the text map to their ids either way. In `decode`: whether
/// ids of special tokens appear in the text.
enum class SpecialTokens { add, omit };

/// A byte-pair-encoding tokenizer read from a Hugging Face `tokenizer.json`; gives the same ids as the
/// `tokenizers` package.
///
/// Read: model BPE (byte-level and byte_fallback, ignore_merges, unk_token, fuse_unk);
/// normalizers Prepend, Replace, Strip, Lowercase, NFC, NFD, NFKC, NFKD and Sequence;
/// pre-tokenizers ByteLevel, Split, Metaspace, Digits, Whitespace, WhitespaceSplit, Punctuation and Sequence;
/// post-processors TemplateProcessing (single), ByteLevel, RobertaProcessing, BertProcessing and Sequence;
/// decoders ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace and Sequence; added tokens with all
/// their flags. `truncation` and `padding` are ignored: a text is always encoded whole. Anything else is
/// refused with Error(unsupported).
///
/// The file is hostile input: sizes, ids, merges and patterns are checked, regular expressions run under a
/// match limit, and no step may grow a text more than 64-fold. Immutable: copies share one state, and const
/// calls may come from many threads at once.
class Tokenizer {
 public:
  /// Reads a `tokenizer.json`. Throws Error: io (cannot be read), format (malformed), unsupported, memory.
  [[nodiscard]] static Tokenizer load(std::filesystem::path const& tokenizer_json);

  /// Same from a JSON text in memory; `source` opens every sentence about it.
  [[nodiscard]] static Tokenizer parse(std::string_view json, std::string const& source = "tokenizer.json");

  /// The ids of a whole UTF-8 text. Cost O(n log n) in its length, also when the file has no pre-tokenizer
  /// and the text is one piece. A character that the vocabulary cannot express becomes the unk token, or
  /// nothing when the file names none. Throws InvalidArgument naming the byte offset when the text is not
  /// UTF-8 or the size when it exceeds 2^30 bytes.
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text,
                                                 SpecialTokens special = SpecialTokens::add) const;

  /// The text of `ids`, always valid UTF-8: bytes that form no character become U+FFFD. Inverse of `encode`
  /// on text that the normalizer leaves as it is. Throws InvalidArgument on an id without a piece.
  [[nodiscard]] std::string decode(std::span<std::int32_t const> ids,
                                   SpecialTokens special = SpecialTokens::omit) const;

  /// One more than the largest id: the number of embedding rows that a model needs at least.
  [[nodiscard]] index_t vocabulary_size() const;

  /// The id of a piece of the vocabulary, or of an added token, spelt as in the file.
  [[nodiscard]] std::optional<std::int32_t> id_of(std::string_view piece) const;

  /// The piece of an id, spelt as in the file; nothing when no piece has this id.
  [[nodiscard]] std::optional<std::string_view> piece_of(std::int32_t id) const;

 private:
  struct State;
  explicit Tokenizer(std::shared_ptr<State const> state) : state_(std::move(state)) {}
  std::shared_ptr<State const> state_;
};

}  // namespace dartquant
