"""A model's weights beside what was intended: stds, and histograms against the expected density."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from convinit_ext.distributions import Constant, Distribution, Normal, TruncatedNormal, Uniform
from convinit_ext.inspection._result import WeightRow
from convinit_ext.model import Plan, Row, walk

_BINS = 48
_REACH = 4.5  # standard deviations that a histogram of normal values shows


def weight_rows(recipe: str, model: nn.Module, plan: Plan | None) -> list[WeightRow]:
    """Return a row for each parameter; with a plan, what that says of it too."""
    planned = {held.name: row for row in plan.rows for held in row.held} if plan else {}
    held = walk.parameters(walk.modules(model))
    return [_row(recipe, each.name, each.tensor, planned.get(each.name)) for each in held]


def _row(recipe: str, name: str, tensor: Tensor, row: Row | None) -> WeightRow:
    values = _parts(tensor.detach())
    gradient = None if tensor.grad is None else _parts(tensor.grad)
    padding = getattr(row.values, "zero_row", None) if row else None
    if padding is not None:
        values = torch.cat([values[:padding], values[padding + 1 :]])
    distribution = row.distribution if row else None
    edges, counts, expected = _histogram(values, distribution)
    elsewhere = math.nan
    if isinstance(distribution, Constant):
        elsewhere = float((values != torch.tensor(distribution.value).to(values)).double().mean())
    elif expected:
        elsewhere = float(np.abs(np.subtract(counts, expected)).sum() / 2 / values.numel())
    return WeightRow(
        recipe=recipe,
        name=name,
        shape=tuple(tensor.shape),
        initialiser=row.initialiser if row else "-",
        trainable=tensor.requires_grad,
        intended=row.std if row else math.nan,
        std=float(values.double().std(correction=0)) if values.numel() else math.nan,
        elsewhere=elsewhere,
        gradient_std=math.nan if gradient is None else float(gradient.double().square().mean().sqrt()),
        edges=edges,
        counts=counts,
        expected=expected,
    )


def _parts(tensor: Tensor) -> Tensor:
    """Return the real and imaginary parts of complex numbers; other numbers themselves."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _histogram(
    values: Tensor, distribution: Distribution | None
) -> tuple[tuple[float, ...], tuple[int, ...], tuple[float, ...]]:
    """Return the edges of bins, how many values are in each, and how many are expected (none: not known)."""
    if not values.numel() or not bool(values.isfinite().all()):
        return (), (), ()
    low, high, cdf = _density(distribution) or (float(values.min()), float(values.max()), None)
    if not low < high:
        return (), (), ()
    edges = np.linspace(low, high, _BINS + 1).tolist()
    counts = torch.histc(values.double().clamp(low, high), _BINS, low, high).to(torch.int64).tolist()
    below = [] if cdf is None else [0.0, *map(cdf, edges[1:-1]), 1.0]
    return tuple(edges), tuple(counts), tuple((np.diff(below) * values.numel()).tolist())


def _density(distribution: Distribution | None) -> tuple[float, float, Callable[[float], float]] | None:
    """Return where a histogram starts and ends, and the share of values below a number; None: no density."""
    if isinstance(distribution, Uniform):
        low, width = distribution.low, distribution.high - distribution.low
        return (low, distribution.high, lambda x: (x - low) / width) if width else None
    if not isinstance(distribution, Normal | TruncatedNormal) or not distribution.std:
        return None
    mean, std = distribution.mean, distribution.std
    low, high = -math.inf, math.inf
    if isinstance(distribution, TruncatedNormal):
        low, high = distribution.a, distribution.b

    def normal(x: float) -> float:
        return math.erfc((mean - x) / std / math.sqrt(2)) / 2

    start, share = normal(low), normal(high) - normal(low)
    reach = _REACH * std
    return (
        (max(low, mean - reach), min(high, mean + reach), lambda x: (normal(x) - start) / share)
        if share
        else None
    )
