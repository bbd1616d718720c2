// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/json.hpp"

// Byte-pair encoding: R. Sennrich, B. Haddow, A. Birch, "Neural machine translation of rare words with
// subword units", ACL 2016.
namespace dartquant::detail {

struct TextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

/// Pieces and their ids.
using Vocabulary = std::unordered_map<std::string, std::int32_t, TextHash, std::equal_to<>>;

class BpeModel {
 public:
  /// Reads the member "model" of a tokenizer file. Throws Error(format | unsupported | memory).
  BpeModel(Json const& model, std::string const& source);

  /// The ids of one piece of text: its characters, and then, as long as there is one, the pair of neighbours
  /// whose merge has the lowest rank becomes one piece, the leftmost first on ties. O(n log n). Throws
  /// Error(format) when the unk token is needed and has no id, Error(memory) beyond 2^31 - 1 bytes.
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view piece) const;

  [[nodiscard]] Vocabulary const& vocabulary() const { return vocabulary_; }
  [[nodiscard]] std::optional<std::int32_t> id_of(std::string_view piece) const;

 private:
  struct Merge {
    std::int32_t rank;
    std::int32_t id;  // of the merged piece
  };

  void read_vocabulary(Json const& vocab, std::string const& source);
  void read_merges(Json const& merges, std::string const& source);
  void read_bytes();
  [[nodiscard]] std::int32_t id_of_character(std::string_view character) const;
  [[nodiscard]] std::int32_t unk_id() const;
  [[nodiscard]] std::vector<std::int32_t> split_characters(std::string_view piece) const;
  [[nodiscard]] std::vector<std::int32_t> merge_all(std::vector<std::int32_t> const& ids) const;
  [[nodiscard]] Merge const* find_merge(std::int32_t left, std::int32_t right) const;

  Vocabulary vocabulary_;
  std::unordered_map<std::uint64_t, Merge> merges_;  // (left id << 32) | right id
  std::array<std::int32_t, 0x800> short_ids_{};      // ids of one-character pieces below U+0800, else -1
  std::array<std::int32_t, 256> byte_ids_{};         // ids of <0x00> ... <0xFF>, else -1
  std::optional<std::string> unk_token_;
  std::string source_;
  bool fuse_unk_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
};

}  // namespace dartquant::detail
