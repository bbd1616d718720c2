// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <map>
#include <set>
#include <string>

#include <nlohmann/json.hpp>

#include <dartquant/io/safetensors.hpp>

#include "damaged_model.hpp"
#include "run_program.hpp"
#include "support/catch.hpp"

using namespace dartquant::test;
namespace fs = std::filesystem;

namespace {

std::string const model = tiny_llama().string(), text = (tiny_llama() / "calibration.txt").string();

std::vector<std::string> calibrate_line(std::string const& output, std::string const& threads = "2") {
  return {"calibrate",   model, "--text", text, "--samples", "16",    "--epochs", "2",
          "--r2-epochs", "2",   "--seed", "7",  "--threads", threads, "-o",       output};
}

std::map<std::string, std::string> contents(fs::path const& folder) {
  std::map<std::string, std::string> files;
  for (fs::directory_entry const& entry : fs::directory_iterator(folder))
    files[entry.path().filename().string()] = read_file(entry.path());
  return files;
}

void check_refused(Outcome const& outcome, int code) {
  INFO("stderr: " << outcome.err);
  CHECK(outcome.code == code);
  CHECK(one_sentence(outcome.err));
}

}  // namespace

TEST_CASE("the same seed gives the same bytes for 1, 2 and 4 threads and over repeats",
          "[program][determinism]") {
  Scratch const scratch;
  std::map<std::string, std::string> first;
  std::string first_rotations, first_report;
  for (std::string const threads : {"1", "2", "4", "2"}) {
    std::string const rotations = scratch / "r.safetensors", folder = scratch / "folded";
    REQUIRE(run_program(calibrate_line(rotations, threads)).code == 0);
    REQUIRE(run_program({"fold", model, "--rotations", rotations, "--threads", threads, "-o", folder}).code ==
            0);
    Outcome const eval =
        run_program({"eval", model, "--text", text, "--windows", "4", "--rotations", rotations, "--active",
                     "r1,r2,r3,r4", "--scheme", "w4a4kv4", "--threads", threads, "--quiet"});
    REQUIRE(eval.code == 0);
    if (first.empty()) {
      first = contents(folder);
      first_rotations = read_file(rotations);
      first_report = eval.out;
      CHECK(first.count("config.json") == 1);
      CHECK(first.count("dartquant.json") == 1);
    }
    CHECK(read_file(rotations) == first_rotations);
    CHECK(contents(folder) == first);
    CHECK(eval.out == first_report);
  }
}

TEST_CASE("a folded checkpoint gives the original's perplexity", "[program][fold]") {
  Scratch const scratch;
  REQUIRE(run_program(calibrate_line(scratch / "r.safetensors")).code == 0);
  for (std::string const active : {"r1,r2", "r1,r2,r4"}) {
    Outcome const fold =
        run_program({"fold", model, "--rotations", scratch / "r.safetensors", "--active", active, "--dtype",
                     "f32", "-o", scratch / "folded", "--json", scratch / "fold.json"});
    INFO(fold.err);
    REQUIRE(fold.code == 0);
    CHECK(Json::parse(read_file(scratch / "fold.json"))["max_relative_logit_error"].get<double>() < 1e-4);
    REQUIRE(run_program({"eval", scratch / "folded", "--original", model, "--text", text, "--windows", "4",
                         "--json", scratch / "eval.json"})
                .code == 0);
    Json const report = Json::parse(read_file(scratch / "eval.json"));
    CHECK(report["kl"].get<double>() < 1e-6);
    CHECK(report["top1_agreement"].get<double>() > 0.999);
  }
  Json const config = Json::parse(read_file(scratch / "folded/config.json"));
  CHECK(config["tie_word_embeddings"] == false);
  CHECK(config["torch_dtype"] == "float32");
}

TEST_CASE("quantize without rotations writes what it rounds, gains folded", "[program][quantize]") {
  Scratch const scratch;
  Outcome const outcome =
      run_program({"quantize", model, "--method", "rtn", "--scheme", "w4a8", "--weight-clip", "none",
                   "--dtype", "f32", "--integers", "--text", (tiny_llama() / "eval.txt").string(),
                   "--windows", "4", "-o", scratch / "w4", "--json", scratch / "w4.json"});
  INFO(outcome.err);
  REQUIRE(outcome.code == 0);
  Json const report = Json::parse(read_file(scratch / "w4.json"));
  CHECK(report["max_relative_logit_error"].get<double>() < 1e-4);
  CHECK(std::abs(report["integers"]["relative_difference"].get<double>()) < 0.01);
}

TEST_CASE("quantize with GPTQ writes weights that lose less than those of rounding to nearest",
          "[program][quantize]") {
  Scratch const scratch;
  auto const perplexity = [&](std::string const& weights) {
    Outcome const outcome = run_program({"quantize",
                                         model,
                                         "--method",
                                         "rtn",
                                         "--active",
                                         "r4",
                                         "--scheme",
                                         "w3a16",
                                         "--weights",
                                         weights,
                                         "--calibration",
                                         text,
                                         "--samples",
                                         "16",
                                         "--dtype",
                                         "f32",
                                         "--text",
                                         (tiny_llama() / "eval.txt").string(),
                                         "--windows",
                                         "16",
                                         "-o",
                                         scratch / weights,
                                         "--json",
                                         scratch / "report.json"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    Json const report = Json::parse(read_file(scratch / "report.json"));
    CHECK(report["max_relative_logit_error"].get<double>() < 1e-4);
    CHECK(read_file(scratch / (weights + "/dartquant.json")).find("\"rounding\": \"" + weights + "\"") !=
          std::string::npos);
    return report["quantized"]["perplexity"].get<double>();
  };
  CHECK(perplexity("gptq") < 0.98 * perplexity("rtn"));
}

TEST_CASE("quantize writes a checkpoint and measures it", "[program][quantize]") {
  Scratch const scratch;
  Outcome const outcome = run_program({"quantize",         model,
                                       "--calibration",    text,
                                       "--text",           (tiny_llama() / "eval.txt").string(),
                                       "--samples",        "8",
                                       "--epochs",         "1",
                                       "--r2-epochs",      "1",
                                       "--windows",        "4",
                                       "--scheme",         "w4a8kv8",
                                       "--active",         "r1,r2,r3,r4",
                                       "--integers",       "-o",
                                       scratch / "w4",     "--json",
                                       scratch / "w4.json"});
  INFO(outcome.err);
  REQUIRE(outcome.code == 0);
  Json const report = Json::parse(read_file(scratch / "w4.json"));
  CHECK(report["quantized"]["perplexity"].get<double>() > report["baseline"]["perplexity"].get<double>());
  CHECK(report["quantized"]["perplexity"].get<double>() < 2 * report["baseline"]["perplexity"].get<double>());
  CHECK(report["quantized"]["kl"].get<double>() > 0);
  CHECK(std::abs(report["integers"]["relative_difference"].get<double>()) < 0.02);  // written as bfloat16
  CHECK(run_program({"inspect", scratch / "w4"}).code == 0);

  dartquant::SafetensorsFile const weights(scratch / "w4/model.safetensors");
  auto const W = weights.read_matrix<float>(*weights.find("model.layers.2.mlp.up_proj.weight"));
  std::set<float> values(W.data(), W.data() + W.cols());  // one row: 16 levels at most
  CHECK(values.size() <= 16);
}

TEST_CASE("the output is never the input, and foreign folders stay as they are", "[program][outputs]") {
  Scratch const scratch;
  copy_model(scratch / "model");
  auto const before = contents(scratch / "model");
  fs::create_directory_symlink(scratch / "model", scratch / "link");
  check_refused(run_program({"fold", scratch / "model", "-o", scratch / "model"}), 2);
  check_refused(run_program({"fold", scratch / "model", "-o", scratch / "link"}), 2);
  check_refused(run_program({"fold", scratch / "model", "-o", scratch / "model/../model/"}), 2);
  check_refused(run_program({"calibrate", scratch / "model", "--text", text, "-o",
                             scratch / "model/model.safetensors"}),
                2);
  check_refused(run_program({"calibrate", scratch / "model", "--text", text, "-o", scratch / "r", "--json",
                             scratch / "model/config.json"}),
                2);
  check_refused(run_program({"eval", scratch / "model", "--text", text, "--json", text}), 2);
  CHECK(contents(scratch / "model") == before);
  fs::create_directory(scratch / "mine");
  write_file(scratch / "mine/thesis.txt", "years of work");
  check_refused(run_program({"fold", scratch / "model", "-o", scratch / "mine"}), 6);
  check_refused(run_program({"fold", scratch / "model", "-o", scratch / "mine/thesis.txt"}), 6);
  CHECK(contents(scratch / "mine") == std::map<std::string, std::string>{{"thesis.txt", "years of work"}});
}

TEST_CASE("an earlier output is replaced as a whole; files beside it stay", "[program][outputs]") {
  Scratch const scratch;
  std::string const folder = scratch / "folded";
  REQUIRE(run_program({"fold", model, "--dtype", "f32", "-o", folder}).code == 0);
  std::uintmax_t const wide = fs::file_size(folder + "/model.safetensors");
  write_file(folder + "/notes.txt", "mine");
  write_file(folder + "/model-00001-of-00002.safetensors", "a stale shard");
  write_file(folder + "/rotations.safetensors", "of the earlier output");
  fs::create_directory(folder + "/.dartquant-1.tmp");  // of a run that was killed
  REQUIRE(run_program({"fold", model, "-o", folder}).code == 0);
  CHECK(fs::file_size(folder + "/model.safetensors") < wide / 10 * 6);
  CHECK(read_file(folder + "/notes.txt") == "mine");
  CHECK(names_in(folder) ==
        "config.json dartquant.json model.safetensors notes.txt tokenizer.json tokenizer_config.json ");
}

TEST_CASE("output paths are checked before the work", "[program][outputs]") {
  Scratch const scratch;
  for (std::string const& path :
       {scratch / "no/such/folder/x", std::string("/proc/x"), std::string("/dev/null/x")}) {
    INFO(path);
    check_refused(run_program({"eval", model, "--text", text, "--json", path}), 6);
    Outcome const calibrate = run_program(calibrate_line(path));
    check_refused(calibrate, 6);
    CHECK(calibrate.err.find("Plan") == calibrate.err.npos);
  }
  check_refused(run_program({"fold", model, "-o", "/proc/x"}), 6);
  check_refused(run_program({"fold", model, "-o", "/dev/null/x"}), 6);
  CHECK(scratch.names().empty());
}

TEST_CASE("a file size limit leaves nothing behind", "[program][outputs]") {
  Scratch const scratch;
  check_refused(run_program(calibrate_line(scratch / "r.safetensors"), {.file_limit = 50'000}), 6);
  check_refused(run_program({"fold", model, "-o", scratch / "folded"}, {.file_limit = 500'000}), 6);
  CHECK(scratch.names().empty());
}

TEST_CASE("a full disk leaves nothing behind and the old output whole", "[program][outputs]") {
  Scratch const scratch;
  fs::create_directory(scratch / "disk");
  if (mount("none", (scratch / "disk").c_str(), "tmpfs", 0, "size=4m") != 0) {
    WARN("skipped: no right to mount a small disk");
    return;
  }
  Outcome const first = run_program({"fold", model, "-o", scratch / "disk/folded"});
  std::map<std::string, std::string> const before = contents(scratch / "disk/folded");
  Outcome const second = run_program({"fold", model, "--dtype", "f32", "-o", scratch / "disk/folded"});
  Outcome const third = run_program({"fold", model, "--dtype", "f32", "-o", scratch / "disk/other"});
  std::map<std::string, std::string> const after = contents(scratch / "disk/folded");
  std::string const names = names_in(scratch / "disk");
  umount((scratch / "disk").c_str());
  CHECK(first.code == 0);
  check_refused(second, 6);
  check_refused(third, 6);
  CHECK(before == after);
  CHECK(names == "folded ");
}

TEST_CASE("a signal stops the program at its next step, and nothing is left", "[program][interrupt]") {
  Scratch const scratch;
  for (int const signal : {SIGINT, SIGTERM}) {
    Outcome const compare =
        run_program({"compare", model, "--calibration", text, "--text", text, "--windows", "32", "--methods",
                     "quarot", "--seeds", "500", "--json", scratch / "results.json"},
                    {.signal = signal, .signal_after = "calibrate"});
    check_refused(compare, 130);
    Outcome const calibrate =
        run_program({"calibrate", model, "--text", text, "--samples", "16", "--r2-epochs", "1", "--epochs",
                     "100000", "-o", scratch / "r.safetensors"},
                    {.signal = signal, .signal_after = "capture"});
    check_refused(calibrate, 130);
    Outcome const quantize =  // its folder is there already when it measures
        run_program(
            {"quantize", model, "--method", "rtn", "--scheme", "w4a16", "--text", text, "-o", scratch / "w4"},
            {.signal = signal, .signal_after = "quantize: "});
    check_refused(quantize, 130);
  }
  CHECK(scratch.names().empty());
}

TEST_CASE("two programs do not write one folder at once", "[program][outputs]") {
  Scratch const scratch;
  std::string const folder = scratch / "folded";
  fs::create_directory(folder);
  int const other = open(folder.c_str(), O_RDONLY | O_DIRECTORY);
  REQUIRE(flock(other, LOCK_EX) == 0);
  Outcome const locked = run_program({"fold", model, "-o", folder});
  check_refused(locked, 6);
  CHECK(locked.err.find("another process") != locked.err.npos);
  CHECK(names_in(folder).empty());
  close(other);
  CHECK(run_program({"fold", model, "-o", folder}).code == 0);
  CHECK(fs::exists(folder + "/config.json"));
}

TEST_CASE("quantize writes INT4 folders that eval runs, and says which engine does",
          "[program][quantize][folder]") {
  Scratch const scratch;
  std::string const eval_text = (tiny_llama() / "eval.txt").string();
  for (std::string const format : {"native", "compressed-tensors"}) {
    CAPTURE(format);
    bool const native = format == "native";
    std::string const folder = scratch / format;
    std::vector<std::string> line{"quantize",
                                  model,
                                  "--method",
                                  "quarot",
                                  "--calibration",
                                  text,
                                  "--samples",
                                  "4",
                                  "--seed",
                                  "5",
                                  "--active",
                                  native ? "r1,r2,r3,r4" : "r1,r2,r4",
                                  "--scheme",
                                  native ? "w4a8kv8" : "w4a8",
                                  "--weight-group",
                                  native ? "32" : "8",
                                  "--dtype",
                                  "f32",
                                  "--format",
                                  format,
                                  "--text",
                                  eval_text,
                                  "--windows",
                                  "4",
                                  "-o",
                                  folder,
                                  "--json",
                                  scratch / "report.json"};
    Outcome const written = run_program(line);
    INFO(written.err);
    REQUIRE(written.code == 0);
    CHECK(written.out.find(native ? "embed the kernels" : "vLLM runs R4 as transform_config says") !=
          std::string::npos);
    Json const report = Json::parse(read_file(scratch / "report.json"));
    CHECK(report["max_relative_logit_error"].get<double>() < 1e-4);

    Outcome const eval = run_program({"eval", folder, "--text", eval_text, "--windows", "4", "--original",
                                      model, "--integers", "--json", scratch / "eval.json"});
    INFO(eval.err);
    REQUIRE(eval.code == 0);
    Json const evaluated = Json::parse(read_file(scratch / "eval.json"));
    CHECK(evaluated["perplexity"].get<double>() == report["quantized"]["perplexity"].get<double>());
    CHECK(std::abs(evaluated["integers"]["relative_difference"].get<double>()) < 0.01);

    Json const manifest = Json::parse(read_file(folder + "/dartquant.json"));
    CHECK(manifest["format"] == format);
    CHECK(manifest["options"]["--seed"] == "5");
    CHECK(manifest["options"]["--calibration"] == "calibration.txt");
    CHECK(manifest["input"]["model.safetensors"]["xxh128"].get<std::string>().size() == 32);
    CHECK(manifest["input"].contains("tokenizer.json"));

    check_refused(run_program({"fold", folder, "-o", scratch / "again"}), 4);
    check_refused(run_program({"eval", folder, "--text", eval_text, "--active", "r3"}), 2);
  }
}

TEST_CASE("a rotated weight-only output in small groups comes with a warning", "[program][quantize]") {
  Scratch const scratch;
  auto const says = [&](std::string const& active, std::string const& group) {
    Outcome const outcome = run_program({"quantize", model, "--method", "rtn", "--active", active, "--scheme",
                                         "w4a16", "--weight-group", group, "-o", scratch / "w4"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    return outcome.out.find("rotations gain little or nothing") != std::string::npos;
  };
  CHECK(says("r4", "8"));
  CHECK_FALSE(says("r4", "0"));
  CHECK_FALSE(says("none", "8"));
}
