// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "run_program.hpp"
#include "support/catch.hpp"

using namespace dartquant::test;

TEST_CASE("every sub-command explains itself with an example", "[program][help]") {
  for (std::string const command :
       {"inspect", "calibrate", "fold", "quantize", "eval", "compare", "tokenize", "generate"}) {
    Outcome const help = run_program({command, "--help"});
    INFO(command);
    CHECK(help.code == 0);
    CHECK(help.err.empty());
    CHECK(help.out.find("Example") != help.out.npos);
    CHECK(help.out.find("\n  dartquant " + command + " ") != help.out.npos);
    for (char const* const flag : {"--seed", "--threads", "--isa", "--json", "--quiet"})
      CHECK(help.out.find(flag) != help.out.npos);
  }
}

TEST_CASE("the program's own help lists commands and exit codes", "[program][help]") {
  Outcome const help = run_program({"--help"});
  CHECK(help.code == 0);
  for (char const* const word : {"inspect", "calibrate", "fold", "quantize", "eval", "compare", "tokenize",
                                 "generate", "Exit codes", "130"})
    CHECK(help.out.find(word) != help.out.npos);
  CHECK(run_program({"--version"}).out.starts_with("dartquant 0."));
}

TEST_CASE("a wrong command line is one sentence and exit code 2", "[program][help]") {
  std::string const model = tiny_llama().string(), text = (tiny_llama() / "eval.txt").string();
  std::vector<std::vector<std::string>> const lines{
      {},
      {"frobnicate"},
      {"eval"},
      {"eval", model},
      {"eval", model, "--text", text, "--no-such-flag"},
      {"eval", model, "--text", text, "--threads", "0"},
      {"eval", model, "--text", text, "--seqlen", "1000"},
      {"eval", model, "--text", text, "--scheme", "w4a99"},
      {"eval", model, "--text", text, "--active", "r1"},
      {"eval", model, "--text", text, "--isa", "sse9"},
      {"eval", model, "--text", text, "--isa", "neon_i8mm,avx2"},
      {"eval", model, "--text", text, "--integers"},
      {"eval", model, "--text", text, "--integers", "--scheme", "w8a8"},
      {"eval", model, "--text", text, "--active", "r5"},
      {"eval", model, "--text", text, "--weights", "awq"},
      {"eval", model, "--text", text, "--scheme", "w4a16", "--damping", "-1"},
      {"compare", model, "--calibration", text, "--text", text, "--methods", "magic"},
      {"compare", model, "--calibration", text, "--text", text, "--rotations", "r1,r1"},
      {"calibrate", model, "--text", text, "--active", "r4", "-o", "/tmp/never"},
      {"calibrate", model, "--text", text, "--method", "rtn", "-o", "/tmp/never"},
      {"fold", model, "--active", "r3", "-o", "/tmp/never"},
      {"fold", model, "-o", "/tmp/never", "--dtype", "int4"},
      {"quantize", model, "--scheme", "w16a4", "-o", "/tmp/never"},
      {"quantize", model, "--method", "rtn", "--scheme", "w4a4", "--integers", "-o", "/tmp/never"},
      {"quantize", model, "--method", "rtn", "--scheme", "w4a16", "--weights", "awq", "-o", "/tmp/never"}};
  for (auto const& line : lines) {
    Outcome const outcome = run_program(line);
    INFO(Catch::rangeToString(line) << outcome.err);
    CHECK(outcome.code == 2);
    CHECK(one_sentence(outcome.err));
    CHECK(outcome.out.empty());
  }
}
