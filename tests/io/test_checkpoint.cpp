// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/checkpoint.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "../../src/io/json.hpp"
#include "files.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

std::string one(std::string const& name, std::string_view data) {
  return safetensors_bytes("{\"" + name + "\":{\"dtype\":\"U8\",\"shape\":[" + std::to_string(data.size()) +
                               "],\"data_offsets\":[0," + std::to_string(data.size()) + "]}}",
                           data);
}

/// A folder with the shards 1.safetensors (tensor "a") and 2.safetensors (tensor "b").
struct Sharded {
  TemporaryFolder folder;
  Sharded() {
    write_bytes(folder / "1.safetensors", one("a", "aaaa"));
    write_bytes(folder / "2.safetensors", one("b", "bb"));
  }
  [[nodiscard]] Checkpoint open(std::string const& index) const {
    write_bytes(folder / "model.safetensors.index.json", index);
    return Checkpoint(folder.path());
  }
  [[nodiscard]] Checkpoint with(std::string const& weight_map) const {
    return open("{\"metadata\":{\"total_size\":6},\"weight_map\":{" + weight_map + "}}");
  }
};

std::vector<std::string> const three{"c", "a", "b"};

void append_all(CheckpointWriter& writer, RowMatrix<float> const& W) {
  for (std::string const& name : three) writer.append(name, W);
}

std::vector<TensorInfo> declared() {
  std::vector<TensorInfo> tensors;
  for (std::string const& name : three) tensors.push_back({name, Dtype::f32, {10, 10}});
  return tensors;
}

}  // namespace

TEST_CASE("a sharded folder is one set of tensors", "[checkpoint]") {
  Sharded const shards;
  Checkpoint const model = shards.with(R"("a":"1.safetensors","b":"2.safetensors")");
  REQUIRE(model.names() == std::vector<std::string>{"a", "b"});
  REQUIRE(model.contains("a"));
  REQUIRE(!model.contains("c"));
  REQUIRE(model.tensor("b").bytes.size() == 2);
  model.release("a");
  REQUIRE(model.files().size() == 2);
  REQUIRE_ERROR(model.tensor("c"), format, "the tensor 'c' is missing");
  REQUIRE_ERROR(model.read_matrix<float>("a"), unsupported, "1.safetensors: tensor 'a' is U8 [4]");
  REQUIRE(shards.open(R"({"weight_map":{"a":"1.safetensors"}})").names().size() == 1);  // no total_size
}

TEST_CASE("an index that leads out of the folder is refused", "[checkpoint][attack]") {
  Sharded const shards;
  write_bytes(shards.folder.path().parent_path() / "dartquant-outside.safetensors", one("a", "aaaa"));
  for (std::string const name : {"../dartquant-outside.safetensors", "/etc/passwd", "./1.safetensors",
                                 "x/../1.safetensors", "..", ".", "", "a\\\\b", "1.safetensors\\u0000"}) {
    INFO(name);
    REQUIRE_ERROR(shards.with("\"a\":\"" + name + "\""), format, "not a plain file name inside the folder");
  }
  fs::remove(shards.folder.path().parent_path() / "dartquant-outside.safetensors");
}

TEST_CASE("an index of another form is refused", "[checkpoint][attack]") {
  Sharded const shards;
  REQUIRE_ERROR(shards.with(R"("a":{"file":"1.safetensors"})"), format,
                "'a' must be a string, but it is object");
  REQUIRE_ERROR(shards.with(R"("a":7)"), format, "must be a string");
  REQUIRE_ERROR(shards.with(R"("a":"1.safetensors","a":"2.safetensors")"), format, "'a' appears twice");
  REQUIRE_ERROR(shards.open("{}"), format, "the key 'weight_map' is missing");
  REQUIRE_ERROR(shards.open("{\"weight_map\":[]}"), format, "must be an object");
  REQUIRE_ERROR(shards.open("[]"), format, "a JSON object");
  REQUIRE_ERROR(shards.open("{\"weight_map\":{\"a\":"), format, "not valid JSON");
  REQUIRE_ERROR(shards.open(std::string(100'000, '[')), format, "JSON");
  REQUIRE_ERROR(shards.with("\"a\":\"1.safetensors\xFF\""), format, "JSON");
  REQUIRE_ERROR(shards.with("\"a\":\"" + std::string(5000, 'x') + "\""), io, "missing");
  REQUIRE_ERROR(shards.open(""), format, "not valid JSON");
}

TEST_CASE("shards must hold what the index says, once", "[checkpoint][attack]") {
  Sharded const shards;
  REQUIRE_ERROR(shards.with(R"("a":"1.safetensors","b":"3.safetensors")"), io,
                "the shard '3.safetensors' that the index names is missing");
  REQUIRE_ERROR(shards.with(R"("a":"1.safetensors","x":"2.safetensors")"), format,
                "the tensor 'x' is missing in the shard '2.safetensors'");
  REQUIRE_ERROR(shards.with(R"("a":"2.safetensors","b":"2.safetensors")"), format,
                "'a' is missing in the shard");
  REQUIRE_ERROR(shards.with(R"("a":"1.safetensors","b":"1.safetensors","c":"2.safetensors")"), format,
                "the tensor 'b' is in the shard '2.safetensors', but the index maps it to '1.safetensors'");
  write_bytes(shards.folder / "2.safetensors", one("b", "bb").substr(0, 60));
  REQUIRE_ERROR(shards.with(R"("a":"1.safetensors","b":"2.safetensors")"), format, "2.safetensors");
  fs::remove(shards.folder / "2.safetensors");
  fs::create_directory(shards.folder / "2.safetensors");
  REQUIRE_ERROR(shards.with(R"("a":"1.safetensors","b":"2.safetensors")"), io,
                "2.safetensors: this is a folder");
}

TEST_CASE("a folder without weights gives a sentence", "[checkpoint]") {
  TemporaryFolder const folder;
  REQUIRE_ERROR(Checkpoint(folder / "none"), io, "the folder does not exist");
  REQUIRE_ERROR(Checkpoint(folder.path()), io,
                "no model.safetensors and no model.safetensors.index.json here");
  write_bytes(folder / "pytorch_model.bin", "x");
  REQUIRE_ERROR(Checkpoint(folder.path()), io, "must be converted to safetensors first");
  REQUIRE_ERROR(Checkpoint(folder / "pytorch_model.bin"), io, "name the folder that holds the model");
}

TEST_CASE("a small checkpoint is one file", "[checkpoint]") {
  TemporaryFolder const folder;
  RowMatrix<float> const W = RowMatrix<float>::Random(10, 10);
  CheckpointWriter writer(folder / "new/model", declared());
  append_all(writer, W);
  REQUIRE_ERROR(Checkpoint(folder / "new/model"), io, "no model.safetensors");
  writer.commit();
  Checkpoint const model(folder / "new/model");
  REQUIRE(model.read_matrix<float>("b") == W);
  REQUIRE(SafetensorsFile(folder / "new/model/model.safetensors").metadata().at("format") == "pt");
  REQUIRE(std::distance(fs::directory_iterator(folder / "new/model"), {}) == 1);
}

TEST_CASE("a large checkpoint is cut into shards with an index", "[checkpoint]") {
  TemporaryFolder const folder;
  RowMatrix<float> const W = RowMatrix<float>::Random(10, 10);
  for (int repeat = 0; repeat < 2; ++repeat) {  // the second run replaces the first
    CheckpointWriter writer(folder.path(), declared(), {.shard_bytes = 800});
    append_all(writer, W * static_cast<float>(repeat + 1));
    writer.commit();
    REQUIRE(folder.entries() == 3);
    Checkpoint const model(folder.path());
    REQUIRE(model.names() == std::vector<std::string>{"a", "b", "c"});
    for (std::string const& name : three)
      REQUIRE(model.read_matrix<float>(name) == W * static_cast<float>(repeat + 1));
  }
  detail::Json const index = detail::read_json(folder / "model.safetensors.index.json");
  REQUIRE(index["metadata"]["total_size"] == 1200);
  REQUIRE(index["weight_map"]["a"] == "model-00001-of-00002.safetensors");
  REQUIRE(index["weight_map"]["b"] == "model-00002-of-00002.safetensors");
  CheckpointWriter tiny(folder / "each", declared(),
                        {.shard_bytes = 1});  // each tensor is larger than the limit
  append_all(tiny, W);
  tiny.commit();
  REQUIRE(Checkpoint(folder / "each").files().size() == 3);
}

TEST_CASE("without a commit nothing is left and the old checkpoint stays", "[checkpoint]") {
  TemporaryFolder const folder;
  RowMatrix<float> const W = RowMatrix<float>::Random(10, 10);
  { CheckpointWriter const abandoned(folder / "new", declared()); }
  REQUIRE(!fs::exists(folder / "new"));
  {
    CheckpointWriter writer(folder / "old", declared(), {.shard_bytes = 800});
    append_all(writer, W);
    writer.commit();
  }
  {
    CheckpointWriter writer(folder / "old", declared(), {.shard_bytes = 800});
    writer.append("a", RowMatrix<float>::Zero(10, 10).eval());
    writer.append("b", RowMatrix<float>::Zero(10, 10).eval());
    writer.append("c", RowMatrix<float>::Zero(9, 10).eval());
    REQUIRE_INVALID(writer.commit(), "tensor 'c' got 360 of 400 bytes");
  }
  REQUIRE(Checkpoint(folder / "old").read_matrix<float>("a") == W);
  REQUIRE(std::distance(fs::directory_iterator(folder / "old"), {}) == 3);
}

TEST_CASE("files that would be mistaken for the new checkpoint are refused", "[checkpoint]") {
  TemporaryFolder const folder;
  write_bytes(folder / "model-00001-of-00007.safetensors", "x");
  REQUIRE_ERROR(CheckpointWriter(folder.path(), declared()), io, "holds 'model-00001-of-00007.safetensors'");
  fs::remove(folder / "model-00001-of-00007.safetensors");
  write_bytes(folder / "model.safetensors.index.json", "{}");
  REQUIRE_ERROR(CheckpointWriter(folder.path(), declared()), io, "choose an empty folder");
  fs::remove(folder / "model.safetensors.index.json");
  write_bytes(folder / "model.safetensors", "x");
  REQUIRE_ERROR(CheckpointWriter(folder.path(), declared(), {.shard_bytes = 800}), io,
                "holds 'model.safetensors'");
  REQUIRE(folder.entries() == 1);
}

TEST_CASE("two writers of one folder exclude each other", "[checkpoint]") {
  TemporaryFolder const folder;
  int const other = ::open(folder.path().c_str(), O_RDONLY | O_DIRECTORY);
  REQUIRE(::flock(other, LOCK_EX) == 0);
  REQUIRE_ERROR(CheckpointWriter(folder.path(), declared()), io, "another process is writing");
  ::close(other);
  CheckpointWriter const writer(folder.path(), declared());
  REQUIRE_ERROR(CheckpointWriter(folder.path(), declared()), io, "another process is writing");
}

TEST_CASE("declarations and places that cannot work are refused", "[checkpoint]") {
  TemporaryFolder const folder;
  write_bytes(folder / "file", "x");
  REQUIRE_ERROR(CheckpointWriter(folder / "file/below", declared()), io, "cannot be created");
  REQUIRE_INVALID(CheckpointWriter(folder / "m", declared(), {.shard_bytes = 0}), "shard_bytes is 0");
  REQUIRE_INVALID(CheckpointWriter(folder / "m", {{"a", Dtype::f32, {1}}, {"a", Dtype::f32, {1}}}),
                  "declared twice");
  REQUIRE_INVALID(CheckpointWriter(folder / "m", {{"a", Dtype::f32, {-1}}}), "negative");
  CheckpointWriter writer(folder / "m", declared());
  REQUIRE_INVALID(writer.append("d", RowMatrix<float>::Zero(10, 10).eval()), "'d' was not declared");
}

TEST_CASE("the example model opens as a checkpoint", "[checkpoint]") {
  Checkpoint const model(DARTQUANT_EXAMPLE_DATA "/tiny-llama");
  RowMatrix<float> const embedding = model.read_matrix<float>("model.embed_tokens.weight");
  REQUIRE(embedding.rows() == 1024);
  REQUIRE(embedding.cols() == 128);
  REQUIRE(model.tensor("lm_head.weight").dtype == Dtype::bf16);
  index_t parameters = 0;
  for (std::string const& name : model.names()) parameters += model.read_matrix<float>(name).size();
  REQUIRE(parameters == 1351296);
}

TEST_CASE("the trained models open as checkpoints", "[checkpoint]") {
  fs::path const models = DARTQUANT_SHARED_MODELS;
  if (!fs::exists(models / "tiny1m")) {
    WARN("skipped: no ../shared/models here");
    return;
  }
  Checkpoint const single(models / "stories260K"), sharded(models / "tiny1m");
  REQUIRE(single.names().size() == 47);
  REQUIRE(!single.contains("lm_head.weight"));
  REQUIRE(sharded.names().size() == 39);
  REQUIRE(sharded.files().size() == 2);
  index_t parameters = 0;
  for (std::string const& name : sharded.names()) parameters += sharded.read_matrix<double>(name).size();
  REQUIRE(parameters == 935040);
}
