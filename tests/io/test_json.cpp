// SPDX-License-Identifier: Apache-2.0
#include <clocale>
#include <cmath>
#include <string>

#include "../../src/io/json.hpp"
#include "files.hpp"

using namespace dartquant;
using namespace dartquant::test;
using detail::Json;

namespace {
Json parse(std::string_view text) { return detail::parse_json(text, "config.json"); }
}  // namespace

TEST_CASE("valid JSON of every kind is parsed", "[json]") {
  Json const json =
      parse(R"( {"a": [1, -2, 3.5, true, false, null, "x\u00e9\ud83d\ude00"], "b": {"c": {}}} )");
  REQUIRE(json["a"].size() == 7);
  REQUIRE(json["a"][1] == -2);
  REQUIRE(json["a"][2] == 3.5);
  REQUIRE(json["a"][6] == "x\xC3\xA9\xF0\x9F\x98\x80");
  REQUIRE(json["b"]["c"].is_object());
  REQUIRE(parse("7") == 7);
  REQUIRE(parse("[]").empty());
  REQUIRE(parse(R"([{"a":1},{"a":2}])")[1]["a"] == 2);  // the same key in two objects is fine
}

TEST_CASE("what the format forbids is refused with a sentence", "[json]") {
  for (std::string_view const text : {"",
                                      " ",
                                      "{",
                                      "[1,]",
                                      "{\"a\":1,}",
                                      "{a:1}",
                                      "01",
                                      "1.",
                                      "+1",
                                      "NaN",
                                      "'a'",
                                      "[1] x",
                                      "\"\x01\"",
                                      "\"\\x\"",
                                      "\"\\ud800\"",
                                      "\"\xC3\"",
                                      "\"\xED\xA0\x80\"",
                                      "\"\xFF\"",
                                      "// c\n1",
                                      "1e999",
                                      "tru",
                                      "[1"}) {
    INFO(text);
    REQUIRE_ERROR(parse(text), format, "[json] config.json: not valid JSON");
  }
  REQUIRE_ERROR(parse(std::string_view("{}\0{", 4)), format, "NUL");
}

TEST_CASE("a key that appears twice is refused at every depth", "[json]") {
  REQUIRE_ERROR(parse(R"({"a":1,"b":2,"a":3})"), format, "the key 'a' appears twice");
  REQUIRE_ERROR(parse(R"([[{"x":{"k":1,"\u006b":2}}]])"), format, "the key 'k' appears twice");
}

TEST_CASE("depth and size have limits", "[json]") {
  std::string const nested = std::string(128, '[') + std::string(128, ']');
  REQUIRE(parse(nested).is_array());
  REQUIRE_ERROR(parse("[" + nested + "]"), format, "deeper than 128");
  REQUIRE_ERROR(parse(std::string(1000000, '[')), format, "deeper than 128");
  std::string objects;
  for (int i = 0; i < 200; ++i) objects += "{\"a\":";
  REQUIRE_ERROR(parse(objects), format, "deeper than 128");
  REQUIRE_ERROR(detail::parse_json("[1,2,3]", "x.json", {.bytes = 6}), memory, "limit of 6");
}

TEST_CASE("accessors name the file and the key", "[json]") {
  Json const json = parse(R"({"n": 5, "f": 1.5, "t": "x", "b": true, "z": null, "o": {}, "a": [], "neg": -1,
                              "big": 18446744073709551615, "e": 1e3})");
  std::string const file = "config.json";
  REQUIRE(detail::get<std::int64_t>(json, "n", file) == 5);
  REQUIRE(detail::get<double>(json, "n", file) == 5.0);
  REQUIRE(detail::get<float>(json, "f", file) == 1.5f);
  REQUIRE(detail::get<std::string>(json, "t", file) == "x");
  REQUIRE(detail::get<bool>(json, "b", file));
  REQUIRE(detail::get_or<int>(json, "missing", file, 7) == 7);
  REQUIRE(detail::get_or<int>(json, "z", file, 8) == 8);
  REQUIRE(detail::object_member(json, "o", file).empty());
  REQUIRE(detail::array_member(json, "a", file).empty());
  REQUIRE_ERROR(detail::get<int>(json, "missing", file), format, "config.json: the key 'missing' is missing");
  REQUIRE_ERROR(detail::get<int>(json, "z", file), format, "'z' is missing");
  REQUIRE_ERROR(detail::get<int>(json, "t", file), format, "'t' must be an integer, but it is string");
  REQUIRE_ERROR(detail::get<int>(json, "e", file), format, "a number with a fraction");
  REQUIRE_ERROR(detail::get<bool>(json, "n", file), format,
                "'n' must be true or false, but it is an integer");
  REQUIRE_ERROR(detail::get<std::string>(json, "n", file), format, "must be a string");
  REQUIRE_ERROR(detail::get<double>(json, "t", file), format, "must be a number");
  REQUIRE_ERROR(detail::object_member(json, "a", file), format, "must be an object");
  REQUIRE_ERROR(detail::array_member(json, "o", file), format, "must be an array");
  REQUIRE_ERROR(detail::get<std::int64_t>(json, "big", file), format,
                "'big' is 18446744073709551615, outside");
  REQUIRE_ERROR(detail::to_integer(json["neg"], "neg", file, 0, 9), format, "'neg' is -1, outside 0..9");
  REQUIRE_ERROR(detail::get<std::int8_t>(parse("{\"n\":128}"), "n", file), format, "outside -128..127");
  REQUIRE_ERROR(detail::get<int>(parse("[1]"), "n", file), format, "a JSON object with the key 'n'");
}

TEST_CASE("numbers are the nearest doubles in every locale", "[json]") {
  auto const check = [] {
    Json const json = parse("[0.1, 1e-5, 123456789.125, 2.2250738585072014e-308, 4.9e-324, 1e-400, -0.5]");
    REQUIRE(json[0].get<double>() == 0.1);
    REQUIRE(json[1].get<double>() == 1e-5);
    REQUIRE(json[2].get<double>() == 123456789.125);
    REQUIRE(json[3].get<double>() == 2.2250738585072014e-308);
    REQUIRE(json[4].get<double>() == 4.9e-324);
    REQUIRE(json[5].get<double>() == 0.0);
    REQUIRE(json[6].get<double>() == -0.5);
  };
  check();
  for (char const* const name : {"de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8"}) {
    if (std::setlocale(LC_ALL, name) == nullptr) continue;
    check();
    std::setlocale(LC_ALL, "C");
    return;
  }
  std::setlocale(LC_ALL, "C");
  WARN("no locale with a decimal comma is installed; checked in the C locale only");
}

TEST_CASE("read_json reads a file and names it", "[json]") {
  TemporaryFolder const folder;
  write_bytes(folder / "a.json", "{\"x\": 1}");
  REQUIRE(detail::read_json(folder / "a.json")["x"] == 1);
  write_bytes(folder / "b.json", "");
  REQUIRE_ERROR(detail::read_json(folder / "b.json"), format, "b.json: not valid JSON");
  REQUIRE_ERROR(detail::read_json(folder / "c.json"), io, "c.json: cannot be opened: it does not exist");
  REQUIRE_ERROR(detail::read_json(folder.path()), io, "this is a folder");
  REQUIRE_ERROR(detail::read_json(folder / "a.json", {.bytes = 3}), memory, "more than the limit of 3");
}
