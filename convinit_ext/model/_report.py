"""The report of an initialisation: a row a parameter, and the totals; as a table and as JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from convinit_ext._engine import listed
from convinit_ext.distributions import Distribution, Normal, TruncatedNormal, Uniform
from convinit_ext.model._table import fitted, terminal_width, wrapped

_MAX_LINES = 40  # of the printed table; its middle is left out where there are more
_COLUMNS = ("name", "shape", "dtype", "initialiser", "fan_in", "fan_out", "std", "bytes")
_TEXT_COLUMNS = 4  # these lead, and are aligned to the left; numbers to the right
# Where a terminal is narrow: texts that are cut, to how many characters, and columns that go first.
_CUT, _SPARE = {3: 20, 1: 14, 0: 28}, (7, 5, 4, 2)
_NEGLIGIBLE = 40.0  # e^-40 of a density is nothing to a standard deviation
_INTERVALS = 1000  # of Simpson's rule
Row = TypeVar("Row")
_INDEX = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)|(?<=\.)\d+$")


class ReportRow(NamedTuple):
    """What one parameter got.

    Args:
        name: canonical name.
        shape: of the tensor; where this process holds a part, of the whole.
        dtype: "float32".
        initialiser: in the words of torch.nn.init.
        fan_in: None where the values do not depend on fans.
        fan_out: likewise.
        std: standard deviation of the distribution; NaN where the values are not drawn.
        num_bytes: of what this process holds of it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    initialiser: str
    fan_in: int | None
    fan_out: int | None
    std: float
    num_bytes: int

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Report:
    """What init_model_ did: `print(report)` shows a table, `report.rows` has a row for every parameter.

    Args:
        rows: in the order of named_parameters().
        seconds: of the whole call.
        seed: of the model.
        recipe: its name.
        dry: whether it says what would be done, and nothing was.
        were_constant: the values of parameters that held one value alone, and that get others by a recipe of
            types: layers that were to add nothing at first, biases that say how rare a class is. Biases of
            zeros do not count.
    """

    rows: tuple[ReportRow, ...]
    seconds: float
    seed: int
    recipe: str
    dry: bool = False
    were_constant: dict[str, float] = field(default_factory=dict, hash=False)

    @property
    def num_elements(self) -> int:
        return sum(row.num_elements for row in self.rows)

    @property
    def num_bytes(self) -> int:
        return sum(row.num_bytes for row in self.rows)

    @property
    def is_part(self) -> bool:
        """Whether this process holds parts of tensors, so that `num_bytes` is of fewer elements."""
        sizes = ((row.num_elements * getattr(torch, row.dtype).itemsize, row.num_bytes) for row in self.rows)
        return any(whole != held for whole, held in sizes)

    @property
    def bytes_per_second(self) -> float:
        return self.num_bytes / self.seconds if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, object]:
        """Everything in it as numbers, strings, lists and dicts."""
        return {
            "seed": self.seed,
            "recipe": self.recipe,
            "dry": self.dry,
            "num_tensors": len(self.rows),
            "num_elements": self.num_elements,
            "num_bytes": self.num_bytes,
            "seconds": self.seconds,
            "bytes_per_second": self.bytes_per_second,
            "were_constant": self.were_constant,
            "rows": [row._asdict() | {"shape": list(row.shape)} for row in self.rows],
        }

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(finite(self.to_dict()), indent=indent)

    def summary(self) -> str:
        """The totals in a line.

        >>> Report((), 0.5, seed=7, recipe="he").summary()
        '0 tensors, 0 elements, 0 B in 500.00 ms (0 B/s); recipe he, seed 7'
        """
        done = f"in {time_text(self.seconds)} ({size_text(self.bytes_per_second)}/s)"
        whole, here = (" of the whole", " of it in this process") if self.is_part else ("", "")
        return (
            f"{len(self.rows)} tensor{'s' * (len(self.rows) != 1)}, {self.num_elements:,} elements{whole}, "
            f"{size_text(self.num_bytes)}{here} {'planned, nothing done' if self.dry else done}; "
            f"recipe {self.recipe}, seed {self.seed}"
        )

    def text(self, width: int | None = None) -> str:
        """Return the table and the totals in lines of so many characters.

        None takes the terminal's width, and where the standard output is no terminal leaves lines as they
        are.
        """
        width = width or terminal_width()
        rows = [(row.name, _alike(row), row) for row in self.rows]
        cells = [_cells(name, group[0]) for name, group in grouped(rows)]
        lines, left_out = fitted(_COLUMNS, cells, _TEXT_COLUMNS, width, _CUT, _SPARE)
        notes = [f"left out to fit: {', '.join(left_out)}; all in report.rows"] if left_out else []
        said = [wrapped(each, width) for each in (*notes, *self._notes(), self.summary())]
        return "\n".join([*shortened(lines, "report.rows"), "", *said])

    __str__ = text

    def _notes(self) -> list[str]:
        by_value: dict[float, list[str]] = {}
        for name, value in self.were_constant.items():
            by_value.setdefault(value, []).append(name)
        return [
            f"{'1 parameter that was' if len(names) == 1 else f'{len(names)} parameters that were'} "
            f"{f'{value:.6g}' if value else 'zero'} get{'s' * (len(names) == 1)} other values, unless skip= "
            f"leaves {'it' if len(names) == 1 else 'them'}: {listed(names)}"
            for value, names in by_value.items()
        ]


def size_text(num_bytes: float) -> str:
    """Bytes in the largest unit that leaves a number of one or more: '9.44 MB'."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.2f} {unit}"
    return f"{num_bytes:.0f} B"


def time_text(seconds: float) -> str:
    """Seconds in the largest unit that leaves a number of one or more: '26.70 µs'."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds * 1e6:.2f} µs"


def grouped(rows: Sequence[tuple[str, object, Row]]) -> list[tuple[str, list[Row]]]:
    """Return rows as they are if they fit; else as one those that differ in the numbers in their names.

    Each comes after its name, and what it must share with others to be shown as one with them.
    """
    if len(rows) <= _MAX_LINES:
        return [(name, [row]) for name, _, row in rows]
    groups: dict[object, list[tuple[str, Row]]] = {}
    for name, alike, row in rows:
        groups.setdefault((_INDEX.sub("*", name), alike), []).append((name, row))
    return [
        (_group_name([name for name, _ in group]), [row for _, row in group]) for group in groups.values()
    ]


def _alike(row: ReportRow) -> object:
    std = None if math.isnan(row.std) else row.std  # a NaN is like no other
    return row.shape, row.dtype, row.initialiser, row.fan_in, row.fan_out, std


def _group_name(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    parts = zip(*(name.split(".") for name in names), strict=True)
    return ".".join(part[0] if len(set(part)) == 1 else "*" for part in parts) + f"  (x{len(names)})"


def shape_text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _cells(name: str, row: ReportRow) -> tuple[str, ...]:
    return (
        name,
        shape_text(row.shape),
        row.dtype,
        row.initialiser,
        "-" if row.fan_in is None else str(row.fan_in),
        "-" if row.fan_out is None else str(row.fan_out),
        "-" if math.isnan(row.std) else f"{row.std:.4g}",
        f"{row.num_bytes:,}",
    )


def shortened(lines: list[str], where: str) -> list[str]:
    """A table of at most 40 rows; a note in its middle says how many more there are, and `where`."""
    num_head = 2 + _MAX_LINES // 2  # the header, its rule, and half of the rows
    num_left_out = len(lines) - 2 - _MAX_LINES
    if num_left_out <= 1:
        return lines
    note = f"... {num_left_out} more lines, all of them in {where} ..."
    return [*lines[:num_head], note, *lines[num_head + num_left_out :]]


def finite(value: object) -> object:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def std_of(distribution: Distribution) -> float:
    """The standard deviation of the values, of a truncated normal after its truncation.

    >>> round(std_of(Uniform(-3.0, 3.0)) ** 2, 9)
    3.0
    """
    if isinstance(distribution, Uniform):
        return (distribution.high - distribution.low) / math.sqrt(12)
    if isinstance(distribution, Normal):
        return distribution.std
    return _truncated_std(distribution) if isinstance(distribution, TruncatedNormal) else 0.0


@lru_cache(maxsize=256)
def _truncated_std(distribution: TruncatedNormal) -> float:
    """By Simpson's rule over the part that holds all but e^-40 of the density: no tail is too far."""
    if distribution.std == 0.0:
        return 0.0
    low, high = ((bound - distribution.mean) / distribution.std for bound in (distribution.a, distribution.b))
    peak = min(max(low, 0.0), high)
    if not math.isfinite(peak):
        return 0.0
    # d |peak| + d^2 / 2 = 40
    reach = 2 * _NEGLIGIBLE / (abs(peak) + math.sqrt(peak * peak + 2 * _NEGLIGIBLE))
    z = np.linspace(max(low, peak - reach), min(high, peak + reach), _INTERVALS + 1)
    weights = np.exp(-(z - peak) * (z + peak) / 2)  # the density relative to the peak, without cancellation
    weights[1:-1] *= np.where(np.arange(1, _INTERVALS) % 2, 4, 2)
    centre = np.average(z - peak, weights=weights)
    return distribution.std * math.sqrt(np.average((z - peak - centre) ** 2, weights=weights))
