"""Which elements of tensors differ, bit for bit, from what a fill would write, or from values that are given.

On the CPU the engine compares where the tensors are. What it cannot compare is read block by block, and there
is one block of values beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convinit_ext import ops
from convinit_ext.ops import Box, Encoded, row_major

BLOCK_BYTES = 1 << 26
_ALIGNMENT = 64  # bytes: where the values of a tensor may begin in a block
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


class _Block(NamedTuple):
    """A part of one of the tensors; `box` says which part of the logical tensor."""

    owner: int
    memory: Tensor
    box: Box

    @property
    def num_bytes(self) -> int:
        return -(-self.memory.nbytes // _ALIGNMENT) * _ALIGNMENT


def from_fills(
    tensors: Sequence[Tensor],
    keys: Tensor,
    distributions: Sequence[Encoded],
    boxes: Sequence[Box | None],
) -> list[Difference]:
    """What each tensor has otherwise than ops.fill_ with the same arguments would leave in it.

    Args:
        tensors, keys, distributions, boxes: as for ops.fill_.

    >>> from convinit_ext import Constant
    >>> held = torch.tensor([[1.0, 1.0], [1.0, 1.5]])
    >>> from_fills([held], torch.zeros(1, 2, dtype=torch.int64), [Constant(1.0)], [None])
    [Difference(num_different=1, first=3)]
    """
    on_cpu = [index for index, tensor in enumerate(tensors) if tensor.is_cpu]
    elsewhere = [index for index, tensor in enumerate(tensors) if not tensor.is_cpu]
    found: dict[int, Difference] = {}
    for indices, compare in ((on_cpu, _by_engine), (elsewhere, by_blocks)):
        if indices:
            compared = compare(
                [tensors[index] for index in indices],
                keys[indices],
                [distributions[index] for index in indices],
                [boxes[index] for index in indices],
            )
            found |= zip(indices, compared, strict=True)
    return [found[index] for index in range(len(tensors))]


def _by_engine(
    tensors: Sequence[Tensor], keys: Tensor, distributions: Sequence[Encoded], boxes: Sequence[Box | None]
) -> list[Difference]:
    found = ops.differences(tensors, keys, distributions, boxes if any(boxes) else None)
    return [Difference(num_different, first) for num_different, first in found.tolist()]


def by_blocks(
    tensors: Sequence[Tensor],
    keys: Tensor,
    distributions: Sequence[Encoded],
    boxes: Sequence[Box | None],
    block_bytes: int = BLOCK_BYTES,
) -> list[Difference]:
    """`from_fills` wherever something can be filled: blocks of so many bytes are, and are compared there."""
    blocks = [
        _Block(owner, *each)
        for owner, (tensor, box) in enumerate(zip(tensors, boxes, strict=True))
        for each in cut(tensor.detach(), box or whole(tensor), block_bytes // tensor.itemsize)
    ]
    compared: list[Tensor] = []
    scratch: dict[torch.device, Tensor] = {}
    for batch in _batches(blocks, block_bytes):
        device = batch[0].memory.device
        if device not in scratch:
            scratch[device] = torch.empty(block_bytes, dtype=torch.uint8, device=device)
        expected = _laid_out(scratch[device], batch)
        owners = [block.owner for block in batch]
        kinds = [distributions[owner] for owner in owners]
        ops.fill_(expected, keys[owners], kinds, [block.box for block in batch])
        compared += [_compared(block.memory, values) for block, values in zip(batch, expected, strict=True)]
    found: list[list[Difference]] = [[] for _ in tensors]
    for block, (count, first) in zip(blocks, _to_lists(compared), strict=True):
        found[block.owner].append(_in_logical(block, count, first))
    return [Difference.total(parts) for parts in found]


def from_values(tensor: Tensor, expected: Tensor, box: Box, block_bytes: int = BLOCK_BYTES) -> Difference:
    """What a tensor has otherwise than another of its shape has, rounded to its dtype.

    Args:
        tensor: what is looked at.
        expected: the values, of any dtype and device.
        box: which part of the logical tensor it is.
        block_bytes: of values that are rounded at a time.

    >>> from_values(torch.zeros(3), torch.tensor([0.0, -0.0, 0.0]), Box(0, (1,)))
    Difference(num_different=1, first=1)
    """
    num_elements = block_bytes // tensor.itemsize
    blocks = [_Block(0, *each) for each in cut(tensor.detach(), box, num_elements)]
    views = (view for view, _ in cut(expected.detach(), box, num_elements))
    compared = [
        _compared(block.memory, view.to(tensor.device, tensor.dtype))
        for block, view in zip(blocks, views, strict=True)
    ]
    found = zip(blocks, _to_lists(compared), strict=True)
    return Difference.total(_in_logical(block, count, first) for block, (count, first) in found)


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


def _batches(blocks: Iterable[_Block], block_bytes: int) -> Iterator[list[_Block]]:
    """Neighbours on one device whose values fit in one block together."""
    for _, group in itertools.groupby(blocks, lambda block: block.memory.device):
        batch: list[_Block] = []
        num_bytes = 0
        for block in group:
            if batch and num_bytes + block.num_bytes > block_bytes:
                yield batch
                batch, num_bytes = [], 0
            batch.append(block)
            num_bytes += block.num_bytes
        yield batch


def _laid_out(scratch: Tensor, batch: Iterable[_Block]) -> list[Tensor]:
    """Contiguous tensors of the batch's shapes and dtypes, one after the other."""
    start, placed = 0, []
    for block in batch:
        memory = scratch[start : start + block.memory.nbytes].view(block.memory.dtype)
        placed.append(memory.view(block.memory.shape))
        start += block.num_bytes
    return placed


def _compared(tensor: Tensor, expected: Tensor) -> Tensor:
    """How many elements differ, and which is the first in row-major order; where the tensors are."""
    bits = _BITS[tensor.itemsize]
    differ = tensor.resolve_neg().view(bits) != expected.view(bits)
    return torch.stack((differ.sum(), differ.flatten().view(torch.uint8).argmax()))


def _to_lists(compared: Sequence[Tensor]) -> list[list[int]]:
    """One transfer from each device."""
    lists: list[list[int]] = []
    for _, group in itertools.groupby(compared, lambda each: each.device):
        lists += torch.stack(list(group)).tolist()
    return lists


def _in_logical(block: _Block, count: int, first: int) -> Difference:
    if not count:
        return Difference(0, -1)
    index = block.box.start
    for step, stride in zip(row_major(block.memory.shape), block.box.strides, strict=True):
        at, first = divmod(first, step)
        index += at * stride
    return Difference(count, index)
