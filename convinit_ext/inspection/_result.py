"""What a look at a model found: rows, sentences, and both as a text that fits the terminal."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import NamedTuple

from convinit_ext.model import finite, shape_text, shortened, table

_LEAST = 12  # characters of a column that is cut to fit


class LayerRow(NamedTuple):
    """One layer: what it put out when the model ran, and the gradients that came back to there.

    Args:
        recipe: by which the model was filled.
        name: of the module; "(model)" is the whole.
        kind: of module.
        calls: how many times it was called; the numbers are of all calls together.
        shape: of its output (of a tuple the first floating-point tensor) at the last call.
        has_parameters: whether it has some of its own.
        input_std: of its first argument, NaN if that is none of floating point.
        mean: of its output; NaN if that has no floating-point tensor.
        std: likewise.
        zeros: the share of its output that is exactly zero.
        not_finite: the share that is infinite or NaN.
        gradient_std: of the gradients of its output, about zero; NaN if none came.
        dead: whether its output is the same for every input of a batch, though its inputs differ.
    """

    recipe: str
    name: str
    kind: str
    calls: int
    shape: tuple[int, ...]
    has_parameters: bool
    input_std: float
    mean: float
    std: float
    zeros: float
    not_finite: float
    gradient_std: float
    dead: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})"


class WeightRow(NamedTuple):
    """One parameter: how its values lie, and how they were intended to.

    Args:
        recipe: by which the model was filled.
        name: canonical name.
        shape: of the tensor.
        initialiser: what was intended, in the words of torch.nn.init; "-" if nobody says.
        trainable: whether it requires gradients.
        intended: standard deviation; NaN if nobody says, or the values are not drawn.
        std: the measured one. A padding row that is zero does not count.
        elsewhere: the share of values that would have to move for the histogram to be the expected one.
        gradient_std: of its gradient, about zero; NaN if none came.
        edges: of the histogram's bins; none where all values are one, or some not finite.
        counts: values in each bin; the outermost ones have what lies beyond too.
        expected: the same by the intended density; none where there is no density.
    """

    recipe: str
    name: str
    shape: tuple[int, ...]
    initialiser: str
    trainable: bool
    intended: float
    std: float
    elsewhere: float
    gradient_std: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    expected: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What inspect_model saw: `print(inspection)` shows tables and sentences.

    Args:
        rows: of the layers, in the order in which they were first called, recipe after recipe.
        weights: of the parameters, likewise.
        problems: a sentence for each thing that is wrong.
        recipes: the names of what was looked at; "as it is" is the model without a recipe.
        model: the type of the model.
        inputs: what it ran on, in words.
        seed: of the whole.
    """

    rows: tuple[LayerRow, ...]
    weights: tuple[WeightRow, ...]
    problems: tuple[str, ...]
    recipes: tuple[str, ...]
    model: str
    inputs: str
    seed: int

    def plot(self, path: str | PathLike[str]) -> None:
        """Draw everything as a picture, of the kind that the path's ending says. Needs matplotlib.

        Raises:
            ImportError: there is no matplotlib.
            ValueError: an ending that matplotlib does not write.
            FileNotFoundError: the folder is not there.
        """
        from convinit_ext.inspection._picture import check_picture, draw

        check_picture(path)
        draw(self, path)

    def to_dict(self) -> dict[str, object]:
        """Everything in it as numbers, strings, lists and dicts."""
        named = {name: getattr(self, name) for name in ("model", "inputs", "seed")}
        lists = {name: list(getattr(self, name)) for name in ("recipes", "problems")}
        rows = {name: [_as_dict(row) for row in getattr(self, name)] for name in ("rows", "weights")}
        return {**named, **lists, **rows}

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(finite(self.to_dict()), indent=indent)

    def text(self, width: int | None = None) -> str:
        """Return tables and sentences.

        Args:
            width: of the lines, in characters; None takes the terminal's.
        """
        width = width or shutil.get_terminal_size().columns
        number = len(self.problems)
        said = [f"- {problem}" for problem in self.problems]
        count = f"{number or 'no'} problem{'s' * (number != 1)} found{':' if number else ''}"
        head = f"{self.model}, {', '.join(self.recipes)}, seed {self.seed}; inputs: {self.inputs}"
        return "\n".join([head, "", *self._layers(width), "", *self._weights(width), "", count, *said])

    __str__ = text

    def _layers(self, width: int) -> list[str]:
        by_recipe = [{row.name: row for row in self.rows if row.recipe == each} for each in self.recipes]
        single = len(self.recipes) == 1
        labels = (
            [("output std", "zeros", "gradient std")]
            if single
            else [(each, "gradient") for each in self.recipes]
        )
        names = dict.fromkeys(row.name for row in self.rows)
        cells = []
        for name in names:
            found = [rows.get(name) for rows in by_recipe]
            first = next(row for row in found if row)
            kind = first.kind if first.calls == 1 else f"{first.kind} x{first.calls}"
            cells.append([name, kind, *(cell for row in found for cell in _numbers(row, single))])
        header = ["layer", "type", *(label for each in labels for label in each)]
        return shortened(_fitted(header, cells, 2, width), "inspection.rows")

    def _weights(self, width: int) -> list[str]:
        single = len(self.recipes) == 1
        cells: dict[str, list[str]] = {}
        for row in self.weights:
            start = [row.name, shape_text(row.shape), *([row.initialiser] if single else [])]
            cells.setdefault(row.name, start).extend((_number(row.intended), _number(row.std)))
        labels = ["intended", "std"] if single else [x for each in self.recipes for x in (each, "measured")]
        header = ["weight", "shape", *(["initialiser"] if single else []), *labels]
        shown = [line for line in cells.values() if set(line[2 + single :]) != {"0"}]  # zeros, as intended
        return shortened(_fitted(header, shown, 2 + single, width), "inspection.weights")


def _as_dict(row: LayerRow | WeightRow) -> dict[str, object]:
    return {name: list(each) if isinstance(each, tuple) else each for name, each in row._asdict().items()}


def _numbers(row: LayerRow | None, with_zeros: bool) -> list[str]:
    if row is None:
        return ["-"] * (3 if with_zeros else 2)
    zeros = [_number(row.zeros, ".0%")] if with_zeros else []
    return [_number(row.std), *zeros, _number(row.gradient_std)]


def _number(value: float, form: str = ".3g") -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"


def _fitted(header: list[str], rows: Sequence[list[str]], num_left: int, width: int) -> list[str]:
    """Lines of equal columns; the left ones are cut, in the middle of their texts, if there is no room."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    for _ in range(num_left):
        widest = max(range(num_left), key=widths.__getitem__)
        excess = sum(widths) + 2 * (len(widths) - 1) - width
        widths[widest] = max(min(_LEAST, widths[widest]), widths[widest] - max(excess, 0))
    cut = [[_cut(cell, size) for cell, size in zip(row, widths, strict=True)] for row in rows]
    return table(header, cut, num_left)


def _cut(text: str, size: int) -> str:
    if len(text) <= size:
        return text
    head = (size - 2) // 2
    return f"{text[:head]}..{text[len(text) - (size - 2 - head) :]}"
