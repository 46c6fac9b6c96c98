"""What a tensor's values are, and how any region of it is written: one class for each kind of values.

A region is a Part: memory, and for each dimension the indices of the logical tensor that it covers. Filling,
saving and verifying are loops over regions; how a value comes about is said here alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from convinit_ext import init, keys
from convinit_ext._engine import Box, ops
from convinit_ext.distributions import Distribution
from convinit_ext.recipes import ZEROS, DeltaOrthogonal, Orthogonal, Preset, Redrawn, Stacked, Transformed
from convinit_ext.sharding import Part, Runs, within

_SCRATCH_BYTES = 1 << 25  # of what is made at once

# What a rule may say of a parameter, but for what is made of another parameter's values.
Said: TypeAlias = Distribution | Preset | Stacked | Redrawn | Transformed | Orthogonal | DeltaOrthogonal


class Values(Protocol):
    """The values of one logical tensor."""

    def write_(self, seed: int, part: Part) -> None:
        """Write the values of a region, rounded to its dtype, into its memory."""

    def text(self) -> str:
        """Say what decides the values beside the seed: equal texts, equal values."""


class Piece(NamedTuple):
    """One tensor of a call into the engine, and which part of the logical tensor it is (None: all of it)."""

    key: str
    memory: Tensor
    distribution: Distribution
    box: Box | None


@dataclass(slots=True, eq=False)
class Drawn:
    """Values of a distribution, by the key of a name, but for the row of dimension 0 that is zero, if any."""

    key: str
    shape: Sequence[int]
    distribution: Distribution
    zero_row: int | None = None

    def pieces(self, part: Part) -> Iterator[Piece]:
        """Yield what the engine fills of a region."""
        row = self.zero_row
        if row is None:
            yield Piece(self.key, part.tensor, self.distribution, part.box(self.shape))
            return
        others = range(row), range(row + 1, self.shape[0])
        for distribution, runs in ((self.distribution, others), (ZEROS, (range(row, row + 1),))):
            for each in within(part, runs):
                yield Piece(self.key, each.tensor, distribution, each.box(self.shape))

    def write_(self, seed: int, part: Part) -> None:
        fill_pieces(seed, self.pieces(part))

    def text(self) -> str:
        numbers = " ".join(float(number).hex() for number in self.distribution.params)
        return f"drawn {self.key!r} {self.distribution.kind} {numbers} {self.zero_row}"


@dataclass(frozen=True, slots=True, eq=False)
class DrawnParts:
    """Values that are drawn as one tensor is, by the key and index, each part by its own distribution."""

    key: str
    shape: Sequence[int]
    said: Stacked

    def pieces(self, part: Part) -> Iterator[Piece]:
        """Yield what the engine fills of a region."""
        stop = 0
        for size, distribution in self.said.parts:
            start, stop = stop, stop + size
            for each in within(part, (range(start, stop),), self.said.dim):
                yield Piece(self.key, each.tensor, distribution, each.box(self.shape))

    def write_(self, seed: int, part: Part) -> None:
        fill_pieces(seed, self.pieces(part))

    def text(self) -> str:
        parts = [(size, Drawn(self.key, (), each).text()) for size, each in self.said.parts]
        return f"dim {self.said.dim}: {parts}"


def fill_pieces(seed: int, pieces: Iterable[Piece]) -> None:
    """Fill them by one call into the engine."""
    fill_members([(seed, list(pieces))])


def fill_members(members: Sequence[tuple[int, Sequence[Piece]]]) -> None:
    """Fill those of several seeds by one call, which shares all the bytes out over the threads."""
    pieces = [piece for _, own in members for piece in own]
    words = [keys.of_names(seed, [piece.key for piece in own]) for seed, own in members]
    ops.fill_(
        [piece.memory for piece in pieces],
        torch.cat(words) if len(words) > 1 else words[0],
        [piece.distribution for piece in pieces],
        [piece.box for piece in pieces],
    )


@dataclass(slots=True, eq=False)
class Same:
    """One value everywhere, in a tensor of any dtype."""

    value: float

    def write_(self, seed: int, part: Part) -> None:
        part.tensor.fill_(self.value)

    def text(self) -> str:
        return f"same {self.value!r}"


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """The values of a tensor that is there."""

    tensor: Tensor

    def write_(self, seed: int, part: Part) -> None:
        memory, source = part.tensor, self.tensor.detach()
        if source.dtype == memory.dtype and memory.itemsize == 1 and not source.is_neg():
            source, memory = source.view(torch.uint8), memory.view(torch.uint8)  # float4 knows no copy
        memory.copy_(source[part.slices].resolve_neg())  # float8 knows no negation

    def text(self) -> str:
        """With the sums of docs/fingerprint.md over all the values."""
        shape, dtype = self.tensor.shape, self.tensor.dtype
        key, total = keys.of_names(0, ["given"]), torch.zeros(ops.NUM_SUMS, dtype=torch.int64, device="cpu")
        for part in generated(self, 0, shape, dtype):
            total += ops.digest([part.tensor], key, [part.box(shape)])[0]
        return f"given {dtype} {total.tolist()}"


@dataclass(frozen=True, slots=True, eq=False)
class SomeRows:
    """Values of some rows of dimension 0, and of the others those that a tensor, the whole, holds."""

    values: Values
    rows: Runs
    tensor: Tensor

    def write_(self, seed: int, part: Part) -> None:
        Given(self.tensor).write_(seed, part)
        for each in within(part, self.rows):
            self.values.write_(seed, each)

    def text(self) -> str:
        return f"{self.rows} of {self.values.text()}, others {Given(self.tensor).text()}"


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """Values of another dtype, rounded: copies between float64 and narrower types, which draw other words."""

    values: Values
    dtype: torch.dtype

    def write_(self, seed: int, part: Part) -> None:
        exact = torch.empty(part.tensor.shape, dtype=self.dtype, device=part.tensor.device)
        self.values.write_(seed, Part(exact, part.ranges))
        part.tensor.copy_(exact)

    def text(self) -> str:
        return f"rounded from {self.dtype} {self.values.text()}"


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """The norm of another tensor over all dimensions but one, in float32 at least, as weight_norm has it.

    Args:
        values, shape, dtype: of the other tensor.
        dim: the dimension that stays; -1 is none.
        own: the dtype of the norm itself.
        own_shape: its shape, if dimensions of size 1 may be in other places than weight_norm has them.
    """

    values: Values
    shape: Sequence[int]
    dtype: torch.dtype
    dim: int
    own: torch.dtype
    own_shape: Sequence[int] | None = None

    def write_(self, seed: int, part: Part) -> None:
        dtype = self.dtype if part.tensor.dtype == self.own else part.tensor.dtype
        dtype = dtype if dtype.itemsize >= 4 else torch.float32
        whole = tuple(map(range, self.shape))
        if self.dim != 0 or part.tensor.ndim != len(self.shape) or part.tensor.shape[1:].numel() > 1:
            norm = self._norm(seed, whole, dtype, part.tensor.device)
            part.tensor.copy_(norm.reshape(self.own_shape or norm.shape)[part.slices])
            return
        rows = part.ranges[0]  # one after the other: a model's weights need not be in memory
        step = max(1, _SCRATCH_BYTES // max(1, math.prod(self.shape[1:]) * dtype.itemsize))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            norm = self._norm(seed, (some, *whole[1:]), dtype, part.tensor.device)
            part.tensor[start : start + len(some)].copy_(norm)

    def _norm(self, seed: int, ranges: tuple[range, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """In row-major order, since a sum's last bit depends on the order of memory."""
        memory = torch.empty(tuple(map(len, ranges)), dtype=dtype, device=device)
        if memory.numel():
            self.values.write_(seed, Part(memory, ranges))
        return torch.norm_except_dim(memory, 2, self.dim)

    def text(self) -> str:
        return f"norm except {self.dim} of {tuple(self.shape)} {self.dtype} {self.values.text()}"


@dataclass(slots=True, eq=False)
class Computed:
    """Values that only a computation on whole tensors gives, from a seed and for a dtype, on the CPU.

    They are kept until the last region, or until forget(): those of one tensor at a time. `said` decides
    them.
    """

    said: Callable[[], str]
    compute: Callable[[int, torch.dtype], Tensor]

    def write_(self, seed: int, part: Part) -> None:
        asked = seed, part.tensor.dtype
        made = next((made for of, what, made in _kept if of is self and what == asked), None)
        if made is None:
            forget()
            made = self.compute(*asked).detach()
            _kept[:] = [(self, asked, made)]
        part.tensor.copy_(made[part.slices])
        if all(own[-1] == size - 1 for own, size in zip(part.ranges, made.shape, strict=True) if own):
            forget()

    def text(self) -> str:
        return self.said()


_kept: list[tuple[Computed, object, Tensor]] = []  # whose values, of what seed and dtype


def forget() -> None:
    """Let go of computed values, of which this process writes no further region."""
    _kept.clear()


def values_of(said: Said, key: str, shape: Sequence[int], zero_row: int | None = None) -> Values:
    """Return the values that a rule says.

    ValueError says that matrices do not fit the shape. The row `zero_row` of what is drawn is zero.
    """
    if isinstance(said, Preset):
        return Given(said.tensor)
    if isinstance(said, Stacked):
        return DrawnParts(key, shape, said)
    if isinstance(said, Redrawn):
        text = f"drawn by the model itself {key!r} {said.kind}"
        return Computed(lambda: text, lambda seed, _: said.values(keys.Key(seed, key)))
    if isinstance(said, Transformed):
        text = f"{said} {said.distribution} {key!r}"
        return Computed(lambda: text, lambda seed, dtype: said.values(keys.Key(seed, key), shape, dtype))
    if isinstance(said, Orthogonal | DeltaOrthogonal):
        said.check(shape)
        text = f"{said} {key!r} {zero_row}"
        return Computed(lambda: text, lambda *asked: _orthogonal(said, key, shape, zero_row, *asked))
    return Drawn(key, shape, said, zero_row)


def _orthogonal(
    said: Orthogonal | DeltaOrthogonal,
    key: str,
    shape: Sequence[int],
    zero_row: int | None,
    seed: int,
    dtype: torch.dtype,
) -> Tensor:
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    made = torch.empty(tuple(shape), dtype=exact, device="cpu")
    if isinstance(said, Orthogonal):
        init.orthogonal_(made, said.gain, key=keys.Key(seed, key), **said.axes._asdict())
    else:
        init.delta_orthogonal_(made, said.gain, key=keys.Key(seed, key))
    if zero_row is not None:
        made[zero_row] = 0
    return made


def whole(values: Values, seed: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return all of the values on the CPU, for what nobody can compute in parts."""
    memory = torch.empty(tuple(shape), dtype=dtype, device="cpu")
    if memory.numel():
        values.write_(seed, Part(memory, tuple(map(range, shape))))
    return memory


def generated(values: Values, seed: int, shape: Sequence[int], dtype: torch.dtype) -> Iterator[Part]:
    """Yield a tensor's values region by region in row-major order; each is good until the next one."""
    most = _SCRATCH_BYTES // dtype.itemsize
    scratch = torch.empty(min(most, math.prod(shape)), dtype=dtype, device="cpu")
    for ranges in slabs(shape, most):
        sizes = tuple(map(len, ranges))
        part = Part(scratch[: math.prod(sizes)].view(sizes), ranges)
        values.write_(seed, part)
        yield part


def slabs(shape: Sequence[int], most: int) -> Iterator[tuple[range, ...]]:
    """Cut a tensor into regions of at most so many elements, each without gaps in row-major order.

    >>> list(slabs((3, 2), 4))
    [(range(0, 2), range(0, 2)), (range(2, 3), range(0, 2))]
    """
    num_elements = math.prod(shape)
    if num_elements <= most:
        if num_elements:
            yield tuple(map(range, shape))
        return
    size, *others = shape
    row = num_elements // size
    step = most // row
    for start in range(0, size, max(1, step)):
        if step:
            yield (range(start, min(start + step, size)), *map(range, others))
        else:
            yield from ((range(start, start + 1), *inner) for inner in slabs(others, most))
