# SPDX-License-Identifier: Apache-2.0
"""Every family against transformers: the same logits, before and after the rotations are folded."""
import importlib.util
import pathlib

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

ROOT = pathlib.Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("make", ROOT / "tests/data/families/make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)

BOUND = 1e-4  # max |a - b| / max |a|
WITHOUT_R1 = {"gemma2", "gemma3"}


def write_tokens(folder):
    import numpy
    file = folder / "ids.npy"
    numpy.save(file, make.tokens(240, seed=9).numpy().astype("int32"))
    return file


@pytest.fixture(scope="module", params=sorted(make.FAMILIES))
def family(request, tmp_path_factory):
    """A model of another seed than the fixtures, in float32: (name, scratch folder, model folder, ids, logits)."""
    name, scratch = request.param, tmp_path_factory.mktemp(request.param)
    model = make.build(name, seed=11)
    make.save(name, model, scratch / "model", dtype=torch.float32)
    ids = make.tokens()
    logits = make.logits(model, ids)
    assert torch.equal(make.logits(make.load(name, scratch / "model"), ids), logits)
    safetensors.save_file({"input_ids": ids.to(torch.int32), "logits": logits}, scratch / "reference.safetensors")
    return name, scratch, scratch / "model", ids, logits


def difference(a, b):
    return ((a - b).abs().max() / a.abs().max()).item()


def test_logits(program, family):
    name, scratch, model, _, _ = family
    report = program.report(scratch, "eval", model, "--tokens", write_tokens(scratch), "--seqlen", 24,
                            "--reference", scratch / "reference.safetensors")
    assert report["reference"]["max_relative_error"] < BOUND


@pytest.mark.parametrize("method", ["dartquant", "quarot"])
def test_folded_folder(program, family, method):
    name, scratch, model, ids, logits = family
    tokens, rotations, folded = write_tokens(scratch), scratch / f"{method}.safetensors", scratch / method
    program.run("calibrate", model, "--tokens", tokens, "--seqlen", 24, "--samples", 8, "--method", method,
                "-o", rotations)
    program.run("fold", model, "--rotations", rotations, "-o", folded, "--tokens", tokens)
    with safetensors.safe_open(rotations, "pt") as file:
        assert ("R1" in file.keys()) == (name not in WITHOUT_R1)
    assert difference(logits, make.logits(make.load(name, folded), ids)) < BOUND


def test_quantized_folder(program, family):
    """transformers computes with the rounded weights what the program computes."""
    name, scratch, model, ids, logits = family
    tokens, folder = write_tokens(scratch), scratch / "w4"
    program.run("quantize", model, "--calibration-tokens", tokens, "--seqlen", 24, "--samples", 8, "--scheme", "w4a16",
                "--method", "quarot", "-o", folder)
    found = make.logits(make.load(name, folder), ids)
    assert BOUND < difference(logits, found) < 1.5
    safetensors.save_file({"input_ids": ids.to(torch.int32), "logits": found}, scratch / "w4.safetensors")
    report = program.report(scratch, "eval", folder, "--tokens", tokens, "--seqlen", 24,
                            "--reference", scratch / "w4.safetensors")
    assert report["reference"]["max_relative_error"] < BOUND


MIXTURES = {"mixtral", "qwen2_moe", "qwen3_moe", "deepseek"}  # whose experts transformers does not load packed


def test_packed_folder(program, family):
    """The package unpacks our compressed-tensors folder to our values, and transformers computes the same with it."""
    pytest.importorskip("compressed_tensors")
    from test_compressed_tensors import decompress, tensors_of
    name, scratch, model, ids, logits = family
    for fmt in ("compressed-tensors", "checkpoint"):
        program.run("quantize", model, "--calibration-tokens", write_tokens(scratch), "--seqlen", 24, "--samples", 8,
                    "--scheme", "w4a16", "--weight-group", 8, "--method", "quarot", "--format", fmt, "-o", scratch / fmt)
    packed, values = tensors_of(scratch / "compressed-tensors"), tensors_of(scratch / "checkpoint")
    maps = [key[: -len("weight_packed")] for key in packed if key.endswith("weight_packed")]
    assert len(maps) >= 2 * 4
    for name_of_map in maps:
        weight = decompress(scratch / "compressed-tensors", name_of_map, packed)
        assert torch.equal(weight, values[name_of_map + "weight"]), name_of_map
    others = {key for key in values if key.removesuffix("weight") not in maps}
    assert all(torch.equal(packed[key], values[key]) for key in others)
    if name not in MIXTURES:
        found, expected = (make.logits(make.load(name, scratch / fmt), ids) for fmt in ("compressed-tensors", "checkpoint"))
        assert difference(expected, found) < BOUND


def test_inspect_says_what_folds(program, family):
    name, scratch, model, _, _ = family
    rotations = program.report(scratch, "inspect", model)["rotations"]
    assert rotations["r1"]["how"] == ("impossible" if name in WITHOUT_R1 else "folded")
    assert [rotations[r]["how"] for r in ("r2", "r3", "r4")] == ["folded", "runs online", "runs online"]
    assert name not in WITHOUT_R1 or "post_attention_layernorm" in rotations["r1"]["reason"]
