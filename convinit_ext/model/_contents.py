"""What the tensors of a saved model hold, block by block: nothing here keeps a whole model in memory.

A block is a one-dimensional CPU tensor: neighbours in the row-major order of the logical tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from convinit_ext import keys
from convinit_ext._engine import Box, ops
from convinit_ext.distributions import Distribution

_SCRATCH_BYTES = 1 << 25


class Content(Protocol):
    """The values of one logical tensor."""

    def write_(self, block: Tensor, start: int) -> None:
        """Makes `block` the values from the row-major index `start` on."""

    def text(self) -> str:
        """What decides the values: equal texts, equal values."""


class Fill(NamedTuple):
    """A block of drawn values."""

    content: Drawn
    block: Tensor
    start: int


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Values of a distribution, but for the elements of `zeros`, which are zero."""

    seed: int
    key: str
    distribution: Distribution
    zeros: range = range(0)

    def write_(self, block: Tensor, start: int) -> None:
        write_drawn_([Fill(self, block, start)])

    def zero_(self, block: Tensor, start: int) -> None:
        first, last = (min(max(at - start, 0), len(block)) for at in (self.zeros.start, self.zeros.stop))
        block[first:last].view(torch.uint8).zero_()

    def text(self) -> str:
        numbers = " ".join(float(number).hex() for number in self.distribution.params)
        return f"drawn {self.key!r} {self.seed} {self.distribution.kind} {numbers} {self.zeros}"


def write_drawn_(fills: Iterable[Fill]) -> None:
    """All of them, of one seed, by one call into the engine."""
    fills = [each for each in fills if len(each.block)]
    if not fills:
        return
    contents = [each.content for each in fills]
    ops.fill_(
        [each.block for each in fills],
        keys.of_names(contents[0].seed, [each.key for each in contents]),
        [each.distribution for each in contents],
        [Box(each.start, (1,)) for each in fills],
    )
    for each in fills:
        if each.content.zeros:
            each.content.zero_(each.block, each.start)


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """The values of a tensor that is there, rounded to the block's dtype."""

    tensor: Tensor
    dtype: torch.dtype

    def write_(self, block: Tensor, start: int) -> None:
        source = self.tensor.detach()
        if source.dtype == block.dtype and block.itemsize == 1:  # float4 knows no copy
            source, block = source.view(torch.uint8), block.view(torch.uint8)
        _copy_(block, source, start)

    def text(self) -> str:
        """With the sums of docs/fingerprint.md over all the values."""
        key, sums = keys.of_names(0, ["given"]), torch.zeros(1, ops.NUM_SUMS, dtype=torch.int64, device="cpu")
        num_elements = self.tensor.numel()
        step = _SCRATCH_BYTES // self.dtype.itemsize
        scratch = torch.empty(min(step, num_elements), dtype=self.dtype, device="cpu")
        for start in range(0, num_elements, step):
            block = scratch[: num_elements - start]
            self.write_(block, start)
            sums += ops.digest([block], key, [Box(start, (1,))])
        return f"given {sums.tolist()}"


def _copy_(block: Tensor, source: Tensor, start: int) -> None:
    """Elements of `source` from the row-major index `start` on; of any strides."""
    if source.is_contiguous():
        block.copy_(source.view(-1)[start : start + len(block)].resolve_neg())  # float8 knows no negation
        return
    row = math.prod(source.shape[1:])
    done = 0
    while done < len(block):
        index, offset = divmod(start + done, row)
        num_rows = (len(block) - done) // row
        if offset or not num_rows:
            size = min(row - offset, len(block) - done)
            _copy_(block[done : done + size], source[index].reshape(1) if row == 1 else source[index], offset)
        else:
            size = num_rows * row
            whole = source[index : index + num_rows]
            block[done : done + size].view(whole.shape).copy_(whole.resolve_neg())
        done += size


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """Values of this dtype, rounded to the block's."""

    content: Content
    dtype: torch.dtype

    def write_(self, block: Tensor, start: int) -> None:
        step = _SCRATCH_BYTES // self.dtype.itemsize
        scratch = torch.empty(min(step, len(block)), dtype=self.dtype, device="cpu")
        for begin in range(0, len(block), step):
            part = block[begin : begin + step]
            self.content.write_(scratch[: len(part)], start + begin)
            part.copy_(scratch[: len(part)])

    def text(self) -> str:
        return f"rounded from {self.dtype} {self.content.text()}"


@dataclass(frozen=True, slots=True)
class Same:
    """The same value everywhere, of any dtype."""

    value: float

    def write_(self, block: Tensor, start: int) -> None:
        block.fill_(self.value)

    def text(self) -> str:
        return f"same {self.value!r}"


@dataclass(frozen=True, slots=True)
class MinusOnes:
    """-1 on the diagonals of matrices of this shape, and 0 elsewhere."""

    num_rows: int
    num_columns: int

    def write_(self, block: Tensor, start: int) -> None:
        block.zero_()
        size, step = self.num_rows * self.num_columns, self.num_columns + 1
        last = (min(self.num_rows, self.num_columns) - 1) * step
        for matrix in range(start // size * size, start + len(block), size):
            first = matrix + max(0, -(-(start - matrix) // step)) * step
            block[first - start : max(0, matrix + last + 1 - start) : step] = -1.0

    def text(self) -> str:
        return f"minus identity {self.num_rows} {self.num_columns}"


@dataclass(slots=True, eq=False)
class Computed:
    """Values that only a computation on whole tensors gives; there from the first block to the last.

    Args:
        said: what decides them.
        compute: gives them.
    """

    said: Callable[[], str]
    compute: Callable[[], Tensor]
    _values: Tensor | None = None

    def write_(self, block: Tensor, start: int) -> None:
        if self._values is None:
            self._values = self.compute().detach()
        _copy_(block, self._values.reshape(-1), start)
        if start + len(block) == self._values.numel():
            self._values = None

    def text(self) -> str:
        return self.said()


@dataclass(frozen=True, slots=True, eq=False)
class NormOfRows:
    """The norm of each index of dimension 0 of another tensor, a few at a time."""

    content: Content
    shape: tuple[int, ...]
    dtype: torch.dtype

    def write_(self, block: Tensor, start: int) -> None:
        row = math.prod(self.shape[1:])
        step = max(1, _SCRATCH_BYTES // max(1, row * self.dtype.itemsize))
        for begin in range(0, len(block), step):
            size = min(step, len(block) - begin)
            rows = torch.empty(size, *self.shape[1:], dtype=self.dtype, device="cpu")
            if rows.numel():
                self.content.write_(rows.view(-1), (start + begin) * row)
            block[begin : begin + size].copy_(torch.norm_except_dim(rows, 2, 0).view(-1))

    def text(self) -> str:
        return f"norm of rows of {self.content.text()}"


def whole(content: Content, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """All of the values at once, for what nobody can compute in parts."""
    memory = torch.empty(shape, dtype=dtype, device="cpu")
    if memory.numel():
        content.write_(memory.view(-1), 0)
    return memory
