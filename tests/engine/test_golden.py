"""Frozen values of contract version 1. A change of any bit here is a new contract version, not a new file.

python tests/engine/test_golden.py --write     # once for each contract version, from the portable path
"""

import hashlib
import itertools
import json
import pathlib
import sys

import numpy as np
import pytest
import reference as ref
import torch
from filling import DTYPES, Backend, bits, forced_isa

import convinit_ext
from convinit_ext import Key, init

GOLDEN = pathlib.Path(__file__).parents[1] / "golden.json"
SEED, NAME = 42, "layer1.0.conv1.weight"
NUM_LISTED = 8  # shown as they are, for people and ports; the digest covers the rest
NUM_DIGESTED = 40_009
STARTS = 0, 2**34 - 20_001
DISTRIBUTIONS = [
    ("constant", 0.1),
    ("uniform", 0.0, 1.0),
    ("uniform", -0.0361, 0.0417),
    ("normal", 0.0, 1.0),
    ("normal", 0.125, 0.0236),
    ("truncated_normal", 0.0, 1.0, -2.0, 2.0),
    ("truncated_normal", 0.0, 0.02, -2.0, 2.0),
    ("truncated_normal", 0.0, 1.0, 5.0, 1e300),
    ("truncated_normal", 3.0, 0.5, -2.0, 1.0),
]
LAYER_KEYS = [
    (0, "weight"),
    (42, NAME),
    (-1, "fc.bias"),
    (2**64 - 1, "fc.bias"),
    (-(2**63), "blöcke.0.weight"),
]
ORTHOGONAL = [
    ((3, 3), "float32", 1),
    ((200, 150), "float32", 1),
    ((200, 150), "float64", 1),
    ((200, 150), "bfloat16", 1),
    ((150, 200), "float32", 1),
    ((160, 40), "float32", 4),
]
ROWS = list(itertools.product(DISTRIBUTIONS, DTYPES, STARTS))


def stored_bits(tensor) -> np.ndarray:
    """The tensor's own bits, little-endian; bfloat16's are the high half of float32's."""
    if tensor.element_size() == 1:
        return tensor.cpu().view(torch.uint8).numpy()
    raw = bits(tensor) >> 16 if str(tensor.dtype) == "torch.bfloat16" else bits(tensor)
    return raw.astype(f"<u{tensor.element_size()}")


def shown(raw: np.ndarray) -> dict[str, object]:
    """The first values, and a digest of all."""
    return {
        "bits": [f"{word:0{2 * raw.itemsize}x}" for word in raw[:NUM_LISTED]],
        "digest": hashlib.blake2b(raw.tobytes(), digest_size=16).hexdigest(),
    }


def filled_row(backend: Backend, distribution, dtype, start) -> dict[str, object]:
    filled = backend.fill((NUM_DIGESTED,), distribution, dtype, ref.layer_key(SEED, NAME), start=start)
    raw = stored_bits(filled)
    return {"distribution": list(distribution), "dtype": dtype, "start": start, **shown(raw)}


def orthogonal_row(shape, dtype, blocks) -> dict[str, object]:
    tensor = torch.empty(shape, dtype=DTYPES[dtype])
    raw = stored_bits(init.orthogonal_(tensor, 1.5, key=Key(SEED, NAME), blocks=blocks)).ravel()
    return {"shape": list(shape), "dtype": dtype, "blocks": blocks, **shown(raw)}


def layer_key_row(seed: int, name: str) -> dict[str, object]:
    key, stream = convinit_ext.Key(seed=seed, name=name).words
    return {"seed": seed, "name": name, "key": f"{key:016x}", "stream": f"{stream:016x}"}


def all_rows(backend: Backend) -> dict[str, object]:
    return {
        "contract_version": convinit_ext.CONTRACT_VERSION,
        "seed": SEED,
        "name": NAME,
        "num_digested": NUM_DIGESTED,
        "layer_keys": [layer_key_row(*each) for each in LAYER_KEYS],
        "fills": [filled_row(backend, *row) for row in ROWS],
        "orthogonal": [orthogonal_row(*row) for row in ORTHOGONAL],
    }


@pytest.fixture(scope="module")
def golden() -> dict:
    assert GOLDEN.exists(), "tests/golden.json is missing: python tests/engine/test_golden.py --write"
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_golden_file_is_of_this_contract(golden):
    assert golden["contract_version"] == convinit_ext.CONTRACT_VERSION
    assert (golden["seed"], golden["name"], golden["num_digested"]) == (SEED, NAME, NUM_DIGESTED)
    stored = [(tuple(row["distribution"]), row["dtype"], row["start"]) for row in golden["fills"]]
    assert stored == ROWS


def test_golden_layer_keys(golden):
    assert [layer_key_row(*each) for each in LAYER_KEYS] == golden["layer_keys"]
    for row in golden["layer_keys"]:
        key, stream = ref.layer_key(row["seed"], row["name"])
        assert (f"{key:016x}", f"{stream:016x}") == (row["key"], row["stream"])


def test_golden_values(backend: Backend, golden):
    for row, frozen in zip(ROWS, golden["fills"], strict=True):
        assert filled_row(backend, *row) == frozen


@pytest.mark.usefixtures("isa")
def test_golden_orthogonal_values(golden):
    for row, frozen in zip(ORTHOGONAL, golden["orthogonal"], strict=True):
        assert orthogonal_row(*row) == frozen


def one_row_a_line(rows: dict[str, object]) -> str:
    """JSON whose tables have a line for each row, so that a difference shows which fill changed."""
    lines = []
    for name, value in rows.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list):
            text = "[\n  " + ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in value) + "\n]"
        lines.append(f"{json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/engine/test_golden.py --write")
    with forced_isa("portable"):
        frozen = all_rows(Backend("cpu", "portable"))
    GOLDEN.write_text(one_row_a_line(frozen), encoding="utf-8")
