// SPDX-License-Identifier: Apache-2.0
#include <dartquant/core/error.hpp>
#include <dartquant/model/architecture.hpp>

// The table of families: one row each. Names and defaults are those of the classes in transformers.
namespace dartquant {
namespace {

using enum Extent;

/// What a block shaped like Llama's may differ in.
struct BlockForm {
  BiasRule attention = BiasRule::never, output = BiasRule::never, mlp = BiasRule::never;
  std::string_view mlp_norm = "post_attention_layernorm";
  std::string_view q = "self_attn.q_proj", k = "self_attn.k_proj", v = "self_attn.v_proj",
                   gate = "mlp.gate_proj", up = "mlp.up_proj";
};

/// q, k, v, o, gate, up and down with a norm before the attention and one before the MLP.
constexpr std::array<LinearRule, linear_count> llama_block(BlockForm const& form) {
  constexpr std::string_view attention_norm = "input_layernorm";
  BiasRule const attention = form.attention, mlp = form.mlp;
  return {{
      {Linear::q_proj, form.q, query_channels, hidden, attention_norm, Acts::r1, Acts::none, attention},
      {Linear::k_proj, form.k, kv_channels, hidden, attention_norm, Acts::r1, Acts::none, attention},
      {Linear::v_proj, form.v, kv_channels, hidden, attention_norm, Acts::r1, Acts::r2, attention},
      {Linear::o_proj, "self_attn.o_proj", hidden, query_channels, "", Acts::r2, Acts::r1, form.output},
      {Linear::gate_proj, form.gate, intermediate, hidden, form.mlp_norm, Acts::r1, Acts::none, mlp},
      {Linear::up_proj, form.up, intermediate, hidden, form.mlp_norm, Acts::r1, Acts::none, mlp},
      {Linear::down_proj, "mlp.down_proj", hidden, intermediate, "", Acts::r4, Acts::r1, mlp},
  }};
}

constexpr Family llama_like(std::string_view architecture, BlockForm const& form, ConfigForm const& config) {
  return {.architecture = architecture,
          .embedding = "model.embed_tokens.weight",
          .layer_prefix = "model.layers.",
          .final_norm = "model.norm.weight",
          .head = "lm_head.weight",
          .attention_norm = "input_layernorm",
          .mlp_norm = form.mlp_norm,
          .norm = NormKind::rms,
          .linears = llama_block(form),
          .config = config};
}

constexpr Family with_head_norms(Family family) {
  family.query_norm = "self_attn.q_norm";
  family.key_norm = "self_attn.k_norm";
  return family;
}

constexpr Family with_mixture(Family family, MixtureRule const& mixture) {
  family.mixture = mixture;
  return family;
}

constexpr MixtureRule experts_of(std::string_view shared, std::string_view shared_gate) {
  return {"mlp.gate", "mlp.experts", "gate_proj", "up_proj", "down_proj", shared, shared_gate};
}

/// Norms before and after attention and MLP, gains about 0, GeGLU, scaled embeddings.
constexpr Family gemma(std::string_view architecture, ConfigForm config) {
  constexpr BiasRule bias = BiasRule::attention_bias;
  config.activation_key = "hidden_activation";
  config.activation = Activation::gelu_tanh;
  config.head_dim = 256;
  config.tied = config.capped = true;
  config.window = 4096;
  Family family =
      llama_like(architecture, {bias, bias, BiasRule::never, "pre_feedforward_layernorm"}, config);
  family.norm = NormKind::rms_offset;
  family.attention_output_norm = "post_attention_layernorm";
  family.mlp_output_norm = "post_feedforward_layernorm";
  family.scaled_embedding = true;
  return family;
}

constexpr Family opt() {
  constexpr std::string_view attention_norm = "self_attn_layer_norm", mlp_norm = "final_layer_norm";
  constexpr BiasRule bias = BiasRule::always;
  return {
      .architecture = "OPTForCausalLM",
      .embedding = "model.decoder.embed_tokens.weight",
      .layer_prefix = "model.decoder.layers.",
      .final_norm = "model.decoder.final_layer_norm.weight",
      .head = "lm_head.weight",
      .attention_norm = attention_norm,
      .mlp_norm = mlp_norm,
      .norm = NormKind::layer,
      .linears = {{
          {Linear::q_proj, "self_attn.q_proj", query_channels, hidden, attention_norm, Acts::r1, Acts::none,
           bias},
          {Linear::k_proj, "self_attn.k_proj", kv_channels, hidden, attention_norm, Acts::r1, Acts::none,
           bias},
          {Linear::v_proj, "self_attn.v_proj", kv_channels, hidden, attention_norm, Acts::r1, Acts::r2, bias},
          {Linear::o_proj, "self_attn.out_proj", hidden, query_channels, "", Acts::r2, Acts::r1, bias},
          {Linear::gate_proj, "", intermediate, hidden, mlp_norm, Acts::r1, Acts::none, bias},
          {Linear::up_proj, "fc1", intermediate, hidden, mlp_norm, Acts::r1, Acts::none, bias},
          {Linear::down_proj, "fc2", hidden, intermediate, "", Acts::r4, Acts::r1, bias},
      }},
      .config = {.intermediate = "ffn_dim",
                 .activation_key = "activation_function",
                 .activation = Activation::relu,
                 .norm_epsilon = 1e-5,
                 .tied = true},
      .positions = "model.decoder.embed_positions.weight"};
}

constexpr BiasRule never = BiasRule::never, always = BiasRule::always,
                   on_attention = BiasRule::attention_bias;
constexpr std::string_view fused_qkv = "self_attn.qkv_proj", fused_gate_up = "mlp.gate_up_proj",
                           mlp_norm = "post_attention_layernorm";

constexpr std::array known_families = {
    llama_like("LlamaForCausalLM", {on_attention, on_attention, BiasRule::mlp_bias}, {}),
    llama_like("MistralForCausalLM", {}, {.windows = Windows::all_layers, .window = 4096}),
    llama_like("Qwen2ForCausalLM", {always}, {.windows = Windows::late_layers, .window = 4096}),
    with_head_norms(llama_like("Qwen3ForCausalLM", {on_attention, on_attention},
                               {.head_dim = 128, .windows = Windows::late_layers, .window = 4096})),
    llama_like("Phi3ForCausalLM",
               {never, never, never, mlp_norm, fused_qkv, fused_qkv, fused_qkv, fused_gate_up, fused_gate_up},
               {.partial_rotary = true, .windows = Windows::all_layers}),
    with_mixture(llama_like("MixtralForCausalLM", {},
                            {.rope_theta = 1e6, .normalized = true, .windows = Windows::all_layers}),
                 {"block_sparse_moe.gate", "block_sparse_moe.experts", "w1", "w3", "w2"}),
    with_mixture(llama_like("Qwen2MoeForCausalLM", {BiasRule::qkv_bias},
                            {.qkv_bias = true, .windows = Windows::early_even_layers, .window = 4096}),
                 experts_of("mlp.shared_expert", "mlp.shared_expert_gate")),
    with_mixture(with_head_norms(llama_like("Qwen3MoeForCausalLM", {on_attention, on_attention},
                                            {.windows = Windows::all_when_used, .window = 4096})),
                 experts_of("", "")),
    with_mixture(llama_like("DeepseekForCausalLM", {on_attention, on_attention}, {}),
                 experts_of("mlp.shared_experts", "")),
    gemma("Gemma2ForCausalLM", {.windows = Windows::even_layers, .attention_cap = 50, .logit_cap = 30}),
    with_head_norms(
        gemma("Gemma3ForCausalLM",
              {.rope_theta = 1e6, .windows = Windows::all_but_every_sixth, .local_rope_theta = 1e4})),
    opt(),
};

}  // namespace

std::span<Family const> families() { return known_families; }

Family const& family_of(std::string_view architecture) {
  std::string known;
  for (Family const& family : known_families) {
    if (family.architecture == architecture) return family;
    known.append(known.empty() ? "" : ", ").append(family.architecture);
  }
  detail::fail(Error::Kind::unsupported, "[family_of] architecture '", architecture,
               "' is not known here (known: ", known, ")");
}

RotationsSupport rotation_support(Family const& family) {
  using How = RotationSupport::How;
  RotationsSupport support{
      .r1 = {How::folded, ""},
      .r2 = {How::folded, ""},
      .r3 = {How::online, "queries and keys are turned after RoPE: it acts where the KV cache is quantized"},
      .r4 = {How::online, "its inverse is folded into down_proj"}};
  if (!family.positions.empty())
    support.r3.reason = "queries and keys are turned alike: it acts where the KV cache is quantized";
  if (!family.attention_output_norm.empty())
    support.r1 = {How::impossible,
                  detail::sentence(family.attention_output_norm,
                                   " multiplies what o_proj gives channel by "
                                   "channel before it joins the residual stream, as ",
                                   family.mlp_output_norm,
                                   " does for down_proj: a rotation of the stream cannot pass them")};
  else if (family.norm == NormKind::layer)
    support.r1.reason =
        "LayerNorm becomes RMSNorm: the mean is taken out of all that is written to the stream, and R1 "
        "keeps the direction of equal channels";
  return support;
}

}  // namespace dartquant
