// SPDX-License-Identifier: Apache-2.0
#include <dartquant/core/error.hpp>
#include <dartquant/core/random.hpp>
#include <dartquant/io/npy.hpp>
#include <dartquant/io/tokenizer.hpp>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"

using namespace dartquant;
using Catch::Matchers::Contains;

namespace {

std::filesystem::path const golden_folder = std::filesystem::path(DARTQUANT_TEST_DATA) / "tokenizer";
std::filesystem::path const tiny_llama = std::filesystem::path(DARTQUANT_EXAMPLE_DATA) / "tiny-llama";

std::string read(std::filesystem::path const& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE(in.good());
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string from_hex(std::string const& hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

std::vector<std::int32_t> to_ids(std::string const& text) {
  std::istringstream in(text);
  return {std::istream_iterator<std::int32_t>(in), {}};
}

/// The tab-separated fields of every line.
std::vector<std::vector<std::string>> read_fields(std::filesystem::path const& path) {
  std::vector<std::vector<std::string>> lines;
  std::istringstream in(read(path));
  for (std::string line; std::getline(in, line);) {
    std::vector<std::string> fields(1);
    for (char const c : line)
      if (c == '\t') fields.emplace_back();
      else fields.back() += c;
    lines.push_back(fields);
  }
  REQUIRE(lines.size() > 10);
  return lines;
}

std::string replaced(std::string text, std::string const& from, std::string const& to) {
  std::size_t const at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

/// A file with the pieces a, b, c, ab, bc, abc and "-", and the members given.
std::string small_file(std::string const& members = "", std::string const& model = "") {
  return R"({"model":{"type":"BPE","vocab":{"a":0,"b":1,"c":2,"ab":3,"bc":4,"abc":5,"-":6},)"
         R"("merges":["a b","b c","ab c"])" +
         model + "}" + members + "}";
}

}  // namespace

TEST_CASE("the ids of the example model's text are the given ones", "[tokenizer]") {
  Tokenizer const tokenizer = Tokenizer::load(tiny_llama / "tokenizer.json");
  std::string const text = read(tiny_llama / "eval.txt");
  std::vector<std::int32_t> const ids = tokenizer.encode(text);
  REQUIRE(ids == read_npy_integers(tiny_llama / "eval_ids.npy"));
  REQUIRE(tokenizer.vocabulary_size() == 1024);
  REQUIRE(tokenizer.encode("</s><s>", SpecialTokens::omit) == std::vector<std::int32_t>{1, 0});
  REQUIRE(tokenizer.id_of("</s>") == 1);
  REQUIRE(tokenizer.piece_of(0) == "<s>");
  std::string const decoded = tokenizer.decode(ids, SpecialTokens::add);
  REQUIRE(decoded == "<s>" + text);
}

TEST_CASE("the ids of the shared byte-fallback models are the given ones, as one piece", "[tokenizer]") {
  std::filesystem::path const shared = DARTQUANT_SHARED_MODELS;
  if (!std::filesystem::exists(shared / "tokens")) {
    WARN("skipped: no ../shared/models here");
    return;
  }
  std::string const text = read(shared / "text" / "tinystories-eval.txt");
  for (char const* model : {"stories260K", "tiny1m"}) {
    Tokenizer const tokenizer = Tokenizer::load(shared / model / "tokenizer.json");
    auto const begin = std::chrono::steady_clock::now();
    std::vector<std::int32_t> const ids = tokenizer.encode(text);
    std::chrono::duration<double> const seconds = std::chrono::steady_clock::now() - begin;
    REQUIRE(ids == read_npy_integers(shared / "tokens" / model / "tinystories-eval.npy"));
    REQUIRE(tokenizer.decode(ids) == text);
    REQUIRE(tokenizer.vocabulary_size() == 512);
    REQUIRE(seconds.count() < 10.0);  // 0.1 s in Release; a quadratic merge would need minutes
  }
}

TEST_CASE("awkward text gives the ids and the text of the reference", "[tokenizer]") {
  for (std::string const name : {"gpt2", "llama3", "llama2", "metaspace"}) {
    Tokenizer const tokenizer = Tokenizer::load(golden_folder / (name + ".json"));
    for (auto const& fields : read_fields(golden_folder / (name + ".golden"))) {
      std::string const text = from_hex(fields.at(0));
      CAPTURE(name, text);
      std::vector<std::int32_t> const ids = tokenizer.encode(text);
      CHECK(ids == to_ids(fields.at(1)));
      CHECK(tokenizer.decode(to_ids(fields.at(1))) == from_hex(fields.at(2)));
    }
  }
}

TEST_CASE("every pre-tokenizer and normalizer cuts as the reference does", "[tokenizer]") {
  std::string const file = read(golden_folder / "variants.json");
  std::vector<std::string> texts;
  std::optional<Tokenizer> tokenizer;
  std::string step;
  for (auto const& fields : read_fields(golden_folder / "variants.golden")) {
    if (fields.at(0) == "text") {
      texts.push_back(from_hex(fields.at(1)));
    } else if (fields.at(0) == "step") {
      step = fields.at(2);
      tokenizer =
          Tokenizer::parse(replaced(file, '"' + fields.at(1) + "\":null", '"' + fields.at(1) + "\":" + step));
    } else {
      std::string const& text = texts.at(static_cast<std::size_t>(std::stoi(fields.at(0))));
      CAPTURE(step, text);
      CHECK(tokenizer->encode(text) == to_ids(fields.at(1)));
    }
  }
}

TEST_CASE("byte-level text of any kind comes back from its ids", "[tokenizer]") {
  for (std::string const name : {"llama3", "llama2"}) {
    Tokenizer const tokenizer = Tokenizer::load(golden_folder / (name + ".json"));
    for (auto const& fields : read_fields(golden_folder / (name + ".golden"))) {
      std::string const text = from_hex(fields.at(0));
      if (text.find("<s>") != std::string::npos || text.find("▁") != std::string::npos) continue;
      CAPTURE(name, text);
      CHECK(tokenizer.decode(tokenizer.encode(text, SpecialTokens::omit)) == text);
    }
  }
}

TEST_CASE("merges are taken by rank, then from the left", "[tokenizer]") {
  Tokenizer const tokenizer = Tokenizer::parse(small_file());
  using Ids = std::vector<std::int32_t>;
  REQUIRE(tokenizer.encode("") == Ids{});
  REQUIRE(tokenizer.encode("a") == Ids{0});
  REQUIRE(tokenizer.encode("abc") == Ids{5});
  REQUIRE(tokenizer.encode("bcabc") == Ids{4, 5});
  REQUIRE(tokenizer.encode("aab-bc") == Ids{0, 3, 6, 4});
  REQUIRE(tokenizer.encode("axb") == Ids{3});  // no piece and no unk token: dropped
  REQUIRE(tokenizer.decode(Ids{5, 6}) == "abc -");
  REQUIRE_FALSE(tokenizer.id_of("x").has_value());
  REQUIRE_FALSE(tokenizer.piece_of(-1).has_value());
  REQUIRE_FALSE(tokenizer.piece_of(7).has_value());
  Tokenizer const pairs = Tokenizer::parse(replaced(small_file(), R"("a b")", R"(["a","b"])"));
  REQUIRE(pairs.encode("abcab") == Ids{5, 3});
}

TEST_CASE("special tokens of the template appear on demand", "[tokenizer]") {
  std::string const members =
      R"(,"added_tokens":[{"id":7,"content":"<s>","special":true},{"id":8,"content":"<e>","special":true}],)"
      R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"B","type_id":0}},)"
      R"({"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"E","type_id":0}}],)"
      R"("special_tokens":{"B":{"id":"B","ids":[7,7],"tokens":["<s>","<s>"]},"E":{"id":"E","ids":[8],"tokens":["<e>"]}}})";
  Tokenizer const tokenizer = Tokenizer::parse(small_file(members));
  using Ids = std::vector<std::int32_t>;
  REQUIRE(tokenizer.encode("ab<s>c") == Ids{7, 7, 3, 7, 2, 8});
  REQUIRE(tokenizer.encode("ab", SpecialTokens::omit) == Ids{3});
  REQUIRE(tokenizer.encode("") == Ids{7, 7, 8});
  REQUIRE(tokenizer.decode(Ids{7, 3, 8}) == "ab");
  REQUIRE(tokenizer.decode(Ids{7, 3, 8}, SpecialTokens::add) == "<s> ab <e>");
  REQUIRE(tokenizer.vocabulary_size() == 9);
}

TEST_CASE("text that is not UTF-8 and ids without a piece are refused", "[tokenizer]") {
  Tokenizer const tokenizer = Tokenizer::parse(small_file());
  for (std::string const bad :
       {"ab\x80", "ab\xC3", "ab\xC0\xAF", "ab\xED\xA0\x80", "ab\xF4\x90\x80\x80", "ab\xE2\x82"}) {
    CAPTURE(bad);
    REQUIRE_THROWS_AS(tokenizer.encode(bad), InvalidArgument);
    REQUIRE_THROWS_WITH(tokenizer.encode(bad), Contains("byte 2 of the text"));
  }
  std::vector<std::int32_t> const ids{0, 7};
  REQUIRE_THROWS_WITH(tokenizer.decode(ids), Contains("id 7 at position 1"));
  REQUIRE_THROWS_AS(tokenizer.decode(std::vector<std::int32_t>{-1}), InvalidArgument);
}

TEST_CASE("normal forms and lower case follow Unicode", "[tokenizer]") {
  // One piece per character that the results may hold; the ids tell what a text became.
  auto const with = [](std::string const& type, std::string const& text) {
    std::string const file =
        R"({"added_tokens":[],"pre_tokenizer":null,"decoder":{"type":"Fuse"},"normalizer":{"type":")" + type +
        R"("},"model":{"type":"BPE","merges":[],"vocab":{)" +
        "\"a\":0,\"b\":1,\"Ä\":2,\"A\":3,\"\u0308\":4,\"ä\":5,\"1\":6,\"\u2044\":7,\"2\":8,\"ﬁ\":9,\"f\":10,"
        "\"i\":11,\"한\":12,\"ᄒ\":13,\"ᅡ\":14,\"ᆫ\":15,\"σ\":16,\"\u0307\":17,\"\u0651\":18,\"\u064e\":19}"
        "}}";
    Tokenizer const tokenizer = Tokenizer::parse(file);
    return tokenizer.decode(tokenizer.encode(text));
  };
  REQUIRE(with("Lowercase", "aBÄ") == "abä");
  REQUIRE(with("Lowercase", "ΣΣ") == "σσ");  // also at the end of a word
  REQUIRE(with("Lowercase", "\u0130") == "i\u0307");
  REQUIRE(with("NFC", "A\u0308") == "Ä");
  REQUIRE(with("NFC", "ᄒ\u1161\u11ab") == "한");
  REQUIRE(with("NFC", "\u0651\u064e") == "\u064e\u0651");  // combining marks in order
  REQUIRE(with("NFC", "ﬁ") == "ﬁ");
  REQUIRE(with("NFD", "Ä한") == "A\u0308ᄒ\u1161\u11ab");
  REQUIRE(with("NFKC", "½ﬁA\u0308") == "1\u20442fiÄ");
  REQUIRE(with("NFKD", "Ä½") == "A\u03081\u20442");
  REQUIRE(with("NFC", "").empty());
}

TEST_CASE("malformed files are refused with a sentence", "[tokenizer]") {
  struct Case {
    std::string file;
    std::string says;
  };
  std::string const deep(200, '[');
  std::vector<Case> const cases{
      {"", "JSON"},
      {"{}", "model"},
      {"[1]", "object"},
      {deep, "deep"},
      {small_file(R"(,"model":{})"), "twice"},
      {replaced(small_file(), R"("a":0)", R"("a":-1)"), "'a'"},
      {replaced(small_file(), R"("a":0)", R"("a":0.5)"), "'a'"},
      {replaced(small_file(), R"("a":0)", R"("a":2147483647)"), "'a'"},
      {replaced(small_file(), R"("a":0)", R"("a":2147483646)"), "too large for 7 pieces"},
      {replaced(small_file(), R"("a":0)", R"("a":1)"), "'a' and 'b' both have id 1"},
      {replaced(small_file(), R"("ab c")", R"("ab x")"), "merge 2 names 'x'"},
      {replaced(small_file(), R"("ab c")", R"("c a")"), "merge 2 names 'ca'"},
      {replaced(small_file(), R"("ab c")", R"("abc")"), "merge 2 is not two pieces"},
      {replaced(small_file(), R"("ab c")", R"("a b c")"), "merge 2 is not two pieces"},
      {replaced(small_file(), R"("ab c")", R"(["ab"])"), "merge 2 is not two pieces"},
      {replaced(small_file(), R"("ab c")", "7"), "merge 2 is not two pieces"},
      {replaced(small_file(), "BPE", "Unigram"), "'Unigram'"},
      {small_file("", R"(,"dropout":0.1)"), "dropout"},
      {small_file("", R"(,"end_of_word_suffix":"</w>")"), "end_of_word_suffix"},
      {small_file("", R"(,"fuse_unk":1)"), "fuse_unk"},
      {small_file(R"(,"added_tokens":{})"), "added_tokens"},
      {small_file(R"(,"added_tokens":[{"id":3,"content":"a"}])"), "has id 3"},
      {small_file(R"(,"added_tokens":[{"id":3,"content":"x"}])"), "both have id 3"},
      {small_file(R"(,"added_tokens":[{"id":9,"content":"x"},{"id":9,"content":"x"}])"), "twice"},
      {small_file(R"(,"added_tokens":[{"id":99999999,"content":"x"}])"), "too large"},
      {small_file(R"(,"normalizer":{"type":"Precompiled"})"), "Precompiled"},
      {small_file(R"(,"pre_tokenizer":{"type":"BertPreTokenizer"})"), "BertPreTokenizer"},
      {small_file(R"(,"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(a"},"behavior":"Isolated"})"),
       "compile"},
      {small_file(R"(,"pre_tokenizer":{"type":"Split","pattern":{"Regex":"[a&&b]"},"behavior":"Isolated"})"),
       "character sets"},
      {small_file(R"(,"pre_tokenizer":{"type":"Split","pattern":{"Regex":"a"},"behavior":"Sideways"})"),
       "Sideways"},
      {small_file(R"(,"pre_tokenizer":{"type":"Metaspace","replacement":"ab"})"), "not one character"},
      {small_file(R"(,"decoder":{"type":"CTC"})"), "CTC"},
      {small_file(R"(,"decoder":{"type":"Strip","content":"","start":1,"stop":0})"), "not one character"},
      {small_file(R"(,"post_processor":{"type":"BertProcessing","sep":["a",0],"cls":["x",7]})"),
       "post_processor id"},
      {small_file(R"(,"post_processor":{"type":"TemplateProcessing","single":[],"special_tokens":{}})"),
       "0 times"},
  };
  for (Case const& c : cases) {
    CAPTURE(c.file);
    CHECK_THROWS_AS(Tokenizer::parse(c.file, "t.json"), Error);
    CHECK_THROWS_WITH(Tokenizer::parse(c.file, "t.json"), Contains(c.says) && Contains("t.json"));
  }
  REQUIRE_THROWS_AS(Tokenizer::load(golden_folder / "missing.json"), Error);
}

TEST_CASE("a hostile pattern or step ends in a sentence, not in a hang", "[tokenizer]") {
  Tokenizer const nested = Tokenizer::parse(
      small_file(R"(,"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(a+)+$"},"behavior":"Isolated"})"));
  REQUIRE_THROWS_WITH(nested.encode(std::string(64, 'a') + "b"), Contains("(a+)+$") && Contains("limit"));

  std::string const step = R"({"type":"ByteLevel","add_prefix_space":true,"use_regex":false})";
  std::string steps = step;
  for (int i = 0; i < 40; ++i) steps += "," + step;
  Tokenizer const doubling =
      Tokenizer::parse(small_file(R"(,"pre_tokenizer":{"type":"Sequence","pretokenizers":[)" + steps + "]}"));
  REQUIRE_THROWS_WITH(doubling.encode("äöü"), Contains("grows"));

  Tokenizer const swelling =
      Tokenizer::parse(small_file(R"(,"normalizer":{"type":"Replace","pattern":{"String":"a"},"content":")" +
                                  std::string(5000, 'a') + "\"}"));
  REQUIRE_THROWS_WITH(swelling.encode("aaaa"), Contains("grows"));
}

TEST_CASE("bit flips and truncations of a file never crash", "[tokenizer]") {
  Philox const random(7);
  std::uint64_t draws = 0;
  auto const below = [&](std::size_t bound) {
    return static_cast<std::size_t>(random.below(draws++, bound));
  };
  std::string const text = "Hello <s> wörld 123\n  [L] 👍🏽 it's";
  std::vector<std::filesystem::path> files{tiny_llama / "tokenizer.json"};
  for (char const* name : {"gpt2.json", "llama3.json", "llama2.json", "metaspace.json", "variants.json"})
    files.push_back(golden_folder / name);
  int refused = 0;
  auto const attempt = [&](std::string const& file) {
    try {
      Tokenizer const tokenizer = Tokenizer::parse(file);
      std::vector<std::int32_t> const ids = tokenizer.encode(text);
      for (std::int32_t const id : ids) REQUIRE((id >= 0 && id < tokenizer.vocabulary_size()));
      (void)tokenizer.decode(ids);
    } catch (Error const& error) {
      REQUIRE(std::string(error.what()).size() > 10);
      ++refused;
    }
  };
  for (auto const& path : files) {
    std::string const file = read(path);
    for (int i = 0; i < 60; ++i) {
      std::string flipped = file;
      std::size_t const limit = i % 3 == 0 ? file.size() : 700;  // the settings in front, more often than not
      std::size_t const at = below(limit);
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << below(8)));
      attempt(flipped);
      attempt(file.substr(0, below(file.size())));
    }
  }
  REQUIRE(refused > 360);
}

TEST_CASE("one tokenizer serves many threads", "[tokenizer]") {
  Tokenizer const tokenizer = Tokenizer::load(golden_folder / "llama3.json");
  std::string const text = read(tiny_llama / "eval.txt").substr(0, 20000);
  std::vector<std::int32_t> const expected = tokenizer.encode(text);
  std::vector<std::vector<std::int32_t>> found(4);
  std::vector<std::thread> threads;
  for (auto& ids : found) threads.emplace_back([&] { ids = tokenizer.encode(text); });
  for (auto& thread : threads) thread.join();
  for (auto const& ids : found) REQUIRE(ids == expected);
}
