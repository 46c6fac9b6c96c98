"""What a rule makes of a parameter: its distribution, or where its values come from; checked."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convinit_ext._engine import LARGEST, bounds_fit
from convinit_ext.distributions import Constant, Distribution, Normal, TruncatedNormal, Uniform
from convinit_ext.recipes import (
    ZEROS,
    CopyFrom,
    Derived,
    Kaiming,
    MinusIdentity,
    NormOf,
    Preset,
    Redrawn,
    RowZeroed,
    Rule,
    Target,
    Values,
    VarianceScaling,
    Xavier,
    fan_layout,
    is_values,
)


class Filling(NamedTuple):
    """What a rule makes of a parameter; the first four fields are those of Row.

    Args:
        distribution: of the values; ZEROS where `derived` or `copy` says them instead.
        zero_row: the row of dimension 0 that is zero instead, if any.
        initialiser: what the rule calls it.
        fans: (fan_in, fan_out), None for constants and for fewer than 2 dimensions.
        derived: what PyTorch writes after the fill.
        copy: the parameter whose filling it is.
    """

    distribution: Distribution
    zero_row: int | None
    initialiser: str
    fans: tuple[int, int] | None
    derived: Derived | None = None
    copy: CopyFrom | None = None

    def copied_to(self, dtype: torch.dtype, own: torch.dtype) -> Filling:
        """What a copy of another dtype gets of a parameter whose values are of its own."""
        other_words = dtype != own and torch.float64 in (dtype, own)
        if not other_words or self.derived is not None or isinstance(self.distribution, Constant):
            return self
        redrawn = Redrawn(self.distribution, self.zero_row, own)
        return self._replace(distribution=ZEROS, zero_row=None, derived=redrawn)


# Initialisers that look at a parameter's shape and at its layer's fans, and at nothing else. Exactly these: a
# type derived from one may look at more.
_BY_SHAPE = {Kaiming, Xavier, VarianceScaling, Constant, Uniform, Normal, TruncatedNormal}


class Fillings:
    """What rules make of parameters. The layers of a large model repeat: equal questions are asked once."""

    def __init__(self) -> None:
        self._known: dict[object, Filling] = {}
        self._texts: dict[int, str] = {}

    def of(self, rule: Rule, target: Target, dtype: torch.dtype | None) -> Filling:
        """The filling of a parameter whose values will be of this dtype (None: of its own)."""
        tensor = target.tensor
        if type(rule.init) not in _BY_SHAPE:
            return self._new(rule, target, dtype)
        question = id(rule), tensor.shape, tensor.dtype, fan_layout(target.module)
        if question not in self._known:
            self._known[question] = self._new(rule, target, dtype)
        return self._known[question]

    def _new(self, rule: Rule, target: Target, dtype: torch.dtype | None) -> Filling:
        if id(rule) not in self._texts:
            self._texts[id(rule)] = rule.text
        text = self._texts[id(rule)]
        values = _values(rule, target)
        if isinstance(values, CopyFrom):
            return Filling(ZEROS, None, str(values), None, copy=values)
        if isinstance(values, Preset | NormOf | MinusIdentity):
            return Filling(ZEROS, None, text if rule.init is not values else str(values), None, values)
        distribution, zero_row = (
            (values.distribution, values.row) if isinstance(values, RowZeroed) else (values, None)
        )
        if zero_row is not None and not 0 <= zero_row < target.tensor.shape[0]:
            raise ValueError(f"parameter {target.name!r}, {text}: there is no row {zero_row} to make zero")
        check_range(distribution, dtype or target.tensor.dtype, f"parameter {target.name!r}")
        fans = None
        if target.tensor.ndim >= 2 and not isinstance(distribution, Constant):
            fans = target.fans(getattr(rule.init, "fan", None))
        return Filling(distribution, zero_row, text, fans)


def _values(rule: Rule, target: Target) -> Values:
    """What the rule's initialiser says, with the parameter's name on its errors."""
    if target.tensor.numel() == 0:
        return ZEROS  # nothing to fill, and a fan of zero has no std
    about = f"parameter {target.name!r}, {rule.text}"
    try:
        said = rule.init if is_values(rule.init) else rule.init(target)
        values = Preset(said) if isinstance(said, Tensor) else said
    except TypeError as error:
        raise TypeError(f"{about}: {error}") from error
    except AttributeError as error:  # of a function that knows only some modules
        raise AttributeError(f"{about}: {error}") from error
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{about}: {error}") from error
    inner = values.distribution if isinstance(values, RowZeroed) else values
    if not is_values(inner) or isinstance(inner, RowZeroed):
        raise TypeError(f"{about}: must return a distribution, not {inner!r}")
    return values


def check_range(distribution: Distribution, dtype: torch.dtype, what: str) -> None:
    """Raises ValueError where the dtype cannot hold a constant, or a uniform's bounds and their difference.

    The engine would raise it too, without a name.
    """
    if isinstance(distribution, Constant):
        largest = LARGEST[dtype] if dtype in LARGEST else torch.finfo(dtype).max  # of other buffers
        if abs(distribution.value) > largest:
            raise ValueError(
                f"{what}: {dtype} cannot hold the constant {distribution.value:.6g}; its largest number is "
                f"{largest:.6g}"
            )
    elif isinstance(distribution, Uniform):
        low, high = distribution.low, distribution.high
        if not bounds_fit(low, high, dtype):
            raise ValueError(f"{what}: {dtype} cannot hold uniform values between {low} and {high}")
