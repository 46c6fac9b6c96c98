"""What a look at a model found: rows, sentences, and both as a text that fits the terminal."""

from __future__ import annotations

import json
import math
import shutil
import textwrap
from dataclasses import asdict, dataclass
from os import PathLike

from convinit_ext.model import finite, fitted, shape_text, shortened

_LEAST = 12  # characters of a column that is cut to fit


@dataclass(frozen=True, slots=True)
class LayerRow:
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

    @property
    def fact(self) -> str:
        return self.kind if self.calls == 1 else f"{self.kind} x{self.calls}"

    @property
    def shown(self) -> tuple[str, str]:
        return _number(self.std), _number(self.gradient_std)


@dataclass(frozen=True, slots=True)
class WeightRow:
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

    @property
    def fact(self) -> str:
        return shape_text(self.shape)

    @property
    def shown(self) -> tuple[str, str]:
        return _number(self.intended), _number(self.std)


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
        rows, weights = ([asdict(row) for row in rows] for rows in (self.rows, self.weights))
        return {**asdict(self), "rows": rows, "weights": weights}

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(finite(self.to_dict()), indent=indent)

    def text(self, width: int | None = None) -> str:
        """Return tables and sentences in lines of so many characters; None takes the terminal's width."""
        width = width or shutil.get_terminal_size().columns
        about = f"{self.model}, {', '.join(self.recipes)}, seed {self.seed}; inputs: {self.inputs}"
        number = len(self.problems)
        count = f"{number} problem{'s' * (number > 1)} found:" if number else "no problems found"
        said = [textwrap.fill(each, width, subsequent_indent="  ") for each in self.problems]
        layers = self._table("layer", "type", ("output std", "gradient std"), width)
        weights = self._table("weight", "shape", ("intended std", "measured"), width)
        return "\n".join([about, "", *layers, "", *weights, "", count, *said])

    __str__ = text

    def _table(self, what: str, fact: str, numbers: tuple[str, str], width: int) -> list[str]:
        """Lines for layers or weights, with two numbers for each recipe."""
        where = "rows" if what == "layer" else "weights"
        by_name: dict[str, dict[str, LayerRow | WeightRow]] = {}
        for row in getattr(self, where):
            by_name.setdefault(row.name, {})[row.recipe] = row
        cells = []
        for name, rows in by_name.items():
            first = next(iter(rows.values()))
            found = [
                number for each in self.recipes for number in (rows[each].shown if each in rows else "--")
            ]
            if set(found) != {"0"}:  # biases that are zero, as intended
                cells.append([name, first.fact, *found])
        labels = (
            numbers if len(self.recipes) == 1 else [x for each in self.recipes for x in (each, numbers[1])]
        )
        lines, _ = fitted([what, fact, *labels], cells, 2, width, {0: _LEAST, 1: _LEAST}, ())
        return shortened(lines, f"inspection.{where}")


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"
