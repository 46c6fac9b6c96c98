"""What a verification found: a row for each tensor, and what was amiss before; as a table and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from convinit_ext._engine import listed
from convinit_ext.model import (
    finite,
    fitted,
    grouped,
    shape_text,
    shortened,
    table,
    terminal_width,
    time_text,
    wrapped,
)

_COLUMNS = ("name", "shape", "dtype", "initialiser", "verdict", "first at", "actual", "expected")
_TEXT_COLUMNS = 6  # these lead, and are aligned to the left
# Where a terminal is narrow: texts that are cut, to how many characters, and columns that go first.
_CUT, _SPARE = {3: 20, 1: 14, 0: 28}, (2, 3, 1, 7, 6)


class VerifiedRow(NamedTuple):
    """One tensor, compared bit for bit: -0.0 is not 0.0, and a NaN is what its bits are.

    Args:
        name: canonical name.
        shape: of the tensor; of the whole where it is sharded.
        dtype: "float32".
        initialiser: in the words of torch.nn.init.
        num_elements: how many were compared: of a sharded tensor what this process holds; the rows of only=.
        num_different: how many of them differ.
        first_index: of the first that does, in the whole tensor; None if none does.
        actual: what is there, of the first that differs; None if none does.
        expected: what should be there.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    initialiser: str
    num_elements: int
    num_different: int
    first_index: tuple[int, ...] | None
    actual: float | None
    expected: float | None

    @property
    def equal(self) -> bool:
        return self.num_different == 0

    @property
    def verdict(self) -> str:
        return "equal" if self.equal else f"{self.num_different:,} of {self.num_elements:,} differ"


class Problem(NamedTuple):
    """A tensor that is not as it should be, beside those whose rows say so.

    Args:
        name: canonical name.
        kind: "missing", "unexpected", "shape" or "dtype"; "values" of one that differs on another rank.
        text: what is the matter.
    """

    name: str
    kind: Literal["missing", "unexpected", "shape", "dtype", "values"]
    text: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What verify found: true if all is as it should be; `print(verification)` shows a table.

    Args:
        rows: parameters in the order of named_parameters(), then buffers.
        problems: tensors that are missing, unexpected, or of another shape or dtype; those that differ on
            other ranks.
        unchecked: buffers whose start nobody knows: nobody looked at them.
        seconds: of the whole call.
        seed: of the model.
        recipe: its name.
        num_ranks: how many processes' problems it names.
    """

    rows: tuple[VerifiedRow, ...]
    problems: tuple[Problem, ...]
    unchecked: tuple[str, ...]
    seconds: float
    seed: int
    recipe: str
    num_ranks: int = 1

    @property
    def equal(self) -> bool:
        """Whether every tensor is there and holds, to the bit, what the seed and the recipe say."""
        return not self.problems and all(row.equal for row in self.rows)

    def __bool__(self) -> bool:
        return self.equal

    @property
    def different(self) -> tuple[str, ...]:
        """The tensors that hold other values."""
        return tuple(row.name for row in self.rows if not row.equal)

    @property
    def unmoved(self) -> tuple[str, ...]:
        """The tensors that hold what they were initialised to: of a trained model those that never moved."""
        elsewhere = {problem.name for problem in self.problems}
        return tuple(row.name for row in self.rows if row.equal and row.name not in elsewhere)

    @property
    def num_elements(self) -> int:
        return sum(row.num_elements for row in self.rows)

    @property
    def num_different(self) -> int:
        return sum(row.num_different for row in self.rows)

    def to_dict(self) -> dict[str, object]:
        """Everything in it as numbers, strings, lists and dicts."""
        return {
            "equal": self.equal,
            "seed": self.seed,
            "recipe": self.recipe,
            "num_ranks": self.num_ranks,
            "num_tensors": len(self.rows),
            "num_elements": self.num_elements,
            "num_different": self.num_different,
            "seconds": self.seconds,
            "different": list(self.different),
            "unmoved": list(self.unmoved),
            "problems": [problem._asdict() for problem in self.problems],
            "unchecked": list(self.unchecked),
            "rows": [_as_dict(row) for row in self.rows],
        }

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(finite(self.to_dict()), indent=indent)

    def summary(self) -> str:
        """The verdict in a line.

        >>> Verification((), (), (), 0.5, 7, "he").summary()
        'equal: 0 tensors, 0 elements compared in 500.00 ms; recipe he, seed 7'
        """
        about = f"{len(self.rows)} tensor{'s' * (len(self.rows) != 1)}"
        if self.different:
            about += f", {len(self.different)} of them different"
        if self.problems:
            about += f", {len(self.problems)} more problem{'s' * (len(self.problems) > 1)}"
        where = f" on {self.num_ranks} ranks" if self.num_ranks > 1 else ""
        if any(row.num_elements < math.prod(row.shape) for row in self.rows):
            where += ", of some tensors a part alone"
        return (
            f"{'equal' if self.equal else 'not equal'}: {about}, {self.num_elements:,} elements compared"
            f"{where} in {time_text(self.seconds)}; recipe {self.recipe}, seed {self.seed}"
        )

    def text(self, width: int | None = None) -> str:
        """Return the table, the problems and the totals; the width as for Report.text()."""
        width = width or terminal_width()
        rows = [(row.name, (row.shape, row.dtype, row.initialiser, row.equal), row) for row in self.rows]
        cells = [_cells(name, group) for name, group in grouped(rows)]
        lines, left_out = fitted(_COLUMNS, cells, _TEXT_COLUMNS, width, _CUT, _SPARE)
        lines = shortened(lines, "verification.rows")
        if left_out:
            note = f"left out to fit: {', '.join(left_out)}; all in verification.rows"
            lines += ["", wrapped(note, width)]
        if self.problems:
            problems = table(("name", "problem", ""), self.problems, num_left=3)
            lines += ["", *shortened(problems, "verification.problems")]
        if self.unchecked:
            unknown = f"not looked at, as nobody knows their start: {listed(self.unchecked)}"
            lines += ["", wrapped(unknown, width)]
        return "\n".join([*lines, "", wrapped(self.summary(), width)])

    __str__ = text


def _as_dict(row: VerifiedRow) -> dict[str, object]:
    index = None if row.first_index is None else list(row.first_index)
    return row._asdict() | {"shape": list(row.shape), "first_index": index, "equal": row.equal}


def _cells(name: str, group: Sequence[VerifiedRow]) -> tuple[str, ...]:
    first = group[0]
    described = name, shape_text(first.shape), first.dtype, first.initialiser
    if first.equal:
        return *described, "equal", "", "", ""
    num_different, num_elements = (
        sum(counts) for counts in zip(*((row.num_different, row.num_elements) for row in group), strict=True)
    )
    verdict = f"{num_different:,} of {num_elements:,} differ"
    return *described, verdict, str(list(first.first_index or ())), *_numbers(first)


def _numbers(row: VerifiedRow) -> tuple[str, str]:
    digits = 17 if row.dtype == "float64" else 9  # as many as tell any two apart
    actual, expected = (f"{value:.{digits}g}" for value in (row.actual or 0.0, row.expected or 0.0))
    return actual, expected
