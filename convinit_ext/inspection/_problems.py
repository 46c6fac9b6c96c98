"""What is wrong with a model, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import takewhile

from convinit_ext._engine import listed
from convinit_ext.inspection._result import LayerRow, WeightRow

_LARGE, _SMALL = 100.0, 1e-4  # std of an output, against that of the first layer's input, or 1
_FAR = 1e5  # between the gradients of two layers: norm layers and poolings scale them, too
_MOSTLY = 0.95  # of an output that is zero
_TOLERANCE = 0.05  # of a measured std, beside five standard errors of its own


def problems_of(
    layers: Sequence[LayerRow], weights: Sequence[WeightRow], has_gradients: bool
) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong."""
    broken = [row for row in layers if row.not_finite > 0]
    dead = [row for row in layers if row.dead]
    nearly = [f"{row}, {row.zeros:.1%}" for row in layers if _MOSTLY < row.zeros < 1]
    weights = [row for row in weights if math.prod(row.shape)]
    if broken:
        yield f"not finite: {broken[0].not_finite:.1%} of what {broken[0]} puts out, the first such layer"
    if dead:
        yield f"dead: the output of {listed(dead)} is the same for every input"
    if nearly:
        yield f"nearly dead: the output is mostly zero of {listed(nearly)}"
    own = [row for row in layers if row.has_parameters and math.isfinite(row.std)]
    yield from _of_outputs(own)
    if not has_gradients:
        yield "no gradients: the outputs are empty, integers or detached, or every parameter is frozen"
    elif not broken:
        yield from _of_gradients([row for row in own if 0 < row.gradient_std < math.inf])
        trained = [row for row in weights if row.trainable]
        zero = [row.name for row in trained if row.gradient_std == 0]
        unused = [row.name for row in trained if math.isnan(row.gradient_std)]
        if zero:
            yield f"cannot learn at first: the gradient is zero of {listed(zero)}"
        if unused:
            yield f"unused: the outputs on these inputs do not depend on {listed(unused)}"
    wrong = [text for row in weights if (text := _difference(row))]
    if wrong:
        yield f"not as intended: {listed(wrong)}"


def _of_outputs(own: Sequence[LayerRow]) -> Iterator[str]:
    start = next((std for row in own for std in (row.input_std, row.std) if std > 0), 1.0)
    large = [row for row in own if row.std > _LARGE * max(start, 1.0)]
    small = [row for row in own if 0 < row.std < _SMALL * min(start, 1.0)]
    steps = [(row.std / row.input_std, row) for row in own if row.std > 0 and row.input_std > 0]
    for what, rows, choose in (("exploding", large, max), ("vanishing", small, min)):
        if rows:
            step = choose(steps, key=lambda each: each[0], default=None)
            text = f"; the steepest is {step[1]}, {step[0]:.2g} times its input" if step else ""
            last = choose(rows, key=lambda row: row.std)
            yield f"{what} outputs: {_course(len(own), [(row, row.std) for row in rows], last)}{text}"


def _of_gradients(own: Sequence[LayerRow]) -> Iterator[str]:
    if not own:
        return
    start = own[-1].gradient_std
    large = [row for row in reversed(own) if row.gradient_std > _FAR * start]
    # Only where the way back is lost: the keys of an attention, beside it, get little and pass on less.
    small = list(takewhile(lambda row: row.gradient_std < start / _FAR, own))[::-1]
    for what, rows, choose in (("exploding", large, max), ("vanishing", small, min)):
        if rows:
            last = choose(rows, key=lambda row: row.gradient_std)
            course = _course(len(own), [(row, row.gradient_std) for row in rows], last)
            yield f"{what} gradients: {course}; {own[-1]} has {start:.3g}"


def _course(number: int, stds: Sequence[tuple[LayerRow, float]], last: LayerRow) -> str:
    """Say how many of a number of layers it is, the first of them, and the last or the worst."""
    (first, std), of_last = stds[0], dict(stds)[last]
    end = "" if last is first else f", to {last}, {of_last:.3g}"
    return f"{len(stds)} of {number} layers, from {first}, std {std:.3g}{end}"


def _difference(row: WeightRow) -> str | None:
    """Say how the values of a parameter differ from what was intended; None if they do not."""
    if not math.isfinite(row.std):
        return f"{row.name} (not finite)"
    count = math.prod(row.shape)
    if abs(row.std - row.intended) > (_TOLERANCE + 5 / math.sqrt(2 * count)) * row.intended:
        return f"{row.name} (std {row.std:.3g}, {row.initialiser} has {row.intended:.3g})"
    if row.elsewhere > _TOLERANCE + math.sqrt(len(row.counts) / count):
        return f"{row.name} ({row.elsewhere:.0%} of its values lie elsewhere than by {row.initialiser})"
    return None
