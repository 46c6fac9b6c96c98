"""Initialisers: what makes a distribution of a parameter's shape and layer, and the text of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from inspect import Parameter, Signature, signature
from typing import Any, TypeAlias

from torch import Tensor
from typing_extensions import TypeIs

from convinit_ext import distributions
from convinit_ext.distributions import (
    PYTORCH,
    Axes,
    Axis,
    Constant,
    Distribution,
    Normal,
    TruncatedNormal,
    Uniform,
)
from convinit_ext.recipes._derived import CopyFrom, NormOf, Preset, Redrawn, Transformed
from convinit_ext.recipes._orthogonal import DeltaOrthogonal, Orthogonal
from convinit_ext.recipes._target import FANS, Fan, Target, check_axes

ZEROS = Constant(0.0)
ONES = Constant(1.0)


@dataclass(frozen=True, slots=True)
class RowZeroed:
    """Values that are drawn, but for one row of dimension 0, which is zero: an embedding's padding."""

    distribution: Distribution | Orthogonal | DeltaOrthogonal
    row: int


@dataclass(frozen=True, slots=True)
class Stacked:
    """Matrices that lie next to each other along `dim`, each with a size there and a distribution of its own.

    `fans` are (fan_in, fan_out) of the last of them.
    """

    parts: tuple[tuple[int, Distribution], ...]
    dim: int
    fans: tuple[int, int]


# What a rule may have for an initialiser, and what a function of the Target may return.
_OtherValues: TypeAlias = (
    Orthogonal | DeltaOrthogonal | RowZeroed | Stacked | CopyFrom | Preset | Redrawn | Transformed | NormOf
)
Values: TypeAlias = Distribution | _OtherValues


@dataclass(frozen=True, slots=True)
class Explained:
    """Values, and why a parameter has them, for the report."""

    values: Values
    why: str


Initialiser: TypeAlias = Values | Callable[[Target], Values | Explained | Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfAxes:
    """Which axes of a weight are what: `convinit_ext.distributions.fans` says it of each."""

    in_axis: Axis | None = None
    out_axis: Axis | None = None
    batch_axis: Axis = ()
    blocks: int = 1

    @property
    def axes(self) -> Axes:
        return Axes(self.in_axis, self.out_axis, self.batch_axis, self.blocks)


class _FromFans(_OfAxes):
    """A distribution of mean zero whose std depends on fans: the base of Kaiming, Xavier, VarianceScaling."""

    __slots__ = ()
    fan: Fan | None

    def __post_init__(self) -> None:
        self.of_fans(1, 1)
        for field in fields(self):
            if type(field.default) is float:
                number = distributions.as_plain(getattr(self, field.name), field.name)
                object.__setattr__(self, field.name, number)
        if self.fan is not None and self.fan not in FANS:
            raise ValueError(f"fan must be one of {list(FANS)}, not {self.fan!r}")
        check_axes(self)
        if self.fan == "torch" and self.axes != PYTORCH:
            raise ValueError(
                "fan='torch' is how PyTorch counts, and in_axis=, out_axis=, batch_axis= and blocks= say how "
                "to count: accepted is the one or the others"
            )

    def of_fans(self, fan_in: int, fan_out: int) -> Distribution:
        raise NotImplementedError

    def fans(self, target: Target) -> tuple[int, int]:
        """Return the (fan_in, fan_out) of a parameter that this initialiser takes."""
        return target.fans(self.fan, self.axes)

    def __call__(self, target: Target) -> Distribution:
        return self.of_fans(*self.fans(target))

    def __str__(self) -> str:
        return initialiser_text(self)


def fans_of(init: object, target: Target) -> tuple[int, int] | None:
    """Return the fans of a parameter that an initialiser takes; where it takes none, its layer's, if any."""
    if isinstance(init, _FromFans):
        return init.fans(target)
    return target.fans() if target.tensor.ndim >= 2 else None


@dataclass(frozen=True, slots=True)
class Kaiming(_FromFans):
    """Make kaiming_normal_ or kaiming_uniform_ of torch.nn.init: mean zero, std gain / sqrt(fan).

    Args:
        form: "normal", "uniform" or "truncated_normal".
        a: negative slope of the leaky ReLU that follows.
        mode: "fan_in" or "fan_out" ("fan_avg", "fan_geo_avg" too).
        nonlinearity: what follows, as in torch.nn.init.calculate_gain.
        fan: "true" or "torch" whatever the call says; None leaves it to the call.
        in_axis, out_axis, batch_axis, blocks: as for init.xavier_uniform_; what they leave out is as the
            parameter's module has it.

    Raises:
        ValueError, TypeError: an argument that is not one of these, here and not when the rule is used.

    Source: He et al. 2015, eq. 10 and 14.

    >>> str(Kaiming("normal", mode="fan_out", nonlinearity="relu"))
    "kaiming_normal_(mode='fan_out', nonlinearity='relu')"
    """

    form: str = "normal"
    a: float = 0.0
    mode: str = "fan_in"
    nonlinearity: str = "leaky_relu"
    fan: Fan | None = None

    def of_fans(self, fan_in: int, fan_out: int) -> Distribution:
        fan = distributions.fan_of(self.mode, fan_in, fan_out)
        gain = distributions.calculate_gain(self.nonlinearity, self.a)
        return distributions.zero_mean(distributions.kaiming_std(fan, gain), self.form)


@dataclass(frozen=True, slots=True)
class Xavier(_FromFans):
    """Make xavier_uniform_ or xavier_normal_ of torch.nn.init: std gain * sqrt(2 / (fan_in + fan_out)).

    Args:
        form: "uniform", "normal" or "truncated_normal".
        gain: a factor of the std.
        fan, in_axis, out_axis, batch_axis, blocks: as for Kaiming.

    Raises:
        ValueError, TypeError: an argument that is not one of these.

    Source: Glorot & Bengio 2010, eq. 12.

    >>> str(Xavier("uniform", gain=2.0))
    'xavier_uniform_(gain=2)'
    """

    form: str = "uniform"
    gain: float = 1.0
    fan: Fan | None = None

    def of_fans(self, fan_in: int, fan_out: int) -> Distribution:
        return distributions.zero_mean(distributions.xavier_std(fan_in, fan_out, self.gain), self.form)


@dataclass(frozen=True, slots=True)
class VarianceScaling(_FromFans):
    """Make variance_scaling_ of jax.nn.initializers: mean zero, variance scale / fan.

    Args:
        scale: 1 for LeCun's initialisation, 2 for He's.
        mode: "fan_in", "fan_out", "fan_avg" or "fan_geo_avg".
        form: "truncated_normal", "normal" or "uniform".
        fan, in_axis, out_axis, batch_axis, blocks: as for Kaiming.

    Raises:
        ValueError, TypeError: an argument that is not one of these.

    Source: jax.nn.initializers.variance_scaling; LeCun et al. 1998, section 4.6, for scale 1 and fan_in.

    >>> str(VarianceScaling()), str(VarianceScaling(2.0, "fan_avg", "uniform"))
    ('lecun_normal_', "variance_scaling_(scale=2, mode='fan_avg', distribution='uniform')")
    """

    scale: float = 1.0
    mode: str = "fan_in"
    form: str = "truncated_normal"
    fan: Fan | None = None

    def of_fans(self, fan_in: int, fan_out: int) -> Distribution:
        return distributions.variance_scaling(self.scale, self.mode, self.form, fan_in, fan_out)


@dataclass(frozen=True)
class Function:
    """How torch.nn.init, files and reports write an initialiser: the first fields, which the name says,
    and the names of the arguments for the others.
    """

    kind: type[Any]
    fixed: tuple[Any, ...]
    arguments: tuple[str, ...] = ()

    @cached_property
    def _parameters(self) -> list[Parameter]:
        return [*signature(self.kind).parameters.values()]

    @cached_property
    def signature(self) -> Signature:
        """Return the function's arguments with the dataclass's defaults; constant_ has none."""
        return Signature(
            [
                Parameter(name, each.kind, default=Parameter.empty if name == "val" else each.default)
                for name, each in zip(self.arguments, self._parameters[len(self.fixed) :], strict=True)
            ]
        )

    def values(self, init: object) -> list[Any] | None:
        """Return the arguments of the call that means this initialiser; None if no call does."""
        if not isinstance(init, self.kind):
            return None
        values = [getattr(init, each.name) for each in self._parameters]
        for value, fixed in zip(values, self.fixed, strict=False):
            if value != fixed or str(value)[0] != str(fixed)[0]:  # -0.0 is no zeros_
                return None
        return values[len(self.fixed) :]


_FAN = ("fan", *Axes._fields)

# By name; the first that can mean an initialiser is the one that is written.
FUNCTIONS: dict[str, Function] = {
    "zeros_": Function(Constant, (0.0,)),
    "ones_": Function(Constant, (1.0,)),
    "constant_": Function(Constant, (), ("val",)),
    "uniform_": Function(Uniform, (), ("a", "b")),
    "normal_": Function(Normal, (), ("mean", "std")),
    "trunc_normal_": Function(TruncatedNormal, (), ("mean", "std", "a", "b", "cut", "corrected")),
    **{
        f"kaiming_{form}_": Function(Kaiming, (form,), ("a", "mode", "nonlinearity", *_FAN))
        for form in distributions.FORMS
    },
    **{f"xavier_{form}_": Function(Xavier, (form,), ("gain", *_FAN)) for form in distributions.FORMS},
    "lecun_normal_": Function(VarianceScaling, (1.0, "fan_in", "truncated_normal"), _FAN),
    "lecun_uniform_": Function(VarianceScaling, (1.0, "fan_in", "uniform"), _FAN),
    "variance_scaling_": Function(VarianceScaling, (), ("scale", "mode", "distribution", *_FAN)),
    "orthogonal_": Function(Orthogonal, (), ("gain", "blocks", *Axes._fields[:3])),
    "delta_orthogonal_": Function(DeltaOrthogonal, (), ("gain",)),
    "copy_from": Function(CopyFrom, (), ("name",)),
}


def initialiser_text(init: object, exact: bool = False) -> str:
    """Return an initialiser as a call of torch.nn.init: 'zeros_', 'uniform_(-0.1, 0.1)'.

    With every digit, and with `fan`, if it is to be exact, so that a file can hold it.
    """
    for name, function in FUNCTIONS.items():
        values = function.values(init)
        if values is not None:
            arguments = ", ".join(_arguments(function, values, exact))
            return f"{name}({arguments})" if arguments else name
    if isinstance(init, RowZeroed):
        return f"{initialiser_text(init.distribution)}, row {init.row} zero"
    if isinstance(init, Preset | Transformed | NormOf):
        return str(init)
    return getattr(init, "__name__", type(init).__name__)


def _arguments(function: Function, values: list[Any], exact: bool) -> Iterator[str]:
    """Yield all arguments; of those by name alone, and beside a fan or gain, what is not the default."""
    is_short = not {"fan", "gain"}.isdisjoint(function.arguments)
    for value, argument in zip(values, function.signature.parameters.values(), strict=True):
        text = f"{value:.6g}" if isinstance(value, int | float) and not exact else repr(value)
        if not is_short and argument.kind is not Parameter.KEYWORD_ONLY:
            yield text
        elif value != argument.default and (exact or argument.name != "fan"):
            yield f"{argument.name}={text}"


def is_distribution(value: object) -> TypeIs[Distribution]:
    """Whether a value is a distribution, of this package or another with its attributes."""
    return hasattr(value, "kind") and hasattr(value, "params") and not isinstance(value, type)


def is_values(init: object) -> TypeIs[Values]:
    """Whether an initialiser is the values itself, and not a function of the Target."""
    return is_distribution(init) or isinstance(init, _OtherValues)
