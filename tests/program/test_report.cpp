// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "damaged_model.hpp"
#include "run_program.hpp"
#include "support/catch.hpp"

using namespace dartquant::test;
namespace fs = std::filesystem;

namespace {

std::vector<std::string> compare_line(std::string const& model, std::vector<std::string> const& more) {
  std::vector<std::string> line{"compare",       model,
                                "--calibration", (tiny_llama() / "calibration.txt").string(),
                                "--text",        (tiny_llama() / "eval.txt").string(),
                                "--windows",     "4",
                                "--samples",     "4",
                                "--epochs",      "2",
                                "--r2-epochs",   "1",
                                "--rows",        "2048",
                                "--quiet"};
  line.insert(line.end(), more.begin(), more.end());
  return line;
}

/// Lines of fields of RFC 4180.
std::vector<std::vector<std::string>> parse_csv(std::string const& text) {
  std::vector<std::vector<std::string>> lines(1, std::vector<std::string>(1));
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    char const c = text[i];
    if (quoted && c == '"' && i + 1 < text.size() && text[i + 1] == '"') lines.back().back() += text[++i];
    else if (c == '"') quoted = !quoted;
    else if (!quoted && c == ',') lines.back().emplace_back();
    else if (!quoted && c == '\n') lines.emplace_back(1);
    else if (quoted || c != '\r') lines.back().back() += c;
  }
  lines.pop_back();  // after the last line end
  return lines;
}

/// What is wrong with the elements of a document, or nothing: every tag is closed in order, attributes are in
/// quotes, text holds no bare < or &.
std::string markup_fault(std::string const& text) {
  std::vector<std::string> open;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '&') {
      std::size_t const end = text.find(';', i);
      if (end == text.npos || end > i + 6) return "bare & at " + text.substr(i, 40);
    }
    if (text[i] != '<') continue;
    std::size_t end = i + 1;
    for (bool quoted = false; end < text.size() && (quoted || text[end] != '>'); ++end)
      if (text[end] == '"') quoted = !quoted;
      else if (text[end] == '<') return "< in a tag at " + text.substr(i, 40);
    if (end == text.size()) return "no end of " + text.substr(i, 40);
    std::string const tag = text.substr(i + 1, end - i - 1);
    std::string const name =
        tag.substr(tag[0] == '/' ? 1 : 0, tag.find_first_of(" /", 1) - (tag[0] == '/' ? 1 : 0));
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return "closes " + tag + " wrongly";
      open.pop_back();
    } else if (tag[0] != '!' && tag.back() != '/') {
      open.push_back(name);
    }
    i = end;
  }
  return open.empty() ? "" : "never closes " + open.back();
}

bool holds(std::string const& text, std::string const& part) { return text.find(part) != text.npos; }

std::string fixed(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4f", value);
  return text;
}

}  // namespace

TEST_CASE("table, JSON, CSV and page say the same", "[program][report]") {
  Scratch const scratch;
  Outcome const outcome = run_program(compare_line(
      tiny_llama().string(),
      {"--methods", "rtn,quarot,dartquant", "--scheme", "w4a4kv4,w16a4", "--seeds", "2", "--rotations",
       "r1,r2,r4", "--json", scratch / "r.json", "--csv", scratch / "r.csv", "--html", scratch / "r.html"}));
  INFO(outcome.err);
  REQUIRE(outcome.code == 0);
  CHECK(scratch.names() == "r.csv r.html r.json ");
  Json const json = Json::parse(read_file(scratch / "r.json"));
  auto const csv = parse_csv(read_file(scratch / "r.csv"));
  std::string const html = read_file(scratch / "r.html");

  Json const& results = json.at("results");
  REQUIRE(results.size() == 10);
  REQUIRE(csv.size() == 2 + results.size());
  std::map<std::string, std::size_t> column;
  for (auto const& line : csv) REQUIRE(line.size() == csv[0].size());
  for (std::size_t i = 0; i < csv[0].size(); ++i) column[csv[0][i]] = i;
  CHECK(csv[1][0] == "original");
  for (std::size_t i = 0; i < results.size(); ++i) {
    Json const& result = results[i];
    auto const& line = csv[i + 2];
    for (char const* const name : {"method", "scheme", "rotations"})
      CHECK(line[column.at(name)] == result.at(name));
    for (char const* const name : {"perplexity", "nll", "kl", "whip_per_channel"})
      CHECK(std::strtod(line[column.at(name)].c_str(), nullptr) == result.at(name).get<double>());
    CHECK(std::log(result.at("perplexity").get<double>()) == Approx(result.at("nll").get<double>()));
    CHECK(result.contains("errors") == (result.at("seed") == 0));  // of the first seed
    CHECK(line[column.at("error of weights")].empty() == (result.at("seed") != 0));
  }
  for (Json const& method : json.at("summary")) {
    CHECK(holds(html, fixed(method.at("perplexity").at("mean"))));
    CHECK(holds(outcome.out, fixed(method.at("perplexity").at("mean"))));
    CHECK(method.contains("perplexity_change") == (method.at("method") != "quarot"));
  }
  // The change against quarot, from the results themselves.
  double difference = 0;
  for (std::size_t seed = 0; seed < 2; ++seed)
    difference += (results[3 + seed].at("nll").get<double>() - results[1 + seed].at("nll").get<double>()) / 2;
  Json const& change = json.at("summary")[2].at("perplexity_change");
  CHECK(change.at("mean").get<double>() == Approx(std::exp(difference) - 1));
  CHECK(change.at("low").get<double>() < change.at("mean").get<double>());
  Json const& errors = results[0].at("errors");
  CHECK(errors.at("sites").size() == 6 * 6);
  CHECK(errors.at("weights").size() == 6 * 7);
  for (Json const& error : errors.at("sites")) CHECK(error.at("relative").get<double>() > 0);
  for (Json const& error : results[5].at("errors").at("weights")) CHECK(error.at("relative") == 0);  // w16
}

TEST_CASE("the page stands alone and is well-formed", "[program][report]") {
  Scratch const scratch;
  REQUIRE(run_program(compare_line(tiny_llama().string(), {"--methods", "quarot,dartquant,uniformity",
                                                           "--seeds", "2", "--html", scratch / "r.html"}))
              .code == 0);
  std::string const html = read_file(scratch / "r.html");
  CHECK(markup_fault(html).empty());
  CHECK(html.rfind("<!DOCTYPE html>", 0) == 0);
  for (char const* const loaded :
       {"<script", "<link", "<img", "src=", "href=", "url(", "@import", "NaN", "nan\"", "inf\""})
    CHECK_FALSE(holds(html, loaded));
  for (char const* const title : {"Quality at", "Activations before and after", "Where the outliers are",
                                  "How the rotations learned", "Error layer by layer", "How this was made"})
    CHECK(holds(html, title));
  if (std::system("command -v xmllint > /dev/null 2>&1") == 0)
    CHECK(std::system(("xmllint --noout '" + scratch / "r.html" + "'").c_str()) == 0);
}

TEST_CASE("a hostile folder name is text", "[program][report]") {
  Scratch const scratch;
  std::string const name = "<script>alert(1)<\xff&\"'\x07";
  copy_model(scratch / name);
  Outcome const outcome =
      run_program(compare_line(scratch / name, {"--methods", "rtn", "--csv", scratch / "r.csv", "--json",
                                                scratch / "r.json", "--html", scratch / "r.html"}));
  INFO(outcome.err);
  REQUIRE(outcome.code == 0);
  std::string const html = read_file(scratch / "r.html");
  CHECK_FALSE(holds(html, "<script"));
  CHECK(holds(html, "&lt;script&gt;alert(1)&lt;\xEF\xBF\xBD&amp;&quot;&#39;\xEF\xBF\xBD"));
  CHECK(markup_fault(html).empty());
  CHECK(holds(Json::parse(read_file(scratch / "r.json")).at("model").get<std::string>(), "<script>"));
}

TEST_CASE("outputs of compare are checked before the work", "[program][report]") {
  Scratch const scratch;
  std::string const model = tiny_llama().string(), text = (tiny_llama() / "eval.txt").string();
  auto const refused = [&](std::vector<std::string> const& more, int code, std::string const& says) {
    Outcome const outcome = run_program(compare_line(model, more));
    INFO(outcome.err);
    CHECK(outcome.code == code);
    CHECK(one_sentence(outcome.err));
    CHECK(holds(outcome.err, says));
  };
  std::string const before = read_file(text);
  refused({"--html", text}, 2, "is an input");
  refused({"--csv", text}, 2, "is an input");
  refused({"--html", model + "/config.json"}, 2, "input model");
  refused({"--html", scratch / "none/r.html"}, 6, "create it first");
  refused({"--html", scratch / "r", "--csv", scratch / "./r"}, 2, "twice");
  refused({"--methods", "rtn", "--baseline", "quarot"}, 2, "not among --methods");
  refused({"--baseline", "magic"}, 2, "magic");
  CHECK(read_file(text) == before);
  CHECK(scratch.names().empty());
}
