"""A model's weights beside what was intended: stds, and histograms against the expected density."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convinit_ext.distributions import Constant, Distribution, Normal, TruncatedNormal, Uniform
from convinit_ext.inspection._result import WeightRow
from convinit_ext.model import Plan, Row, walk

_BINS = 48
_REACH = 4.5  # standard deviations that a histogram of normal values shows
Floats = NDArray[np.float64]


def weight_rows(recipe: str, model: nn.Module, plan: Plan | None) -> list[WeightRow]:
    """Return a row for each parameter; with a plan, what that says of it too."""
    planned = {held.name: row for row in plan.rows for held in row.held} if plan else {}
    return [
        _row(recipe, held.name, held.tensor, planned.get(held.name))
        for held in walk.parameters(walk.modules(model))
    ]


def _row(recipe: str, name: str, tensor: Tensor, row: Row | None) -> WeightRow:
    gradient = math.nan
    if tensor.grad is not None and tensor.numel():
        gradient = float(tensor.grad.double().square().mean().sqrt())
    zero_row = getattr(row.values, "zero_row", None) if row else None
    values = tensor.detach().flatten() if zero_row is None else _without(tensor.detach(), zero_row).flatten()
    distribution = row.distribution if row else None
    edges, counts, expected = _histogram(values, distribution)
    return WeightRow(
        recipe,
        name,
        tuple(tensor.shape),
        row.initialiser if row else "-",
        tensor.requires_grad,
        row.std if row else math.nan,
        float(torch.std(values.double(), correction=0)) if values.numel() else math.nan,
        _elsewhere(values, distribution, counts, expected),
        gradient,
        edges,
        counts,
        expected,
    )


def _without(tensor: Tensor, row: int) -> Tensor:
    return torch.cat([tensor[:row], tensor[row + 1 :]])


def _histogram(
    values: Tensor, distribution: Distribution | None
) -> tuple[tuple[float, ...], tuple[int, ...], tuple[float, ...]]:
    """Return the edges of bins, how many values are in each, and how many are expected (none: not known).

    The outermost bins have what lies beyond them too.
    """
    if not values.numel() or not bool(values.isfinite().all()):
        return (), (), ()
    cdf = _cdf(distribution)
    if cdf is not None and distribution is not None:
        low, high = _range(distribution)
    else:
        low, high = float(values.min()), float(values.max())
    if not low < high:
        return (), (), ()
    edges = np.linspace(low, high, _BINS + 1)
    counts = torch.histc(values.double().clamp(low, high), _BINS, low, high).to(torch.int64).tolist()
    expected: tuple[float, ...] = ()
    if cdf is not None:
        below = np.array([0.0, *map(cdf, edges[1:-1].tolist()), 1.0])
        expected = tuple((np.diff(below) * values.numel()).tolist())
    return tuple(edges.tolist()), tuple(counts), expected


def _range(distribution: Distribution) -> tuple[float, float]:
    if isinstance(distribution, Uniform):
        return distribution.low, distribution.high
    mean, std, low, high = distribution.params
    if not isinstance(distribution, TruncatedNormal):
        low, high = -math.inf, math.inf
    return max(low, mean - _REACH * std), min(high, mean + _REACH * std)


def _cdf(distribution: Distribution | None) -> Callable[[float], float] | None:
    """Return the share of values below a number; None where that is no distribution to draw from."""
    if isinstance(distribution, Uniform):
        low, high = distribution.low, distribution.high
        return lambda x: (x - low) / (high - low)
    if not isinstance(distribution, Normal | TruncatedNormal) or distribution.std == 0.0:
        return None
    mean, scale = distribution.mean, distribution.std * math.sqrt(2)
    if isinstance(distribution, Normal):
        return lambda x: 0.5 * math.erfc((mean - x) / scale)
    below, up_to = (0.5 * math.erfc((mean - x) / scale) for x in (distribution.a, distribution.b))
    if not up_to > below:  # a far tail, beyond what float64 tells apart
        return None
    return lambda x: (0.5 * math.erfc((mean - x) / scale) - below) / (up_to - below)


def _elsewhere(
    values: Tensor, distribution: Distribution | None, counts: tuple[int, ...], expected: tuple[float, ...]
) -> float:
    """Return the share of values that would have to move for the histogram to be the expected one."""
    if isinstance(distribution, Constant) and values.numel():
        constant = torch.tensor(distribution.value, dtype=values.dtype, device=values.device)
        return float((values != constant).double().mean())
    if not expected:
        return math.nan
    return float(np.abs(np.array(counts) - np.array(expected)).sum() / 2 / values.numel())
