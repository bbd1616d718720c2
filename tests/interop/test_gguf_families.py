# SPDX-License-Identifier: Apache-2.0
"""GGUF files of every family that llama.cpp runs: the logits of llama.cpp are those of transformers on the original."""
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from test_families import make, write_tokens  # noqa: E402

# What llama.cpp fixes and the fixtures vary on purpose: no windows but Gemma's, its scale of the scores, every layer sparse.
CHANGES = {
    "mistral": dict(sliding_window=None),
    "qwen2": dict(use_sliding_window=False),
    "phi3": dict(sliding_window=None),
    "qwen2_moe": dict(mlp_only_layers=[]),
    "gemma2": dict(query_pre_attn_scalar=12),
    "gemma3": dict(query_pre_attn_scalar=12, layer_types=["sliding_attention", "sliding_attention"]),
}
WITHOUT_LLAMA_CPP = {"opt"}


@pytest.fixture(scope="module", params=sorted(set(make.FAMILIES) - WITHOUT_LLAMA_CPP))
def family(request, tmp_path_factory):
    """(name, scratch folder, model folder, ids, logits) of a model that llama.cpp can run."""
    name, scratch = request.param, tmp_path_factory.mktemp(request.param)
    kind, arguments = make.FAMILIES[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(make.FAMILIES, name, (kind, {**arguments, **CHANGES.get(name, {})}))
        model = make.build(name, seed=13)
        make.save(name, model, scratch / "model", dtype=torch.float32)
    ids = make.tokens()
    return name, scratch, scratch / "model", ids.tolist(), make.logits(model, ids).numpy()


def logits_of(file, ids):
    """Of llama.cpp, with its KV cache in float32."""
    llama_cpp = pytest.importorskip("llama_cpp")
    f32 = llama_cpp.GGML_TYPE_F32
    llama = llama_cpp.Llama(str(file), n_ctx=64, n_batch=64, n_threads=2, logits_all=True, verbose=False, type_k=f32,
                            type_v=f32)
    llama.eval(ids)
    return llama.scores[: len(ids)]


@pytest.mark.parametrize("rotated", [False, True])
def test_llama_cpp_has_the_logits_of_transformers(program, family, rotated):
    name, scratch, model, ids, expected = family
    file, more = scratch / f"{rotated}.gguf", []
    if rotated:
        program.run("calibrate", model, "--tokens", write_tokens(scratch), "--seqlen", 24, "--samples", 8, "--method",
                    "quarot", "-o", scratch / "rotations.safetensors")
        more = ["--rotations", scratch / "rotations.safetensors"]
    program.run("fold", model, *more, "-o", file, "--dtype", "f32")
    found = logits_of(file, ids)
    assert abs(found - expected).max() / abs(expected).max() < 2e-4
    again = scratch / f"{rotated} again"
    program.run("fold", file, "-o", again)
    if name == "gemma2":  # its folder has a head of its own now, which GGUF has not
        return
    program.run("fold", again, "-o", scratch / "twice.gguf")
    assert abs(logits_of(scratch / "twice.gguf", ids) - expected).max() / abs(expected).max() < 2e-4
