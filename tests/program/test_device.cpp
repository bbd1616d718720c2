// SPDX-License-Identifier: Apache-2.0
// --device: what it says where there is none, and the program on a device that is the host.
#include <algorithm>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <dartquant/model/pipeline.hpp>

#include "run_program.hpp"
#include "support/catch.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

std::string const model = tiny_llama().string(), text = (tiny_llama() / "calibration.txt").string();

bool holds(std::string const& all, std::string const& part) { return all.find(part) != all.npos; }

Outcome eval_on(std::string const& device, Surroundings const& surroundings = {}) {
  return run_program({"eval", model, "--text", text, "--windows", "1", "--device", device}, surroundings);
}

}  // namespace

TEST_CASE("the help of every command that multiplies has --device", "[program][device]") {
  for (std::string const command : {"inspect", "calibrate", "fold", "quantize", "eval", "compare"}) {
    INFO(command);
    CHECK(holds(run_program({command, "--help"}).out, "--device"));
  }
  CHECK(!holds(run_program({"tokenize", "--help"}).out, "--device"));
}

TEST_CASE("a device that does not exist is one sentence", "[program][device]") {
  for (std::string const name : {"tpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cuda:99999999999", ""}) {
    Outcome const outcome = eval_on(name);
    INFO(name << outcome.err);
    CHECK(outcome.code == 2);
    CHECK(one_sentence(outcome.err));
    CHECK(holds(outcome.err, "--device " + name + ": it is cpu, cuda, cuda:N or auto"));
  }
  Outcome const cpu = eval_on("cpu");
  CHECK(cpu.code == 0);
  CHECK(holds(cpu.err, ", on CPU; about"));
}

#if !DARTQUANT_PROGRAM_HAS_CUDA
TEST_CASE("a program without CUDA says how to get one with it, and auto takes the CPU", "[program][device]") {
  Outcome const outcome = eval_on("cuda");
  CHECK(outcome.code == 4);
  CHECK(one_sentence(outcome.err));
  CHECK(holds(outcome.err, "-DDARTQUANT_ENABLE_CUDA=ON"));
  CHECK(holds(eval_on("auto").err, ", on CPU; about"));
}
#endif

#ifdef DARTQUANT_PROGRAM_ON_FAKE
namespace {

Surroundings on_fake(std::string const& devices = "1") {
  return {.program = DARTQUANT_PROGRAM_ON_FAKE, .environment = {"FAKE_DEVICES=" + devices}};
}

struct Learned {
  Outcome outcome;
  nlohmann::json report;
  Rotations rotations;
};

/// The rows for R2 are enough to determine the polar factors of all heads: with 60, Procrustes carries the
/// last bits of a head into its third digit. The CPU multiplies by plain loops, in the order of the device.
Learned learn(Scratch const& scratch, std::string const& method, std::string const& device,
              Surroundings const& surroundings) {
  std::string const output = scratch / (method + device + ".safetensors"),
                    json = scratch / (method + device + ".json");
  Learned learned;
  learned.outcome =
      run_program({"calibrate", model,  "--text",   text, "--samples",   "4",    "--rows",   "300",
                   "--r2-rows", "400",  "--epochs", "2",  "--r2-epochs", "2",    "--method", method,
                   "--device",  device, "--json",   json, "-o",          output, "--isa",    "portable"},
                  surroundings);
  INFO(learned.outcome.err);
  REQUIRE(learned.outcome.code == 0);
  learned.report = nlohmann::json::parse(read_file(json));
  learned.rotations = load_rotations(output, Model::open(model).config());
  return learned;
}

/// The losses of a report, R1 and then layer by layer.
std::vector<double> losses(nlohmann::json const& report) {
  std::vector<double> all = report["r1_loss"].get<std::vector<double>>();
  for (auto const& layer : report["r2_loss"])
    for (double const loss : layer) all.push_back(loss);
  return all;
}

}  // namespace

TEST_CASE("calibrate on a device: the rotations of the CPU", "[program][device]") {
  Scratch const scratch;
  for (std::string const method : {"dartquant", "centred"}) {
    Learned const cpu = learn(scratch, method, "cpu", {}), gpu = learn(scratch, method, "cuda", on_fake());
    INFO(method);
    std::string const name = gpu.report["device"];
    CHECK(name != "CPU");
    CHECK(cpu.report["device"] == "CPU");
    CHECK(holds(gpu.outcome.err, ", on " + name + "; about"));
    CHECK(holds(gpu.outcome.out, "learned on " + name));
    std::vector<double> const a = losses(cpu.report), b = losses(gpu.report);
    REQUIRE(a.size() == b.size());
    REQUIRE(a.size() > 6);
    for (std::size_t i = 0; i < a.size(); ++i) CHECK(b[i] == Approx(a[i]).epsilon(1e-4));
    CHECK((cpu.rotations.r1 - gpu.rotations.r1).cwiseAbs().maxCoeff() < 2e-3);
    for (std::size_t layer = 0; layer < cpu.rotations.r2.size(); ++layer)
      for (std::size_t head = 0; head < cpu.rotations.r2[layer].size(); ++head)
        CHECK((cpu.rotations.r2[layer][head] - gpu.rotations.r2[layer][head]).cwiseAbs().maxCoeff() < 2e-3);
    CHECK(gpu.rotations.r1_orthogonality() < 30);
  }
}

TEST_CASE("eval on a device: the perplexity of the CPU", "[program][device]") {
  Scratch const scratch;
  auto const perplexity = [&](std::string const& device, Surroundings const& surroundings) {
    std::string const json = scratch / (device.substr(0, 4) + ".json");
    Outcome const outcome = run_program({"eval", model, "--text", text, "--windows", "2", "--active", "r3,r4",
                                         "--device", device, "--json", json},
                                        surroundings);
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    return nlohmann::json::parse(read_file(json))["perplexity"].get<double>();
  };
  CHECK(perplexity("cuda:0", on_fake()) == Approx(perplexity("cpu", {})).epsilon(1e-5));
}

TEST_CASE("a machine without a device: a sentence, and auto takes the CPU", "[program][device]") {
  Outcome const outcome = eval_on("cuda", on_fake("0"));
  CHECK(outcome.code == 4);
  CHECK(one_sentence(outcome.err));
  CHECK(holds(outcome.err, "use the CPU"));
  CHECK(holds(eval_on("auto", on_fake("0")).err, ", on CPU; about"));
  CHECK(!holds(eval_on("auto", on_fake()).err, ", on CPU; about"));
  Outcome const beyond = eval_on("cuda:3", on_fake());
  CHECK(beyond.code == 2);
  CHECK(one_sentence(beyond.err));
}
#endif
