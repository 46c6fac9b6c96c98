"""Initialisers: what makes a distribution of a parameter's shape and layer, and the text of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from inspect import Parameter, Signature, signature
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from typing_extensions import TypeIs

from convinit_ext import distributions
from convinit_ext.distributions import Constant, Distribution, Normal, TruncatedNormal, Uniform
from convinit_ext.recipes._derived import CopyFrom, MinusIdentity, NormOf, Preset

Fan: TypeAlias = Literal["true", "torch"]
FANS: tuple[Fan, ...] = ("true", "torch")

ZEROS = Constant(0.0)
ONES = Constant(1.0)
_OWN = __name__.partition(".")[0] + "."  # begins the modules of this package


@dataclass(slots=True, eq=False)
class Target:
    """One parameter as a rule sees it: its names, its tensor's shape, and the modules around it.

    Args:
        name: canonical full name, "layer1.0.conv1.weight".
        parameter: the name inside its module, "weight".
        tensor: the parameter; its values do not count, and are not there yet in a meta model. A rule's own
            functions see one on the meta device in its place, of the same shape, dtype and attributes.
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
        """Return (fan_in, fan_out), the true ones or PyTorch's.

        They differ in transposed and in grouped convolutions, and in transformers' Conv1D. Of experts in one
        tensor they are those of one expert.

        Raises:
            ValueError: fewer than 2 dimensions.
        """
        shape = tuple(self.tensor.shape)
        if is_expert_stack(self):
            return distributions.fans(shape[1:], transposed=_experts_transposed(self.module))
        layout = None if (fan or self.fan) == "torch" else fan_layout(self.module)
        if layout is None or (len(shape) < 3 and isinstance(self.module, _ConvNd)):
            return distributions.fans(shape)
        groups, transposed = layout
        return distributions.fans(shape, groups=groups, transposed=transposed)


def call(function: Callable[[Target], Any], target: Target) -> Any:
    """Return what a rule's function says of a parameter or buffer.

    One that is not this package's sees a tensor on the meta device, of the same shape, dtype and attributes,
    in the target and in its module: planning changes nothing, whatever the function writes.

    Raises:
        ValueError: it says a tensor on the meta device.
    """
    if is_own(function):
        return function(target)
    leaf, shown = target.parameter, _shown(target.tensor)
    holders = (target.module._parameters, target.module._buffers)
    held = [each for each in holders if isinstance(each, dict) and each.get(leaf) is target.tensor]
    for each in held:
        each[leaf] = shown
    try:
        plain = None if target.plain is None else replace(target.plain, tensor=shown)
        found = function(replace(target, tensor=shown, plain=plain))
    finally:
        for each in held:
            each[leaf] = target.tensor
    if isinstance(found, Tensor) and found.is_meta:
        raise ValueError(
            "its tensor is on the meta device, as target.tensor is while a model is planned, and has no "
            "values; accepted are distributions, and tensors made elsewhere: torch.zeros(target.tensor.shape)"
        )
    return found


def is_own(function: Callable[..., Any]) -> bool:
    """Whether a function is this package's, which writes to no tensor."""
    module = getattr(function, "__module__", None)
    return module is not None and module.startswith(_OWN)


def _shown(tensor: Tensor) -> Tensor:
    meta = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    if isinstance(tensor, nn.Parameter):
        meta = nn.Parameter(meta, tensor.requires_grad)
    meta.__dict__.update(tensor.__dict__)
    return meta


@dataclass(frozen=True, slots=True)
class RowZeroed:
    """A distribution, but for one row of dimension 0, which is zero: an embedding's padding."""

    distribution: Distribution
    row: int


# What a rule may have for an initialiser, and what a function of the Target may return.
Values: TypeAlias = Distribution | RowZeroed | CopyFrom | Preset | NormOf | MinusIdentity
Initialiser: TypeAlias = Values | Callable[[Target], Values | Tensor]


class _FromFans:
    """A distribution of mean zero whose std depends on fans: the base of Kaiming, Xavier, VarianceScaling."""

    __slots__ = ()
    fan: Fan | None

    def __post_init__(self) -> None:
        self.of_fans(1, 1)
        if self.fan is not None and self.fan not in FANS:
            raise ValueError(f"fan must be one of {list(FANS)}, not {self.fan!r}")

    def of_fans(self, fan_in: int, fan_out: int) -> Distribution:
        raise NotImplementedError

    def __call__(self, target: Target) -> Distribution:
        return self.of_fans(*target.fans(self.fan))

    def __str__(self) -> str:
        return initialiser_text(self)


@dataclass(frozen=True, slots=True)
class Kaiming(_FromFans):
    """Make kaiming_normal_ or kaiming_uniform_ of torch.nn.init: mean zero, std gain / sqrt(fan).

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

    def of_fans(self, fan_in: int, fan_out: int) -> Distribution:
        return distributions.zero_mean(distributions.xavier_std(fan_in, fan_out, self.gain), self.form)


@dataclass(frozen=True, slots=True)
class VarianceScaling(_FromFans):
    """Make variance_scaling_ of jax.nn.initializers: mean zero, variance scale / fan.

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

    def of_fans(self, fan_in: int, fan_out: int) -> Distribution:
        return distributions.variance_scaling(self.scale, self.mode, self.form, fan_in, fan_out)


@dataclass(frozen=True)
class Function:
    """How torch.nn.init, files and reports write an initialiser.

    Args:
        kind: the initialiser's dataclass.
        fixed: its first fields, where the function's name says them.
        arguments: the function's names for the other fields.
    """

    kind: type[Any]
    fixed: tuple[Any, ...]
    arguments: tuple[str, ...] = ()

    @cached_property
    def signature(self) -> Signature:
        """Return the function's arguments with the dataclass's defaults; constant_ has none."""
        free = [*signature(self.kind).parameters.values()][len(self.fixed) :]
        return Signature(
            [
                Parameter(name, each.kind, default=Parameter.empty if name == "val" else each.default)
                for name, each in zip(self.arguments, free, strict=True)
            ]
        )

    def values(self, init: object) -> list[Any] | None:
        """Return the arguments of the call that means this initialiser; None if no call does."""
        if not isinstance(init, self.kind):
            return None
        values = [getattr(init, field.name) for field in fields(self.kind)]
        for value, fixed in zip(values, self.fixed, strict=False):
            if value != fixed or str(value)[0] != str(fixed)[0]:  # -0.0 is no zeros_
                return None
        return values[len(self.fixed) :]


_KAIMING, _XAVIER = ("a", "mode", "nonlinearity", "fan"), ("gain", "fan")

# By name; the first that can mean an initialiser is the one that is written.
FUNCTIONS: dict[str, Function] = {
    "zeros_": Function(Constant, (0.0,)),
    "ones_": Function(Constant, (1.0,)),
    "constant_": Function(Constant, (), ("val",)),
    "uniform_": Function(Uniform, (), ("a", "b")),
    "normal_": Function(Normal, (), ("mean", "std")),
    "trunc_normal_": Function(TruncatedNormal, (), ("mean", "std", "a", "b")),
    **{f"kaiming_{form}_": Function(Kaiming, (form,), _KAIMING) for form in distributions.FORMS},
    **{f"xavier_{form}_": Function(Xavier, (form,), _XAVIER) for form in distributions.FORMS},
    "lecun_normal_": Function(VarianceScaling, (1.0, "fan_in", "truncated_normal"), ("fan",)),
    "lecun_uniform_": Function(VarianceScaling, (1.0, "fan_in", "uniform"), ("fan",)),
    "variance_scaling_": Function(VarianceScaling, (), ("scale", "mode", "distribution", "fan")),
    "copy_from": Function(CopyFrom, (), ("name",)),
}


def initialiser_text(init: object, exact: bool = False) -> str:
    """Return an initialiser as a call of torch.nn.init: 'zeros_', 'uniform_(-0.1, 0.1)'.

    Args:
        init: an initialiser.
        exact: with every digit, and with `fan`, so that a file can hold it.
    """
    for name, function in FUNCTIONS.items():
        values = function.values(init)
        if values is not None:
            arguments = ", ".join(_arguments(function, values, exact))
            return f"{name}({arguments})" if arguments else name
    if isinstance(init, RowZeroed):
        return f"{initialiser_text(init.distribution)}, row {init.row} zero"
    if isinstance(init, Preset | NormOf | MinusIdentity):
        return str(init)
    return getattr(init, "__name__", type(init).__name__)


def _arguments(function: Function, values: list[Any], exact: bool) -> Iterator[str]:
    """Yield all arguments; of an initialiser that depends on fans those that are not the defaults."""
    for value, argument in zip(values, function.signature.parameters.values(), strict=True):
        text = f"{value:.6g}" if isinstance(value, int | float) and not exact else repr(value)
        if "fan" not in function.arguments:
            yield text
        elif value != argument.default and (exact or argument.name != "fan"):
            yield f"{argument.name}={text}"


def is_distribution(value: object) -> TypeIs[Distribution]:
    """Whether a value is a distribution, of this package or another with its attributes."""
    return hasattr(value, "kind") and hasattr(value, "params") and not isinstance(value, type)


def is_values(init: object) -> TypeIs[Values]:
    """Whether an initialiser is the values itself, and not a function of the Target."""
    return is_distribution(init) or isinstance(init, RowZeroed | CopyFrom | Preset | NormOf | MinusIdentity)


def layout_key(target: Target) -> object:
    """Return what decides a parameter's fans beside its shape."""
    if is_expert_stack(target):
        return "experts", _experts_transposed(target.module)
    return fan_layout(target.module)


def fan_layout(module: Any) -> tuple[int, bool] | None:
    """Return (groups, whether transposed) of a module whose weight is not simply [out, in, *kernel]."""
    if isinstance(module, _ConvNd):
        return module.groups, module.transposed
    return (1, True) if is_conv1d(module.__class__) else None


_EXPERT_MATRICES = ("gate_up_proj", "down_proj", "gate_proj", "up_proj")


def is_expert_stack(target: Target) -> bool:
    """Whether it holds a matrix of each of many experts: [experts, out, in], or [experts, in, out]."""
    if target.tensor.ndim != 3:
        return False
    name = target.parameter
    return name in _EXPERT_MATRICES or (
        name in ("w1", "w2", "w3") and "Expert" in type(target.module).__name__
    )


def _experts_transposed(module: Any) -> bool:
    """Whether the matrices of experts are [in, out], as their shapes say or, where both fit, the module."""
    first, second = (module._parameters.get(name) for name in ("gate_up_proj", "down_proj"))
    if first is not None and second is not None and first.ndim == second.ndim == 3:
        _, rows, columns = first.shape
        _, inner, outer = second.shape
        if (rows, columns) == (2 * outer, inner):
            return False
        if (rows, columns) == (outer, 2 * inner):
            return True
    return bool(getattr(module, "is_transposed", False))


@lru_cache(maxsize=1024)
def is_conv1d(kind: type) -> bool:
    """Whether a module type is the Conv1D of transformers: a linear layer whose weight is [in, out]."""
    return any(
        each.__name__ == "Conv1D" and each.__module__.partition(".")[0] == "transformers"
        for each in kind.__mro__
    )
