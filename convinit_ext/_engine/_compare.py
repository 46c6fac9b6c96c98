"""Which elements of tensors differ, bit for bit, from what a fill would write, or from values that are given.

The engine compares with a fill where the tensors are. Values that are given are rounded block by block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convinit_ext._engine import _ops as ops
from convinit_ext._engine._ops import Box, Encoded, row_major

BLOCK_BYTES = 1 << 26
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes an element


class Difference(NamedTuple):
    """How many elements differ, and the row-major index in the logical tensor of the first, -1 if none."""

    num_different: int
    first: int

    @staticmethod
    def total(parts: Iterable[Difference]) -> Difference:
        """Of parts of one tensor."""
        differing = [part for part in parts if part.num_different]
        return Difference(
            sum(part.num_different for part in differing),
            min((part.first for part in differing), default=-1),
        )


def from_fills(
    tensors: Sequence[Tensor],
    keys: Tensor,
    distributions: Sequence[Encoded],
    boxes: Sequence[Box | None],
) -> list[Difference]:
    """Say what each tensor has otherwise than ops.fill_ with the same arguments would leave in it.

    >>> from convinit_ext import Constant
    >>> held = torch.tensor([[1.0, 1.0], [1.0, 1.5]])
    >>> from_fills([held], torch.zeros(1, 2, dtype=torch.int64), [Constant(1.0)], [None])
    [Difference(num_different=1, first=3)]
    """
    found = ops.differences(tensors, keys, distributions, boxes if any(boxes) else None)
    return [Difference(num_different, first) for num_different, first in found.tolist()]


def from_values(tensor: Tensor, expected: Tensor, box: Box, block_bytes: int = BLOCK_BYTES) -> Difference:
    """Say what a tensor, this box of the logical one, has otherwise than these values, rounded to its dtype.

    The values are of its shape, of any dtype and device; so many bytes are rounded at a time.

    >>> from_values(torch.zeros(3), torch.tensor([0.0, -0.0, 0.0]), Box(0, (1,)))
    Difference(num_different=1, first=1)
    """
    num_elements = block_bytes // tensor.itemsize
    blocks = list(cut(tensor.detach(), box, num_elements))
    views = (view for view, _ in cut(expected.detach(), box, num_elements))
    compared = [
        _compared(block, view.to(tensor.device, tensor.dtype))
        for (block, _), view in zip(blocks, views, strict=True)
    ]
    found = torch.stack(compared).tolist() if compared else []  # one transfer
    return Difference.total(
        _in_logical(block.shape, own_box, *numbers)
        for (block, own_box), numbers in zip(blocks, found, strict=True)
    )


def same_bits(tensor: Tensor, other: Tensor) -> bool:
    """A quick answer for tensors of one dtype on one device; otherwise False.

    >>> same_bits(torch.zeros(2), torch.zeros(2)), same_bits(torch.zeros(2), -torch.zeros(2))
    (True, False)
    """
    if tensor.dtype != other.dtype or tensor.device != other.device or tensor.is_neg() or other.is_neg():
        return False
    bits = _BITS[tensor.itemsize]
    return torch.equal(tensor.view(bits), other.view(bits))


def whole(tensor: Tensor) -> Box:
    """The box of a tensor that is all of the logical one."""
    return Box(0, row_major(tensor.shape))


def cut(tensor: Tensor, box: Box, num_elements: int) -> Iterator[tuple[Tensor, Box]]:
    """Views of at most so many elements, in row-major order, each with its box; none of an empty tensor."""
    if tensor.numel() <= num_elements:
        if tensor.numel():
            yield tensor, box
        return
    size, (stride, *others) = tensor.shape[0], box.strides
    step = num_elements * size // tensor.numel()
    for start in range(0, size, max(1, step)):
        if step:
            yield tensor[start : start + step], Box(box.start + start * stride, box.strides)
        else:
            yield from cut(tensor[start], Box(box.start + start * stride, tuple(others)), num_elements)


def element(tensor: Tensor, box: Box, index: int) -> Tensor:
    """The element, without dimensions, that has this row-major index in the logical tensor."""
    rest = index - box.start
    for size, stride in zip(tensor.shape, box.strides, strict=True):
        at, rest = divmod(rest, stride) if size > 1 else (0, rest)
        tensor = tensor[at]
    assert rest == 0
    return tensor


def _compared(tensor: Tensor, expected: Tensor) -> Tensor:
    """How many elements differ, and which is the first in row-major order; where the tensors are."""
    bits = _BITS[tensor.itemsize]
    differ = tensor.resolve_neg().view(bits) != expected.view(bits)
    return torch.stack((differ.sum(), differ.flatten().view(torch.uint8).argmax()))


def _in_logical(shape: Sequence[int], box: Box, count: int, first: int) -> Difference:
    if not count:
        return Difference(0, -1)
    index = box.start
    for step, stride in zip(row_major(shape), box.strides, strict=True):
        at, first = divmod(first, step)
        index += at * stride
    return Difference(count, index)
