"""Distributions as values, and the numbers by which initialisers choose them: fans, gains, stds.

Numbers only: no tensor, no generator, no PyTorch. The arithmetic is in float64, operation for operation that
of torch.nn.init, because a weight's value depends on the last bit of its std or bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

_INF = math.inf

# Standard deviation of N(0, 1) conditioned on [-2, 2]; the digits of jax.nn.initializers and TensorFlow.
TRUNCATED_STD = 0.87962566103423978

FORMS = ("normal", "uniform", "truncated_normal")
FAN_MODES = ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")

_GAINS: dict[str, float] = {
    "linear": 1,
    "conv1d": 1,
    "conv2d": 1,
    "conv3d": 1,
    "conv_transpose1d": 1,
    "conv_transpose2d": 1,
    "conv_transpose3d": 1,
    "sigmoid": 1,
    "tanh": 5.0 / 3,
    "relu": math.sqrt(2.0),
    "selu": 3.0 / 4,
}


class ParameterError(ValueError, RuntimeError):
    """A distribution cannot have these parameters. A RuntimeError too, as that is what PyTorch raises."""


class TooLargeError(ParameterError, OverflowError):
    """A number beyond float64. An OverflowError too, as that is what Python raises."""


def _as_float(value: float) -> float:
    """As PyTorch takes a float: any number, numpy's too, whose own arithmetic may overflow; but no text."""
    if not isinstance(value, str | bytes | bytearray):
        try:
            return float(value)
        except OverflowError as error:
            raise TooLargeError(f"a distribution's parameters must be numbers of float64: {error}") from error
        except (TypeError, ValueError):
            pass
    raise TypeError(f"a distribution's parameters must be numbers, and {value!r} is none")


def _make_floats(distribution: Distribution, *names: str) -> None:
    for name in names:
        object.__setattr__(distribution, name, _as_float(getattr(distribution, name)))


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
        value = _as_float(self.value)
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
    """Normal of the given mean and standard deviation (before truncation), conditioned on lying in [a, b]."""

    kind: ClassVar[int] = 3
    mean: float = 0.0
    std: float = 1.0
    a: float = -2.0
    b: float = 2.0

    def __post_init__(self) -> None:
        if not type(self.mean) is type(self.std) is type(self.a) is type(self.b) is float:
            _make_floats(self, "mean", "std", "a", "b")
        if not (0.0 <= self.std < _INF and -_INF < self.mean < _INF):
            _refuse_normal(self.mean, self.std)
        if not (self.a <= self.b and self.a < _INF and self.b > -_INF):
            raise ParameterError(
                "trunc_normal_ expects a <= b, where a may be -inf and b may be inf, "
                f"but found a={self.a} and b={self.b}"
            )

    @property
    def params(self) -> tuple[float, float, float, float]:
        return self.mean, self.std, self.a, self.b


def _refuse_normal(mean: float, std: float) -> None:
    if not 0.0 <= std < _INF:
        raise ParameterError(f"normal expects std >= 0.0 and finite, but found std {std}")
    raise ParameterError(f"normal expects a finite mean, but found mean {mean}")


def fans(shape: Sequence[int], *, groups: int = 1, transposed: bool = False) -> tuple[int, int]:
    """How many inputs feed one output, and how many outputs one input feeds: (fan_in, fan_out).

    Args:
        shape: a weight's shape, [out, in / groups, *kernel], or if transposed [in, out / groups, *kernel].
        groups: of the convolution. PyTorch's own fan_out ignores it (its groups is always 1).
        transposed: whether the weight is that of a ConvTranspose. PyTorch's own fans ignore it.

    Raises:
        ValueError: fewer than 2 dimensions, or groups does not divide the first.

    Source: torch.nn.init._calculate_fan_in_and_fan_out.

    >>> fans((64, 16, 3, 3)), fans((64, 16, 3, 3), groups=4)
    ((144, 576), (144, 144))
    """
    if len(shape) < 2:
        raise ValueError("Fan in and fan out can not be computed for tensor with fewer than 2 dimensions")
    first, second, *kernel = shape
    if groups != 1:
        if groups < 1 or first % groups:
            raise ValueError(f"dim 0 must be divisible by groups, but found {first} and groups={groups}")
        first //= groups
    receptive_field = 1
    for size in kernel:
        receptive_field *= size
    fan_in, fan_out = second * receptive_field, first * receptive_field
    return (fan_out, fan_in) if transposed else (fan_in, fan_out)


def fan_of(mode: str, fan_in: int, fan_out: int) -> float:
    """The fan that variance scaling divides by: fan_in, fan_out, or their arithmetic or geometric mean.

    Raises:
        ValueError: another mode.

    >>> [fan_of(mode, 2, 8) for mode in FAN_MODES]
    [2, 8, 5.0, 4.0]
    """
    if mode == "fan_in":
        return fan_in
    if mode == "fan_out":
        return fan_out
    if mode == "fan_avg":
        return (fan_in + fan_out) / 2
    if mode == "fan_geo_avg":
        return math.sqrt(fan_in * fan_out)
    raise ValueError(f"Mode {mode} not supported, please use one of {list(FAN_MODES)}")


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the scale of activations through a nonlinearity.

    Args:
        nonlinearity: name of a function of torch.nn.functional.
        param: negative slope of leaky_relu (default 0.01); the others take none.

    Raises:
        ValueError: a name that is not listed, a slope that is not a number.

    Source: torch.nn.init.calculate_gain.

    >>> calculate_gain("leaky_relu", 0.0) == calculate_gain("relu") == 2**0.5
    True
    """
    if nonlinearity == "leaky_relu":
        if param is None:
            param = 0.01
        elif isinstance(param, bool) or not isinstance(param, (int, float)):
            raise ValueError(f"negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + param**2))
    gain = _GAINS.get(nonlinearity) if isinstance(nonlinearity, str) else None
    if gain is None:
        raise ValueError(
            f"Unsupported nonlinearity {nonlinearity}, please use one of {['leaky_relu', *_GAINS]}"
        )
    return gain


def kaiming_std(fan: float, gain: float) -> float:
    """He et al. 2015, eq. 10 and 14, as torch.nn.init.kaiming_normal_ computes it."""
    return gain / math.sqrt(fan)


def xavier_std(fan_in: int, fan_out: int, gain: float = 1.0) -> float:
    """Glorot & Bengio 2010, eq. 12, as torch.nn.init.xavier_normal_ computes it."""
    return gain * math.sqrt(2.0 / float(fan_in + fan_out))


def variance_scaling_std(scale: float, fan: float) -> float:
    """The std of variance scale / fan, as jax.nn.initializers.variance_scaling computes it."""
    if not 0.0 <= scale < _INF:
        raise ParameterError(f"variance scaling expects scale >= 0.0 and finite, but found scale {scale}")
    return math.sqrt(scale / fan)


def zero_mean(std: float, form: str) -> Distribution:
    """The distribution of mean zero with this std: Kaiming, Xavier and LeCun all end here.

    Args:
        std: standard deviation of the values.
        form: "normal", "uniform", or "truncated_normal": cut at two standard deviations of the wider normal
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
        wider = std / TRUNCATED_STD
        return TruncatedNormal(0.0, wider, -2 * wider, 2 * wider)
    raise ValueError(f"Distribution {form} not supported, please use one of {list(FORMS)}")


def kaiming_fan(shape: Sequence[int], mode: str, groups: int = 1) -> int:
    """The fan of one of the two modes that torch.nn.init.kaiming_normal_ has, in any case."""
    lower = mode.lower()
    if lower not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {lower} not supported, please use one of ['fan_in', 'fan_out']")
    fan_in, fan_out = fans(shape, groups=groups)
    return fan_in if lower == "fan_in" else fan_out


def kaiming(
    shape: Sequence[int], a: float, mode: str, nonlinearity: str, form: str, groups: int = 1
) -> Distribution:
    """What torch.nn.init.kaiming_normal_ or kaiming_uniform_ fills a weight of this shape with.

    >>> kaiming((64, 50), 0, "fan_in", "relu", "normal")
    Normal(mean=0.0, std=0.2)
    """
    return zero_mean(kaiming_std(kaiming_fan(shape, mode, groups), calculate_gain(nonlinearity, a)), form)


def xavier(shape: Sequence[int], gain: float, form: str, groups: int = 1) -> Distribution:
    """What torch.nn.init.xavier_normal_ or xavier_uniform_ fills a weight of this shape with.

    >>> xavier((20, 30), 1.0, "normal")
    Normal(mean=0.0, std=0.2)
    """
    return zero_mean(xavier_std(*fans(shape, groups=groups), gain), form)


def variance_scaling(scale: float, mode: str, distribution: str, fan_in: int, fan_out: int) -> Distribution:
    """Mean zero and variance scale / fan, the fan chosen by mode.

    Args:
        scale: factor of the variance: 2 for He's initialisation, 1 for LeCun's and (with fan_avg) Glorot's.
        mode: "fan_in", "fan_out", "fan_avg" or "fan_geo_avg".
        distribution: "normal", "uniform" or "truncated_normal".
        fan_in: how many inputs feed one output.
        fan_out: how many outputs one input feeds.

    Raises:
        ValueError: another mode or distribution, or a negative scale.

    Source: jax.nn.initializers.variance_scaling.

    >>> variance_scaling(2.0, "fan_in", "normal", 50, 100)
    Normal(mean=0.0, std=0.2)
    """
    return zero_mean(variance_scaling_std(scale, fan_of(mode, fan_in, fan_out)), distribution)
