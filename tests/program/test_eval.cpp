// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include <nlohmann/json.hpp>

#include <dartquant/core/compiled_kernels.hpp>

#include "run_program.hpp"
#include "support/catch.hpp"

using namespace dartquant::test;
using Json = nlohmann::json;

namespace {

/// Perplexity and logits against the reference numbers that come with a model.
void check_reference(std::filesystem::path const& model, std::vector<std::string> const& source,
                     std::filesystem::path const& logits, double perplexity, int windows, int seqlen) {
  Scratch const scratch;
  std::vector<std::string> line{"eval",        model.string(),  "--seqlen", std::to_string(seqlen),
                                "--reference", logits.string(), "--json",   scratch / "eval.json"};
  line.insert(line.end(), source.begin(), source.end());
  Outcome const outcome = run_program(line);
  INFO(outcome.err);
  REQUIRE(outcome.code == 0);
  Json const report = Json::parse(read_file(scratch / "eval.json"));
  CHECK(report["perplexity"].get<double>() == Approx(perplexity).epsilon(1e-3));
  CHECK(report["windows"] == windows);
  CHECK(report["tokens_scored"] == windows * (seqlen - 1));
  CHECK(report["reference"]["max_relative_error"].get<double>() < 1e-4);
  CHECK(report["reference"]["tokens"] == 64);
  CHECK(outcome.out.find("perplexity") != outcome.out.npos);
}

void check_shared(std::string const& name, double perplexity) {
  std::filesystem::path const shared = DARTQUANT_SHARED_MODELS;
  if (!std::filesystem::exists(shared / name)) {
    WARN("skipped: no ../shared/models here");
    return;
  }
  check_reference(shared / name, {"--text", (shared / "text/tinystories-eval.txt").string()},
                  shared / "tokens" / name / "logits.safetensors", perplexity, 391, 256);
}

}  // namespace

TEST_CASE("eval reproduces the reference numbers of tiny-llama", "[program][eval]") {
  check_reference(tiny_llama(), {"--text", (tiny_llama() / "eval.txt").string()},
                  tiny_llama() / "logits.safetensors", 9.40339465520485, 352, 128);
}

TEST_CASE("eval reproduces the reference numbers of stories260K", "[program][eval][shared]") {
  check_shared("stories260K", 5.7801);
}

TEST_CASE("eval reproduces the reference numbers of tiny1m", "[program][eval][shared]") {
  check_shared("tiny1m", 5.0966);
}

TEST_CASE("a text and its token ids give the same report", "[program][eval]") {
  std::vector<std::string> const rest{"--windows", "3",     "--scheme", "w4a4kv4",
                                      "--active",  "r3,r4", "--quiet"};
  std::vector<std::string> text{"eval", tiny_llama().string(), "--text",
                                (tiny_llama() / "eval.txt").string()};
  std::vector<std::string> ids{"eval", tiny_llama().string(), "--tokens",
                               (tiny_llama() / "eval_ids.npy").string()};
  text.insert(text.end(), rest.begin(), rest.end());
  ids.insert(ids.end(), rest.begin(), rest.end());
  Outcome const from_text = run_program(text), from_ids = run_program(ids);
  CHECK(from_text.code == 0);
  CHECK(from_text.err.empty());
  CHECK(from_text.out == from_ids.out);
  CHECK(from_text.out.find("KL") != std::string::npos);
}

TEST_CASE("integer products are measured beside fake quantization, on any instruction set",
          "[program][eval]") {
  Scratch const scratch;
  std::vector<std::string> const line{"eval",          tiny_llama().string(),
                                      "--tokens",      (tiny_llama() / "eval_ids.npy").string(),
                                      "--windows",     "8",
                                      "--scheme",      "w4a8kv8",
                                      "--weight-clip", "none",
                                      "--active",      "r3,r4",
                                      "--integers"};
  auto const run = [&](std::vector<std::string> const& more) {
    std::vector<std::string> all = line;
    all.insert(all.end(), more.begin(), more.end());
    all.insert(all.end(), {"--json", scratch / "eval.json"});
    Outcome const outcome = run_program(all);
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    CHECK(outcome.out.find("\nintegers    ") != outcome.out.npos);
    return Json::parse(read_file(scratch / "eval.json"));
  };
  Json best = run({"--threads", "3"}), serial = run({"--threads", "1"}),
       portable = run({"--isa", "portable", "--threads", "1"});
  CHECK(portable["integers"]["isa"] == "portable");
  CHECK(std::abs(best["integers"]["relative_difference"].get<double>()) < 0.01);
  CHECK(best == serial);
  if (dartquant::compiled_kernels().isa() ==
      dartquant_isa_avx512_vnni) {  // float products of AVX2 have the same bytes
    Json avx2 = run({"--isa", "avx2", "--threads", "2"});
    avx2["integers"]["isa"] = best["integers"]["isa"];
    CHECK(best == avx2);
  }
  // Integers are the same on all; the logits behind them are float products, whose last bits are not.
  CHECK(best["integers"]["nll"].get<double>() ==
        Approx(portable["integers"]["nll"].get<double>()).epsilon(1e-6));
  CHECK(best["nll"].get<double>() == Approx(portable["nll"].get<double>()).epsilon(1e-2));
}

TEST_CASE("logits of another model are exit code 7", "[program][eval]") {
  Scratch const scratch;
  std::filesystem::path const model = scratch.path() / "model";
  std::filesystem::copy(tiny_llama(), model);
  std::string config = read_file(model / "config.json");
  config.replace(config.find("10000.0"), 7, "20000.0");
  write_file(model / "config.json", config);
  Outcome const outcome =
      run_program({"eval", model.string(), "--text", (model / "eval.txt").string(), "--windows", "1",
                   "--reference", (model / "logits.safetensors").string()});
  CHECK(outcome.code == 7);
  CHECK(one_sentence(outcome.err));
}
