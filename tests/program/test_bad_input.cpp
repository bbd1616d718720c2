// SPDX-License-Identifier: Apache-2.0
#include <functional>
#include <string>

#include <dartquant/io/npy.hpp>

#include "damaged_model.hpp"
#include "run_program.hpp"
#include "support/catch.hpp"

using namespace dartquant::test;
namespace fs = std::filesystem;

namespace {

constexpr char const* weight = "model.layers.3.mlp.up_proj.weight";

struct Damage {
  std::string name;
  std::function<void(fs::path const&)> apply;
  int code;
  std::string says;  ///< a part of the sentence
};

std::function<void(fs::path const&)> header(std::function<void(Json&)> edit) {
  return [edit](fs::path const& model) { edit_header(model / "model.safetensors", edit); };
}

std::function<void(fs::path const&)> config(std::function<void(Json&)> edit) {
  return [edit](fs::path const& model) { edit_json(model / "config.json", edit); };
}

std::vector<Damage> damages() {
  return {
      {"no config", [](fs::path const& m) { fs::remove(m / "config.json"); }, 6, "config.json"},
      {"no weights", [](fs::path const& m) { fs::remove(m / "model.safetensors"); }, 6, "model.safetensors"},
      {"missing shard",
       [](fs::path const& m) {
         make_sharded(m, weight);
         fs::remove(m / "model-00001-of-00002.safetensors");
       },
       6, "model-00001-of-00002.safetensors"},
      {"index and shards disagree", [](fs::path const& m) { make_sharded(m, weight); }, 3, weight},
      {"truncated file", [](fs::path const& m) { truncate_file(m / "model.safetensors", 0.7); }, 3,
       "model.safetensors"},
      {"header larger than the file",
       [](fs::path const& m) {
         write_file(m / "model.safetensors", std::string("\xff\xff\xff\x00\x00\x00\x00\x00{}", 10));
       },
       3, "header"},
      {"wrong dtype", header([](Json& h) { h[weight]["dtype"] = "I16"; }), 4, weight},
      {"wrong shape", header([](Json& h) {
         h[weight]["shape"] = {128, 344};
       }),
       3, weight},
      {"shape that does not fit its bytes", header([](Json& h) {
         h[weight]["shape"] = {344, 127};
       }),
       3, weight},
      {"overlapping tensors", header([](Json& h) {
         h[weight]["data_offsets"] = h["model.layers.3.mlp.gate_proj.weight"]["data_offsets"];
       }),
       3, "model.safetensors"},
      {"missing tensor", config([](Json& c) { c["num_hidden_layers"] = 7; }), 3, "model.layers.6."},
      {"NaN weight",
       [](fs::path const& m) { fill_elements(m / "model.safetensors", weight, 1000, 1, 0x7FC0); }, 3, weight},
      {"infinite weight",
       [](fs::path const& m) { fill_elements(m / "model.safetensors", weight, 1000, 1, 0x7F80); }, 3, weight},
      {"activations overflow",
       [](fs::path const& m) { fill_elements(m / "model.safetensors", weight, 0, 344 * 128, 0x7F00); }, 7,
       "layer 3"},
      {"unknown architecture", config([](Json& c) { c["architectures"] = {"MambaForCausalLM"}; }), 4,
       "MambaForCausalLM"},
      {"config is no JSON", [](fs::path const& m) { write_file(m / "config.json", "{"); }, 3, "config.json"},
      {"index leaves the folder",
       [](fs::path const& m) {
         make_sharded(m, weight);
         edit_json(m / "model.safetensors.index.json",
                   [](Json& index) { index["weight_map"][weight] = "../model.safetensors"; });
       },
       3, "index"},
      {"no tokenizer", [](fs::path const& m) { fs::remove(m / "tokenizer.json"); }, 6, "tokenizer.json"},
      {"tokenizer is no JSON", [](fs::path const& m) { write_file(m / "tokenizer.json", "]"); }, 3,
       "tokenizer.json"},
  };
}

void check_refused(Outcome const& outcome, int code, std::string const& says) {
  INFO("stderr: " << outcome.err);
  CHECK(outcome.code == code);
  CHECK(one_sentence(outcome.err));
  CHECK(outcome.err.find(says) != outcome.err.npos);
}

}  // namespace

TEST_CASE("a damaged checkpoint is one sentence, its exit code, and nothing written", "[program][bad]") {
  std::string const text = (tiny_llama() / "calibration.txt").string();
  for (Damage const& damage : damages()) {
    INFO(damage.name);
    Scratch const scratch;
    copy_model(scratch / "model");
    damage.apply(scratch / "model");
    std::string const before = names_in(scratch / "model");
    check_refused(run_program({"calibrate", scratch / "model", "--text", text, "--samples", "1", "--epochs",
                               "1", "-o", scratch / "r.safetensors", "--json", scratch / "report.json"}),
                  damage.code, damage.says);
    CHECK(scratch.names() == "model ");
    CHECK(names_in(scratch / "model") == before);
  }
}

TEST_CASE("fold and quantize of a damaged checkpoint leave no folder", "[program][bad]") {
  Scratch const scratch;
  copy_model(scratch / "model");
  fill_elements(fs::path(scratch / "model") / "model.safetensors", weight, 77, 1, 0x7FC0);
  check_refused(run_program({"fold", scratch / "model", "-o", scratch / "a/b/folded"}), 3, weight);
  check_refused(run_program({"quantize", scratch / "model", "--scheme", "w4a16", "--method", "rtn", "-o",
                             scratch / "a/b/folded"}),
                3, weight);
  CHECK(scratch.names() == "model ");
}

TEST_CASE("a text that cannot be used is one sentence", "[program][bad]") {
  Scratch const scratch;
  std::string const model = tiny_llama().string();
  auto const eval = [&](std::string const& flag, std::string const& file) {
    return run_program({"eval", model, flag, file, "--windows", "1"});
  };
  write_file(scratch / "empty.txt", "");
  write_file(scratch / "blank.txt", " \n\n");
  write_file(scratch / "short.txt", "once upon a time");
  write_file(scratch / "latin1.txt", std::string(2000, 'a') + "caf\xe9");
  check_refused(eval("--text", scratch / "none.txt"), 6, "none.txt");
  check_refused(eval("--text", scratch.path().string()), 6, "is not a file");
  check_refused(eval("--text", scratch / "empty.txt"), 3, "is empty");
  check_refused(eval("--text", scratch / "blank.txt"), 3, "is empty");
  check_refused(eval("--text", scratch / "short.txt"), 3, "one window takes 128");
  check_refused(eval("--text", scratch / "latin1.txt"), 3, "latin1.txt");

  std::vector<std::int32_t> ids(200, 5);
  dartquant::write_npy(scratch / "good.npy", ids);
  ids[150] = 1024;
  dartquant::write_npy(scratch / "high.npy", ids);
  ids[150] = -1;
  dartquant::write_npy(scratch / "negative.npy", ids);
  dartquant::write_npy(scratch / "none.npy", std::vector<std::int32_t>{});
  fs::copy_file(scratch / "good.npy", scratch / "cut.npy");
  truncate_file(scratch / "cut.npy", 0.5);
  CHECK(eval("--tokens", scratch / "good.npy").code == 0);
  check_refused(eval("--tokens", scratch / "high.npy"), 3, "token 150 is 1024");
  check_refused(eval("--tokens", scratch / "negative.npy"), 3, "token 150 is -1");
  check_refused(eval("--tokens", scratch / "none.npy"), 3, "no tokens");
  check_refused(eval("--tokens", scratch / "cut.npy"), 3, "cut.npy");
}

TEST_CASE("rotations of another model, or damaged ones, are refused", "[program][bad]") {
  Scratch const scratch;
  std::string const model = tiny_llama().string(), text = (tiny_llama() / "eval.txt").string(),
                    file = scratch / "r.safetensors";
  REQUIRE(
      run_program({"calibrate", model, "--text", text, "--method", "quarot", "--samples", "1", "-o", file})
          .code == 0);
  auto const fold = [&] {
    return run_program({"fold", model, "--rotations", file, "-o", scratch / "folded"});
  };
  std::string const good = read_file(file);
  edit_header(file, [](Json& h) { h["R1"]["shape"] = {64, 256}; });
  check_refused(fold(), 3, "R1");
  write_file(file, good.substr(0, good.size() / 2));
  check_refused(fold(), 3, "r.safetensors");
  std::string bad = good;
  bad[bad.size() - 1] = static_cast<char>(bad[bad.size() - 1] ^ 0x01);  // exponent of the last entry
  write_file(file, bad);
  check_refused(fold(), 7, "R2");
  CHECK(scratch.names() == "r.safetensors ");
}

TEST_CASE("too little memory is exit code 5", "[program][bad]") {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  WARN("skipped: no address space limit under a sanitizer");
#else
  Scratch const scratch;
  Outcome const outcome = run_program(
      {"eval", tiny_llama().string(), "--text", (tiny_llama() / "eval.txt").string(), "--threads", "1"},
      {.memory_limit = 30'000'000});
  check_refused(outcome, 5, "memory");
#endif
}
