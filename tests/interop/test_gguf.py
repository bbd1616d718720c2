# SPDX-License-Identifier: Apache-2.0
"""GGUF files against the Python package `gguf` and against llama.cpp (llama-cpp-python)."""
import json
import math
import pathlib

import pytest

from conftest import ROOT

gguf = pytest.importorskip("gguf")
numpy = pytest.importorskip("numpy")

TINY = ROOT / "examples/data/tiny-llama"
SHARED = ROOT.parent / "shared/models"
MODELS = {"tiny-llama": (TINY, TINY / "eval_ids.npy", 128)}
if SHARED.exists():
    MODELS["stories260K"] = (SHARED / "stories260K", SHARED / "tokens/stories260K/tinystories-eval.npy", 256)
WINDOWS = 8


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return request.param, *MODELS[request.param]


@pytest.fixture(scope="module")
def files(program, model, tmp_path_factory):
    """The model's random R1 and R2 folded into files of every type, and one file that nothing was folded into."""
    name, folder, ids, seqlen = model
    work = tmp_path_factory.mktemp(name)
    program.run("calibrate", folder, "--tokens", ids, "--method", "quarot", "--samples", 2, "--seqlen", seqlen, "-o",
                work / "rotations.safetensors")
    for dtype in ("f32", "f16", "bf16", "q8_0", "q4_0"):
        program.run("fold", folder, "--rotations", work / "rotations.safetensors", "--dtype", dtype, "-o",
                    work / f"{dtype}.gguf")
    program.run("fold", folder, "-o", work / "plain.gguf", "--dtype", "f32")
    return work


def write_again(reader, path):
    """Keys and tensors in the same order through the package's own writer."""
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())  # which it writes first
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0", "q4_0", "plain"])
def test_package_reads_and_writes_the_same_bytes(files, tmp_path, dtype):
    file = files / f"{dtype}.gguf"
    write_again(gguf.GGUFReader(file), tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == file.read_bytes()


def dequantized(tensor):
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape([int(n) for n in reversed(tensor.shape)])


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0"])
def test_blocks_are_those_of_the_package(files, dtype):
    exact = {tensor.name: tensor for tensor in gguf.GGUFReader(files / "f32.gguf").tensors}
    blocks = 0
    for tensor in gguf.GGUFReader(files / f"{dtype}.gguf").tensors:
        kind = tensor.tensor_type
        if kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0):
            expected = gguf.quants.quantize(dequantized(exact[tensor.name]), kind)
            assert (tensor.data.reshape(expected.shape) == expected).all(), tensor.name
            blocks += 1
    assert blocks > 10


def test_rows_of_q_and_k_are_llama_cpps(model, files):
    """The package's users permute the rows so (convert_hf_to_gguf.py); nothing is folded but gains."""
    safetensors = pytest.importorskip("safetensors.torch")
    name, folder, _, _ = model
    config = json.loads((folder / "config.json").read_text())
    weights = safetensors.load_file(folder / "model.safetensors")
    tensors = {tensor.name: dequantized(tensor) for tensor in gguf.GGUFReader(files / "plain.gguf").tensors}
    gain = weights["model.layers.1.input_layernorm.weight"].double().numpy()
    for part, heads in (("q", config["num_attention_heads"]), ("k", config["num_key_value_heads"])):
        w = weights[f"model.layers.1.self_attn.{part}_proj.weight"].double().numpy() * gain
        permuted = w.reshape(heads, 2, w.shape[0] // heads // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
        assert numpy.allclose(tensors[f"blk.1.attn_{part}.weight"], permuted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_the_program_reads_what_the_package_writes(program, model, files, tmp_path, dtype):
    name, folder, ids, seqlen = model
    write_again(gguf.GGUFReader(files / f"{dtype}.gguf"), tmp_path / "again.gguf")
    arguments = ("--tokens", ids, "--seqlen", seqlen, "--windows", WINDOWS)
    expected = program.report(tmp_path, "eval", folder, *arguments)["perplexity"]
    found = program.report(tmp_path, "eval", tmp_path / "again.gguf", *arguments)["perplexity"]
    bound = {"f32": 1e-5, "f16": 1e-3, "bf16": 0.01, "q8_0": 0.01, "q4_0": 0.2}[dtype]
    assert abs(math.log(found / expected)) < bound


def test_a_folder_from_a_gguf_file_is_the_model(program, model, files, tmp_path):
    name, folder, ids, seqlen = model
    program.run("fold", files / "f32.gguf", "-o", tmp_path / "folder")
    text = pathlib.Path(__file__).parent / "awkward.txt"
    for source, out in ((folder, "a.npy"), (tmp_path / "folder", "b.npy"), (files / "q8_0.gguf", "c.npy")):
        program.run("tokenize", source, "--text", text, "-o", tmp_path / out)
    expected = numpy.load(tmp_path / "a.npy")
    assert (numpy.load(tmp_path / "b.npy") == expected).all() and (numpy.load(tmp_path / "c.npy") == expected).all()
    arguments = ("--tokens", ids, "--seqlen", seqlen, "--windows", WINDOWS)
    perplexity = [program.report(tmp_path, "eval", source, *arguments)["perplexity"]
                  for source in (folder, tmp_path / "folder")]
    assert perplexity[0] == pytest.approx(perplexity[1], rel=1e-5)


class Engine:
    """llama.cpp on one file."""

    def __init__(self, file, seqlen):
        llama_cpp = pytest.importorskip("llama_cpp")
        self.llama = llama_cpp.Llama(str(file), n_ctx=seqlen, n_batch=seqlen, n_threads=2, logits_all=True, verbose=False)

    def logits(self, ids):
        self.llama.reset()
        self.llama.eval(ids.tolist())
        return self.llama.scores[:len(ids)].astype(numpy.float64)

    def perplexity(self, windows):
        total = 0
        for window in windows:
            scores = self.logits(window)[:-1]
            scores -= scores.max(axis=1, keepdims=True)
            losses = numpy.log(numpy.exp(scores).sum(axis=1)) - scores[numpy.arange(len(window) - 1), window[1:]]
            total += losses.sum()
        return math.exp(total / (windows.size - len(windows)))

    def greedy(self, prompt, count):
        ids = list(prompt)
        for _ in range(count):
            ids.append(int(self.logits(numpy.array(ids))[-1].argmax()))
        return ids[len(prompt):]


@pytest.mark.parametrize("dtype", ["plain", "f32", "f16", "bf16", "q8_0", "q4_0"])
def test_llama_cpp_has_our_perplexity(program, model, files, tmp_path, dtype):
    name, folder, ids, seqlen = model
    engine = Engine(files / f"{dtype}.gguf", seqlen)
    windows = numpy.load(ids)[:WINDOWS * seqlen].reshape(WINDOWS, seqlen)
    ours = program.report(tmp_path, "eval", files / f"{dtype}.gguf", "--tokens", ids, "--seqlen", seqlen, "--windows",
                          WINDOWS)["perplexity"]
    theirs = engine.perplexity(windows)
    print(f"{name} {dtype}: perplexity {ours:.4f} here, {theirs:.4f} in llama.cpp")
    # llama.cpp also rounds the activations of block types to 8 bits.
    assert abs(theirs / ours - 1) < 0.005


def test_llama_cpp_continues_as_the_original(model, files):
    name, folder, ids, seqlen = model
    prompt = numpy.load(ids)[:16].tolist()
    tokens = [Engine(files / f"{dtype}.gguf", seqlen).greedy(prompt, 32) for dtype in ("plain", "f32")]
    assert tokens[0] == tokens[1]
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    original = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generated = original.generate(torch.tensor([prompt]), max_new_tokens=32, do_sample=False, eos_token_id=None)
    assert generated[0, 16:].tolist() == tokens[1]


def test_llama_cpp_has_our_token_ids(program, model, files, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp")
    name, folder, _, seqlen = model
    text = pathlib.Path(__file__).parent / "awkward.txt"
    program.run("tokenize", folder, "--text", text, "-o", tmp_path / "ids.npy")
    llama = llama_cpp.Llama(str(files / "f16.gguf"), vocab_only=True, verbose=False)
    assert llama.tokenize(text.read_bytes(), add_bos=True, special=True) == numpy.load(tmp_path / "ids.npy").tolist()
