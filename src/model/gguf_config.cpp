// SPDX-License-Identifier: Apache-2.0
#include "model/gguf_config.hpp"

#include <array>
#include <charconv>

#include "io/json.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;

class ConfigReader {
 public:
  ConfigReader(GgufFile const& file, GgufArchitecture const& row)
      : file_(file), row_(row), source_("[GgufFile] " + file.path().string()) {}

  std::string read() {
    if (integer("expert_count").value_or(0) > 0)
      fail(Kind::unsupported, source_,
           ": a mixture of experts is not read from GGUF; use the checkpoint folder");
    std::int64_t const hidden = size("embedding_length"), heads = size("attention.head_count");
    std::int64_t const head_dim = integer("attention.key_length").value_or(hidden / heads);
    if (integer("attention.value_length").value_or(head_dim) != head_dim)
      fail(Kind::unsupported, source_, ": keys of ", head_dim, " channels and values of ",
           *integer("attention.value_length"), "; both must be the same");
    if (std::int64_t const turned = integer("rope.dimension_count").value_or(head_dim); turned != head_dim)
      fail(Kind::unsupported, source_, ": RoPE turns ", turned, " of ", head_dim,
           " channels of a head; it must turn the whole head");
    Json config{{"architectures", {row_.architecture}},
                {"model_type", row_.model_type},
                {"hidden_act", "silu"},
                {"hidden_size", hidden},
                {"intermediate_size", size("feed_forward_length")},
                {"num_hidden_layers", size("block_count")},
                {"num_attention_heads", heads},
                {"num_key_value_heads", integer("attention.head_count_kv").value_or(heads)},
                {"head_dim", head_dim},
                {"vocab_size", embedding().shape[0]},
                {"max_position_embeddings", size("context_length")},
                {"rms_norm_eps", number("attention.layer_norm_rms_epsilon")},
                {"rope_theta", rounded(file_.number(key("rope.freq_base")).value_or(10000.0))},
                {"tie_word_embeddings", file_.find("output.weight") == nullptr},
                {"torch_dtype", torch_dtype()}};
    if (row_.name == "llama") {
      config["attention_bias"] = file_.find("blk.0.attn_q.bias") != nullptr;
      config["mlp_bias"] = file_.find("blk.0.ffn_up.bias") != nullptr;
    }
    if (auto const window = integer("attention.sliding_window")) config["sliding_window"] = *window;
    if (Json const scaling =
            rope_scaling(rounded(file_.number(key("rope.freq_base")).value_or(10000.0)), head_dim);
        !scaling.is_null())
      config["rope_scaling"] = scaling;
    for (char const* const token : {"bos", "eos"})
      if (auto const id = file_.integer(sentence("tokenizer.ggml.", token, "_token_id")))
        config[sentence(token, "_token_id")] = *id;
    return config.dump(2).append("\n");
  }

 private:
  [[nodiscard]] std::string key(std::string_view part) const { return sentence(row_.name, '.', part); }
  [[nodiscard]] std::optional<std::int64_t> integer(std::string_view part) const {
    return file_.integer(key(part));
  }
  [[nodiscard]] std::int64_t size(std::string_view part) const {
    auto const value = integer(part);
    if (!value || *value < 1)
      fail(Kind::format, source_, ": the key '", key(part), "' is ", value ? "not positive" : "missing");
    return *value;
  }
  [[nodiscard]] double number(std::string_view part) const {
    auto const value = file_.number(key(part));
    if (!value) fail(Kind::format, source_, ": the key '", key(part), "' is missing");
    return rounded(*value);
  }
  /// The decimal number that the float stands for: 1e-05 and not 9.99999974e-06.
  [[nodiscard]] static double rounded(double value) {
    std::array<char, 32> text;
    auto const [end, error] =
        std::to_chars(text.data(), text.data() + text.size(), static_cast<float>(value));
    std::from_chars(text.data(), end, value);
    return value;
  }

  [[nodiscard]] Tensor const& embedding() const {
    Tensor const* const tensor = file_.find("token_embd.weight");
    if (tensor == nullptr || tensor->shape.size() != 2)
      fail(Kind::format, source_, ": the tensor 'token_embd.weight' is missing or has not two dimensions");
    return *tensor;
  }

  [[nodiscard]] char const* torch_dtype() const {
    Dtype const dtype = embedding().dtype;
    return dtype == Dtype::f32 ? "float32" : dtype == Dtype::bf16 ? "bfloat16" : "float16";
  }

  /// Null for none.
  [[nodiscard]] Json rope_scaling(double theta, std::int64_t head_dim) const {
    std::string const type(file_.text(key("rope.scaling.type")).value_or("none"));
    Tensor const* const factors = file_.find(rope_factors_name);
    if (type != "none" && factors != nullptr)
      fail(Kind::unsupported, source_, ": RoPE is scaled by '", type, "' and by the tensor ",
           rope_factors_name, "; one of them is read");
    if (factors != nullptr) return llama3_scaling(file_.read_matrix<float>(*factors), theta, head_dim);
    if (type == "none") return nullptr;
    return {{"rope_type", type}, {"factor", number("rope.scaling.factor")}};
  }

  /// Files hold the factors and not the numbers that gave them: those of Llama 3 are tried.
  [[nodiscard]] Json llama3_scaling(RowMatrix<float> const& factors, double theta,
                                    std::int64_t head_dim) const {
    RopeScaling scaling{.kind = RopeScaling::Kind::llama3};
    if (factors.size() > 0 && factors.size() == head_dim / 2) {
      scaling.factor = rounded(static_cast<double>(factors.maxCoeff()));
      for (double const positions :
           {static_cast<double>(integer("rope.scaling.original_context_length").value_or(8192)), 8192.0}) {
        scaling.original_positions = positions;
        RowMatrix<float> const expected = rope_factors(scaling, theta, head_dim);
        if (((factors - expected).array().abs() <= 1e-4f * expected.array()).all())
          return {{"rope_type", "llama3"},
                  {"factor", scaling.factor},
                  {"low_freq_factor", scaling.low_frequency},
                  {"high_freq_factor", scaling.high_frequency},
                  {"original_max_position_embeddings", static_cast<std::int64_t>(positions)}};
      }
    }
    fail(Kind::unsupported, source_, ": the tensor ", rope_factors_name,
         " scales RoPE in a way that is not Llama 3's; use the checkpoint folder");
  }

  GgufFile const& file_;
  GgufArchitecture const& row_;
  std::string source_;
};

}  // namespace

std::string config_json_of(GgufFile const& file, GgufArchitecture const& row) {
  return ConfigReader(file, row).read();
}

std::vector<GgufEntry> config_entries(ModelConfig const& config, GgufArchitecture const& row) {
  std::vector<GgufEntry> entries;
  auto const key = [&](std::string_view part) { return sentence(row.name, '.', part); };
  auto const size = [&](std::string_view part, index_t value) {
    entries.push_back({key(part), static_cast<std::uint32_t>(value)});
  };
  auto const number = [&](std::string_view part, double value) {
    entries.push_back({key(part), static_cast<float>(value)});
  };
  size("block_count", config.layers);
  size("context_length", config.positions);
  size("embedding_length", config.hidden);
  size("feed_forward_length", config.intermediate);
  size("attention.head_count", config.heads);
  size("attention.head_count_kv", config.kv_heads);
  number("attention.layer_norm_rms_epsilon", config.norm_epsilon);
  number("rope.freq_base", config.rope_theta);
  size("rope.dimension_count", config.head_dim);
  size("attention.key_length", config.head_dim);
  size("attention.value_length", config.head_dim);
  size("vocab_size", config.vocabulary);
  if (config.rope_scaling.kind == RopeScaling::Kind::linear) {
    entries.push_back({key("rope.scaling.type"), std::string("linear")});
    number("rope.scaling.factor", config.rope_scaling.factor);
  }
  if (config.rope_scaling.kind == RopeScaling::Kind::llama3)
    size("rope.scaling.original_context_length",
         static_cast<index_t>(config.rope_scaling.original_positions));
  return entries;
}

}  // namespace dartquant::detail
