// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/fold.hpp>
#include <dartquant/model/pipeline.hpp>
#include <dartquant/transform/hadamard.hpp>
#include <dartquant/transform/rotation.hpp>

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <map>

#include "model/models.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

/// Dense random rotations of every kind a model takes.
Rotations random_rotations(ModelConfig const& config, std::uint64_t seed = 1) {
  Rotations rotations{haar_rotation(config.hidden, seed), {}};
  for (index_t layer = 0; layer < config.layers; ++layer) {
    rotations.r2.emplace_back();
    for (index_t head = 0; head < config.kv_heads; ++head)
      rotations.r2.back().push_back(haar_rotation(config.head_dim, ++seed));
  }
  return rotations;
}

/// Every file of a folder and its bytes.
std::map<std::string, std::string> contents(fs::path const& folder) {
  std::map<std::string, std::string> files;
  for (fs::directory_entry const& entry : fs::directory_iterator(folder))
    files[entry.path().filename().string()] = read_bytes(entry.path());
  return files;
}

/// The relative difference of the logits of the written folder, opened anew, to those of the original.
double fold_error(Cpu const& cpu, Model const& model, Rotations const& rotations, fs::path const& output,
                  TokenWindows const& windows, FoldOptions options) {
  options.dtype = Dtype::f32;
  FoldReport const report = fold(cpu, model, rotations, output, options);
  REQUIRE(report.files.back().filename() == "config.json");
  REQUIRE(report.r1_orthogonality < 30);
  Model const folded = Model::open(output);
  REQUIRE_FALSE(folded.config().tied_embeddings);
  return check_fold(cpu, model, folded, windows).max_error;
}

}  // namespace

TEST_CASE("folding dense random R1 and R2 keeps the logits of the real models", "[fold][real]") {
  TemporaryFolder const folder;
  Cpu const cpu(2);
  for (RealModel const& real : real_models()) {
    INFO(real.name);
    Model const model = Model::open(real.folder);
    Rotations const rotations = random_rotations(model.config());
    CHECK(fold_error(cpu, model, rotations, folder / real.name, real.windows(4), {}) < 1e-4);
    Model const folded = Model::open(folder / real.name);
    ForwardOptions options;  // the same fold, on the fly
    options.rotations = &rotations;
    options.active = {.r1 = true, .r2 = true};
    CHECK(relative_difference(logits(cpu, folded, real.windows(2)),
                              logits(cpu, model, real.windows(2), options)) < 1e-6);
    for (char const* name : {"tokenizer.json", "tokenizer_config.json"})
      CHECK(read_bytes(folder / real.name / name) == read_bytes(real.folder / name));
    RowMatrix<float> const norm = folded.checkpoint().read_matrix<float>("model.norm.weight");
    CHECK((norm.array() == 1.0f).all());
  }
}

TEST_CASE("folding keeps the logits of every kind of checkpoint", "[fold]") {
  TemporaryFolder const folder;
  Cpu const cpu(2);
  std::vector<SyntheticModel> const kinds{
      {.tied = false},
      {.tied = true},
      {.tied = true, .shard_bytes = 20'000},
      {.attention_bias = true, .mlp_bias = true},
      {.kv_heads = 1, .attention_bias = true, .dtype = Dtype::f16},
      {.kv_heads = 4, .dtype = Dtype::bf16},
      {.architecture = "MistralForCausalLM",
       .hidden = 40,
       .intermediate = 44,
       .heads = 6,
       .kv_heads = 3,
       .head_dim = 10},
      {.more_config =
           ", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 4.0, \"low_freq_factor\": 1.0, "
           "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 16}"}};
  for (std::size_t kind = 0; kind < kinds.size(); ++kind) {
    INFO("kind " << kind);
    Model const model = Model::open(write_synthetic(folder / std::to_string(kind), kinds[kind]));
    fs::path const output = folder / ("folded " + std::to_string(kind));
    FoldOptions options;
    options.shard_bytes = kind % 2 == 0 ? 30'000 : 5'000'000'000;
    REQUIRE(fold_error(cpu, model, random_rotations(model.config()), output, some_tokens(3, 24, 64),
                       options) < 1e-4);
    REQUIRE(fs::exists(output / "model.safetensors.index.json") == (kind % 2 == 0));
  }
}

TEST_CASE("the dtype of the checkpoint is kept unless another is asked for", "[fold]") {
  TemporaryFolder const folder;
  Cpu const cpu(1);
  Model const model = Model::open(write_synthetic(folder / "m", {.tied = true, .dtype = Dtype::bf16}));
  Rotations const rotations = random_rotations(model.config());
  static_cast<void>(fold(cpu, model, rotations, folder / "same", {}));
  static_cast<void>(fold(cpu, model, rotations, folder / "half", {.dtype = Dtype::f16}));
  Model const same = Model::open(folder / "same"), half = Model::open(folder / "half");
  REQUIRE(same.config().dtype == Dtype::bf16);
  REQUIRE(half.config().dtype == Dtype::f16);
  for (std::string const& name : same.checkpoint().names()) {
    REQUIRE(same.checkpoint().tensor(name).dtype == Dtype::bf16);
    REQUIRE(half.checkpoint().tensor(name).dtype == Dtype::f16);
  }
  // One rounding to bfloat16: half a unit in the last place of each FP64 weight.
  TokenWindows const tokens = some_tokens(2, 16, 64);
  REQUIRE(relative_difference(logits(cpu, same, tokens), logits(cpu, model, tokens)) < 0.05);
  REQUIRE_ERROR(check_fold(cpu, model, same, tokens), numerics, "at most 0.0001");
}

TEST_CASE("a folded folder holds its rotations, a manifest and the other keys of the config", "[fold]") {
  TemporaryFolder const folder;
  Cpu const cpu(1);
  Model const model =
      Model::open(write_synthetic(folder / "m", {.tied = true, .more_config = ", \"my_key\": [1, 2]"}));
  Rotations const rotations = random_rotations(model.config());
  static_cast<void>(fold(cpu, model, rotations, folder / "out", {.manifest = {{"method", "test"}}}));
  Rotations const loaded = load_rotations(folder / "out/rotations.safetensors", model.config());
  REQUIRE(loaded.r1 == rotations.r1);
  REQUIRE(loaded.r2 == rotations.r2);
  std::string const manifest = read_bytes(folder / "out/dartquant.json"),
                    config = read_bytes(folder / "out/config.json");
  for (char const* part :
       {"\"method\": \"test\"", "\"rotations\": \"r1,r2\"", "\"online_rotations\": []", "xxh128"})
    REQUIRE(manifest.find(part) != std::string::npos);
  REQUIRE(manifest.find(folder.path().string()) == std::string::npos);
  REQUIRE(config.find("my_key") != std::string::npos);
}

TEST_CASE("R4 is folded when asked for, and then runs online by itself", "[fold][online]") {
  TemporaryFolder const folder;
  Cpu const cpu(1);
  Model const model = Model::open(write_synthetic(folder / "m", {.mlp_bias = true}));
  FoldOptions options;
  options.rotations = RotationSet::parse("r1,r4");
  REQUIRE(fold_error(cpu, model, random_rotations(model.config()), folder / "out", some_tokens(2, 16, 64),
                     options) < 1e-4);
  REQUIRE(Model::open(folder / "out").needs_r4());
  Rotations const loaded = load_rotations(folder / "out/rotations.safetensors", model.config());
  REQUIRE(loaded.r2.empty());
  // Folding the folded checkpoint again keeps R4 where it is.
  REQUIRE(fold_error(cpu, Model::open(folder / "out"), random_rotations(model.config(), 50), folder / "again",
                     some_tokens(2, 16, 64), {}) < 1e-4);
  REQUIRE(Model::open(folder / "again").needs_r4());
}

TEST_CASE("written 4-bit weights are those of the fake-quantized forward pass", "[fold][quantize]") {
  TemporaryFolder const folder;
  Cpu const cpu(2);
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  Rotations const rotations = random_rotations(model.config());
  static_cast<void>(fold(cpu, model, rotations, folder / "out", {.weights = {.bits = 4}}));
  ForwardOptions options;
  options.rotations = &rotations;
  options.active = {.r1 = true, .r2 = true};
  options.quantization.scheme.weights = 4;
  TokenWindows const tokens = some_tokens(2, 16, 64);
  REQUIRE(relative_difference(logits(cpu, Model::open(folder / "out"), tokens),
                              logits(cpu, model, tokens, options)) < 1e-6);
  RowMatrix<float> const W =
      Model::open(folder / "out").checkpoint().read_matrix<float>("model.layers.0.mlp.up_proj.weight");
  std::vector<float> levels(W.row(0).data(), W.row(0).data() + W.cols());
  std::sort(levels.begin(), levels.end());
  REQUIRE(std::unique(levels.begin(), levels.end()) - levels.begin() <= 16);
}

TEST_CASE("the written bytes do not depend on threads, and repeat", "[fold][threads]") {
  TemporaryFolder const folder;
  Model const model =
      Model::open(write_synthetic(folder / "m", {.hidden = 96, .intermediate = 160, .attention_bias = true}));
  Rotations const rotations = random_rotations(model.config());
  FoldOptions options;
  options.dtype = Dtype::bf16;
  options.shard_bytes = 100'000;
  static_cast<void>(fold(Cpu(1), model, rotations, folder / "1", options));
  auto const wanted = contents(folder / "1");
  for (int const threads : {2, 4, 4}) {
    static_cast<void>(fold(Cpu(threads), model, rotations, folder / "n", options));
    REQUIRE(contents(folder / "n") == wanted);
  }
}

TEST_CASE("an output folder is written only where nothing is lost", "[fold][bad]") {
  TemporaryFolder const folder;
  Cpu const cpu(1);
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  Rotations const rotations = random_rotations(model.config());
  auto const before = contents(folder / "m");
  REQUIRE_ERROR(fold(cpu, model, rotations, folder / "m", {}), io, "same");
  fs::create_symlink(folder / "m", folder / "link");
  REQUIRE_ERROR(fold(cpu, model, rotations, folder / "link", {}), io, "same");
  REQUIRE(contents(folder / "m") == before);

  fs::create_directory(folder / "foreign");
  write_bytes(folder / "foreign/notes.txt", "mine");
  REQUIRE_ERROR(fold(cpu, model, rotations, folder / "foreign", {}), io, "notes.txt");
  REQUIRE(contents(folder / "foreign").size() == 1);
  write_bytes(folder / "file", "mine");
  REQUIRE_ERROR(fold(cpu, model, rotations, folder / "file", {}), io, "not a folder");

  fs::create_directory(folder / "empty");
  static_cast<void>(fold(cpu, model, rotations, folder / "empty", {}));
  auto const first = contents(folder / "empty");
  static_cast<void>(
      fold(cpu, model, random_rotations(model.config(), 9), folder / "empty", {}));  // an earlier output
  REQUIRE(contents(folder / "empty").size() == first.size());
  REQUIRE(contents(folder / "empty") != first);
}

TEST_CASE("a full disk leaves nothing half-written and an earlier output as it was", "[fold][bad]") {
  TemporaryFolder const folder;
  Cpu const cpu(1);
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  Rotations const rotations = random_rotations(model.config());
  static_cast<void>(fold(cpu, model, rotations, folder / "old", {}));
  auto const before = contents(folder / "old");
  auto* const handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  ::getrlimit(RLIMIT_FSIZE, &limit);
  rlimit small = limit;
  small.rlim_cur = 10'000;
  ::setrlimit(RLIMIT_FSIZE, &small);
  Failure const fresh =
      failure_of([&] { static_cast<void>(fold(cpu, model, rotations, folder / "new", {})); });
  Failure const again = failure_of(
      [&] { static_cast<void>(fold(cpu, model, random_rotations(model.config(), 9), folder / "old", {})); });
  ::setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, handler);
  REQUIRE(fresh.is(Error::Kind::io));
  REQUIRE(again.is(Error::Kind::io));
  REQUIRE_FALSE(fs::exists(folder / "new"));
  REQUIRE(contents(folder / "old") == before);
}

TEST_CASE("a folder that may not be written is refused", "[fold][bad]") {
  if (::geteuid() == 0) {
    WARN("skipped: no unprivileged user here");
    return;
  }
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  fs::create_directory(folder / "locked");
  fs::permissions(folder / "locked", fs::perms::owner_read | fs::perms::owner_exec);
  REQUIRE_ERROR(fold(Cpu(1), model, {}, folder / "locked/out", {}), io, "locked");
  fs::permissions(folder / "locked", fs::perms::owner_all);
}

TEST_CASE("fold options and rotations are checked first", "[fold][bad]") {
  TemporaryFolder const folder;
  Cpu const cpu(1);
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  FoldOptions options;
  options.rotations.r3 = true;
  REQUIRE_INVALID(fold(cpu, model, {}, folder / "o", options), "R3");
  REQUIRE_INVALID(fold(cpu, model, {}, folder / "o", {.dtype = Dtype::i8}), "I8");
  REQUIRE_INVALID(fold(cpu, model, {}, folder / "o", {.weights = {.bits = 1}}), "1 bits");
  REQUIRE_INVALID(fold(cpu, model, {haar_rotation(31, 1), {}}, folder / "o", {}), "R1 is 31 x 31");
  REQUIRE_FALSE(fs::exists(folder / "o"));
  // Without rotations only the gains are folded.
  REQUIRE(fold_error(cpu, model, {}, folder / "o", some_tokens(1, 8, 64), {}) < 1e-5);
}

TEST_CASE("rotations survive a round trip, and a file that does not fit is refused", "[rotations]") {
  TemporaryFolder const folder;
  ModelConfig const config = parse_config(config_of({}));
  Rotations const rotations = random_rotations(config);
  save_rotations(rotations, folder / "r", {{"method", "test"}});
  Rotations const loaded = load_rotations(folder / "r", config);
  REQUIRE(loaded.r1 == rotations.r1);
  REQUIRE(loaded.r2 == rotations.r2);
  REQUIRE(loaded.r1_orthogonality() < 30);
  REQUIRE(loaded.r2_orthogonality() < 30);
  save_rotations({rotations.r1, {}}, folder / "r1");
  REQUIRE(load_rotations(folder / "r1", config).r2.empty());
  REQUIRE_ERROR(load_rotations(folder / "r", parse_config(config_of({.hidden = 64}))), format, "R1");
  REQUIRE_ERROR(load_rotations(folder / "r", parse_config(config_of({.layers = 3}))), format,
                "model.layers.2.");
  REQUIRE_ERROR(load_rotations(folder / "r", parse_config(config_of({.layers = 1}))), format, "tensors");
  REQUIRE_ERROR(load_rotations(folder / "missing", config), io, "missing");
  save_rotations({2.0 * rotations.r1, {}}, folder / "double");
  REQUIRE_ERROR(load_rotations(folder / "double", config), numerics, "R1");
}
