# SPDX-License-Identifier: Apache-2.0
"""Folders of `quantize --format compressed-tensors` through the compressed-tensors package and transformers, and our
safetensors files through the safetensors package."""
import json
import pathlib
import struct

import numpy
import pytest

torch = pytest.importorskip("torch")
ct = pytest.importorskip("compressed_tensors")
safetensors_numpy = pytest.importorskip("safetensors.numpy")
safetensors_torch = pytest.importorskip("safetensors.torch")

from compressed_tensors.compressors import BaseCompressor  # noqa: E402
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme  # noqa: E402
from compressed_tensors.transform import TransformConfig, TransformFactory  # noqa: E402

MODEL = pathlib.Path(__file__).resolve().parents[2] / "examples/data/tiny-llama"
EVAL = MODEL / "eval.txt"
DOWN = "model.layers.3.mlp.down_proj."


def quantize(program, folder, *more, dtype="f32", fmt="compressed-tensors"):
    program.run("quantize", MODEL, "--method", "rtn", "--dtype", dtype, "--format", fmt, "-o", folder, "-q", *more)
    return folder


def config_of(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def tensors_of(folder):
    return safetensors_torch.load_file(folder / "model.safetensors")


def decompress(folder, name, tensors):
    """The weight of a linear map as compressed-tensors unpacks it."""
    scheme = QuantizationConfig.model_validate(config_of(folder)).config_groups["group_0"]
    parts = {key[len(name):]: value for key, value in tensors.items() if key.startswith(name)}
    return BaseCompressor.get_value_from_registry("pack-quantized").decompress(parts, scheme)["weight"]


SCHEMES = [("w4a16", "--weight-group", "8"), ("w4a16", "--asymmetric-weights"), ("w4a8", "--weight-group", "8"),
           ("w8a8",), ("w4a4",)]


@pytest.mark.parametrize("scheme, more", [(scheme, more) for scheme, *more in SCHEMES])
def test_unpacked_weights_are_our_dequantized_values(program, tmp_path, scheme, more):
    packed = quantize(program, tmp_path / "packed", "--scheme", scheme, *more)
    values = quantize(program, tmp_path / "values", "--scheme", scheme, *more, fmt="checkpoint")
    tensors, ours = tensors_of(packed), tensors_of(values)
    names = [key[: -len("weight_packed")] for key in tensors if key.endswith("weight_packed")]
    assert len(names) == 6 * 7
    for name in names:
        assert torch.equal(decompress(packed, name, tensors), ours[name + "weight"]), name


def test_gptq_levels_survive(program, tmp_path):
    more = ("--scheme", "w4a16", "--weights", "gptq", "--weight-group", "8", "--calibration", MODEL / "calibration.txt",
            "--samples", "8")
    packed = quantize(program, tmp_path / "packed", *more)
    values = quantize(program, tmp_path / "values", *more, fmt="checkpoint")
    assert torch.equal(decompress(packed, DOWN, tensors_of(packed)), tensors_of(values)[DOWN + "weight"])


def test_scales_of_16_bits_are_rounded_once(program, tmp_path):
    packed = quantize(program, tmp_path / "packed", "--scheme", "w4a16", "--weight-group", "8", dtype="bf16")
    exact = quantize(program, tmp_path / "exact", "--scheme", "w4a16", "--weight-group", "8")
    tensors, wide = tensors_of(packed), tensors_of(exact)
    assert torch.equal(tensors[DOWN + "weight_packed"], wide[DOWN + "weight_packed"])
    assert torch.equal(tensors[DOWN + "weight_scale"], wide[DOWN + "weight_scale"].to(torch.bfloat16))


@pytest.mark.parametrize("scheme, more", [(scheme, more) for scheme, *more in SCHEMES])
def test_the_configuration_is_what_the_classes_know(program, tmp_path, scheme, more):
    config = config_of(quantize(program, tmp_path / "out", "--scheme", scheme, *more, "--active", "r4"))
    parsed = QuantizationConfig.model_validate(config)
    group = parsed.config_groups["group_0"]
    assert set(config["config_groups"]["group_0"]) <= set(QuantizationScheme.model_fields)
    assert set(config["config_groups"]["group_0"]["weights"]) <= set(QuantizationArgs.model_fields)
    assert set(config) - {"transform_config"} <= set(QuantizationConfig.model_fields)
    assert group.weights.num_bits == int(scheme[1]) and parsed.format == "pack-quantized"
    if scheme.endswith("a16"):
        assert group.input_activations is None
    else:
        inputs = group.input_activations
        assert (inputs.num_bits, inputs.strategy, inputs.dynamic, inputs.symmetric) == (int(scheme[-1]), "token", True, True)
    (transform,) = TransformConfig.model_validate(config["transform_config"]).config_groups.values()
    assert transform.type == "hadamard" and 344 % transform.head_dim == 0 and transform.apply[0].is_online()


def test_their_hadamard_undoes_ours(program, tmp_path):
    """Their transform of the input and our folded weight multiply to what the unrotated weight gives."""
    common = ("--scheme", "w8a16", "--weight-clip", "none")
    rotated = quantize(program, tmp_path / "rotated", *common, "--active", "r4")
    plain = tensors_of(quantize(program, tmp_path / "plain", *common, fmt="checkpoint"))[DOWN + "weight"]
    scheme = TransformConfig.model_validate(config_of(rotated)["transform_config"]).config_groups["R4"]
    factory = TransformFactory.from_scheme(scheme, name="R4")
    transform = factory.create_transform(torch.nn.Linear(344, 128, bias=False), scheme.apply[0])
    X = torch.randn(64, 344, generator=torch.Generator().manual_seed(1))
    weight = decompress(rotated, DOWN, tensors_of(rotated))
    expected = X @ plain.T
    assert ((transform(X) @ weight.T - expected).norm() / expected.norm()).item() < 0.02
    assert ((X @ weight.T - expected).norm() / expected.norm()).item() > 0.5
    # Exactly the matrix that `rotations` with an online Hadamard transform of that block applies.
    H = transform(torch.eye(344, dtype=torch.float32))
    block = scheme.head_dim
    sylvester = torch.ones(1, 1)
    while len(sylvester) < block:
        sylvester = torch.cat([torch.cat([sylvester, sylvester], 1), torch.cat([sylvester, -sylvester], 1)])
    assert torch.allclose(H, torch.block_diag(*[sylvester / block**0.5] * (344 // block)), atol=1e-7)


def logits_through_transformers(folder, ids):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor(ids)[None]).logits[0]


def test_transformers_loads_the_folder(program, tmp_path):
    ids = numpy.load(MODEL / "eval_ids.npy")[:64].astype(numpy.int64)
    packed = quantize(program, tmp_path / "packed", "--scheme", "w4a16", "--weight-group", "8")
    values = quantize(program, tmp_path / "values", "--scheme", "w4a16", "--weight-group", "8", fmt="checkpoint")
    found, expected = logits_through_transformers(packed, ids), logits_through_transformers(values, ids)
    assert ((found - expected).abs().max() / expected.abs().max()).item() < 1e-4


def test_transformers_leaves_r4_out_as_the_program_warns(program, tmp_path):
    ids = numpy.load(MODEL / "eval_ids.npy")[:64].astype(numpy.int64)
    said = program.run("quantize", MODEL, "--method", "rtn", "--dtype", "f32", "--format", "compressed-tensors", "--scheme",
                       "w8a16", "--active", "r4", "-o", tmp_path / "r4")
    assert "transformers reads the folder and leaves transform_config out" in said
    plain = quantize(program, tmp_path / "plain", "--scheme", "w8a16", fmt="checkpoint")
    found, expected = logits_through_transformers(tmp_path / "r4", ids), logits_through_transformers(plain, ids)
    assert ((found - expected).norm() / expected.norm()).item() > 0.1


@pytest.mark.parametrize("fmt", ["checkpoint", "compressed-tensors", "native"])
def test_safetensors_reads_every_byte(program, tmp_path, fmt):
    file = quantize(program, tmp_path / "out", "--scheme", "w4a16", fmt=fmt) / "model.safetensors"
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__")
    tensors = safetensors_numpy.load(data)
    assert set(tensors) == set(header)
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        assert tensors[name].tobytes() == data[8 + length + begin : 8 + length + end], name
        assert list(tensors[name].shape) == entry["shape"]
    if fmt != "native":  # whose header is padded further, so that weights are aligned in the file
        assert safetensors_numpy.save(tensors, {"format": "pt"}) == data
