"""Distributions as values, and the numbers by which initialisers choose them: fans, gains, stds.

Numbers only: no tensor, no generator, no PyTorch. The arithmetic is in float64, operation for operation that
of torch.nn.init, because a weight's value depends on the last bit of its std or bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from typing import ClassVar, Protocol

from convinit_ext.distributions._fans import FAN_MODES as FAN_MODES
from convinit_ext.distributions._fans import PYTORCH as PYTORCH
from convinit_ext.distributions._fans import Axes as Axes
from convinit_ext.distributions._fans import Axis as Axis
from convinit_ext.distributions._fans import Matrices as Matrices
from convinit_ext.distributions._fans import are_pytorchs as are_pytorchs
from convinit_ext.distributions._fans import as_axes as as_axes
from convinit_ext.distributions._fans import as_blocks as as_blocks
from convinit_ext.distributions._fans import as_finite as as_finite
from convinit_ext.distributions._fans import as_groups as as_groups
from convinit_ext.distributions._fans import as_plain as as_plain
from convinit_ext.distributions._fans import calculate_gain as calculate_gain
from convinit_ext.distributions._fans import fan_of as fan_of
from convinit_ext.distributions._fans import fans as fans
from convinit_ext.distributions._fans import matrices_of as matrices_of

_INF = math.inf
_BOUNDS = -2.0, 2.0  # of trunc_normal_, where none are given

FORMS = ("normal", "uniform", "truncated_normal")


class ParameterError(ValueError, RuntimeError):
    """A distribution cannot have these parameters. A RuntimeError too, as that is what PyTorch raises."""


class TooLargeError(ParameterError, OverflowError):
    """A number beyond float64. An OverflowError too, as that is what Python raises."""


def _as_float(value: float, what: str) -> float:
    """As PyTorch takes a float: any number, numpy's too, whose own arithmetic may overflow; but no text."""
    if not isinstance(value, str | bytes | bytearray):
        try:
            return float(value)
        except OverflowError as error:
            raise TooLargeError(f"{what} must be a number of float64: {error}") from error
        except (TypeError, ValueError):
            pass
    raise TypeError(f"{what} must be a number, not {value!r}")


def _make_floats(distribution: Distribution, *names: str) -> None:
    for name in names:
        value = _as_float(getattr(distribution, name), f"{type(distribution).__name__}: {name}")
        object.__setattr__(distribution, name, value)


class Distribution(Protocol):
    """What the fill engine needs to know: its code for the kind, and four numbers."""

    @property
    def kind(self) -> int: ...

    @property
    def params(self) -> tuple[float, float, float, float]: ...


@dataclass(frozen=True, slots=True)
class Constant:
    """Every element is `value`, rounded to the tensor's dtype."""

    kind: ClassVar[int] = 0
    value: float = 0.0

    def __post_init__(self) -> None:
        value = _as_float(self.value, "Constant: value")
        if type(self.value) is not int:  # which a buffer of integers takes exactly
            object.__setattr__(self, "value", value)
        if not -_INF < value < _INF:
            raise ParameterError(f"Constant expects a finite value, but found value={self.value}")

    @property
    def params(self) -> tuple[float, float, float, float]:
        return self.value, 0.0, 0.0, 0.0


@dataclass(frozen=True, slots=True)
class Uniform:
    """Uniform on [low, high); `low` itself where the two are equal."""

    kind: ClassVar[int] = 1
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not type(self.low) is type(self.high) is float:
            _make_floats(self, "low", "high")
        # One comparison turns away low > high, NaN, infinities and a range that float64 cannot hold.
        if not 0.0 <= self.high - self.low < _INF:
            raise ParameterError(
                "uniform_ expects to return a [from, to) range with finite bounds and a finite width, "
                f"but found from={self.low} and to={self.high}"
            )

    @property
    def params(self) -> tuple[float, float, float, float]:
        return self.low, self.high, 0.0, 0.0


@dataclass(frozen=True, slots=True)
class Normal:
    """Normal of the given mean and standard deviation."""

    kind: ClassVar[int] = 2
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not type(self.mean) is type(self.std) is float:
            _make_floats(self, "mean", "std")
        if not (0.0 <= self.std < _INF and -_INF < self.mean < _INF):
            _refuse_normal(self.mean, self.std)

    @property
    def params(self) -> tuple[float, float, float, float]:
        return self.mean, self.std, 0.0, 0.0


@dataclass(frozen=True, slots=True)
class TruncatedNormal:
    """Normal of the given mean and standard deviation (before truncation), conditioned on lying in [a, b].

    Args:
        mean: of the normal before truncation.
        std: of the normal before truncation.
        a: smallest value.
        b: largest value.
        cut: instead of a and b: they are mean - cut * std and mean + cut * std.
        corrected: with cut, whether the std that is given is that of the values, after truncation. The field
            `std` is the wider one before, as is the std that `cut` counts in.

    >>> TruncatedNormal(std=0.5, cut=2.0)
    TruncatedNormal(mean=0.0, std=0.5, a=-1.0, b=1.0)
    """

    kind: ClassVar[int] = 3
    mean: float = 0.0
    std: float = 1.0
    a: float = _BOUNDS[0]
    b: float = _BOUNDS[1]
    cut: InitVar[float | None] = field(default=None, kw_only=True)
    corrected: InitVar[bool] = field(default=False, kw_only=True)

    def __post_init__(self, cut: float | None, corrected: bool) -> None:
        if not type(self.mean) is type(self.std) is type(self.a) is type(self.b) is float:
            _make_floats(self, "mean", "std", "a", "b")
        if not (0.0 <= self.std < _INF and -_INF < self.mean < _INF):
            _refuse_normal(self.mean, self.std)
        if cut is not None or corrected:
            self._cut(cut, corrected)
        if not (self.a <= self.b and self.a < _INF and self.b > -_INF):
            raise ParameterError(
                "trunc_normal_ expects a <= b, where a may be -inf and b may be inf, "
                f"but found a={self.a} and b={self.b}"
            )

    def _cut(self, cut: float | None, corrected: bool) -> None:
        """Set the bounds, and if corrected the std, by a number of standard deviations."""
        if not isinstance(corrected, bool):
            raise TypeError(f"corrected must be True or False, not {corrected!r}")
        if cut is None:
            raise ParameterError("corrected=True needs cut=, bounds in standard deviations: cut=2.0")
        if (self.a, self.b) != _BOUNDS:
            raise ParameterError(
                "cut= and a=, b= each say where the values end: pass cut=, in standard deviations, or a= and "
                f"b=, but found cut={cut}, a={self.a} and b={self.b}"
            )
        cut = _as_float(cut, "cut")
        if not 0.0 < cut < _INF:
            raise ParameterError(f"cut must be greater than 0 and finite, but found cut={cut}")
        try:
            std = self.std / truncated_std(cut) if corrected else self.std
        except ZeroDivisionError:
            raise ParameterError(f"cut is too small to correct the std by, but found cut={cut}") from None
        for name, value in (("std", std), ("a", self.mean - cut * std), ("b", self.mean + cut * std)):
            object.__setattr__(self, name, value)

    @property
    def params(self) -> tuple[float, float, float, float]:
        return self.mean, self.std, self.a, self.b

    @property
    def cuts_nothing(self) -> bool:
        """Whether both bounds are more than 6 standard deviations away: 2 of 10**9 values are beyond.

        >>> TruncatedNormal(std=0.02).cuts_nothing, TruncatedNormal(std=0.02, cut=2.0).cuts_nothing
        (True, False)
        """
        return 0.0 < 6 * self.std < min(self.mean - self.a, self.b - self.mean)


def _refuse_normal(mean: float, std: float) -> None:
    if not 0.0 <= std < _INF:
        raise ParameterError(f"normal expects std >= 0.0 and finite, but found std {std}")
    raise ParameterError(f"normal expects a finite mean, but found mean {mean}")


def kaiming_std(fan: float, gain: float) -> float:
    """He et al. 2015, eq. 10 and 14, as torch.nn.init.kaiming_normal_ computes it."""
    if gain != gain:
        raise ParameterError(f"a, the negative slope, must be a number, but found {gain}")
    return gain / math.sqrt(fan)


def xavier_std(fan_in: int, fan_out: int, gain: float = 1.0) -> float:
    """Glorot & Bengio 2010, eq. 12, as torch.nn.init.xavier_normal_ computes it."""
    std = math.sqrt(2.0 / float(fan_in + fan_out))
    try:
        if 0.0 <= gain < _INF:
            return gain * std
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise type(error)(f"gain must be a number, not {gain!r}") from error
    raise ParameterError(f"Xavier expects gain >= 0.0 and finite, but found gain {gain}")


def variance_scaling_std(scale: float, fan: float) -> float:
    """The std of variance scale / fan, as jax.nn.initializers.variance_scaling computes it."""
    try:
        if 0.0 <= scale < _INF:
            return math.sqrt(scale / fan)
    except (TypeError, OverflowError) as error:
        raise type(error)(f"scale must be a number of float64, not {scale!r}") from error
    raise ParameterError(f"variance scaling expects scale >= 0.0 and finite, but found scale {scale}")


def truncated_std(cut: float) -> float:
    """The standard deviation of N(0, 1) conditioned on [-cut, cut].

    It is sqrt(T / (1 + T)), T = cut^2 / 3 + cut^4 / (3 * 5) + ...: sums of positive numbers, and neither exp
    nor erf, whose last bits are the C library's.

    >>> truncated_std(2.0) == 0.87962566103423978  # the digits of jax.nn.initializers and TensorFlow
    True
    """
    total, term, odd = 0.0, 1.0, 1.0
    while total + term != total:
        odd += 2.0
        term *= cut * cut / odd
        total += term
    return math.sqrt(1.0 / (1.0 / total + 1.0))


_STD_CUT_AT_2 = truncated_std(2.0)


def zero_mean(std: float, form: str) -> Distribution:
    """Return the distribution of mean zero with this std: Kaiming, Xavier and LeCun all end here.

    The form is "normal", "uniform", or "truncated_normal": cut at two standard deviations of the wider normal
    whose std after the cut is `std`.

    Raises:
        ValueError: another form; a std that is negative or not finite.

    >>> zero_mean(0.5, "normal")
    Normal(mean=0.0, std=0.5)
    """
    if form == "normal":
        return Normal(0.0, std)
    if form == "uniform":
        bound = math.sqrt(3.0) * std
        return Uniform(-bound, bound)
    if form == "truncated_normal":
        wider = std / _STD_CUT_AT_2
        return TruncatedNormal(0.0, wider, -2 * wider, 2 * wider)
    raise ValueError(f"Distribution {form} not supported, please use one of {list(FORMS)}")


def kaiming_fan(shape: Sequence[int], mode: str, groups: int = 1, axes: Axes = PYTORCH) -> int:
    """The fan of one of the two modes that torch.nn.init.kaiming_normal_ has, in any case."""
    if not isinstance(mode, str):
        raise AttributeError(f"mode must be 'fan_in' or 'fan_out', not {mode!r}")  # as of torch.nn.init
    lower = mode.lower()
    if lower not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {lower} not supported, please use one of ['fan_in', 'fan_out']")
    fan_in, fan_out = fans(shape, groups=groups, **axes._asdict())
    return fan_in if lower == "fan_in" else fan_out


def kaiming(
    shape: Sequence[int],
    a: float,
    mode: str,
    nonlinearity: str,
    form: str,
    groups: int = 1,
    axes: Axes = PYTORCH,
) -> Distribution:
    """What torch.nn.init.kaiming_normal_ or kaiming_uniform_ fills a weight of this shape with.

    >>> kaiming((64, 50), 0, "fan_in", "relu", "normal")
    Normal(mean=0.0, std=0.2)
    """
    fan = kaiming_fan(shape, mode, groups, axes)
    return zero_mean(kaiming_std(fan, calculate_gain(nonlinearity, a)), form)


def xavier(
    shape: Sequence[int], gain: float, form: str, groups: int = 1, axes: Axes = PYTORCH
) -> Distribution:
    """What torch.nn.init.xavier_normal_ or xavier_uniform_ fills a weight of this shape with.

    >>> xavier((20, 30), 1.0, "normal")
    Normal(mean=0.0, std=0.2)
    """
    return zero_mean(xavier_std(*fans(shape, groups=groups, **axes._asdict()), gain), form)


def variance_scaling(scale: float, mode: str, distribution: str, fan_in: int, fan_out: int) -> Distribution:
    """Return the distribution of mean zero and variance scale / fan, the fan chosen by mode, as JAX has it.

    >>> variance_scaling(2.0, "fan_in", "normal", 50, 100)
    Normal(mean=0.0, std=0.2)
    """
    return zero_mean(variance_scaling_std(scale, fan_of(mode, fan_in, fan_out)), distribution)
