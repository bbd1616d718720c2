// SPDX-License-Identifier: Apache-2.0
#include "model/gguf_config.hpp"

#include <array>
#include <charconv>
#include <cmath>

#include "io/json.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;

class ConfigReader {
 public:
  ConfigReader(GgufFile const& file, GgufArchitecture const& row)
      : file_(file),
        row_(row),
        family_(family_of(row.architecture)),
        source_("[GgufFile] " + file.path().string()) {}

  std::string read() {
    std::int64_t const hidden = size("embedding_length"), heads = size("attention.head_count");
    std::int64_t const head_dim = integer("attention.key_length").value_or(hidden / heads);
    if (integer("attention.value_length").value_or(head_dim) != head_dim)
      fail(Kind::unsupported, source_, ": keys of ", head_dim, " channels and values of ",
           *integer("attention.value_length"), "; both must be the same");
    double const theta = rounded(file_.number(key("rope.freq_base")).value_or(10000.0));
    config_ = {{"architectures", {row_.architecture}},
               {"model_type", row_.model_type},
               {"hidden_size", hidden},
               {"intermediate_size", size("feed_forward_length")},
               {"num_hidden_layers", size("block_count")},
               {"num_attention_heads", heads},
               {"num_key_value_heads", integer("attention.head_count_kv").value_or(heads)},
               {"head_dim", head_dim},
               {"vocab_size", embedding().shape[0]},
               {"max_position_embeddings", size("context_length")},
               {"rms_norm_eps", number("attention.layer_norm_rms_epsilon")},
               {"rope_theta", theta},
               {"tie_word_embeddings", file_.find("output.weight") == nullptr},
               {"torch_dtype", torch_dtype()}};
    config_[family_.config.activation_key] = form_activation();
    bool const biased = has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias");
    config_["attention_bias"] = config_["qkv_bias"] = biased;
    config_["mlp_bias"] = has("blk.0.ffn_up.bias");
    if (auto const window = integer("attention.sliding_window"); window.value_or(0) != 0)
      config_["sliding_window"] = *window;
    add_rope(theta, head_dim);
    if (family_.config.capped) add_caps(hidden, heads, head_dim);
    if (!family_.mixture.router.empty()) add_experts();
    for (char const* const token : {"bos", "eos"})
      if (auto const id = file_.integer(sentence("tokenizer.ggml.", token, "_token_id")))
        config_[sentence(token, "_token_id")] = *id;
    return config_.dump(2).append("\n");
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

  [[nodiscard]] bool has(std::string_view tensor) const { return file_.find(tensor) != nullptr; }
  [[nodiscard]] char const* form_activation() const {
    return family_.config.activation == Activation::silu ? "silu" : "gelu_pytorch_tanh";
  }

  void add_rope(double theta, std::int64_t head_dim) {
    std::int64_t const turned = integer("rope.dimension_count").value_or(head_dim);
    if (turned != head_dim && (!family_.config.partial_rotary || turned < 2 || turned > head_dim))
      fail(Kind::unsupported, source_, ": RoPE turns ", turned, " of ", head_dim,
           " channels of a head; it must turn the whole head");
    if (turned != head_dim) {
      double part = static_cast<double>(turned) / static_cast<double>(head_dim);
      if (static_cast<std::int64_t>(part * static_cast<double>(head_dim)) < turned)
        part = std::nextafter(part, 1.0);
      config_["partial_rotary_factor"] = part;
    }
    if (family_.config.local_rope_theta > 0)
      config_["rope_local_base_freq"] =
          rounded(file_.number(key("rope.freq_base_swa")).value_or(family_.config.local_rope_theta));
    Json const scaling = has(long_factors_name) ? longrope() : rope_scaling(theta, head_dim);
    if (scaling.is_null()) return;
    config_["rope_scaling"] = scaling;
    if (has(long_factors_name))
      config_["original_max_position_embeddings"] = scaling["original_max_position_embeddings"];
  }

  [[nodiscard]] Json longrope() const {
    auto const factors = [&](std::string_view name) {
      Tensor const* const tensor = file_.find(name);
      if (tensor == nullptr || !family_.config.partial_rotary)
        fail(Kind::unsupported, source_, ": RoPE is scaled by ", short_factors_name, " and ",
             long_factors_name, "; both must be there, and the architecture phi3");
      Json list = Json::array();
      RowMatrix<float> const values = file_.read_matrix<float>(*tensor);
      for (index_t i = 0; i < values.size(); ++i) list.push_back(rounded(values.data()[i]));
      return list;
    };
    return {{"rope_type", "longrope"},
            {"short_factor", factors(short_factors_name)},
            {"long_factor", factors(long_factors_name)},
            {"original_max_position_embeddings", size("rope.scaling.original_context_length")},
            {"attention_factor", rounded(file_.number(key("rope.scaling.attn_factor")).value_or(1.0))}};
  }

  void add_caps(std::int64_t hidden, std::int64_t heads, std::int64_t head_dim) {
    for (char const* const cap : {"attn_logit_softcapping", "final_logit_softcapping"}) {
      auto const value = file_.number(key(cap));
      config_[cap] = value ? Json(rounded(*value)) : Json(nullptr);
    }
    config_["query_pre_attn_scalar"] = gguf_query_scalar(row_, size("block_count"), hidden, heads, head_dim);
  }

  void add_experts() {
    MixtureRule const& rule = family_.mixture;
    config_[row_.experts_key] = size("expert_count");
    config_["num_experts_per_tok"] = size("expert_used_count");
    config_["norm_topk_prob"] = row_.normalized;
    if (auto const width = integer("expert_feed_forward_length")) config_["moe_intermediate_size"] = *width;
    if (!rule.shared_gate.empty())
      config_["shared_expert_intermediate_size"] = size("expert_shared_feed_forward_length");
    if (auto const shared = integer("expert_shared_count"); shared && rule.shared_gate.empty())
      config_["n_shared_experts"] = *shared;
    if (row_.dense_layers)
      config_["first_k_dense_replace"] = integer("leading_dense_block_count").value_or(0);
    if (auto const scale = file_.number(key("expert_weights_scale")))
      config_["routed_scaling_factor"] = *scale;
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
  Family const& family_;
  std::string source_;
  Json config_{};
};

}  // namespace

std::string config_json_of(GgufFile const& file, GgufArchitecture const& row) {
  return ConfigReader(file, row).read();
}

}  // namespace dartquant::detail
