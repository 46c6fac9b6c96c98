"""How many elements of a tensor differ from what they should be, which is the first, and what it holds.

Tensors in memory are compared where they are, those of a file as their blocks are read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convinit_ext import keys
from convinit_ext._engine import Box, differences, element, ops, same_bits, whole
from convinit_ext.checkpoint._expected import Expected
from convinit_ext.checkpoint._subjects import Subject
from convinit_ext.checkpoint._weights_file import StoredTensor, blocks
from convinit_ext.model import Piece, Row
from convinit_ext.recipes import ZEROS
from convinit_ext.sharding import boxes, is_dtensor


class Verdict(NamedTuple):
    """Of a tensor or a part of it; the index is the row-major one in the logical tensor."""

    num_different: int = 0
    first: int | None = None
    actual: float | None = None
    expected: float | None = None

    @staticmethod
    def total(parts: Iterable[Verdict]) -> Verdict:
        """Of parts of one tensor."""
        differing = [part for part in parts if part.first is not None]
        if not differing:
            return EQUAL
        first = min(differing, key=lambda part: part.first or 0)
        return first._replace(num_different=sum(part.num_different for part in differing))


EQUAL = Verdict()


def of_pieces(seed: int, tensors: Sequence[tuple[str, Iterable[Piece]]]) -> list[Verdict]:
    """Of each tensor, given as the name that makes its key and its pieces: one call into the engine."""
    pieces: list[tuple[str, Piece]] = []
    counts = []
    for key, parts in tensors:
        before = len(pieces)
        pieces += [(key, piece) for piece in parts]
        counts.append(len(pieces) - before)
    verdicts = iter(_of_pieces(seed, pieces))
    return [Verdict.total(itertools.islice(verdicts, count)) for count in counts]


def of_other(seed: int, subject: Subject, expected: Expected) -> Verdict:
    """Of one that is in a file, or whose values the engine does not compare by itself."""
    row, found = subject.row, subject.found
    if isinstance(found, Tensor):
        return Verdict.total(_of_values(found, expected.values(row, found)))
    if isinstance(row, Row) and row.derived is None:
        return Verdict.total(_of_stored_pieces(seed, row, found))
    like = torch.empty(found.shape, dtype=found.dtype, device="meta")
    values = expected.values(row, like).reshape(-1)
    return Verdict.total(
        _of_part(block, values[start : start + len(block)], Box(start, (1,)))
        for start, block in blocks(found)
    )


def _of_pieces(seed: int, pieces: Sequence[tuple[str, Piece]]) -> list[Verdict]:
    words = keys.of_names(seed, [key for key, _ in pieces])
    parts = [piece for _, piece in pieces]
    found = differences.from_fills(
        [part.memory for part in parts],
        words,
        [part.distribution for part in parts],
        [part.box for part in parts],
    )
    differing = [index for index, difference in enumerate(found) if difference.num_different]
    verdicts = [EQUAL] * len(parts)
    expected = _values_at(
        [parts[index] for index in differing], words[differing], [found[index].first for index in differing]
    )
    for index, value in zip(differing, expected, strict=True):
        memory, _, box = parts[index]
        first = found[index].first
        actual = element(memory.detach(), box or whole(memory), first)
        verdicts[index] = Verdict(found[index].num_different, first, _number(actual), _number(value))
    return verdicts


def _values_at(parts: Sequence[Piece], words: Tensor, indices: Sequence[int]) -> list[Tensor]:
    """The value of one element of each, by its index in the logical tensor. Any device has the same."""
    values = [torch.empty((), dtype=part.memory.dtype, device="cpu") for part in parts]
    if values:
        ops.fill_(values, words, [part.distribution for part in parts], [Box(index, ()) for index in indices])
    return values


def _of_values(found: Tensor, values: Tensor) -> Iterator[Verdict]:
    """Part by part; the values are cut as the tensor, or they are the whole."""
    parts = boxes.parts(found)
    if is_dtensor(values):
        views = [part.tensor for part in boxes.parts(values)]
    else:
        views = [
            values[tuple(slice(each.start, each.stop, each.step) for each in part.ranges)] for part in parts
        ]
    for part, view in zip(parts, views, strict=True):
        yield _of_part(part.tensor, view, part.box(found.shape))


def _of_part(tensor: Tensor, values: Tensor, box: Box) -> Verdict:
    if same_bits(tensor, values):
        return EQUAL
    found = differences.from_values(tensor, values, box)
    if not found.num_different:
        return EQUAL
    actual, expected = (element(each.detach(), box, found.first) for each in (tensor, values))
    return Verdict(found.num_different, found.first, _number(actual), _number(expected.to(tensor.dtype)))


def _of_stored_pieces(seed: int, row: Row, stored: StoredTensor) -> Iterator[Verdict]:
    for start, block in blocks(stored):
        pieces = _pieces_of_block(row, stored.shape, start, block)
        yield Verdict.total(_of_pieces(seed, [(row.key, piece) for piece in pieces]))


def _pieces_of_block(row: Row, shape: Sequence[int], start: int, block: Tensor) -> Iterator[Piece]:
    """A stretch of the row-major order, cut where the row of zeros begins and ends."""
    zeros = range(0)
    if row.zero_row is not None:
        length = math.prod(shape[1:])
        zeros = range(row.zero_row * length, (row.zero_row + 1) * length)
    end = start + len(block)
    edges = sorted({start, end, *(edge for edge in (zeros.start, zeros.stop) if start < edge < end)})
    for low, high in itertools.pairwise(edges):
        distribution = ZEROS if low in zeros else row.distribution
        yield Piece(block[low - start : high - start], distribution, Box(low, (1,)))


def _number(value: Tensor) -> float:
    return float(value.to(torch.float64).item())
