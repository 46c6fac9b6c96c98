"""A plan: one row for each tensor that an initialisation is about, with its values and where they go."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from convinit_ext._engine import increment_version
from convinit_ext.distributions import Constant, Distribution
from convinit_ext.model._named_tensors import Group, NamedModule, NamedTensor, memory_of
from convinit_ext.model._report import Report, ReportRow, std_of
from convinit_ext.model._values import Drawn, Piece, Rounded, Same, Values, forget
from convinit_ext.sharding import (
    Part,
    Runs,
    carrying,
    is_dtensor,
    is_sharded,
    local_of,
    logical_shape,
    parts,
    within,
)

_MANY_OBJECTS = 10_000


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Keep Python's garbage collector from walking the many objects of a plan while they are made."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if gc.get_count()[0] > _MANY_OBJECTS and not gc.get_freeze_count():
                gc.freeze()  # and so they count as old: the next collection would walk all of them
                gc.unfreeze()
            gc.enable()


@dataclass(slots=True, eq=False)
class Row:
    """A parameter or buffer: what its values are, and where they go.

    Args:
        held: the tensor, then those tied to it by their memory.
        values: what is written; None leaves it as it is, but for its dtype.
        initialiser: what the rule calls it.
        fans: (fan_in, fan_out), None for constants and for fewer than 2 dimensions.
        dtype, device: of the values, once written.
        rows: the indices of dimension 0 that are written, runs in order; None is all of them.
    """

    name: str
    held: Group
    values: Values | None
    initialiser: str
    fans: tuple[int, int] | None
    dtype: torch.dtype
    device: torch.device
    is_buffer: bool = False
    rows: Runs | None = None

    @property
    def tensor(self) -> Tensor:
        return self.held[0].tensor

    @property
    def is_fresh(self) -> bool:
        """Whether the values go to new memory: a meta tensor, or another dtype."""
        return self.tensor.is_meta or self.tensor.dtype != self.dtype

    @property
    def num_bytes(self) -> int:
        """Of what this process holds."""
        first = self.held[0]
        local = first.tensor if first.is_plain else local_of(first.tensor)
        return local.numel() * self.dtype.itemsize

    @property
    def distribution(self) -> Distribution | None:
        """What the values are drawn from; None where they are not drawn."""
        values = self.values.values if isinstance(self.values, Rounded) else self.values
        return values.distribution if isinstance(values, Drawn) else None

    @property
    def std(self) -> float:
        """Of the distribution; NaN where the values are not drawn."""
        distribution = self.distribution
        return math.nan if distribution is None else std_of(distribution)

    def memory(self) -> Tensor:
        """Return where the values go: the tensor, or new memory of its layout that nothing has touched."""
        if not self.is_fresh:
            return self.tensor
        if self.values is None or self.rows is not None:
            return self.tensor.to(self.dtype)
        like = self.tensor.detach()
        if type(like) is Tensor and like.is_meta and like.is_contiguous():
            # Its empty_like is written in Python and imports sympy, which takes half a second.
            fresh = torch.empty_strided(like.shape, like.stride(), dtype=self.dtype, device=self.device)
        else:
            fresh = torch.empty_like(like, dtype=self.dtype, device=self.device)
        return carrying(fresh, self.tensor)

    def regions(self, memory: Tensor) -> list[Part]:
        """Return the parts of the tensor, or of one like it, that the values are for."""
        found = parts(memory)
        return found if self.rows is None else [each for part in found for each in within(part, self.rows)]

    def pieces_of(self, memory: Tensor) -> list[Piece]:
        """Return what the engine fills of the tensor, or of one like it, where all values are drawn."""
        values = self.values
        if isinstance(values, Same):  # of a plain tensor; no key decides anything
            return [Piece("", memory, Constant(values.value), None)]
        assert isinstance(values, Drawn)
        if self.rows is None and values.zero_row is None and not is_sharded(memory):
            return [Piece(values.key, memory, values.distribution, None)]
        return [piece for part in self.regions(memory) for piece in values.pieces(part)]

    def write_(self, seed: int, memory: Tensor) -> None:
        """Write the values of what this process holds; not recorded by autograd."""
        assert self.values is not None
        is_same = self.rows is None and isinstance(self.values, Same)  # also of a sum with other ranks' terms
        for part in [Part(local_of(memory), ())] if is_same else self.regions(memory):
            self.values.write_(seed, part)
        forget()
        if is_dtensor(memory):
            increment_version(memory)

    def reported(self) -> ReportRow:
        fan_in, fan_out = self.fans or (None, None)
        values, dtype = self.values, self.dtype
        if isinstance(values, Drawn):  # most of them
            shape, std = values.shape, std_of(values.distribution)
        else:
            shape, std = logical_shape(self.tensor), self.std
        return ReportRow(
            self.name, tuple(shape), dtype_name(dtype), self.initialiser, fan_in, fan_out, std, self.num_bytes
        )


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What an initialisation does: the parameters in the order of named_parameters(), then the buffers.

    `were_constant` has the values of those that hold one alone before, and then others; `attributes` the
    tensors in plain attributes that come from the meta device, with their values; `modules` all modules.
    """

    rows: tuple[Row, ...]
    buffers: tuple[Row, ...]
    seed: int
    recipe: str
    were_constant: dict[str, float] = field(default_factory=dict)
    attributes: Sequence[tuple[NamedTensor, Tensor]] = ()
    modules: Sequence[NamedModule] = ()

    @property
    def all_rows(self) -> tuple[Row, ...]:
        return (*self.rows, *self.buffers)

    @property
    def new_bytes(self) -> int:
        """Memory to allocate on the CPU: on a GPU its allocator knows better."""
        return sum(row.num_bytes for row in self.all_rows if row.is_fresh and row.device.type == "cpu")

    def held(self) -> Iterator[NamedTensor]:
        return itertools.chain.from_iterable(row.held for row in self.all_rows)

    @uncollected()
    def report(self, seconds: float, dry: bool = False) -> Report:
        """Return what it does to each parameter, or did in so many seconds."""
        rows = tuple(row.reported() for row in self.rows)
        return Report(rows, seconds, self.seed, self.recipe, dry, self.were_constant)


def by_memory(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """Return rows by `memory_of` their tensors, without those that have none."""
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(memory_of(row.tensor), []).append(row)
    found.pop(0, None)
    return found


@lru_cache(maxsize=64)
def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
