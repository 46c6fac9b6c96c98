"""The ops that read: digests of parts, and comparison with what a fill would write.

What a fill writes is tested elsewhere (test_values.py, test_layouts.py); here its memory is changed.
"""

import numpy as np
import pytest
import torch
from filling import DTYPES, as_integers, freed, key_tensor
from layouts import LAYOUTS
from torch import Tensor

from convinit_ext import Constant, Normal, TruncatedNormal, Uniform
from convinit_ext._engine import _ops as ops
from convinit_ext._engine._ops import Box, row_major

KEYS = key_tensor((2**63 + 5, 7))
DISTRIBUTIONS = [Constant(0.5), Uniform(-1.0, 2.0), Normal(0.5, 2.0), TruncatedNormal(0.0, 1.0, -2.0, 2.0)]


def flip(tensor: Tensor, places: list[int]) -> None:
    """The lowest bit of the elements with these row-major indices."""
    bits = torch.atleast_1d(as_integers(tensor))
    bits[np.unravel_index(places, bits.shape)] ^= 1


def difference(tensor: Tensor, distribution: ops.Encoded, box: Box | None = None) -> list[int]:
    return ops.differences([tensor], KEYS, [distribution], None if box is None else [box])[0].tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_changed_elements_are_found(isa: str, dtype: str):
    for layout, (shape, view) in LAYOUTS.items():
        random = np.random.default_rng(3)
        for distribution in DISTRIBUTIONS:
            tensor = view(torch.zeros(shape).to(DTYPES[dtype]))
            ops.fill_([tensor], KEYS, [distribution])
            assert difference(tensor, distribution) == [0, -1], layout
            for count in {min(most, tensor.numel()) for most in (1, 3, tensor.numel())} - {0}:
                places = sorted(random.choice(tensor.numel(), count, replace=False).tolist())
                flip(tensor, places)
                assert difference(tensor, distribution) == [count, places[0]], (layout, distribution)
                flip(tensor, places)
            assert difference(tensor, distribution) == [0, -1]


def test_first_and_last_of_a_large_tensor(num_threads: int):
    """Over several pieces of work, of which the last may end first."""
    tensor = torch.empty(1_500_007)
    ops.fill_([tensor], KEYS, [Normal()])
    assert difference(tensor, Normal()) == [0, -1]
    for places in ([0], [1_500_006], [700_000, 1_500_006], [3, 4095, 4096, 1_200_000]):
        flip(tensor, places)
        assert difference(tensor, Normal()) == [len(places), places[0]]
        flip(tensor, places)
    assert difference(tensor, Normal(0.0, 2.0))[0] > 1_490_000


def test_bits_count_and_not_numbers():
    tensor = torch.zeros(4)
    tensor[2] = -0.0
    assert difference(tensor, Constant(0.0)) == [1, 2]
    tensor[1] = float("nan")
    assert difference(tensor, Constant(0.0)) == [2, 1]


def test_a_list_with_empty_tensors():
    tensors = [torch.empty(0, 3), torch.empty(5), torch.empty(2, 0), torch.empty(7, dtype=torch.bfloat16)]
    keys = key_tensor((1, 1), (2, 2), (3, 3), (4, 4))
    ops.fill_(tensors, keys, [Normal()] * 4)
    flip(tensors[3], [6])
    assert ops.differences(tensors, keys, [Normal()] * 4).tolist() == [[0, -1], [0, -1], [0, -1], [1, 6]]
    assert (ops.digest(tensors, keys)[[0, 2]] == 0).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.complex128], ids=str)
def test_digests_of_parts_add_up(isa: str, dtype: torch.dtype):
    """Parts that start and end inside a word, and inside a chunk."""
    data = np.random.default_rng(1).integers(0, 256, 40 * 181 * dtype.itemsize, dtype=np.uint8)
    whole = torch.from_numpy(data).view(dtype).reshape(40, 181)
    expected = ops.digest([whole], KEYS)[0]
    rows, columns = row_major(whole.shape)
    for cut in (1, 2, 3, 90, 179):
        parts = [(whole[:, :cut], 0), (whole[:, cut::2], cut), (whole[:, cut + 1 :: 2], cut + 1)]
        boxes = [Box(start, (rows, columns if start == 0 else 2 * columns)) for _, start in parts]
        found = ops.digest([part for part, _ in parts], KEYS.expand(3, 2).contiguous(), boxes)
        assert (found.sum(0) == expected).all()
        assert (ops.digest([whole.flatten()[cut:]], KEYS, [Box(cut, (1,))])[0] != expected).any()


def test_nothing_is_written():
    tensor = torch.randn(1000)
    before, version = tensor.clone(), tensor._version
    ops.digest([tensor], KEYS)
    ops.differences([tensor], KEYS, [Normal()])
    assert torch.equal(tensor, before) and tensor._version == version


def test_opcheck():
    tests = ["test_schema", "test_faketensor", "test_aot_dispatch_dynamic"]
    tensors, keys = [torch.randn(5, 7), torch.randn(3)], key_tensor((1, 2), (3, 4))
    kinds = [1, 2], [0.0, 1.0, 0.0, 0.0] * 2
    for op, more in ((torch.ops.convinit_ext.digest, ()), (torch.ops.convinit_ext.compare, kinds)):
        torch.library.opcheck(op.default, (tensors, keys, *more, [], []), test_utils=tests)


def test_refusals():
    cut = torch.zeros(3)
    cut.untyped_storage().resize_(8)
    no_keys = KEYS.clone()
    no_keys.untyped_storage().resize_(0)
    bytes_ = torch.zeros(2, 8191, dtype=torch.uint8)
    for refused, error, said in (
        (lambda: ops.digest([cut], KEYS), RuntimeError, "storage of 8 bytes ends before the tensor does"),
        (lambda: difference(cut, Normal()), RuntimeError, "storage of 8 bytes ends before the tensor does"),
        (lambda: ops.digest([torch.zeros(3)], no_keys), RuntimeError, "holds no memory"),
        (
            lambda: ops.digest([bytes_], KEYS, [Box(2**63 - 1, (2**63 - 8190, 1))]),
            RuntimeError,
            f"accepted are less than {2**63 - 2**34}",
        ),
        (
            lambda: ops.digest([bytes_.double()], KEYS, [Box(2**60, (8191, 1))]),
            RuntimeError,
            f"accepted are less than {2**60 - 2**31}",
        ),
        (lambda: ops.digest([freed(3)], KEYS), RuntimeError, "holds no memory"),
        (lambda: difference(freed(3), Normal()), RuntimeError, "holds no memory"),
        (
            lambda: difference(torch.zeros(3, dtype=torch.int32), Normal()),
            RuntimeError,
            "cannot verify a tensor of dtype",
        ),
        (
            lambda: ops.digest([torch.zeros(3)], KEYS[:, :1]),
            RuntimeError,
            "keys is a contiguous int64 tensor",
        ),
        (
            lambda: ops.digest([torch.zeros(3, 3)], KEYS, [Box(0, (1,))]),
            ValueError,
            "a box with 1 strides for a tensor of 2 dimensions",
        ),
    ):
        with pytest.raises(error, match=said):
            refused()
