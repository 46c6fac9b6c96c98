"""How many elements of a tensor differ from what a row says, which is the first, and what it holds.

What is drawn the engine compares where it is; other values are made region by region, beside the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convinit_ext import keys
from convinit_ext._engine import SUPPORTED_DTYPES, Box, differences, is_plain, ops, progress_bar, row_major
from convinit_ext.model import Drawn, Piece, Row, Same, forget, in_steps, slabs
from convinit_ext.sharding import Part, local_of, logical_shape

_SCRATCH_BYTES = 1 << 26  # of values that are made at a time


class Subject(NamedTuple):
    """A tensor that should hold a row's values; not always of its name: there are ties."""

    name: str
    row: Row
    tensor: Tensor

    @property
    def num_bytes(self) -> int:
        return local_of(self.tensor).nbytes


class Verdict(NamedTuple):
    """How many elements differ, the row-major index of the first in the logical tensor, and what it holds."""

    num_different: int = 0
    first: int | None = None
    actual: float | None = None
    expected: float | None = None

    @staticmethod
    def total(found: Iterable[Verdict]) -> Verdict:
        """Put together those of regions of one tensor."""
        differing = [each for each in found if each.first is not None]
        if not differing:
            return EQUAL
        first = min(differing, key=lambda each: each.first or 0)
        return first._replace(num_different=sum(each.num_different for each in differing))


EQUAL = Verdict()


def verdicts_of(
    seed: int, subjects: Sequence[Subject], before_reading: Callable[[], None], progress: bool
) -> list[Verdict]:
    """Return the verdicts in the order of the subjects."""
    found: dict[int, Verdict] = {}
    drawn: list[Subject] = []
    others: list[Subject] = []
    for each in subjects:
        (drawn if _is_drawn(each) else others).append(each)
    sizes = [each.num_bytes for each in drawn] if progress else None
    total = sum(each.num_bytes for each in subjects) if progress else None
    with progress_bar(total, "verify") as advance:
        for group, num_bytes in in_steps(drawn, sizes):
            before_reading()
            found |= zip(map(id, group), _of_drawn(seed, group), strict=True)
            advance(num_bytes)
        for each in others:
            before_reading()
            found[id(each)] = Verdict.total(_of_made(seed, each))
            advance(each.num_bytes)
    return [found[id(subject)] for subject in subjects]


def _is_drawn(subject: Subject) -> bool:
    """Whether the engine compares it by itself, where it is."""
    tensor, values = subject.tensor, subject.row.values
    if isinstance(values, Same):
        return is_plain(tensor)
    return isinstance(values, Drawn) and tensor.dtype in SUPPORTED_DTYPES and not tensor.is_neg()


def _of_drawn(seed: int, subjects: Iterable[Subject]) -> list[Verdict]:
    """Compare them with what the engine would draw: by one call, and another for what differs."""
    pieces: list[Piece] = []
    counts = []
    for _, row, tensor in subjects:
        before = len(pieces)
        pieces += row.pieces_of(tensor)
        counts.append(len(pieces) - before)
    words = keys.of_names(seed, [piece.key for piece in pieces])
    boxes = [piece.box for piece in pieces]
    found = differences.from_fills(
        [piece.memory for piece in pieces], words, [piece.distribution for piece in pieces], boxes
    )
    verdicts = iter(
        EQUAL if not each.num_different else _of_element(piece, words[row : row + 1], *each)
        for row, (piece, each) in enumerate(zip(pieces, found, strict=True))
    )
    return [Verdict.total([next(verdicts) for _ in range(count)]) for count in counts]


def _of_element(piece: Piece, words: Tensor, num_different: int, first: int) -> Verdict:
    """Say what the first element that differs holds, and what it should. Any device has the same."""
    value = torch.empty((), dtype=piece.memory.dtype, device="cpu")
    ops.fill_([value], words, [piece.distribution], [Box(first, ())])
    box = piece.box or Box(0, row_major(piece.memory.shape))
    actual = differences.element(piece.memory.detach(), box, first)
    return Verdict(num_different, first, _number(actual), _number(value))


def _of_made(seed: int, subject: Subject) -> Iterator[Verdict]:
    """Compare a tensor with values that are made region by region, and never of what the model holds now."""
    _, row, tensor = subject
    assert row.values is not None
    shape = logical_shape(tensor)
    for part in row.regions(tensor):
        for local in slabs(part.tensor.shape, _SCRATCH_BYTES // tensor.itemsize):
            cut = tuple(slice(each.start, each.stop) for each in local)
            ranges = tuple(each[own] for each, own in zip(part.ranges, cut, strict=True))
            region = Part(part.tensor.detach()[cut], ranges)
            made = torch.empty(region.tensor.shape, dtype=tensor.dtype, device=region.tensor.device)
            row.values.write_(seed, Part(made, ranges))
            yield _compared(region.tensor, made, region.box(shape))
    forget()


def _compared(tensor: Tensor, made: Tensor, box: Box) -> Verdict:
    found = differences.from_values(tensor, made, box)
    if not found.num_different:
        return EQUAL
    actual, expected = (differences.element(each, box, found.first) for each in (tensor, made))
    return Verdict(found.num_different, found.first, _number(actual), _number(expected))


def _number(value: Tensor) -> float:
    return float(value.to(torch.float64).item())
