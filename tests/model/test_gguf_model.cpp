// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/gguf.hpp>
#include <dartquant/io/tokenizer.hpp>
#include <dartquant/model/pipeline.hpp>
#include <dartquant/transform/rotation.hpp>

#include "models.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

Rotations random_rotations(ModelConfig const& config) {
  Rotations rotations{haar_rotation(config.hidden, 1), {}};
  for (index_t layer = 0; layer < config.layers; ++layer) {
    rotations.r2.emplace_back();
    for (index_t head = 0; head < config.kv_heads; ++head)
      rotations.r2.back().push_back(
          haar_rotation(config.head_dim, static_cast<std::uint64_t>(100 * layer + head)));
  }
  return rotations;
}

FoldReport write_gguf(Model const& model, fs::path const& file, Dtype dtype,
                      RotationSet active = {.r1 = true, .r2 = true}) {
  return fold(Cpu(2), model, random_rotations(model.config()), file,
              {.format = FoldFormat::gguf,
               .rotations = active,
               .dtype = dtype,
               .manifest = {{"rotations_seed", "7"}, {"rotations_calibration_sha256", "ab12"}}});
}

/// The entries of a file, so that a test can change some and write them again.
std::vector<GgufEntry> entries_of(GgufFile const& file) {
  std::vector<GgufEntry> entries;
  for (GgufValue const& value : file.metadata()) {
    std::string const key(value.key);
    if (value.type == GgufType::u32) entries.push_back({key, static_cast<std::uint32_t>(*file.integer(key))});
    if (value.type == GgufType::f32) entries.push_back({key, static_cast<float>(*file.number(key))});
    if (value.type == GgufType::boolean) entries.push_back({key, *file.boolean(key)});
    if (value.type == GgufType::text) entries.push_back({key, std::string(*file.text(key))});
    if (value.type != GgufType::array) continue;
    if (value.element == GgufType::f32) entries.push_back({key, *file.numbers(key)});
    if (value.element == GgufType::i32) entries.push_back({key, *file.integers(key)});
    if (value.element != GgufType::text) continue;
    std::vector<std::string_view> const texts = file.texts(key).value();
    entries.push_back({key, std::vector<std::string>(texts.begin(), texts.end())});
  }
  return entries;
}

/// Writes a file again with some entries changed (an empty text: left out) and tensors renamed.
fs::path changed(fs::path const& from, fs::path const& to, std::vector<GgufEntry> const& changes,
                 std::string const& drop_tensor = {}) {
  GgufFile const file(from);
  std::vector<GgufEntry> entries;
  for (GgufEntry& entry : entries_of(file)) {
    auto const change =
        std::find_if(changes.begin(), changes.end(), [&](auto& c) { return c.key == entry.key; });
    if (change == changes.end()) entries.push_back(std::move(entry));
  }
  for (GgufEntry const& change : changes)
    if (auto const* const text = std::get_if<std::string>(&change.value); text == nullptr || !text->empty())
      entries.push_back(change);
  std::vector<TensorInfo> tensors;
  for (Tensor const& tensor : file.tensors())
    if (tensor.name != drop_tensor)
      tensors.push_back({std::string(tensor.name), tensor.dtype, {tensor.shape.begin(), tensor.shape.end()}});
  GgufWriter writer(to, entries, tensors);
  for (TensorInfo const& info : tensors) writer.append_bytes(info.name, file.find(info.name)->bytes);
  writer.commit();
  return to;
}

}  // namespace

TEST_CASE("a model keeps its logits on the way into a GGUF file and out again", "[gguf]") {
  TemporaryFolder const folder;
  Cpu const cpu(2);
  std::vector<SyntheticModel> const kinds{
      {.tied = false},
      {.tied = true},
      {.attention_bias = true, .mlp_bias = true},
      {.architecture = "MistralForCausalLM",
       .hidden = 40,
       .intermediate = 44,
       .heads = 6,
       .kv_heads = 3,
       .head_dim = 10},
      {.more_config =
           ", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 4.0, \"low_freq_factor\": 1.0, "
           "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 16}"},
      {.more_config = ", \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 2.0}"}};
  for (std::size_t kind = 0; kind < kinds.size(); ++kind) {
    INFO("kind " << kind);
    std::string const number = std::to_string(kind);
    Model const model = Model::open(write_synthetic(folder / number, kinds[kind]));
    FoldReport const report = write_gguf(model, folder / (number + ".gguf"), Dtype::f32);
    REQUIRE(report.files ==
            std::vector<fs::path>{folder / (number + ".gguf"), folder / (number + ".gguf.dartquant.json")});
    REQUIRE(report.bytes_written == fs::file_size(report.files[0]) + fs::file_size(report.files[1]));
    std::string const manifest = read_bytes(report.files[1]);
    REQUIRE(manifest.find("\"format\": \"gguf\"") != manifest.npos);
    REQUIRE(manifest.find("xxh128") != manifest.npos);
    Model const file = Model::open(report.files[0]);
    REQUIRE_FALSE(file.config().tied_embeddings);
    REQUIRE(file.config().norm_epsilon == model.config().norm_epsilon);
    REQUIRE(file.config().rope_theta == model.config().rope_theta);
    TokenWindows const tokens = some_tokens(3, 24, 64);
    REQUIRE(check_fold(cpu, model, file, tokens).max_error < 1e-4);
    static_cast<void>(fold(cpu, file, {}, folder / ("again " + number), {.rotations = {}}));
    REQUIRE(check_fold(cpu, model, Model::open(folder / ("again " + number)), tokens).max_error < 1e-4);
  }
}

TEST_CASE("the GGUF files of the real models keep their logits, and their tokenizers the ids",
          "[gguf][real]") {
  TemporaryFolder const folder;
  Cpu const cpu(2);
  for (RealModel const& real : real_models()) {
    INFO(real.name);
    Model const model = Model::open(real.folder);
    fs::path const file = folder / (real.name + ".gguf");
    FoldReport const report = write_gguf(model, file, Dtype::f32);
    REQUIRE(report.notes.empty());
    Model const written = Model::open(file);
    REQUIRE(check_fold(cpu, model, written, real.windows(3)).max_error < 1e-4);
    Tokenizer const expected = Tokenizer::load(real.folder / "tokenizer.json"),
                    found = Tokenizer::parse(written.tokenizer_text().value());
    fs::path const text = real.name == "tiny-llama"
                              ? real.folder / "eval.txt"
                              : fs::path(DARTQUANT_SHARED_MODELS) / "text/tinystories-eval.txt";
    REQUIRE(found.encode(read_bytes(text)) == expected.encode(read_bytes(text)));
    for (std::string const awkward :
         {"", " ", "  a  b ", "\n\t", "naïve 日本語 👩‍👩‍👧‍👦 \x01", "<s>x</s> <0x41>",
          "▁▁ ▁a", "1234 5.6"}) {
      INFO(awkward);
      REQUIRE(found.encode(awkward) == expected.encode(awkward));
      REQUIRE(found.decode(found.encode(awkward)) == expected.decode(expected.encode(awkward)));
    }
    // and into a folder
    static_cast<void>(fold(cpu, written, {}, folder / real.name, {.rotations = {}}));
    REQUIRE(Tokenizer::load(folder / real.name / "tokenizer.json").encode("once upon a time") ==
            expected.encode("once upon a time"));
    REQUIRE(check_fold(cpu, model, Model::open(folder / real.name), real.windows(2)).max_error < 1e-4);
  }
}

TEST_CASE("a GGUF file says what was folded, and holds the types asked for", "[gguf]") {
  TemporaryFolder const folder;
  Model const model =
      Model::open(write_synthetic(folder / "m", {.hidden = 64, .intermediate = 48, .dtype = Dtype::bf16}));
  struct Case {
    Dtype asked, embedding, query, down;
    std::int64_t file_type;
  };
  for (Case const& c : {Case{Dtype::f32, Dtype::f32, Dtype::f32, Dtype::f32, 0},
                        Case{Dtype::f16, Dtype::f16, Dtype::f16, Dtype::f16, 1},
                        Case{Dtype::bf16, Dtype::bf16, Dtype::bf16, Dtype::bf16, 32},
                        Case{Dtype::q8_0, Dtype::q8_0, Dtype::q8_0, Dtype::f16, 7},
                        Case{Dtype::q4_0, Dtype::q8_0, Dtype::q4_0, Dtype::f16, 2}}) {
    INFO(to_string(c.asked));
    FoldReport const report = write_gguf(model, folder / "x.gguf", c.asked);
    GgufFile const file(folder / "x.gguf");
    REQUIRE(file.find("token_embd.weight")->dtype == c.embedding);
    REQUIRE(file.find("output.weight")->dtype == c.embedding);
    REQUIRE(file.find("blk.1.attn_q.weight")->dtype == c.query);
    REQUIRE(file.find("blk.1.ffn_down.weight")->dtype == c.down);  // rows of 48 are no whole blocks
    REQUIRE(file.find("blk.0.attn_norm.weight")->dtype == Dtype::f32);
    REQUIRE(file.integer("general.file_type") == c.file_type);
    REQUIRE(file.integer("general.quantization_version").has_value() == (block_elements(c.asked) > 1));
    REQUIRE(file.text("general.architecture") == "llama");
    REQUIRE(file.text("dartquant.folded") == "r1,r2");
    REQUIRE(file.text("dartquant.r1.sha256")->size() == 64);
    REQUIRE(file.text("dartquant.calib.sha256") == "ab12");
    REQUIRE(file.integer("dartquant.seed") == 7);
    REQUIRE(file.text("tokenizer.ggml.model") == "no_vocab");
    REQUIRE(report.notes.size() == (block_elements(c.asked) > 1 ? 3 : 1));
    REQUIRE(report.notes.back().find("no tokenizer") != std::string::npos);
    REQUIRE((file.read_matrix<float>(*file.find("output_norm.weight")).array() == 1.0f).all());
    Model const written = Model::open(folder / "x.gguf");
    REQUIRE_FALSE(written.has_tokenizer());
    REQUIRE(check_fold(Cpu(2), model, written, some_tokens(2, 24, 64), 0.3).max_error > 0);
  }
  GgufFile const file(folder / "x.gguf");
  RowMatrix<float> const stored = file.read_matrix<float>(*file.find("blk.0.attn_k.weight"));
  RowMatrix<float> const model_order = Model::open(folder / "x.gguf")
                                           .checkpoint()
                                           .read_matrix<float>("model.layers.0.self_attn.k_proj.weight");
  REQUIRE(stored.row(0) == model_order.row(0));
  REQUIRE(stored.row(1) == model_order.row(4));  // head_dim 8: neighbours turn in GGUF, halves in the folder
  REQUIRE(stored.row(2) == model_order.row(1));
  REQUIRE(stored.row(9) == model_order.row(12));
}

TEST_CASE("what a GGUF file cannot hold is refused, and other files are not replaced", "[gguf]") {
  TemporaryFolder const folder;
  Cpu const cpu(1);
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  fs::path const file = folder / "x.gguf";
  REQUIRE_INVALID(fold(cpu, model, {}, folder / "out", {.rotations = {}, .dtype = Dtype::q8_0}),
                  "only a GGUF file");
  REQUIRE_INVALID(fold(cpu, model, {}, file, {.format = FoldFormat::gguf, .rotations = {.r4 = true}}), "R4");
  REQUIRE_INVALID(
      fold(cpu, model, {}, file, {.format = FoldFormat::gguf, .rotations = {}, .dtype = Dtype::i8}), "Q4_0");
  write_bytes(file, "mine");
  REQUIRE_ERROR(write_gguf(model, file, Dtype::f32), io, "no earlier output");
  REQUIRE(read_bytes(file) == "mine");
  fs::remove(file);
  static_cast<void>(write_gguf(model, file, Dtype::f32));
  static_cast<void>(write_gguf(model, file, Dtype::f16));  // an earlier output
  Model const written = Model::open(file);
  REQUIRE_ERROR(fold(cpu, written, {}, file, {.format = FoldFormat::gguf, .rotations = {}}), io, "x.gguf");
  static_cast<void>(fold(cpu, model, {}, folder / "r4", {.rotations = {.r4 = true}}));
  REQUIRE_ERROR(fold(cpu, Model::open(folder / "r4"), {}, folder / "y.gguf",
                     {.format = FoldFormat::gguf, .rotations = {}}),
                unsupported, "needs R4");
}

TEST_CASE("a GGUF file of another model says what is wrong", "[gguf]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  fs::path const good = folder / "good.gguf", bad = folder / "bad.gguf";
  static_cast<void>(write_gguf(model, good, Dtype::f32));
  auto const with = [&](std::vector<GgufEntry> const& changes, std::string const& drop = {}) {
    return Model::open(changed(good, bad, changes, drop));
  };
  REQUIRE_NOTHROW(with({}));
  REQUIRE_ERROR(with({{"general.architecture", std::string("bert")}}), unsupported, "'bert' is not read");
  REQUIRE_ERROR(with({{"general.architecture", std::string()}}), format, "'general.architecture' is missing");
  REQUIRE_ERROR(with({{"llama.embedding_length", std::string()}}), format,
                "'llama.embedding_length' is missing");
  REQUIRE_ERROR(with({{"llama.block_count", 1.5f}}), format, "not an integer");
  REQUIRE_ERROR(with({{"llama.block_count", std::uint32_t{0}}}), format, "not positive");
  REQUIRE_ERROR(with({{"llama.block_count", std::uint32_t{3}}}), format, "model.layers.2");
  REQUIRE_ERROR(with({{"llama.block_count", std::uint32_t{1}}}), unsupported, "model.layers.1");
  REQUIRE_ERROR(with({{"llama.attention.head_count", std::uint32_t{0}}}), format, "not positive");
  REQUIRE_ERROR(with({{"llama.attention.head_count", std::uint32_t{5}}}), format, "");
  REQUIRE_ERROR(with({{"llama.attention.key_length", std::uint32_t{16}}}), unsupported, "values of 8");
  REQUIRE_ERROR(with({{"llama.rope.dimension_count", std::uint32_t{4}}}), unsupported, "RoPE turns 4 of 8");
  REQUIRE_ERROR(with({{"llama.expert_count", std::uint32_t{8}}}), format, "expert_used_count");
  REQUIRE_ERROR(with({{"llama.rope.scaling.type", std::string("yarn")}, {"llama.rope.scaling.factor", 2.0f}}),
                unsupported, "yarn");
  REQUIRE_ERROR(with({{"split.count", std::uint32_t{3}}}), unsupported, "one of 3 parts");
  REQUIRE_ERROR(with({}, "blk.1.attn_v.weight"), format, "v_proj.weight' is missing");
  REQUIRE_ERROR(with({}, "token_embd.weight"), format, "token_embd.weight");
  REQUIRE(with({}, "output.weight").config().tied_embeddings);
}

TEST_CASE("a hostile tokenizer in a GGUF file is refused with a sentence", "[gguf]") {
  TemporaryFolder const folder;
  fs::path const good = folder / "good.gguf", bad = folder / "bad.gguf";
  static_cast<void>(write_gguf(Model::open(DARTQUANT_EXAMPLE_DATA "/tiny-llama"), good, Dtype::bf16));
  auto const with = [&](std::vector<GgufEntry> const& changes) {
    return Model::open(changed(good, bad, changes)).tokenizer_text();
  };
  using Texts = std::vector<std::string>;
  using Integers = std::vector<std::int32_t>;
  REQUIRE(with({}).has_value());
  REQUIRE_FALSE(with({{"tokenizer.ggml.model", std::string("no_vocab")}}).has_value());
  REQUIRE_ERROR(with({{"tokenizer.ggml.model", std::string("rwkv")}}), unsupported, "model 'rwkv'");
  REQUIRE_ERROR(with({{"tokenizer.ggml.pre", std::string("unheard-of")}}), unsupported,
                "'unheard-of' is not known");
  REQUIRE_ERROR(
      with({{"tokenizer.ggml.tokens", Texts{"a", "a"}}, {"tokenizer.ggml.token_type", std::string()}}),
      format, "appears twice");
  REQUIRE_ERROR(
      with({{"tokenizer.ggml.tokens", Texts{"\xFF"}}, {"tokenizer.ggml.token_type", std::string()}}), format,
      "no UTF-8");
  REQUIRE_ERROR(with({{"tokenizer.ggml.tokens", Integers{1, 2}}}), format, "not an array of texts");
  REQUIRE_ERROR(with({{"tokenizer.ggml.tokens", std::string()}}), format, "tokens is missing");
  REQUIRE_ERROR(with({{"tokenizer.ggml.token_type", Integers{1, 1}}}), format, "has 2 elements");
  REQUIRE_ERROR(with({{"tokenizer.ggml.token_type", Integers(1024, 9)}}), format, "token_type 9");
  REQUIRE_ERROR(with({{"tokenizer.ggml.merges", Texts{"ab"}}}), format, "'ab' is not two pieces");
  REQUIRE_ERROR(with({{"tokenizer.ggml.merges", std::string()}}), format, "merges is missing");
  REQUIRE_ERROR(with({{"tokenizer.ggml.bos_token_id", std::uint32_t{5000}}}), format, "5000");
  REQUIRE_ERROR(with({{"tokenizer.ggml.model", std::string("llama")}}), format, "scores is missing");
  REQUIRE_ERROR(
      with({{"tokenizer.ggml.model", std::string("llama")}, {"tokenizer.ggml.scores", Integers(1024, 1)}}),
      format, "not an array of floats");
  REQUIRE_ERROR(with({{"tokenizer.ggml.model", std::string("llama")},
                      {"tokenizer.ggml.scores", std::vector<float>{1.0f}}}),
                format, "has 1 elements");
}
