# SPDX-License-Identifier: Apache-2.0
"""Writes the tiny random models beside this file with the logits that transformers gives for them:

    build/interop-venv/bin/python tests/data/families/make.py        (the environment of tests/interop/setup.sh)

Each folder has config.json, model.safetensors (BF16, so that the files stay small) and reference.safetensors with
`input_ids` [tokens] and `logits` [tokens, vocabulary] in float32. Same versions, same bytes. Every parameter is random,
norms and biases too, so that nothing that a reader leaves out cancels.
"""
import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

TOKENS = 24
SHAPE = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=96, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)


def own(**changes):
    return {**SHAPE, **changes}


def rope(theta=10000.0, **more):
    return dict(rope_parameters=dict(rope_theta=theta, **{"rope_type": "default", **more}))


def long_rope(pairs):
    short, long = [1.0 + 0.05 * i for i in range(pairs)], [1.5 + 0.5 * i for i in range(pairs)]
    return rope(rope_type="longrope", short_factor=short, long_factor=long, original_max_position_embeddings=16,
                partial_rotary_factor=0.75)


class DeepseekMoe(nn.Module):
    """The mixture of DeepSeek-MoE (arXiv 2401.06066, eqs. 3 to 5 and shared experts); transformers has no class for it."""

    def __init__(self, mlp, config, extra):
        super().__init__()
        def copy(width):
            narrow = type(config)(**{**config.to_dict(), "intermediate_size": width})
            return mlp(narrow)
        width = extra["moe_intermediate_size"]
        self.top, self.normalized = extra["num_experts_per_tok"], extra["norm_topk_prob"]
        self.gate = nn.Linear(config.hidden_size, extra["n_routed_experts"], bias=False)
        self.experts = nn.ModuleList(copy(width) for _ in range(extra["n_routed_experts"]))
        self.shared_experts = copy(width * extra["n_shared_experts"])

    def forward(self, x):
        scores = self.gate(x).softmax(dim=-1)
        kept, places = scores.topk(self.top, dim=-1)
        if self.normalized:
            kept = kept / kept.sum(dim=-1, keepdim=True)
        weights = torch.zeros_like(scores).scatter(-1, places, kept)
        return self.shared_experts(x) + sum(weights[..., i, None] * expert(x) for i, expert in enumerate(self.experts))


DEEPSEEK = dict(n_routed_experts=4, n_shared_experts=2, num_experts_per_tok=2, moe_intermediate_size=16,
                first_k_dense_replace=1, moe_layer_freq=1, norm_topk_prob=False, scoring_func="softmax")


def with_mixtures(model):
    """Turns a Llama into a DeepSeek-MoE: the same attention, mixtures from the second layer on."""
    for layer in model.model.layers[DEEPSEEK["first_k_dense_replace"]:]:
        layer.mlp = DeepseekMoe(type(model.model.layers[0].mlp), model.config, DEEPSEEK)
    return model.eval()


# name -> (config class, its arguments)
FAMILIES = {
    "llama": ("Llama", own(tie_word_embeddings=True, **rope(
        5e5, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=32))),
    "mistral": ("Mistral", own(head_dim=12, sliding_window=8, **rope())),
    "qwen2": ("Qwen2", own(tie_word_embeddings=True, use_sliding_window=True, sliding_window=8, max_window_layers=1, **rope(1e6))),
    "qwen3": ("Qwen3", own(head_dim=12, **rope(1e6))),
    "phi3": ("Phi3", own(sliding_window=8, original_max_position_embeddings=64, **rope())),
    "phi4": ("Phi3", own(num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
                         original_max_position_embeddings=16, **long_rope(6))),
    "mixtral": ("Mixtral", own(intermediate_size=24, num_local_experts=4, num_experts_per_tok=2, **rope(1e6))),
    "qwen2_moe": ("Qwen2Moe", own(shared_expert_intermediate_size=40, mlp_only_layers=[0], **EXPERTS, **rope(1e6))),
    "qwen3_moe": ("Qwen3Moe", own(head_dim=12, norm_topk_prob=True, **EXPERTS, **rope(1e6))),
    "deepseek": ("Llama", own(**rope())),
    "gemma2": ("Gemma2", own(head_dim=12, sliding_window=8, query_pre_attn_scalar=10, attn_logit_softcapping=5.0,
                             final_logit_softcapping=8.0, tie_word_embeddings=True, **rope())),
    "gemma3": ("Gemma3Text", own(head_dim=12, sliding_window=8, query_pre_attn_scalar=10, tie_word_embeddings=True,
                                 layer_types=["sliding_attention", "full_attention"],
                                 rope_parameters=dict(
                                     sliding_attention=dict(rope_type="default", rope_theta=1e4),
                                     full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6)))),
    "opt": ("OPT", dict(hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=96,
                        max_position_embeddings=64, word_embed_proj_dim=32, bos_token_id=2, eos_token_id=2, pad_token_id=1)),
}
MODEL_CLASS = {"Gemma3Text": "Gemma3ForCausalLM"}


def randomize(model):
    """Gaussian weights of unit gain, gains about 1 (offsets about 0 for Gemma), small biases, outlier channels."""
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape)
            if "norm" in name and name.endswith("weight"):
                offset = 0.0 if "gemma" in model.config.model_type else 1.0
                parameter.copy_(offset + 0.3 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.2 * noise)
            elif "embed" in name:
                parameter.copy_(noise)
                parameter[:, [1, parameter.shape[1] // 2]] *= 4
            else:
                parameter.copy_(1.5 * noise / parameter.shape[-1] ** 0.5)
            parameter.copy_(parameter.to(torch.bfloat16).to(torch.float32))
    return model


def build(name, seed=1):
    """The model of a family in float32, its weights exact in BF16."""
    kind, arguments = FAMILIES[name]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**arguments)
    config._attn_implementation = "eager"
    model = getattr(transformers, MODEL_CLASS.get(kind, f"{kind}ForCausalLM"))(config)
    model = with_mixtures(model) if name == "deepseek" else model.eval()
    return randomize(model)


def save(name, model, folder, dtype=torch.bfloat16):
    """As save_pretrained; the mixture of DeepSeek with the names and keys of its published checkpoints."""
    folder = pathlib.Path(folder)
    if name == "deepseek":
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {key: value.to(dtype).contiguous() for key, value in model.state_dict().items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        config = {**model.config.to_dict(), **DEEPSEEK, "architectures": ["DeepseekForCausalLM"], "model_type": "deepseek"}
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    else:
        copy = type(model)(model.config)
        copy.load_state_dict(model.state_dict())
        copy.to(dtype).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = str(dtype).removeprefix("torch.")
    config.pop("transformers_version", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load(name, folder):
    """What transformers makes of a folder, in float32."""
    if name != "deepseek":
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        return model.eval()
    model = build(name)
    model.load_state_dict(load_file(pathlib.Path(folder) / "model.safetensors"), strict=True)
    return model.to(torch.float32)


def tokens(count=TOKENS, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, SHAPE["vocab_size"], (count,), generator=generator)


def logits(model, ids):
    with torch.no_grad():
        return model(ids[None]).logits[0].float().contiguous()


def write(name, folder):
    model = build(name)
    save(name, model, folder)
    ids = tokens()
    save_file({"input_ids": ids.to(torch.int32), "logits": logits(model, ids)}, pathlib.Path(folder) / "reference.safetensors")


if __name__ == "__main__":
    here = pathlib.Path(__file__).parent
    for family in sys.argv[1:] or FAMILIES:
        write(family, here / family)
        print(family)
