"""Initialisers: functions from a parameter, as its rule sees it, to the distribution of its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from typing_extensions import TypeIs

from convinit_ext import distributions
from convinit_ext.distributions import Constant, Distribution
from convinit_ext.recipes._derived import CopyFrom, MinusIdentity, NormOf, Preset

Fan: TypeAlias = Literal["true", "torch"]
FANS: tuple[Fan, ...] = ("true", "torch")

ZEROS = Constant(0.0)
ONES = Constant(1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One parameter as a rule sees it: its names, its tensor's shape, and the modules around it.

    Args:
        name: canonical full name, "layer1.0.conv1.weight".
        parameter: the name inside its module, "weight".
        tensor: the parameter; its values do not count, and are not there yet in a meta model.
        module: the module that owns it.
        parents: the modules around `module`, outermost first.
        fan: whose fans count where an initialiser does not say: the true ones, or PyTorch's.
        plain: of a parametrized weight: the same tensor as the weight that the module would have without.
        start: of a part that no rule for the plain weight is for: its values. The magnitude of weight
            normalisation is the norm of the other part.
    """

    name: str
    parameter: str
    tensor: Tensor
    module: Any  # an nn.Module; rules read attributes that only its own type has
    parents: tuple[nn.Module, ...] = ()
    fan: Fan = "true"
    plain: Target | None = None
    start: NormOf | MinusIdentity | None = None

    def fans(self, fan: Fan | None = None) -> tuple[int, int]:
        """(fan_in, fan_out). PyTorch's differ from the true ones in transposed and in grouped convolutions,
        and in the Conv1D of transformers, whose weight is [in, out].

        Raises:
            ValueError: fewer than 2 dimensions.
        """
        shape = tuple(self.tensor.shape)
        layout = None if (fan or self.fan) == "torch" else fan_layout(self.module)
        if layout is None or (len(shape) < 3 and isinstance(self.module, _ConvNd)):
            return distributions.fans(shape)
        groups, transposed = layout
        return distributions.fans(shape, groups=groups, transposed=transposed)


@dataclass(frozen=True, slots=True)
class RowZeroed:
    """A distribution, but for one row of dimension 0, which is zero: an embedding's padding."""

    distribution: Distribution
    row: int


# What a rule may say, and what a function may return.
Values: TypeAlias = Distribution | RowZeroed | CopyFrom | Preset | NormOf | MinusIdentity
Initialiser: TypeAlias = Values | Callable[[Target], Values | Tensor]


@dataclass(frozen=True, slots=True)
class Kaiming:
    """kaiming_normal_ or kaiming_uniform_ of torch.nn.init: to a mean of zero and a std of gain / sqrt(fan).

    Args:
        form: "normal", "uniform" or "truncated_normal".
        a: negative slope of the leaky ReLU that follows.
        mode: "fan_in" or "fan_out" ("fan_avg", "fan_geo_avg" too).
        nonlinearity: what follows, as in torch.nn.init.calculate_gain.
        fan: "true" or "torch" whatever the call says; None leaves it to the call.

    Raises:
        ValueError: an argument that is not one of these, here and not when the rule is used.

    Source: He et al. 2015, eq. 10 and 14.

    >>> str(Kaiming("normal", mode="fan_out", nonlinearity="relu"))
    "kaiming_normal_(mode='fan_out', nonlinearity='relu')"
    """

    form: str = "normal"
    a: float = 0.0
    mode: str = "fan_in"
    nonlinearity: str = "leaky_relu"
    fan: Fan | None = None

    def __post_init__(self) -> None:
        distributions.zero_mean(distributions.calculate_gain(self.nonlinearity, self.a), self.form)
        distributions.fan_of(self.mode, 1, 1)
        _check_fan(self.fan)

    def __call__(self, target: Target) -> Distribution:
        fan = distributions.fan_of(self.mode, *target.fans(self.fan))
        gain = distributions.calculate_gain(self.nonlinearity, self.a)
        return distributions.zero_mean(distributions.kaiming_std(fan, gain), self.form)

    def __str__(self) -> str:
        a = f"a={self.a:.6g}" if self.a else ""
        mode = f"mode={self.mode!r}" if self.mode != "fan_in" else ""
        nonlinearity = f"nonlinearity={self.nonlinearity!r}" if self.nonlinearity != "leaky_relu" else ""
        return _call(f"kaiming_{self.form}_", a, mode, nonlinearity)


@dataclass(frozen=True, slots=True)
class Xavier:
    """xavier_uniform_ or xavier_normal_ of torch.nn.init: to a std of gain * sqrt(2 / (fan_in + fan_out)).

    Args:
        form: "uniform", "normal" or "truncated_normal".
        gain: a factor of the std.
        fan: "true" or "torch" whatever the call says; None leaves it to the call.

    Raises:
        ValueError: an argument that is not one of these.

    Source: Glorot & Bengio 2010, eq. 12.

    >>> str(Xavier("uniform", gain=2.0))
    'xavier_uniform_(gain=2)'
    """

    form: str = "uniform"
    gain: float = 1.0
    fan: Fan | None = None

    def __post_init__(self) -> None:
        distributions.zero_mean(self.gain, self.form)
        _check_fan(self.fan)

    def __call__(self, target: Target) -> Distribution:
        std = distributions.xavier_std(*target.fans(self.fan), self.gain)
        return distributions.zero_mean(std, self.form)

    def __str__(self) -> str:
        return _call(f"xavier_{self.form}_", f"gain={self.gain:.6g}" if self.gain != 1.0 else "")


@dataclass(frozen=True, slots=True)
class VarianceScaling:
    """variance_scaling_ of jax.nn.initializers: a mean of zero and a variance of scale / fan.

    Args:
        scale: 1 for LeCun's initialisation, 2 for He's.
        mode: "fan_in", "fan_out", "fan_avg" or "fan_geo_avg".
        form: "truncated_normal", "normal" or "uniform".
        fan: "true" or "torch" whatever the call says; None leaves it to the call.

    Raises:
        ValueError: an argument that is not one of these.

    Source: jax.nn.initializers.variance_scaling; LeCun et al. 1998, section 4.6, for scale 1 and fan_in.

    >>> str(VarianceScaling()), str(VarianceScaling(2.0, "fan_avg", "uniform"))
    ('lecun_normal_', "variance_scaling_(scale=2, mode='fan_avg', distribution='uniform')")
    """

    scale: float = 1.0
    mode: str = "fan_in"
    form: str = "truncated_normal"
    fan: Fan | None = None

    def __post_init__(self) -> None:
        distributions.variance_scaling(self.scale, self.mode, self.form, 1, 1)
        _check_fan(self.fan)

    def __call__(self, target: Target) -> Distribution:
        return distributions.variance_scaling(self.scale, self.mode, self.form, *target.fans(self.fan))

    def __str__(self) -> str:
        if (self.scale, self.mode) == (1.0, "fan_in") and self.form != "normal":
            return "lecun_uniform_" if self.form == "uniform" else "lecun_normal_"
        return _call(
            "variance_scaling_",
            f"scale={self.scale:.6g}",
            f"mode={self.mode!r}" if self.mode != "fan_in" else "",
            f"distribution={self.form!r}" if self.form != "truncated_normal" else "",
        )


def fan_layout(module: Any) -> tuple[int, bool] | None:
    """(groups, whether transposed) of a module whose weight is not simply [out, in, *kernel]."""
    if isinstance(module, _ConvNd):
        return module.groups, module.transposed
    return (1, True) if is_conv1d(module.__class__) else None


@lru_cache(maxsize=1024)
def is_conv1d(kind: type) -> bool:
    """Whether a module type is the Conv1D of transformers: a linear layer whose weight is [in, out]."""
    return any(
        each.__name__ == "Conv1D" and each.__module__.partition(".")[0] == "transformers"
        for each in kind.__mro__
    )


def is_distribution(value: object) -> TypeIs[Distribution]:
    return hasattr(value, "kind") and hasattr(value, "params") and not isinstance(value, type)


def initialiser_text(init: object) -> str:
    """An initialiser in the words of torch.nn.init: 'zeros_', 'uniform_(-0.1, 0.1)'."""
    if isinstance(init, Constant) and init.value in (0.0, 1.0):
        return "zeros_" if init.value == 0.0 else "ones_"
    if isinstance(init, Constant):
        return f"constant_({init.value:.6g})"
    if isinstance(init, distributions.Uniform):
        return f"uniform_({init.low:.6g}, {init.high:.6g})"
    if isinstance(init, distributions.Normal):
        return f"normal_({init.mean:.6g}, {init.std:.6g})"
    if isinstance(init, distributions.TruncatedNormal):
        return f"trunc_normal_({init.mean:.6g}, {init.std:.6g}, {init.a:.6g}, {init.b:.6g})"
    if isinstance(init, Kaiming | Xavier | VarianceScaling | CopyFrom | Preset | NormOf | MinusIdentity):
        return str(init)
    if isinstance(init, RowZeroed):
        return f"{initialiser_text(init.distribution)}, row {init.row} zero"
    return getattr(init, "__name__", type(init).__name__)


def _call(function: str, *arguments: str) -> str:
    given = ", ".join(argument for argument in arguments if argument)
    return f"{function}({given})" if given else function


def _check_fan(fan: str | None) -> None:
    if fan is not None and fan not in FANS:
        raise ValueError(f"fan must be one of {list(FANS)}, not {fan!r}")
