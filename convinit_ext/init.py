"""torch.nn.init, filled by convinit's generator: the same names, signatures, warnings and errors.

Each function is a distribution, a key, and one fill. What is not random is PyTorch's own. Every random
function takes `key=`: the values are then those of that seed and parameter name, whatever was drawn before.
Without it the key is drawn from `generator`, or from PyTorch's default CPU generator, so that
torch.manual_seed reproduces a run.

    >>> import torch
    >>> from convinit_ext import Key, init
    >>> w = init.kaiming_normal_(torch.empty(64, 16, 3, 3), mode="fan_out", nonlinearity="relu")
    >>> w = init.kaiming_normal_(torch.empty(64, 16, 3, 3), key=Key(seed=0, name="layer1.0.conv1.weight"))
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.init as _torch_init
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn.init import constant, constant_, dirac, dirac_, eye, eye_, ones_, zeros_
from torch.overrides import has_torch_function_unary

from convinit_ext.distributions import (
    Distribution,
    Normal,
    TruncatedNormal,
    Uniform,
    calculate_gain,
    fans,
    kaiming,
    kaiming_fan,
    variance_scaling,
    xavier,
)
from convinit_ext.fill import check_writable, fill_, override
from convinit_ext.keys import Key
from convinit_ext.orthogonal import delta_orthogonal_, orthogonal_

__all__ = [
    "calculate_gain",
    "constant",
    "constant_",
    "delta_orthogonal_",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "identity_",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "lecun_normal_",
    "lecun_uniform_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "uniform",
    "uniform_",
    "variance_scaling_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _remembered(function: Callable[..., Distribution]) -> Callable[..., Distribution]:
    """The function with its last results at hand: a model has few shapes, and a small fill is short."""

    def made(*args: Any) -> Distribution:
        if any(
            isinstance(arg, Tensor) for arg in args
        ):  # found again by its identity, though its value may change
            raise TypeError("a tensor cannot be remembered")
        return function(*args)

    remembering = lru_cache(maxsize=4096, typed=True)(made)

    @wraps(function)
    def remembered(*args: Any) -> Distribution:
        if is_compiling():  # a compiler traces through the function, and warns of the cache
            return function(*args)
        try:
            return remembering(*args)
        except TypeError:  # an argument that cannot be remembered: the function knows whether it is wrong
            return function(*args)

    return remembered


_uniform = _remembered(Uniform)
_normal = _remembered(Normal)
_kaiming = _remembered(kaiming)
_xavier = _remembered(xavier)


def uniform_(
    tensor: Tensor,
    a: float = 0.0,
    b: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
) -> Tensor:
    """Fill with the uniform distribution on [a, b). (float16 and bfloat16 may round up to b.)

    Args:
        tensor: of any shape.
        a: lower bound.
        b: upper bound.
        generator: where the key is drawn from; PyTorch's default CPU generator if None.
        key: whose values these are, instead of a generator's.

    Raises:
        ValueError, RuntimeError: a > b; bounds that the tensor's dtype cannot hold.

    Source: torch.nn.init.uniform_.

    >>> from convinit_ext import init
    >>> w = init.uniform_(torch.empty(3, 5), -0.1, 0.1)
    """
    if has_torch_function_unary(tensor):
        return override(uniform_, tensor, a=a, b=b, generator=generator, key=key)
    return fill_(tensor, _uniform(a, b), generator, key)


def normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
) -> Tensor:
    """Fill with the normal distribution.

    Args:
        tensor: of any shape.
        mean: mean of the values.
        std: standard deviation of the values.
        generator, key: as for uniform_.

    Raises:
        ValueError, RuntimeError: std < 0; a parameter that is not finite.

    Source: torch.nn.init.normal_.

    >>> from convinit_ext import Key, init
    >>> w = init.normal_(torch.empty(3, 5), std=0.02, key=Key(0, "embed.weight"))
    """
    if has_torch_function_unary(tensor):
        return override(normal_, tensor, mean=mean, std=std, generator=generator, key=key)
    return fill_(tensor, _normal(mean, std), generator, key)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
) -> Tensor:
    """Fill with the normal distribution conditioned on [a, b]: absolute bounds, not multiples of std.

    One word an element through the inverse distribution function, exact in both tails and for any std.

    Args:
        tensor: of any shape.
        mean: mean of the normal before truncation.
        std: standard deviation of the normal before truncation.
        a: smallest value.
        b: largest value.
        generator, key: as for uniform_.

    Raises:
        ValueError, RuntimeError: std < 0; a > b; mean or std not finite.

    Source: torch.nn.init.trunc_normal_.

    >>> from convinit_ext import init
    >>> w = init.trunc_normal_(torch.empty(3, 5), std=0.02)
    """
    if has_torch_function_unary(tensor):
        return override(trunc_normal_, tensor, mean=mean, std=std, a=a, b=b, generator=generator, key=key)
    if tensor.is_meta:
        return tensor
    distribution = TruncatedNormal(mean, std, a, b)
    warn_of_one_tail(mean, std, a, b, stacklevel=3)
    return fill_(tensor, distribution, generator, key)


def warn_of_one_tail(mean: float, std: float, a: float, b: float, stacklevel: int) -> None:
    """PyTorch's warning about a truncation far from the mean."""
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The values are right, but all of them come from one tail of the normal distribution.",
            stacklevel=stacklevel,
        )


def xavier_uniform_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    groups: int = 1,
) -> Tensor:
    """Fill with U(-bound, bound), bound = gain * sqrt(6 / (fan_in + fan_out)).

    Args:
        tensor: weight of a linear or convolutional layer, [out, in / groups, *kernel].
        gain: factor of the values.
        generator, key: as for uniform_.
        groups: of the convolution: fan_out is that of one group. PyTorch's is that of all (groups=1).

    Raises:
        ValueError: fewer than 2 dimensions; groups that do not divide the first.

    Source: Glorot & Bengio 2010; torch.nn.init.xavier_uniform_.

    >>> from convinit_ext import init
    >>> w = init.xavier_uniform_(torch.empty(3, 5), gain=init.calculate_gain("relu"))
    """
    if has_torch_function_unary(tensor):
        return override(xavier_uniform_, tensor, gain=gain, generator=generator, key=key, groups=groups)
    return fill_(tensor, _xavier(tensor.shape, gain, "uniform", groups), generator, key)


def xavier_normal_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    groups: int = 1,
) -> Tensor:
    """Fill with N(0, std^2), std = gain * sqrt(2 / (fan_in + fan_out)).

    Args, raises: as for xavier_uniform_.

    Source: Glorot & Bengio 2010; torch.nn.init.xavier_normal_.

    >>> from convinit_ext import init
    >>> w = init.xavier_normal_(torch.empty(8, 1, 3, 3), groups=8)
    """
    if has_torch_function_unary(tensor):
        return override(xavier_normal_, tensor, gain=gain, generator=generator, key=key, groups=groups)
    return fill_(tensor, _xavier(tensor.shape, gain, "normal", groups), generator, key)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    groups: int = 1,
) -> Tensor:
    """Fill with U(-bound, bound), bound = gain * sqrt(3 / fan).

    Args:
        tensor: weight of a linear or convolutional layer, [out, in / groups, *kernel].
        a: negative slope of the leaky_relu that follows.
        mode: "fan_in" keeps the variance in the forward pass, "fan_out" in the backward pass.
        nonlinearity: what follows the layer; a name that calculate_gain knows.
        generator, key: as for uniform_.
        groups: of the convolution: fan_out is that of one group. PyTorch's is that of all (groups=1).

    Raises:
        ValueError: fewer than 2 dimensions; another mode or nonlinearity; groups that do not divide dim 0.

    Source: He et al. 2015; torch.nn.init.kaiming_uniform_.

    >>> from convinit_ext import init
    >>> w = init.kaiming_uniform_(torch.empty(3, 5), nonlinearity="relu")
    """
    if has_torch_function_unary(tensor):
        return override(
            kaiming_uniform_,
            tensor,
            a=a,
            mode=mode,
            nonlinearity=nonlinearity,
            generator=generator,
            key=key,
            groups=groups,
        )
    shape = tensor.shape
    if 0 in shape:
        return _nothing_to_fill(tensor)
    return fill_(tensor, _kaiming(shape, a, mode, nonlinearity, "uniform", groups), generator, key)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    groups: int = 1,
) -> Tensor:
    """Fill with N(0, std^2), std = gain / sqrt(fan).

    Args, raises: as for kaiming_uniform_.

    Source: He et al. 2015; torch.nn.init.kaiming_normal_.

    >>> from convinit_ext import init
    >>> w = init.kaiming_normal_(torch.empty(64, 3, 7, 7), mode="fan_out", nonlinearity="relu")
    """
    if has_torch_function_unary(tensor):
        return override(
            kaiming_normal_,
            tensor,
            a=a,
            mode=mode,
            nonlinearity=nonlinearity,
            generator=generator,
            key=key,
            groups=groups,
        )
    shape = tensor.shape
    if 0 in shape:
        return _nothing_to_fill(tensor)
    return fill_(tensor, _kaiming(shape, a, mode, nonlinearity, "normal", groups), generator, key)


def variance_scaling_(
    tensor: Tensor,
    scale: float = 1.0,
    mode: str = "fan_in",
    distribution: str = "normal",
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    groups: int = 1,
) -> Tensor:
    """Fill with mean zero and variance scale / fan: what Kaiming, Xavier and LeCun are cases of.

    Args:
        tensor: weight of a linear or convolutional layer, [out, in / groups, *kernel].
        scale: factor of the variance.
        mode: "fan_in", "fan_out", or their mean: "fan_avg" (arithmetic), "fan_geo_avg" (geometric).
        distribution: "normal", "uniform", or "truncated_normal" (the std is that after the cut at two stds).
        generator, key: as for uniform_.
        groups: of the convolution: fan_out is that of one group.

    Raises:
        ValueError: fewer than 2 dimensions; scale < 0; another mode or distribution.

    Source: jax.nn.initializers.variance_scaling.

    >>> from convinit_ext import init
    >>> w = init.variance_scaling_(torch.empty(3, 5), 2.0, "fan_avg", "truncated_normal")
    """
    if has_torch_function_unary(tensor):
        return override(
            variance_scaling_,
            tensor,
            scale=scale,
            mode=mode,
            distribution=distribution,
            generator=generator,
            key=key,
            groups=groups,
        )
    if 0 in tensor.shape:
        return _nothing_to_fill(tensor)
    fan_in, fan_out = fans(tensor.shape, groups=groups)
    return fill_(tensor, variance_scaling(scale, mode, distribution, fan_in, fan_out), generator, key)


def lecun_normal_(
    tensor: Tensor, generator: torch.Generator | None = None, *, key: Key | None = None
) -> Tensor:
    """Fill with a normal distribution of variance 1 / fan_in, cut at two standard deviations.

    Args:
        tensor: weight of a linear or convolutional layer, [out, in / groups, *kernel].
        generator, key: as for uniform_.

    Raises:
        ValueError: fewer than 2 dimensions.

    Source: LeCun et al. 1998, section 4.6; jax.nn.initializers.lecun_normal.

    >>> from convinit_ext import init
    >>> w = init.lecun_normal_(torch.empty(3, 5))
    """
    return variance_scaling_(tensor, 1.0, "fan_in", "truncated_normal", generator, key=key)


def lecun_uniform_(
    tensor: Tensor, generator: torch.Generator | None = None, *, key: Key | None = None
) -> Tensor:
    """Fill with U(-bound, bound), bound = sqrt(3 / fan_in).

    Args, raises: as for lecun_normal_.

    Source: LeCun et al. 1998, section 4.6; jax.nn.initializers.lecun_uniform.

    >>> from convinit_ext import init
    >>> w = init.lecun_uniform_(torch.empty(3, 5))
    """
    return variance_scaling_(tensor, 1.0, "fan_in", "uniform", generator, key=key)


def identity_(tensor: Tensor, gain: float = 1.0, *, groups: int = 1) -> Tensor:
    """Fill so that the layer passes its input on: eye_ for a matrix, dirac_ for a convolution's weight.

    Args:
        tensor: [out, in] or [out, in / groups, *kernel] with 1 to 3 kernel dimensions.
        gain: factor of the values.
        groups: of the convolution; each group passes its own inputs on.

    Raises:
        ValueError: another number of dimensions; groups that do not divide the first.

    Source: torch.nn.init.eye_, torch.nn.init.dirac_.

    >>> from convinit_ext import init
    >>> w = init.identity_(torch.empty(4, 4, 3, 3))
    >>> w.sum().item(), w[2, 2, 1, 1].item()
    (4.0, 1.0)
    """
    gain = float(gain)
    if not tensor.is_meta:
        check_writable(tensor)
    if tensor.dim() == 2 and groups == 1:
        eye_(tensor)
    else:
        dirac_(tensor, groups)
    with torch.no_grad():
        return tensor.mul_(gain)


def sparse_(
    tensor: Tensor,
    sparsity: float,
    std: float = 0.01,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
) -> Tensor:
    """Fill a matrix with N(0, std^2), and set the same number of elements of each column to zero.

    Zero are, of each column, the ceil(sparsity * rows) elements whose scores are lowest (of equal scores,
    those further up). The scores are the float64 uniform [0, 1) fill of a matrix of the same shape: with
    `key`, that of the same seed and the name with "#zeros" appended; without, that of a second key drawn.

    Args:
        tensor: [rows, columns].
        sparsity: fraction of each column to be zero, 0 to 1.
        std: standard deviation of the other values.
        generator, key: as for uniform_.

    Raises:
        ValueError: not 2 dimensions; a sparsity outside 0 to 1; std < 0.

    Source: Martens 2010; torch.nn.init.sparse_.

    >>> from convinit_ext import init
    >>> w = init.sparse_(torch.empty(10, 5), sparsity=0.1)
    >>> (w == 0).sum(dim=0)
    tensor([1, 1, 1, 1, 1])
    """
    if has_torch_function_unary(tensor):
        return override(sparse_, tensor, sparsity=sparsity, std=std, generator=generator, key=key)
    if tensor.dim() != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must be from 0 to 1, but found {sparsity}")
    if tensor.is_meta:
        return tensor
    fill_(tensor, Normal(0.0, std), generator, key)
    num_zeros = math.ceil(sparsity * tensor.size(0))
    scores = tensor.new_empty(tensor.shape, dtype=torch.float64)
    fill_(scores, Uniform(), generator, None if key is None else Key(key.seed, key.name + "#zeros"))
    with torch.no_grad():
        return tensor.scatter_(0, scores.argsort(dim=0, stable=True)[:num_zeros], 0.0)


# What other libraries import from torch.nn.init although it is not public.


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    return fans(tensor.shape)


def _calculate_correct_fan(tensor: Tensor, mode: str) -> int:
    return kaiming_fan(tensor.shape, mode)


_no_grad_fill_ = _torch_init._no_grad_fill_
_no_grad_zero_ = _torch_init._no_grad_zero_


def _no_grad_uniform_(tensor: Tensor, a: float, b: float, generator: torch.Generator | None = None) -> Tensor:
    return uniform_(tensor, a, b, generator)


def _no_grad_normal_(
    tensor: Tensor, mean: float, std: float, generator: torch.Generator | None = None
) -> Tensor:
    return normal_(tensor, mean, std, generator)


def _no_grad_trunc_normal_(
    tensor: Tensor, mean: float, std: float, a: float, b: float, generator: torch.Generator | None = None
) -> Tensor:
    return trunc_normal_(tensor, mean, std, a, b, generator)


def _nothing_to_fill(tensor: Tensor) -> Tensor:
    warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
    return tensor


# PyTorch's deprecated names.


def _make_deprecate(function: Callable[_P, _R]) -> Callable[_P, _R]:
    new_name = function.__name__
    old_name = new_name[:-1]

    def deprecated_init(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        warnings.warn(
            f"`nn.init.{old_name}` is now deprecated in favor of `nn.init.{new_name}`.",
            FutureWarning,
            stacklevel=2,
        )
        return function(*args, **kwargs)

    deprecated_init.__name__ = old_name
    deprecated_init.__doc__ = f"Deprecated name of {new_name}."
    return deprecated_init


uniform = _make_deprecate(uniform_)
normal = _make_deprecate(normal_)
xavier_uniform = _make_deprecate(xavier_uniform_)
xavier_normal = _make_deprecate(xavier_normal_)
kaiming_uniform = _make_deprecate(kaiming_uniform_)
kaiming_normal = _make_deprecate(kaiming_normal_)
orthogonal = _make_deprecate(orthogonal_)
sparse = _make_deprecate(sparse_)


# Whatever this PyTorch lists as public and did not when this file was written, it does itself.
_newer_names = [name for name in getattr(_torch_init, "__all__", ()) if name not in __all__]
globals().update({name: getattr(_torch_init, name) for name in _newer_names})
__all__.extend(_newer_names)
