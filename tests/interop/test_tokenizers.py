# SPDX-License-Identifier: Apache-2.0
"""Token ids equal those of the `tokenizers` package on awkward text in many scripts."""
import json
import pathlib

import pytest

from conftest import ROOT

tokenizers = pytest.importorskip("tokenizers")
numpy = pytest.importorskip("numpy")

TEXT = pathlib.Path(__file__).parent / "awkward.txt"
FILES = [ROOT / "examples/data/tiny-llama/tokenizer.json"]
FILES += sorted((ROOT / "tests/data/tokenizer").glob("*.json"))
FILES += sorted((ROOT.parent / "shared/models").glob("*/tokenizer.json"))
NORMALIZERS = [None, "NFC", "NFD", "NFKC", "NFKD", "Lowercase"]


def name_of(file):
    return f"{file.parent.name}-{file.stem}"


def with_normalizer(file, normalizer):
    """The file with one more normalizer in front of its own."""
    content = json.loads(file.read_text("utf-8"))
    if normalizer:
        steps = [{"type": normalizer}]
        if content.get("normalizer"):
            steps.append(content["normalizer"])
        content["normalizer"] = {"type": "Sequence", "normalizers": steps}
    return content


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_ids_equal(program, tmp_path, file, normalizer):
    (tmp_path / "tokenizer.json").write_text(json.dumps(with_normalizer(file, normalizer)), "utf-8")
    reference = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = TEXT.read_bytes().decode("utf-8")
    program.run("tokenize", tmp_path, "--text", TEXT, "-o", tmp_path / "ids.npy")
    expected, found = reference.encode(text).ids, numpy.load(tmp_path / "ids.npy").tolist()
    first = next((i for i, (a, b) in enumerate(zip(expected, found)) if a != b), min(len(expected), len(found)))
    assert found == expected, f"from token {first}: {found[first:first + 8]} and not {expected[first:first + 8]}"
