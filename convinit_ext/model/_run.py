"""Doing what a plan says: memory for its rows, one fill of all of them, then what is made of filled ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from convinit_ext import keys
from convinit_ext._engine import ops
from convinit_ext.model import _spectral as spectral
from convinit_ext.model._checks import check_not_faked
from convinit_ext.model._memory import check_memory
from convinit_ext.model._placing import place_buffer, place_parameter
from convinit_ext.model._plan import Plan, Row
from convinit_ext.recipes import Redrawn, norm_dtype

_PROGRESS_STEPS = 64  # the bar moves at most so often: each step is a call into the engine of its own


def run(plan: Plan, seed: int, progress: bool = False) -> None:
    """Fill a plan's parameters and start its buffers anew. All that can fail comes before the first write."""
    check_not_faked(plan.held())
    check_memory(plan.new_bytes)
    with torch.no_grad():
        filled = [_memory_for(row) for row in plan.rows]
        buffers = [row.new(seed) if row.fresh else None for row in plan.buffers]
        _fill(seed, plan.rows, filled, progress)
        _derive(seed, plan.rows, filled)
        for row, memory in zip(plan.rows, filled, strict=True):
            if memory is not row.tensor:
                for held in row.held:
                    place_parameter(held, memory)
        for buffer_row, buffer in zip(plan.buffers, buffers, strict=True):
            if buffer is not None:
                place_buffer(buffer_row.held, buffer)
            elif buffer_row.start is not None:
                buffer_row.write_(buffer_row.held.tensor, seed)
        for buffer_row in plan.buffers:
            if buffer_row.start is not None:
                spectral.settle(buffer_row.held)


def fill_rows(seed: int, filled: Iterable[tuple[Row, Tensor]]) -> None:
    """One call into the engine: it balances threads over all the bytes, whatever tensors they belong to."""
    pieces = [(row.key, piece) for row, memory in filled for piece in row.pieces(memory)]
    boxes = [piece.box for _, piece in pieces]
    ops.fill_(
        [piece.memory for _, piece in pieces],
        keys.of_names(seed, [key for key, _ in pieces]),
        [piece.distribution for _, piece in pieces],
        boxes if any(boxes) else None,
    )


def _memory_for(row: Row) -> Tensor:
    """The parameter itself, or new memory of its memory format that nothing has touched yet."""
    if not row.fresh:
        return row.tensor
    return torch.empty_like(row.tensor.detach(), dtype=row.dtype, device=row.device)


def _fill(seed: int, rows: Sequence[Row], filled: Sequence[Tensor], progress: bool) -> None:
    if not progress:
        fill_rows(seed, zip(rows, filled, strict=True))
        return
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    total = sum(row.num_bytes for row in rows)
    with tqdm(total=total, unit="B", unit_scale=True, desc="init_model_") as bar:
        for group, num_bytes in _groups(rows, filled, total // _PROGRESS_STEPS):
            fill_rows(seed, group)
            bar.update(num_bytes)


def _groups(
    rows: Sequence[Row], filled: Sequence[Tensor], step: int
) -> Iterator[tuple[list[tuple[Row, Tensor]], int]]:
    """Neighbouring rows of `step` bytes or more together."""
    group: list[tuple[Row, Tensor]] = []
    num_bytes = 0
    for row, memory in zip(rows, filled, strict=True):
        group.append((row, memory))
        num_bytes += row.num_bytes
        if num_bytes >= step:
            yield group, num_bytes
            group, num_bytes = [], 0
    if group:
        yield group, num_bytes


def _derive(seed: int, rows: Sequence[Row], filled: Sequence[Tensor]) -> None:
    """Writes presets, then norms of other parameters, which may be presets."""
    derived = [(row, memory) for row, memory in zip(rows, filled, strict=True) if row.derived is not None]
    if not derived:
        return
    chosen = {id(row.held[0]): (row, memory) for row, memory in zip(rows, filled, strict=True)}
    for row, memory in sorted(derived, key=lambda each: each[0].source is not None):
        write_derived_(seed, row, memory, _source_of(row, seed, chosen))


def write_derived_(seed: int, row: Row, memory: Tensor, source: Tensor | None) -> None:
    """Writes what a derived row's values are, given what they are made of."""
    assert row.derived is not None
    if isinstance(row.derived, Redrawn):
        assert row.drawn is not None
        source = torch.empty_like(memory.detach(), dtype=row.drawn.dtype)
        fill_rows(seed, [(row.drawn, source)])
    row.derived.write_(memory, source)


def _source_of(row: Row, seed: int, chosen: Mapping[int, tuple[Row, Tensor]]) -> Tensor | None:
    """What the parameter that a row is made of becomes, not yet rounded where its dtype is narrow.

    Args:
        row: with a source or without.
        seed: of the model.
        chosen: the rows that are filled and their memory, by the id of what they hold.
    """
    if row.source is None:
        return None
    source, memory = chosen.get(id(row.source), (None, row.source.tensor))
    dtype = norm_dtype(memory.dtype)
    if source is None or dtype == memory.dtype:
        return memory
    exact = torch.empty_like(memory.detach(), dtype=dtype)
    if source.derived is None:
        fill_rows(seed, [(source, exact)])
    else:
        write_derived_(seed, source, exact, _source_of(source, seed, chosen))
    return exact
