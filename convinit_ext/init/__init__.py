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

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
import torch.nn.init as _torch_init
from torch import Tensor
from torch._C import _set_grad_enabled
from torch.overrides import has_torch_function_unary

from convinit_ext._engine import FORKED, is_plain, on_this_thread
from convinit_ext.distributions import Normal, TruncatedNormal, Uniform, calculate_gain, fans, kaiming_fan
from convinit_ext.init._fans import kaiming_distribution as kaiming_distribution
from convinit_ext.init._fans import (
    kaiming_normal_,
    kaiming_uniform_,
    lecun_normal_,
    lecun_uniform_,
    variance_scaling_,
    xavier_normal_,
    xavier_uniform_,
)
from convinit_ext.init._fans import xavier_distribution as xavier_distribution
from convinit_ext.init._fill import check_extras, override
from convinit_ext.init._fill import check_not_lost as check_not_lost
from convinit_ext.init._fill import fill_ as fill_
from convinit_ext.init._orthogonal import delta_orthogonal_, orthogonal_
from convinit_ext.init._structured import dirac_, eye_, identity_, sparse_
from convinit_ext.keys import Key
from convinit_ext.sharding import Shard, is_marked, is_partial, local_of, may_be_alias, parts

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


def uniform_(
    tensor: Tensor,
    a: float = 0.0,
    b: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    shard: Shard | None = None,
) -> Tensor:
    """Fill with the uniform distribution on [a, b). (float16 and bfloat16 may round up to b.)

    Args:
        tensor: of any shape.
        a: lower bound.
        b: upper bound.
        generator: where the key is drawn from; PyTorch's default CPU generator if None.
        key: whose values these are, instead of a generator's.
        shard: which part of a larger tensor this is; its values and fans are then those of the whole. A
            DTensor's placements say it without.

    Raises:
        ValueError, RuntimeError: a > b; bounds that the tensor's dtype cannot hold.
        RuntimeError: a tensor that autograd knows as computed from others (layer.weight behind a
            parametrization, table[indices], a cast, a DTensor's full_tensor()), or a DTensor's slice with
            memory of its own: the fill would be lost. Under torch.no_grad(), or of a parameter that needs no
            gradient, such a tensor looks like a new one, and is filled.

    Source: torch.nn.init.uniform_.

    >>> from convinit_ext import init
    >>> w = init.uniform_(torch.empty(3, 5), -0.1, 0.1)
    """
    if has_torch_function_unary(tensor):
        return override(uniform_, locals())
    return fill_(tensor, Uniform(a, b), generator, key, shard)


def normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    shard: Shard | None = None,
) -> Tensor:
    """Fill with the normal distribution.

    Args:
        tensor: of any shape.
        mean: mean of the values.
        std: standard deviation of the values.
        generator, key, shard: as for uniform_.

    Raises:
        ValueError, RuntimeError: std < 0; a parameter that is not finite.

    Source: torch.nn.init.normal_.

    >>> from convinit_ext import Key, init
    >>> w = init.normal_(torch.empty(3, 5), std=0.02, key=Key(0, "embed.weight"))
    """
    if has_torch_function_unary(tensor):
        return override(normal_, locals())
    return fill_(tensor, Normal(mean, std), generator, key, shard)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    shard: Shard | None = None,
    cut: float | None = None,
    corrected: bool = False,
) -> Tensor:
    """Fill with the normal distribution conditioned on [a, b], or with cut= on so many stds around the mean.

    One word an element through the inverse distribution function, exact in both tails and for any std. The
    default bounds are -2 and 2 themselves: beside a std of 0.02 they cut nothing.

    Args:
        tensor: of any shape.
        mean: mean of the normal before truncation.
        std: standard deviation of the normal before truncation.
        a: smallest value.
        b: largest value.
        generator, key, shard: as for uniform_.
        cut: instead of a and b: bounds mean - cut * std and mean + cut * std.
        corrected: with cut, whether std is that of the values, after truncation, as the variance scaling of
            JAX and Keras has it. The one before, in which cut counts, is wider by so much.

    Raises:
        ValueError, RuntimeError: std < 0; a > b; mean or std not finite; cut <= 0 or with a or b; corrected
            without cut.

    Source: torch.nn.init.trunc_normal_; jax.nn.initializers.truncated_normal for cut.

    >>> from convinit_ext import init
    >>> w = init.trunc_normal_(torch.empty(3, 5), std=0.02, cut=2.0)
    >>> w.abs().max().item() <= 0.04
    True
    """
    if has_torch_function_unary(tensor):
        return override(trunc_normal_, locals())
    if isinstance(tensor, Tensor) and tensor.is_meta:
        check_extras(tensor, generator, key, shard)
        return tensor
    if cut is None and corrected is False:
        distribution = TruncatedNormal(mean, std, a, b)
    else:
        distribution = TruncatedNormal(mean, std, a, b, cut=cut, corrected=corrected)
    warn_of_one_tail(distribution.mean, distribution.std, distribution.a, distribution.b, 3)
    return fill_(tensor, distribution, generator, key, shard)


def warn_of_one_tail(mean: float, std: float, a: float, b: float, stacklevel: int) -> None:
    """PyTorch's warning about a truncation far from the mean."""
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The values are right, but all of them come from one tail of the normal distribution.",
            stacklevel=stacklevel,
        )


# PyTorch's constants, which fill no copies either, and of other frameworks' parameters what is held here.


def _constant(
    function: Callable[Concatenate[Tensor, _P], Tensor], write: Callable[..., Tensor], num_args: int
) -> Callable[..., Tensor]:
    @wraps(function)
    def call(tensor: Tensor, *args: _P.args, **kwargs: _P.kwargs) -> Tensor:
        is_usual = len(args) == num_args and not kwargs and not FORKED
        if is_usual and (
            is_plain(tensor, any_dtype=True, any_strides=True)
            and not (may_be_alias(tensor) or has_torch_function_unary(tensor))
        ):
            enabled = torch.is_grad_enabled()
            try:
                _set_grad_enabled(False)  # torch.no_grad() takes as long as the fill
                return write(tensor, *args)
            finally:
                _set_grad_enabled(enabled)
        check_not_lost(tensor)
        if write is not Tensor.zero_ and is_partial(tensor):  # of which PyTorch fills every term
            parts(tensor)  # which refuses it
        is_whole = not is_marked(tensor)
        if is_whole and not FORKED:
            return function(tensor, *args, **kwargs)
        memory = tensor if is_whole else local_of(tensor).detach()  # which has no marks
        with on_this_thread():
            filled = function(memory, *args, **kwargs)
        return filled if is_whole else tensor

    return call


constant_ = _constant(_torch_init.constant_, Tensor.fill_, 1)
ones_ = _constant(_torch_init.ones_, lambda tensor: tensor.fill_(1.0), 0)
zeros_ = _constant(_torch_init.zeros_, Tensor.zero_, 0)


# What other libraries import from torch.nn.init although it is not public.

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


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    return fans(tensor.shape)


def _calculate_correct_fan(tensor: Tensor, mode: str) -> int:
    return kaiming_fan(tensor.shape, mode)


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
constant = _make_deprecate(constant_)
xavier_uniform = _make_deprecate(xavier_uniform_)
xavier_normal = _make_deprecate(xavier_normal_)
kaiming_uniform = _make_deprecate(kaiming_uniform_)
kaiming_normal = _make_deprecate(kaiming_normal_)
eye = _make_deprecate(eye_)
dirac = _make_deprecate(dirac_)
orthogonal = _make_deprecate(orthogonal_)
sparse = _make_deprecate(sparse_)


for _function in map(globals().__getitem__, __all__):
    if _function.__module__.startswith("convinit_ext.init."):
        _function.__module__ = "convinit_ext.init"  # where it is public, and pickled by


# Whatever this PyTorch lists as public and did not when this file was written, it does itself.
_newer_names = [name for name in getattr(_torch_init, "__all__", ()) if name not in __all__]
globals().update({name: getattr(_torch_init, name) for name in _newer_names})
__all__.extend(_newer_names)
