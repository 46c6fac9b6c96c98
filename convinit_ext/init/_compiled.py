"""Fills in compiled code, where sizes may be symbols: what depends on them is computed when the code runs.

An op that takes a number makes a compiler settle on one, and compile anew for the next. This one takes the
fans that the number comes from, so that one graph serves all shapes. And Python computes it: a compiler may
reorder products, and round them differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convinit_ext._engine import Box, check_kind, fill_one_, increment_version
from convinit_ext.distributions import (
    Distribution,
    fan_of,
    kaiming_std,
    variance_scaling_std,
    xavier_std,
    zero_mean,
)

_FORMS = {1: "uniform", 2: "normal", 3: "truncated_normal"}  # by Distribution.kind


class Scaled(NamedTuple):
    """A distribution of mean zero whose std is computed when somebody asks for its params."""

    kind: int
    rule: str
    factor: float
    fan_in: int
    fan_out: int

    @property
    def params(self) -> tuple[float, float, float, float]:
        std = _std(self.rule, self.factor, self.fan_in, self.fan_out)
        return zero_mean(std, _FORMS[self.kind]).params


def scaled(rule: str, form: str, factor: float, fan_in: int, fan_out: int) -> Scaled:
    """Return the distribution of mean zero with the std that a rule has for these fans, which may be symbols.

    The rule is "kaiming_std" (of fan_in, whichever it is), "xavier_std", or a mode of variance_scaling; the
    factor is the gain or the scale, the form as for zero_mean, and so are the errors.

    >>> scaled("xavier_std", "normal", 1.0, 20, 30).params
    (0.0, 0.2, 0.0, 0.0)
    """
    factor = float(factor)
    kind = zero_mean(_std(rule, factor, 1, 1), form).kind
    return Scaled(kind, rule, factor, fan_in, fan_out)


def _std(rule: str, factor: float, fan_in: int, fan_out: int) -> float:
    if rule == "kaiming_std":
        return kaiming_std(fan_in, factor)
    if rule == "xavier_std":
        return xavier_std(fan_in, fan_out, factor)
    return variance_scaling_std(factor, fan_of(rule, fan_in, fan_out))


def fill_in_graph_(tensor: Tensor, words: Tensor, distribution: Distribution, box: Box | None = None) -> None:
    """Fill as `fill_one_` does, by an op whose arguments may be symbols."""
    place = [] if box is None else [box.start, *box.strides]
    if isinstance(distribution, Scaled):
        kind, rule, factor, *fans = distribution
        params = (factor, 0.0, 0.0, 0.0)
    else:
        kind, rule, fans, params = distribution.kind, "", [0, 0], distribution.params
    _fill_op(tensor, words, kind, *params, rule, *fans, place)
    increment_version(tensor)


def _run(
    tensor: Tensor,
    key: Tensor,
    kind: int,
    p0: float,
    p1: float,
    p2: float,
    p3: float,
    rule: str,
    fan_in: int,
    fan_out: int,
    box: Sequence[int],
) -> None:
    params = Scaled(kind, rule, p0, fan_in, fan_out).params if rule else (p0, p1, p2, p3)
    memory = tensor.data  # whose version is its own: fill_in_graph_ counts the tensor's
    fill_one_(memory, key, kind, params, Box(box[0], tuple(box[1:])) if box else None)


def _run_fake(tensor: Tensor, *_: object) -> None:
    check_kind(tensor)


torch.library.define(
    "convinit_ext::fill_in_graph_",
    "(Tensor(a!) tensor, Tensor key, int kind, Scalar p0, Scalar p1, Scalar p2, Scalar p3, "
    "str rule, SymInt fan_in, SymInt fan_out, SymInt[] box) -> ()",
)
torch.library.impl("convinit_ext::fill_in_graph_", "CompositeExplicitAutograd", _run)
torch.library.register_fake("convinit_ext::fill_in_graph_", _run_fake)
_fill_op = torch.ops.convinit_ext.fill_in_graph_.default
