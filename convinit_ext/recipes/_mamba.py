"""The recipe `mamba`: the state spaces of Mamba and Mamba-2 as their authors start them."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from convinit_ext.distributions import Distribution, Normal, Uniform
from convinit_ext.recipes._depth import ByDepth, check_num_layers
from convinit_ext.recipes._derived import Transformed
from convinit_ext.recipes._initialisers import ONES, ZEROS, Explained, Kaiming, initialiser_text
from convinit_ext.recipes._known import KNOWN, TIME_STEP
from convinit_ext.recipes._layers import TORCH, embedding_rule
from convinit_ext.recipes._recipe import Recipe, own, ready_made
from convinit_ext.recipes._rules import Rule, scaled
from convinit_ext.recipes._target import Target

_LN2_HIGH, _LN2_LOW = float.fromhex("0x1.62e42fefa38p-1"), float.fromhex("0x1.ef35793c7673p-45")
_RESIDUAL = re.compile(r"(^|\.)(out_proj|fc2)\.weight$")
_Doubles = NDArray[np.float64]


def mamba(
    num_layers: int | None = None,
    dt_min: float = 1e-3,
    dt_max: float = 0.1,
    dt_scale: float = 1.0,
    dt_init_floor: float = 1e-4,
    a_range: tuple[float, float] = (1.0, 16.0),
    branches: int = 1,
) -> Recipe:
    """Return the recipe of Mamba and Mamba-2 in mamba_ssm, for modules that hold an A_log and a D.

    A_log is log(1), ..., log(d_state) in each row, in Mamba-2 the log of uniform values, one for each head. D
    is one. The bias of dt_proj, in Mamba-2 dt_bias, makes softplus give time steps that are uniform in their
    logarithm; dt_proj's weight is uniform within dt_scale / sqrt(dt_rank) of zero. out_proj is nn.Linear's,
    divided by sqrt(branches * num_layers). Biases of linear layers are zero, embeddings normal of std 0.02,
    everything else as `torch` has it: in_proj, x_proj, conv1d.

    Args:
        num_layers: of the whole model. None reads it as for `gpt`.
        dt_min, dt_max: between these are the time steps.
        dt_scale: of dt_proj's weight.
        dt_init_floor: smaller time steps become this.
        a_range: between these is minus the eigenvalue of each head in Mamba-2.
        branches: residual branches in each block: 2 where there is a feed-forward part too.

    Raises:
        ValueError, TypeError: numbers that are not positive and in this order. When used: a model without an
            A_log; no number of layers.

    Source: Gu & Dao 2023, section 3.6, Dao & Gu 2024; mamba_ssm's Mamba, Mamba2 and _init_weights.

    >>> [rule.text for rule in mamba(dt_max=0.05)][2]
    'softplus^-1 of exp(uniform_(-6.90776, -2.99573))'
    """
    check_num_layers(num_layers)
    check_num_layers(branches, "branches")
    _check(dt_init_floor=dt_init_floor, dt_scale=dt_scale)
    _check(dt_min=dt_min, dt_max=dt_max)
    if not isinstance(a_range, tuple | list) or len(a_range) != 2:
        raise TypeError(f"a_range must be two numbers, not {a_range!r}")
    _check(**{"a_range[0]": a_range[0], "a_range[1]": a_range[1]})
    low, high = _log(np.array([dt_min, dt_max])).tolist()
    steps = Uniform(low, high)
    text = f"softplus^-1 of exp(uniform_({low:.6g}, {high:.6g}))"
    time = Transformed(steps, _InverseSoftplus(dt_init_floor), f"{text}, at least {dt_init_floor!r}")
    heads = Transformed(Uniform(*a_range), _log, "log")
    last = Rule(Kaiming("uniform", a=math.sqrt(5), fan="torch"), module=nn.Linear, name=_RESIDUAL)
    return own(
        "mamba",
        Rule(ONES, parameter="D", where=_of_mixer),
        Rule(time, parameter="dt_bias", where=_of_mixer, label=text),
        Rule(time, parameter="bias", name=TIME_STEP, where=_in_mixer, label=text),
        Rule(
            _TimeWeight(dt_scale),
            parameter="weight",
            name=TIME_STEP,
            where=_in_mixer,
            label="uniform_(+-dt_scale/sqrt(dt_rank))",
        ),
        *KNOWN,
        *scaled([last], ByDepth(num_layers=num_layers, branches=branches, recipe="mamba")),
        Rule(ZEROS, module=nn.Linear, parameter="bias"),
        embedding_rule(Normal(0.0, 0.02)),
        *TORCH,
        needed=Rule(_ALog(heads), parameter="A_log", where=_of_mixer, label="log"),
    )


def _check(**numbers: float) -> None:
    """Raise TypeError or ValueError unless they are positive numbers, none smaller than the one before."""
    before = 0.0
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"{name} must be a number, not {number!r}")
        if not (0.0 < number <= sys.float_info.max) or (number < before and name != "dt_scale"):
            least = f" and at least {before:.6g}" * (before > 0)
            raise ValueError(f"{name} must be greater than 0, finite{least}, but found {number}")
        before = number


def _of_mixer(target: Target) -> bool:
    """Whether it is of the module that holds a state space."""
    return _is_mixer(target.module)


def _is_mixer(module: nn.Module) -> bool:
    held = module._parameters
    return "A_log" in held and "D" in held


def _in_mixer(target: Target) -> bool:
    """Whether its module is inside of such a one."""
    return any(map(_is_mixer, target.parents[-2:]))


@dataclass(frozen=True, slots=True)
class _TimeWeight:
    scale: float

    def __call__(self, target: Target) -> Distribution:
        bound = target.tensor.shape[1] ** -0.5 * self.scale
        return Uniform(-bound, bound)


@dataclass(frozen=True, slots=True)
class _ALog:
    """The logs of 1 .. d_state in each row; of one number for each head, what Mamba-2 has."""

    heads: Transformed

    def __call__(self, target: Target) -> Explained:
        shape = target.tensor.shape
        if len(shape) < 2:
            return Explained(self.heads, f"of {initialiser_text(self.heads.distribution)}")
        return Explained(_COLUMNS, f"of 1 .. {shape[-1]}")


def _by_column(zeros: _Doubles) -> _Doubles:
    return np.asarray(zeros + _log(np.arange(1.0, zeros.shape[-1] + 1)), dtype=np.float64)


_COLUMNS = Transformed(ZEROS, _by_column, "log of the column")


@dataclass(frozen=True, slots=True)
class _InverseSoftplus:
    """Of exp of what is given, which becomes `floor` where it is smaller."""

    floor: float

    def __call__(self, logs: _Doubles) -> _Doubles:
        steps = np.maximum(_exp(logs), self.floor)
        return steps + _log(1.0 - _exp(-steps))


def _exp(x: _Doubles) -> _Doubles:
    """docs/value-contract.md, section 9: exp by operations that are rounded correctly everywhere."""
    k = np.rint(x / (_LN2_HIGH + _LN2_LOW))
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    total = np.ones_like(r)
    for divisor in range(14, 0, -1):
        total = 1.0 + r * total / divisor
    return np.asarray(np.ldexp(total, k.astype(np.int64)), dtype=np.float64)


def _log(x: Any) -> _Doubles:
    """docs/value-contract.md, section 9: log likewise."""
    m, e = np.frexp(x)
    small = m < math.sqrt(0.5)
    m, k = np.where(small, 2.0 * m, m), e - small
    s = (m - 1.0) / (m + 1.0)
    z, total = s * s, np.zeros_like(s)
    for odd in range(25, 0, -2):
        total = 1.0 / odd + z * total
    return np.asarray(k * _LN2_HIGH + (2.0 * s * total + k * _LN2_LOW), dtype=np.float64)


MAMBA = mamba()
ready_made(MAMBA)
