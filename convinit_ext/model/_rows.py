"""only= with rows: a vocabulary that grew, dead units, new experts. The other rows stay as they are."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from convinit_ext._engine import excerpt, listed
from convinit_ext.model._plan import Row
from convinit_ext.sharding import Runs, logical_shape

Rows: TypeAlias = slice | list[int]  # of dimension 0
WHOLE = slice(None)


def checked_rows(given: Any, what: str) -> Rows:
    """Return the rows that a caller gives, a slice or their numbers; TypeError for anything else."""
    try:
        if isinstance(given, slice):
            range(0)[given]
            return given
        if isinstance(given, Iterable) and not isinstance(given, str):
            return [_number(each) for each in (given.tolist() if isinstance(given, Tensor) else given)]
    except (TypeError, ValueError):  # the latter of a step of zero
        pass
    raise TypeError(f"{what}: rows are a slice or their numbers, such as slice(32000, None), not {given!r}")


def _number(given: Any) -> int:
    if isinstance(given, bool):  # of a mask
        raise TypeError
    return operator.index(given)


def runs_of(rows: Sequence[Rows], size: int) -> Runs:
    """Return which of so many rows these are, in order; together, where there are several of them.

    IndexError has a number that none of the rows has.

    >>> runs_of([slice(6, None)], 8), runs_of([[5, 1, -2], slice(0, 1)], 8)
    ((range(6, 8),), (range(0, 2), range(5, 7)))
    """
    all_of_them = range(size)
    if len(rows) == 1 and isinstance(rows[0], slice) and rows[0].step in (None, 1):
        return (all_of_them[rows[0]],)
    chosen: set[int] = set()
    for each in rows:
        for number in all_of_them[each] if isinstance(each, slice) else each:
            if not -size <= number < size:
                raise IndexError(number)
            chosen.add(number % size)
    runs: list[range] = []
    for row in sorted(chosen):
        if runs and runs[-1].stop == row:
            runs[-1] = range(runs[-1].start, row + 1)
        else:
            runs.append(range(row, row + 1))
    return tuple(runs)


def limit(row: Row, rows: Sequence[Rows], reading: bool) -> None:
    """Let a parameter's values be for some of its rows alone; none, or all among them, are all.

    ValueError says that it has no rows, not these, or no values for the others.
    """
    if not rows or WHOLE in rows or row.values is None:
        return
    shape = logical_shape(row.tensor)
    about = f"only: parameter {row.name!r} of shape {list(shape)}"
    if not shape:
        raise ValueError(f"{about} has no rows; choose it whole")
    try:
        runs = runs_of(rows, shape[0])
    except IndexError as error:
        raise ValueError(f"{about} has no row {error}") from error
    if not any(runs):
        raise ValueError(f"{about} has none of these rows: {listed(map(excerpt, rows))}")
    if row.tensor.is_meta and not reading:
        raise ValueError(f"{about} is on the meta device: its other rows have no values; choose it whole")
    if runs != (range(shape[0]),):
        row.rows = runs
        row.initialiser += f", {_text(runs)}"


def _text(runs: Runs) -> str:
    number, first, last = sum(map(len, runs)), runs[0].start, runs[-1].stop - 1
    if number == 1:
        return f"row {first} alone"
    return f"rows {first} to {last} alone" if len(runs) == 1 else f"{number} rows of {first} to {last} alone"
