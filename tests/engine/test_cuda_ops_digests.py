"""Digests of the CUDA ops without a GPU are those of the contract in numpy."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import reference_fingerprint
import torch
from fake_gpu import BYTES, NEEDED, by_value, bytes_of
from filling import key_tensor
from layouts import LAYOUTS

from convinit_ext._engine import _ops as ops

pytestmark = NEEDED


def digest_key(head: bytes) -> torch.Tensor:
    return key_tensor(struct.unpack("<QQ", reference_fingerprint.blake(b"convinit-fp1-key", head)))


def assert_digest(found: torch.Tensor, tensor: torch.Tensor) -> None:
    """Of the contract, for the key of b"w"."""
    assert found.dtype == torch.int64
    expected = reference_fingerprint.sums(b"w", reference_fingerprint.words(tensor))
    assert found.numpy().view(np.uint64).tolist() == [expected]


@pytest.mark.parametrize("dtype", BYTES, ids=str)
@pytest.mark.parametrize("layout", [*LAYOUTS, "one place"])
def test_digests_of_layouts(gpus, layout, dtype):
    shape, view = LAYOUTS.get(layout) or ((3, 1), lambda m: m.expand(3, 700))
    memory = bytes_of(shape, dtype)
    gpus.put_all([memory], 1)
    assert_digest(gpus.run("digest", [view(memory)], digest_key(b"w")), view(memory))
    assert gpus.log() == [line.format(1) for line in by_value("digest")]
    assert gpus.library.fake_current_device() == 0


@pytest.mark.parametrize("dtype", BYTES, ids=str)
def test_digests_of_parts_add_up(gpus, dtype):
    """Rows cut inside words, columns, and every third column."""
    whole = gpus.put(bytes_of((41, 67), dtype), 0)
    rows = [(whole[:5], ops.Box(0, (67, 1))), (whole[5:], ops.Box(5 * 67, (67, 1)))]
    columns = [(whole[:, :9], ops.Box(0, (67, 1))), (whole[:, 9:], ops.Box(9, (67, 1)))]
    thirds = [(whole[:, first::3], ops.Box(first, (67, 3))) for first in range(3)]
    for parts in (rows, columns, thirds):
        tensors, boxes = (list(each) for each in zip(*parts, strict=True))
        keys = digest_key(b"w").expand(len(parts), 2).contiguous()
        found = gpus.run("digest", tensors, keys, boxes=boxes)
        assert_digest(found.sum(dim=0, keepdim=True), whole)
