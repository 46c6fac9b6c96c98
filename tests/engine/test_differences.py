"""Differences from fills and from values: by the engine and by PyTorch, on every kind of view."""

import pytest
import torch
from filling import DTYPES, key_tensor
from reference import layer_key, reference

from convinit_ext._engine._compare import element, from_fills, from_values
from convinit_ext._engine._ops import Box, row_major
from convinit_ext.distributions import Constant, Uniform

KEY = layer_key(3, "weight")


def whole(tensor: torch.Tensor) -> Box:
    return Box(0, row_major(tensor.shape))


def held(shape: tuple[int, ...], dtype: str, start: int = 0) -> torch.Tensor:
    values = reference(shape, *KEY, ("uniform", -2.0, 1.0), dtype, start=start, strides=row_major(shape))
    return torch.from_numpy(values.copy()).to(DTYPES[dtype])


def tensors(dtype: str, device: str) -> list[torch.Tensor]:
    made = [held(shape, dtype) for shape in ((5, 7, 3), (7, 5), (4, 3, 2, 2), (0, 3), (), (1, 1, 90))]
    made[1] = made[1].t().contiguous().t()
    made[2] = made[2].contiguous(memory_format=torch.channels_last)
    return [tensor.to(device) for tensor in made]


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_find_what_the_engine_finds(device, dtype):
    given = tensors(dtype, device)
    given[0][4, 6, 2] = 9.0
    given[1][3, 2] = given[1][6, 4] = 9.0
    given[5][0, 0, 50:] = 9.0
    arguments = given, key_tensor(*[KEY] * 6), [Uniform(-2.0, 1.0)] * 6, [None] * 6
    expected = [(1, 104), (2, 17), (0, -1), (0, -1), (0, -1), (40, 50)]
    assert from_fills(*arguments) == expected
    pairs = zip(given, tensors(dtype, device), strict=True)
    assert [from_values(one, two, whole(one)) for one, two in pairs] == expected


def test_boxes_say_which_part_of_the_whole(device):
    full = held((8, 6), "float32").to(device)
    part = full[1::3, 2:5]
    part[2, 1] = 9.0
    box = Box(1 * 6 + 2, (3 * 6, 1))
    arguments = [part], key_tensor(KEY), [Uniform(-2.0, 1.0)], [box]
    assert from_fills(*arguments) == [(1, 7 * 6 + 3)]
    assert from_values(part, held((8, 6), "float32").to(device)[1::3, 2:5], box) == (1, 45)
    assert float(element(part, box, 45)) == 9.0


def test_values_are_rounded_to_the_tensors_dtype_and_compared_by_bits():
    fine = torch.linspace(0, 1, 50, dtype=torch.float64)
    assert from_values(fine.bfloat16(), fine, whole(fine)) == (0, -1)
    zeros = torch.zeros(3, dtype=torch.float16)
    assert from_values(zeros, torch.tensor([0.0, 0.0, -0.0]), whole(zeros)) == (1, 2)
    counts = torch.tensor([1, 2, 3])
    assert from_values(counts, torch.tensor([1.0, 2.0, 4.0]), whole(counts)) == (1, 2)


def test_a_negated_view_is_its_values():
    odd = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    assert odd.is_neg()
    assert from_values(odd, torch.tensor([2.0, -4.0]), whole(odd)) == (2, 0)
    assert from_values(odd, torch.tensor([-2.0, 4.0]), whole(odd)) == (0, -1)
    constants = torch.zeros(2, 2, dtype=torch.int64)
    found = from_fills([odd, odd[:1]], constants, [Constant(4.0), Constant(-2.0)], [None, None])
    assert found == [(1, 0), (0, -1)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device")
def test_tensors_of_two_devices_in_one_call():
    given = [held((3, 4), "float32"), held((3, 4), "float32").cuda(), held((3, 4), "float32")]
    given[1][2, 1] = 9.0
    given[2][0, 1] = 9.0
    found = from_fills(given, key_tensor(*[KEY] * 3), [Uniform(-2.0, 1.0)] * 3, [None] * 3)
    assert found == [(0, -1), (1, 9), (1, 1)]
