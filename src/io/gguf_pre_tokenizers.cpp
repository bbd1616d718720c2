// SPDX-License-Identifier: Apache-2.0
#include "io/gguf_tokenizer.hpp"

namespace dartquant::detail {

std::vector<GgufPreTokenizer> const& gguf_pre_tokenizers() {
  // The first row of a pattern is the one that is written.
  static std::vector<GgufPreTokenizer> const rows = [] {
    constexpr std::string_view llama3 =
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
        "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
        "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    constexpr std::string_view qwen2 =
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
        "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    constexpr std::string_view tekken =
        "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
        "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}|"
        " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    std::vector<GgufPreTokenizer> table{
        {"gpt-2", "", false, false, false, ""},
        {"smollm", "", true, false, false, ""},
        {"qwen2", qwen2, false, false, false, "NFC"},
        {"tekken", tekken, false, true, true, ""},
    };
    for (std::string_view const name : {"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"})
      table.push_back({name, llama3, false, true, true, ""});
    table.push_back({"deepseek-r1-qwen", qwen2, false, false, false, ""});
    return table;
  }();
  return rows;
}

}  // namespace dartquant::detail
