"""Which elements of tensors differ, bit for bit, from what a fill would write, or from values that are given.

The engine compares with a fill where the tensors are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convinit_ext._engine import _ops as ops
from convinit_ext._engine._ops import Box, Encoded, row_major

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes an element


class Difference(NamedTuple):
    """How many elements differ, and the row-major index in the logical tensor of the first, -1 if none."""

    num_different: int
    first: int


def from_fills(
    tensors: Sequence[Tensor], keys: Tensor, distributions: Sequence[Encoded], boxes: Sequence[Box | None]
) -> list[Difference]:
    """Say what each tensor has otherwise than ops.fill_ with the same arguments would leave in it.

    >>> from convinit_ext import Constant
    >>> held = torch.tensor([[1.0, 1.0], [1.0, 1.5]])
    >>> from_fills([held], torch.zeros(1, 2, dtype=torch.int64), [Constant(1.0)], [None])
    [Difference(num_different=1, first=3)]
    """
    found = ops.differences(tensors, keys, distributions, boxes)
    return [Difference(num_different, first) for num_different, first in found.tolist()]


def from_values(tensor: Tensor, expected: Tensor, box: Box) -> Difference:
    """Say what a tensor, this box of the logical one, has otherwise than these values, rounded to its dtype.

    >>> from_values(torch.zeros(3), torch.tensor([0.0, -0.0, 0.0]), Box(0, (1,)))
    Difference(num_different=1, first=1)
    """
    bits, rounded = _BITS[tensor.itemsize], expected.detach().to(tensor.device, tensor.dtype)
    held, wanted = tensor.detach().resolve_neg().view(bits), rounded.view(bits)
    if torch.equal(held, wanted):  # in less time than it takes to count
        return Difference(0, -1)
    differ = (held != wanted).flatten()
    count = int(differ.sum())
    index, first = box.start, int(differ.view(torch.uint8).argmax())
    for step, stride in zip(row_major(tensor.shape), box.strides, strict=True):
        at, first = divmod(first, step)
        index += at * stride
    return Difference(count, index)


def element(tensor: Tensor, box: Box, index: int) -> Tensor:
    """The element, without dimensions, that has this row-major index in the logical tensor."""
    rest = index - box.start
    for size, stride in zip(tensor.shape, box.strides, strict=True):
        at, rest = divmod(rest, stride) if size > 1 else (0, rest)
        tensor = tensor[at]
    assert rest == 0
    return tensor
