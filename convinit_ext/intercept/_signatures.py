"""The distributions that calls of PyTorch's ask for. The signatures are PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from convinit_ext import init
from convinit_ext.distributions import Distribution, Normal, TruncatedNormal, Uniform
from convinit_ext.sharding import logical_shape

Request: TypeAlias = tuple[Tensor, Distribution, torch.Generator | None]
# What reading a call may raise. Not Exception: a signal handler may raise that of its own in between.
WRONG_ARGUMENTS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError)


def _normal(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: torch.Generator | None = None
) -> Request:
    return tensor, Normal(float(mean), float(std)), generator


def _uniform(
    tensor: Tensor, *bounds: float, generator: torch.Generator | None = None, **named: float
) -> Request:
    low, high = {"from": 0.0, "to": 1.0, **dict(zip(("from", "to"), bounds, strict=False)), **named}.values()
    return tensor, Uniform(float(low), float(high)), generator


def _trunc_normal(tensor: Tensor, mean: float, std: float, a: float, b: float) -> Distribution:
    distribution = TruncatedNormal(float(mean), float(std), float(a), float(b))
    init.warn_of_one_tail(mean, std, a, b, stacklevel=6)
    return distribution


# From the arguments of a method, as they were given.
METHODS: dict[Callable[..., Any], Callable[..., Request]] = {
    torch.Tensor.normal_: _normal,
    torch.ops.aten.normal_: _normal,
    torch.ops.aten.normal_.default: _normal,
    torch.Tensor.uniform_: _uniform,
    torch.ops.aten.uniform_: _uniform,
    torch.ops.aten.uniform_.default: _uniform,
}
# Random functions that are PyTorch's inside a block too; what is made of their values may end in a parameter.
_DRAWS = """rand randn rand_like randn_like randint randint_like randperm normal bernoulli multinomial poisson
    binomial _standard_gamma _sample_dirichlet"""
_DRAWS_IN_PLACE = "bernoulli_ cauchy_ exponential_ geometric_ log_normal_ random_"
DRAWS = frozenset(
    getattr(each, name)
    for each, names in ((torch, _DRAWS), (torch.Tensor, f"bernoulli multinomial {_DRAWS_IN_PLACE}"))
    for name in names.split()
)
# Which take a tensor's shape, and none of its values.
SHAPED = frozenset(getattr(torch, f"{name}_like") for name in ("empty", "full", "ones", "zeros"))
_set_data: Any = torch.Tensor.data
WRITES = (torch.Tensor.__setitem__, _set_data.__set__)  # which return nothing
SHOWS = _set_data.__get__


def is_foreach_in_place(func: Callable[..., Any]) -> bool:
    """Return whether a function writes to a list of tensors, its first argument, as torch._foreach_copy_."""
    name: str = getattr(func, "__name__", "")
    return name.startswith("_foreach_") and name.endswith("_")


# Methods that write other values than draws. To a placeholder's empty memory they would write nothing.
_CHANGES = """zero_ fill_ copy_ add_ sub_ mul_ div_ clamp_ erfinv_ exp_ log_ exponential_ log_normal_ cauchy_
    bernoulli_ random_ geometric_ masked_fill_ index_fill_ index_copy_ fill_diagonal_ lerp_ __setitem__"""
CHANGES = frozenset(getattr(torch.Tensor, name) for name in _CHANGES.split())
CONSTANTS = (torch.Tensor.zero_, torch.Tensor.fill_)
OVERWRITES = (*CONSTANTS, torch.Tensor.copy_)
# From all arguments of a function of torch.nn.init, in order, but for the last, its generator.
INIT_FUNCTIONS: dict[str, Callable[..., Distribution]] = {
    "normal_": lambda tensor, mean, std: Normal(float(mean), float(std)),
    "uniform_": lambda tensor, a, b: Uniform(float(a), float(b)),
    "trunc_normal_": _trunc_normal,
    "xavier_normal_": lambda tensor, gain: init.xavier_distribution(logical_shape(tensor), gain, "normal"),
    "xavier_uniform_": lambda tensor, gain: init.xavier_distribution(logical_shape(tensor), gain, "uniform"),
    "kaiming_normal_": lambda tensor, a, mode, nonlinearity: init.kaiming_distribution(
        logical_shape(tensor), a, mode, nonlinearity, "normal"
    ),
    "kaiming_uniform_": lambda tensor, a, mode, nonlinearity: init.kaiming_distribution(
        logical_shape(tensor), a, mode, nonlinearity, "uniform"
    ),
}
MATRIX_FUNCTIONS = ("orthogonal_", "sparse_")  # which draw more than the tensor's values
BY_PLACE = ("normal_", "uniform_", "trunc_normal_")  # whose values do not depend on a tensor's shape
# Which draw nothing: PyTorch's are right but for parameters of which a process holds a part.
FIXED_FUNCTIONS = ("constant_", "dirac_", "eye_", "ones_", "zeros_")
