// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <dartquant/io/npy.hpp>
#include <dartquant/io/safetensors.hpp>

#include "run_program.hpp"
#include "support/catch.hpp"

using namespace dartquant::test;
namespace fs = std::filesystem;

namespace {

std::string const model = tiny_llama().string(), text = (tiny_llama() / "calibration.txt").string();

std::vector<std::string> generate_line(std::string const& output, std::vector<std::string> const& more = {}) {
  std::vector<std::string> line{"generate", model,    "--windows", "6",  "--seqlen",
                                "32",       "--seed", "3",         "-o", output};
  line.insert(line.end(), more.begin(), more.end());
  return line;
}

}  // namespace

TEST_CASE("the model writes its own text, the same for any threads", "[program][generate]") {
  Scratch const scratch;
  Outcome const first =
      run_program(generate_line(scratch / "a.npy", {"--threads", "1", "--json", scratch / "a.json"}));
  REQUIRE(first.code == 0);
  CHECK(first.out.find("6 windows of 32 tokens") != first.out.npos);
  REQUIRE(run_program(generate_line(scratch / "b.npy", {"--threads", "4"})).code == 0);
  CHECK(read_file(scratch / "a.npy") == read_file(scratch / "b.npy"));
  auto const ids = dartquant::read_npy_integers(scratch / "a.npy");
  REQUIRE(ids.size() == 6 * 32);
  CHECK(std::set(ids.begin(), ids.end()).size() > 20);
  auto const report = nlohmann::json::parse(read_file(scratch / "a.json"));
  CHECK(report["windows"] == 6);
  CHECK(report["prompt"] == 1);
  CHECK(report["beginning"].get<std::string>().size() > 10);
}

TEST_CASE("a text begins what the model writes", "[program][generate]") {
  Scratch const scratch;
  REQUIRE(run_program({"tokenize", model, "--text", text, "-o", scratch / "text.npy"}).code == 0);
  REQUIRE(run_program(generate_line(scratch / "a.npy", {"--text", text, "--prompt", "5"})).code == 0);
  REQUIRE(run_program(generate_line(scratch / "b.npy", {"--tokens", scratch / "text.npy", "--prompt", "5"}))
              .code == 0);
  CHECK(read_file(scratch / "a.npy") == read_file(scratch / "b.npy"));
  auto const ids = dartquant::read_npy_integers(scratch / "text.npy"),
             written = dartquant::read_npy_integers(scratch / "a.npy");
  CHECK(std::vector(written.begin(), written.begin() + 5) == std::vector(ids.begin(), ids.begin() + 5));
}

TEST_CASE("calibrate without a text learns on what the model writes", "[program][generate]") {
  Scratch const scratch;
  std::vector<std::string> const learning{"--samples", "8", "--seqlen",    "32",
                                          "--epochs",  "1", "--r2-epochs", "1"};
  auto const calibrate = [&](std::string const& output, std::vector<std::string> const& more) {
    std::vector<std::string> line{"calibrate", model, "-o", output};
    line.insert(line.end(), learning.begin(), learning.end());
    line.insert(line.end(), more.begin(), more.end());
    return run_program(line);
  };
  Outcome const own = calibrate(scratch / "own.safetensors", {});
  REQUIRE(own.code == 0);
  CHECK(own.err.find("let tiny-llama write 8 windows of 32 tokens") != own.err.npos);
  REQUIRE(
      run_program({"generate", model, "--windows", "8", "--seqlen", "32", "-o", scratch / "ids.npy"}).code ==
      0);
  REQUIRE(calibrate(scratch / "read.safetensors", {"--tokens", scratch / "ids.npy"}).code == 0);
  auto const r1 = [&](char const* file) {
    dartquant::SafetensorsFile const opened(scratch / file);
    dartquant::Tensor const* const tensor = opened.find("R1");
    REQUIRE(tensor != nullptr);
    return opened.read_matrix<double>(*tensor);
  };
  CHECK(r1("own.safetensors") == r1("read.safetensors"));
}

TEST_CASE("compare, quantize and eval without a text to learn from take what the model writes",
          "[program][generate]") {
  Scratch const scratch;
  auto const with = [](std::vector<std::string> line, std::vector<std::string> const& more) {
    std::vector<std::string> const fast{"--samples", "8", "--seqlen", "32", "--windows", "2"};
    line.insert(line.end(), fast.begin(), fast.end());
    line.insert(line.end(), more.begin(), more.end());
    return run_program(line);
  };
  REQUIRE(
      run_program({"generate", model, "--windows", "8", "--seqlen", "32", "-o", scratch / "ids.npy"}).code ==
      0);
  std::vector<std::string> const given{"--calibration-tokens", scratch / "ids.npy"};
  std::string const announced = "let tiny-llama write 8 windows of 32 tokens";

  SECTION("compare") {
    std::vector<std::string> const line{"compare",   model,  "--text",   text, "--methods",   "centred",
                                        "--weights", "gptq", "--epochs", "1",  "--r2-epochs", "1"};
    Outcome const own = with(line, {"--html", scratch / "report.html"}), read = with(line, given);
    REQUIRE(own.code == 0);
    CHECK(own.err.find(announced) == own.err.rfind(announced));  // once
    CHECK(own.err.find(announced) != own.err.npos);
    CHECK(read_file(scratch / "report.html").find("written by the model") != std::string::npos);
    REQUIRE(read.code == 0);
    auto const perplexity = [](std::string const& out) {
      std::size_t const at = out.find("centred");
      REQUIRE(at != out.npos);
      return out.substr(at, 40);
    };
    CHECK(perplexity(own.out) == perplexity(read.out));
  }
  SECTION("quantize") {
    std::vector<std::string> const learning{"--epochs", "1", "--r2-epochs", "1", "--weights", "gptq"};
    Outcome const own = with({"quantize", model, "-o", scratch / "own"}, learning);
    REQUIRE(own.code == 0);
    CHECK(own.err.find(announced) == own.err.rfind(announced));
    auto const manifest = nlohmann::json::parse(read_file(scratch / "own/dartquant.json"));
    CHECK(manifest["options"]["calibration"] == "written by the model");
    std::vector<std::string> more = learning;
    more.insert(more.end(), given.begin(), given.end());
    REQUIRE(with({"quantize", model, "-o", scratch / "read"}, more).code == 0);
    CHECK(read_file(scratch / "own/model.safetensors") == read_file(scratch / "read/model.safetensors"));
  }
  SECTION("eval") {
    std::vector<std::string> const line{"eval",     model,   "--text",    text,
                                        "--scheme", "w4a16", "--weights", "gptq"};
    Outcome const own = with(line, {}), read = with(line, given);
    REQUIRE(own.code == 0);
    CHECK(own.err.find(announced) != own.err.npos);
    CHECK(own.out == read.out);
  }
}

TEST_CASE("a vocabulary that is larger than the tokenizer's hurts nothing", "[program][generate]") {
  Scratch const scratch;
  fs::path const padded = scratch.path() / "padded";
  fs::copy(tiny_llama(), padded);
  auto tokenizer = nlohmann::json::parse(read_file(padded / "tokenizer.json"));
  auto& vocabulary = tokenizer["model"]["vocab"];
  int const kept = static_cast<int>(vocabulary.size()) - 256;
  std::set<std::string> gone;
  for (auto const& [piece, id] : vocabulary.items())
    if (id.get<int>() >= kept) gone.insert(piece);
  for (std::string const& piece : gone) vocabulary.erase(piece);
  auto merges = nlohmann::json::array();
  for (auto const& merge : tokenizer["model"]["merges"]) {
    std::string const pair = merge.get<std::string>();
    std::string const left = pair.substr(0, pair.find(' ')), right = pair.substr(pair.find(' ') + 1);
    if (!gone.contains(left) && !gone.contains(right) && !gone.contains(left + right))
      merges.push_back(merge);
  }
  tokenizer["model"]["merges"] = merges;
  write_file(padded / "tokenizer.json", tokenizer.dump());
  // So hot that all ids are drawn, those without a piece too.
  Outcome const outcome = run_program({"generate", padded.string(), "--windows", "50", "--seqlen", "64",
                                       "--temperature", "1e6", "-o", scratch / "a.npy"});
  INFO("stderr: " << outcome.err);
  REQUIRE(outcome.code == 0);
  auto const ids = dartquant::read_npy_integers(scratch / "a.npy");
  CHECK(*std::max_element(ids.begin(), ids.begin() + 41) >= kept);
  for (std::size_t window = 0; window < 50; ++window) CHECK(ids[64 * window] < kept);
}

TEST_CASE("what cannot be written is one sentence", "[program][generate]") {
  Scratch const scratch;
  auto const refused = [&](std::vector<std::string> const& more, char const* part, int code) {
    Outcome const outcome = run_program(generate_line(scratch / "x.npy", more));
    INFO("stderr: " << outcome.err);
    CHECK(outcome.code == code);
    CHECK(one_sentence(outcome.err));
    CHECK(outcome.err.find(part) != outcome.err.npos);
    CHECK(!fs::exists(scratch / "x.npy"));
  };
  refused({"--text", text, "--prompt", "32"}, "nothing would be left to write", 2);
  refused({"--temperature", "-1"}, "--temperature", 2);
  refused({"--prompt", "5"}, "no text to take tokens from", 2);
  refused({"--text", scratch / "none.txt"}, "none.txt", 6);
  auto const large = [&](char const* windows, char const* part) {
    Outcome const outcome = run_program({"generate", model, "--windows", windows, "-o", scratch / "x.npy"});
    CHECK(outcome.code == 2);
    CHECK(outcome.err.find(part) != outcome.err.npos);
  };
  large("16000000", "of memory to write");
  large("9000000000000000000", "at most 4294967296 tokens");
  CHECK(run_program({"generate", model, "--seqlen", "129", "-o", scratch / "x.npy"}).code == 2);
  CHECK(run_program({"generate", model, "-o", scratch / "none" + std::string("/x.npy")}).code == 6);
}
