// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <set>
#include <string>

#include <nlohmann/json.hpp>

#include "run_program.hpp"
#include "support/catch.hpp"

using namespace dartquant::test;
using Json = nlohmann::json;

namespace {

std::vector<std::string> compare_line(std::string const& json) {
  return {"compare",       tiny_llama().string(),
          "--calibration", (tiny_llama() / "calibration.txt").string(),
          "--text",        (tiny_llama() / "eval.txt").string(),
          "--windows",     "6",
          "--samples",     "8",
          "--epochs",      "1",
          "--r2-epochs",   "1",
          "--json",        json};
}

}  // namespace

TEST_CASE("compare writes the promised JSON and one table", "[program][compare]") {
  Scratch const scratch;
  std::vector<std::string> line = compare_line(scratch / "results.json");
  for (char const* const more : {"--methods", "rtn,quarot,dartquant", "--rotations", "r1,r2,r3,r4",
                                 "--scheme", "w4a4kv4,w16a4", "--seeds", "2"})
    line.push_back(more);
  Outcome const outcome = run_program(line);
  INFO(outcome.err);
  REQUIRE(outcome.code == 0);
  CHECK(scratch.names() == "results.json ");

  Json const report = Json::parse(read_file(scratch / "results.json"));
  double const baseline = report.at("baseline").at("perplexity");
  CHECK(baseline > 5);
  CHECK(baseline < 20);
  REQUIRE(report.at("results").size() == 2 * (1 + 2 + 2));  // rtn has no seed
  std::map<std::string, std::set<int>> seeds;
  for (Json const& result : report["results"]) {
    std::string const method = result.at("method"), scheme = result.at("scheme");
    CHECK(result.at("rotations") == (method == "rtn" ? "none" : "r1,r2,r3,r4"));
    CHECK((scheme == "w4a4kv4" || scheme == "w16a4kv16"));
    CHECK(result.at("perplexity").get<double>() > baseline);
    CHECK(result.at("kl").get<double>() > 0);
    CHECK(result.at("whip_per_channel").get<double>() > 0.4);
    CHECK(result.at("whip_per_channel").get<double>() < 0.65);
    CHECK(result.at("seconds").get<double>() >= 0);
    seeds[method + scheme].insert(result.at("seed").get<int>());
  }
  CHECK(seeds["rtnw4a4kv4"] == std::set<int>{0});
  CHECK(seeds["quarotw16a4kv16"] == std::set<int>{0, 1});
  CHECK(seeds["dartquantw4a4kv4"] == std::set<int>{0, 1});
  for (char const* const word : {"original", "rtn", "quarot", "dartquant", "w4a4kv4", "w16a4kv16", "* "})
    CHECK(outcome.out.find(word) != outcome.out.npos);
}

TEST_CASE("quiet prints the table alone; lines without a terminal are few", "[program][compare]") {
  Scratch const scratch;
  std::vector<std::string> line = compare_line(scratch / "results.json");
  line.insert(line.end(), {"--methods", "rtn,quarot"});
  Outcome const loud = run_program(line);
  CHECK(loud.code == 0);
  CHECK(loud.err.find("Plan: ") == 0);
  CHECK(loud.err.find('\x1b') == loud.err.npos);
  CHECK(std::count(loud.err.begin(), loud.err.end(), '\n') < 15);
  line.push_back("--quiet");
  Outcome const quiet = run_program(line);
  CHECK(quiet.code == 0);
  CHECK(quiet.err.empty());
}

TEST_CASE("numbers do not follow the locale", "[program][compare]") {
  Scratch const scratch;
  std::vector<std::string> line = compare_line(scratch / "results.json");
  line.insert(line.end(), {"--methods", "rtn", "--activation-clip", "0.9"});
  Outcome const outcome = run_program(line, {.environment = {"LC_ALL=de_DE.UTF-8"}});
  CHECK(outcome.code == 0);
  CHECK(Json::parse(read_file(scratch / "results.json")).at("results").size() == 1);
}
