// SPDX-License-Identifier: Apache-2.0
#include "windows.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>

#include <fmt/core.h>

#include <dartquant/core/error.hpp>
#include <dartquant/io/npy.hpp>
#include <dartquant/io/tokenizer.hpp>

namespace dartquant::program {
namespace {

[[noreturn]] void fail(Error::Kind kind, std::string const& sentence) { throw Error(kind, sentence); }

std::string read_text(std::string const& file) {
  if (!std::filesystem::is_regular_file(file))
    fail(Error::Kind::io, fmt::format("{} is not a file: give a text file", file));
  std::ifstream in(file, std::ios::binary);
  if (!in) fail(Error::Kind::io, fmt::format("{} cannot be opened: check that it may be read", file));
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (in.bad()) fail(Error::Kind::io, fmt::format("{} cannot be read to its end", file));
  if (text.find_first_not_of(" \t\r\n") == text.npos)
    fail(Error::Kind::format, fmt::format("{} is empty: give a text of some thousand words", file));
  return text;
}

std::vector<std::int32_t> encode_text(Model const& model, std::string const& file) {
  std::filesystem::path const place = model.folder() / "tokenizer.json";
  std::optional<std::string> const tokenizer = model.tokenizer_text();
  if (!tokenizer)
    fail(Error::Kind::io,
         fmt::format("{} is missing: add it, or give token ids (.npy) instead of a text", place.string()));
  return encode(Tokenizer::parse(*tokenizer, place.string()), file);
}

/// All consecutive windows.
TokenWindows all_windows(Model const& model, TextSource const& source, index_t seqlen) {
  std::vector<std::int32_t> const ids = read_ids(model, source);
  if (static_cast<index_t>(ids.size()) < seqlen)
    fail(Error::Kind::format,
         fmt::format("{} gives {} tokens and one window takes {}: give more text or a smaller "
                     "--seqlen",
                     source.file(), ids.size(), seqlen));
  return windows_of(ids, seqlen);
}

}  // namespace

std::vector<std::int32_t> encode(Tokenizer const& tokenizer, std::string const& file) {
  try {
    return tokenizer.encode(read_text(file));
  } catch (InvalidArgument const& error) {
    fail(Error::Kind::format, fmt::format("{}: {}", file, error.what()));
  }
}

std::vector<std::int32_t> read_ids(Model const& model, TextSource const& source) {
  std::vector<std::int32_t> ids =
      source.tokens.empty() ? encode_text(model, source.text) : read_npy_integers(source.tokens);
  if (ids.empty()) fail(Error::Kind::format, fmt::format("{} holds no tokens", source.file()));
  index_t const vocabulary = model.config().vocabulary;
  auto const bad =
      std::find_if(ids.begin(), ids.end(), [&](std::int32_t id) { return id < 0 || id >= vocabulary; });
  if (bad != ids.end())
    fail(Error::Kind::format,
         fmt::format(
             "{}: token {} is {}, outside the model's vocabulary of {}: was it made with another tokenizer?",
             source.file(), bad - ids.begin(), *bad, vocabulary));
  return ids;
}

index_t window_length(Model const& model, index_t flag) {
  if (flag == 0) return calibration_seqlen(model.config());
  detail::require(flag >= 2 && flag <= model.config().positions, "--seqlen ", flag, ": the model takes 2 to ",
                  model.config().positions, " tokens");
  return flag;
}

TokenWindows first_windows(Model const& model, TextSource const& source, index_t seqlen, index_t limit) {
  TokenWindows const all = all_windows(model, source, seqlen);
  return limit == 0 || limit >= all.rows() ? all : TokenWindows(all.topRows(limit));
}

TokenWindows spread_windows(Model const& model, TextSource const& source, index_t seqlen, index_t samples) {
  TokenWindows const all = all_windows(model, source, seqlen);
  if (samples >= all.rows()) return all;
  TokenWindows result(samples, seqlen);
  for (index_t i = 0; i < samples; ++i) result.row(i) = all.row(i * all.rows() / samples);
  return result;
}

}  // namespace dartquant::program
