"""A plan: one row a parameter, with its key and distribution. The engine and the report read it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from convinit_ext._engine import Box
from convinit_ext.distributions import Distribution
from convinit_ext.model._buffers import BufferRow
from convinit_ext.model._named_tensors import Held
from convinit_ext.model._report import Report, ReportRow
from convinit_ext.model._spread import std_of
from convinit_ext.recipes import ZEROS, Derived, Redrawn
from convinit_ext.sharding import boxes


@dataclass(slots=True, eq=False)
class Row:
    """A parameter: its name, what fills it, and where the values go.

    Args:
        name: canonical name.
        held: the parameter, then those tied to it by their memory.
        distribution: of the values; ZEROS where `derived` says them instead.
        zero_row: the row of dimension 0 that is zero instead, if any.
        initialiser: what the rule calls it.
        fans: (fan_in, fan_out), None for constants and for fewer than 2 dimensions.
        dtype: of the values, once filled.
        device: likewise.
        key: the name that makes its key: of another parameter if it is a copy, or what `names` says.
        derived: what PyTorch writes after the fill, instead of a fill.
        source: the parameter that it is derived from, if any.
    """

    name: str
    held: tuple[Held, ...]
    distribution: Distribution
    zero_row: int | None
    initialiser: str
    fans: tuple[int, int] | None
    dtype: torch.dtype
    device: torch.device
    key: str
    derived: Derived | None = None
    source: Held | None = None

    @property
    def tensor(self) -> Tensor:
        return self.held[0].tensor

    @property
    def fresh(self) -> bool:
        """Whether the values go to new memory: a meta parameter, or another dtype."""
        return self.tensor.is_meta or self.tensor.dtype != self.dtype

    @property
    def num_bytes(self) -> int:
        """Of what this process holds."""
        return boxes.local_of(self.tensor).numel() * self.dtype.itemsize

    @property
    def std(self) -> float:
        drawn = self.drawn
        return math.nan if drawn is None else std_of(drawn.distribution)

    @property
    def drawn(self) -> Row | None:
        """The row whose fill, rounded to this one's dtype, has its values; None where PyTorch makes them."""
        if not isinstance(self.derived, Redrawn):
            return self if self.derived is None else None
        distribution, zero_row, dtype = self.derived.distribution, self.derived.zero_row, self.derived.dtype
        return replace(self, distribution=distribution, zero_row=zero_row, dtype=dtype, derived=None)

    def pieces(self, memory: Tensor) -> Iterator[Piece]:
        """What the engine fills of `memory`, of this row's shape: all, parts, or nothing."""
        if self.derived is not None:
            return
        if self.zero_row is None and not boxes.is_dtensor(memory):
            yield Piece(memory, self.distribution, None)
            return
        for part in boxes.parts(memory):
            rest, zero = ([part], None) if self.zero_row is None else boxes.without(part, self.zero_row)
            yield from (Piece(each.tensor, self.distribution, each.box(memory.shape)) for each in rest)
            if zero is not None:
                yield Piece(zero.tensor, ZEROS, zero.box(memory.shape))

    def reported(self) -> ReportRow:
        return ReportRow(
            self.name,
            tuple(self.tensor.shape),
            _name(self.dtype),
            self.initialiser,
            self.fans[0] if self.fans else None,
            self.fans[1] if self.fans else None,
            self.std,
            self.num_bytes,
        )


class Piece(NamedTuple):
    """One tensor of a call into the engine, and which part of the logical tensor it is (None: all of it)."""

    memory: Tensor
    distribution: Distribution
    box: Box | None


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What init_model_ will do: the rows in the order of named_parameters(), and the buffers that change."""

    rows: tuple[Row, ...]
    buffers: tuple[BufferRow, ...]
    seed: int
    recipe: str

    @property
    def new_bytes(self) -> int:
        """Memory to allocate on the CPU: on a GPU its allocator knows better."""
        rows: Sequence[Row | BufferRow] = (*self.rows, *self.buffers)
        return sum(row.num_bytes for row in rows if row.fresh and row.device.type == "cpu")

    def held(self) -> Iterator[Held]:
        """The parameters, then the buffers."""
        for row in self.rows:
            yield from row.held
        for buffer in self.buffers:
            yield buffer.held

    def report(self, seconds: float, dry: bool = False) -> Report:
        """What it does to each parameter, or did in so many seconds."""
        return Report(tuple(row.reported() for row in self.rows), seconds, self.seed, self.recipe, dry)


@lru_cache(maxsize=16)
def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
