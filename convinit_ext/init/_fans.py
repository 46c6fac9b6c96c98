"""The functions whose spread follows from the shape: Kaiming's, Xavier's, LeCun's, and variance scaling.

Their axes are those of jax.nn.initializers; the default is PyTorch's weight, [out, in / groups, *kernel].
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.overrides import has_torch_function_unary

from convinit_ext.distributions import (
    PYTORCH,
    Axes,
    Axis,
    Distribution,
    calculate_gain,
    fans,
    kaiming,
    kaiming_fan,
    variance_scaling,
    xavier,
)
from convinit_ext.init._compiled import scaled
from convinit_ext.init._fill import check_extras, fill_, override
from convinit_ext.keys import Key
from convinit_ext.sharding import Shard, logical_shape

_Axes: TypeAlias = tuple[Axis | None, Axis | None, Axis, int]  # a plain tuple is made faster
_remembered_kaiming = lru_cache(maxsize=4096)(kaiming)
_remembered_xavier = lru_cache(maxsize=4096)(xavier)
_NUMBERS = (int, float)
_, _, _NO_AXES, _ONE = PYTORCH  # by identity: NumPy's numbers answer == with arrays


# A model has few shapes, so results are remembered: those of plain numbers, as a tensor's value may change,
# and outside of compiled code, as a compiler would trace into the cache.


def kaiming_distribution(
    shape: Sequence[int],
    a: float,
    mode: str,
    nonlinearity: str,
    form: str,
    groups: int = 1,
    axes: _Axes = PYTORCH,
) -> Distribution:
    """Return `kaiming` of the same arguments, remembered where the axes are PyTorch's."""
    if is_compiling():
        fan = kaiming_fan(shape, mode, groups, Axes(*axes))
        return scaled("kaiming_std", form, calculate_gain(nonlinearity, a), fan, fan)
    plain = type(a) in _NUMBERS and type(mode) is type(nonlinearity) is str and type(groups) is int
    if plain and axes[0] is axes[1] is None and axes[2] is _NO_AXES and axes[3] is _ONE:
        return _remembered_kaiming(shape, a, mode, nonlinearity, form, groups)
    return kaiming(shape, a, mode, nonlinearity, form, groups, Axes(*axes))


def xavier_distribution(
    shape: Sequence[int], gain: float, form: str, groups: int = 1, axes: _Axes = PYTORCH
) -> Distribution:
    """Return `xavier` of the same arguments, remembered likewise, but of gain zero, whose sign counts."""
    if is_compiling():
        return scaled("xavier_std", form, gain, *fans(shape, groups=groups, **Axes(*axes)._asdict()))
    plain = type(gain) in _NUMBERS and gain and type(groups) is int
    if plain and axes[0] is axes[1] is None and axes[2] is _NO_AXES and axes[3] is _ONE:
        return _remembered_xavier(shape, gain, form, groups)
    return xavier(shape, gain, form, groups, Axes(*axes))


def xavier_uniform_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    shard: Shard | None = None,
    groups: int = 1,
    in_axis: Axis | None = None,
    out_axis: Axis | None = None,
    batch_axis: Axis = (),
    blocks: int = 1,
) -> Tensor:
    """Fill with U(-bound, bound), bound = gain * sqrt(6 / (fan_in + fan_out)).

    Args:
        tensor: weight of a linear or convolutional layer, [out, in / groups, *kernel], or with these axes.
        gain: factor of the values.
        generator, key, shard: as for uniform_.
        groups: of the convolution: fan_out is that of one group. PyTorch's is that of all (groups=1).
        in_axis: the axis of the inputs, or a tuple of them; None is the first that is left after out_axis.
        out_axis: the axis of the outputs, or a tuple of them; None is the first that is left.
        batch_axis: the axis of weights that do not meet, as of experts, or a tuple of them. Both fans are
            multiplied by the axes that are in none of the three, a kernel's.
        blocks: how many matrices are on top of each other in dim 0 (query, key and value; the gates of an
            LSTM), each with fans of its own.

    Raises:
        ValueError: fewer than 2 dimensions; groups or blocks that do not divide the first; an axis that is
            not there or is twice; groups together with axes or blocks; blocks where dim 0 is no output.
        TypeError: an axis or blocks that is no integer.

    Source: Glorot & Bengio 2010; torch.nn.init.xavier_uniform_; jax.nn.initializers for the axes.

    >>> from convinit_ext import init
    >>> w = init.xavier_uniform_(torch.empty(3, 5), gain=init.calculate_gain("relu"))
    >>> qkv = init.xavier_uniform_(torch.empty(3 * 8, 8), blocks=3)
    """
    if has_torch_function_unary(tensor):
        return override(xavier_uniform_, locals())
    shape, axes = logical_shape(tensor, shard), (in_axis, out_axis, batch_axis, blocks)
    return fill_(tensor, xavier_distribution(shape, gain, "uniform", groups, axes), generator, key, shard)


def xavier_normal_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    shard: Shard | None = None,
    groups: int = 1,
    in_axis: Axis | None = None,
    out_axis: Axis | None = None,
    batch_axis: Axis = (),
    blocks: int = 1,
) -> Tensor:
    """Fill with N(0, std^2), std = gain * sqrt(2 / (fan_in + fan_out)).

    Args, raises: as for xavier_uniform_.

    Source: Glorot & Bengio 2010; torch.nn.init.xavier_normal_.

    >>> from convinit_ext import init
    >>> w = init.xavier_normal_(torch.empty(8, 1, 3, 3), groups=8)
    """
    if has_torch_function_unary(tensor):
        return override(xavier_normal_, locals())
    shape, axes = logical_shape(tensor, shard), (in_axis, out_axis, batch_axis, blocks)
    return fill_(tensor, xavier_distribution(shape, gain, "normal", groups, axes), generator, key, shard)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    shard: Shard | None = None,
    groups: int = 1,
    in_axis: Axis | None = None,
    out_axis: Axis | None = None,
    batch_axis: Axis = (),
    blocks: int = 1,
) -> Tensor:
    """Fill with U(-bound, bound), bound = gain * sqrt(3 / fan).

    Args:
        tensor: weight of a linear or convolutional layer, [out, in / groups, *kernel], or with these axes.
        a: negative slope of the leaky_relu that follows.
        mode: "fan_in" keeps the variance in the forward pass, "fan_out" in the backward pass.
        nonlinearity: what follows the layer; a name that calculate_gain knows.
        generator, key, shard: as for uniform_.
        groups, in_axis, out_axis, batch_axis, blocks: as for xavier_uniform_.

    Raises:
        ValueError: another mode or nonlinearity; what xavier_uniform_ raises of the axes.

    Source: He et al. 2015; torch.nn.init.kaiming_uniform_.

    >>> from convinit_ext import init
    >>> w = init.kaiming_uniform_(torch.empty(3, 5), nonlinearity="relu")
    """
    if has_torch_function_unary(tensor):
        return override(kaiming_uniform_, locals())
    shape, axes = logical_shape(tensor, shard), (in_axis, out_axis, batch_axis, blocks)
    if 0 in shape:
        return _nothing_to_fill(tensor, generator, key, shard)
    distribution = kaiming_distribution(shape, a, mode, nonlinearity, "uniform", groups, axes)
    return fill_(tensor, distribution, generator, key, shard)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    shard: Shard | None = None,
    groups: int = 1,
    in_axis: Axis | None = None,
    out_axis: Axis | None = None,
    batch_axis: Axis = (),
    blocks: int = 1,
) -> Tensor:
    """Fill with N(0, std^2), std = gain / sqrt(fan).

    Args, raises: as for kaiming_uniform_.

    Source: He et al. 2015; torch.nn.init.kaiming_normal_.

    >>> from convinit_ext import init
    >>> w = init.kaiming_normal_(torch.empty(64, 3, 7, 7), mode="fan_out", nonlinearity="relu")
    >>> experts = init.kaiming_normal_(torch.empty(4, 16, 8), batch_axis=0, in_axis=1, out_axis=2)
    """
    if has_torch_function_unary(tensor):
        return override(kaiming_normal_, locals())
    shape, axes = logical_shape(tensor, shard), (in_axis, out_axis, batch_axis, blocks)
    if 0 in shape:
        return _nothing_to_fill(tensor, generator, key, shard)
    distribution = kaiming_distribution(shape, a, mode, nonlinearity, "normal", groups, axes)
    return fill_(tensor, distribution, generator, key, shard)


def variance_scaling_(
    tensor: Tensor,
    scale: float = 1.0,
    mode: str = "fan_in",
    distribution: str = "normal",
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    shard: Shard | None = None,
    groups: int = 1,
    in_axis: Axis | None = None,
    out_axis: Axis | None = None,
    batch_axis: Axis = (),
    blocks: int = 1,
) -> Tensor:
    """Fill with mean zero and variance scale / fan: what Kaiming, Xavier and LeCun are cases of.

    Args:
        tensor: weight of a linear or convolutional layer, [out, in / groups, *kernel], or with these axes.
        scale: factor of the variance.
        mode: "fan_in", "fan_out", or their mean: "fan_avg" (arithmetic), "fan_geo_avg" (geometric).
        distribution: "normal", "uniform", or "truncated_normal" (the std is that after the cut at two stds).
        generator, key, shard: as for uniform_.
        groups, in_axis, out_axis, batch_axis, blocks: as for xavier_uniform_.

    Raises:
        ValueError: scale < 0; another mode or distribution; what xavier_uniform_ raises of the axes.

    Source: jax.nn.initializers.variance_scaling.

    >>> from convinit_ext import init
    >>> w = init.variance_scaling_(torch.empty(3, 5), 2.0, "fan_avg", "truncated_normal")
    """
    if has_torch_function_unary(tensor):
        return override(variance_scaling_, locals())
    shape = logical_shape(tensor, shard)
    if 0 in shape:
        return _nothing_to_fill(tensor, generator, key, shard)
    fan_in, fan_out = fans(
        shape, groups=groups, in_axis=in_axis, out_axis=out_axis, batch_axis=batch_axis, blocks=blocks
    )
    if is_compiling():
        found: Distribution = scaled(mode, distribution, scale, fan_in, fan_out)
    else:
        found = variance_scaling(scale, mode, distribution, fan_in, fan_out)
    return fill_(tensor, found, generator, key, shard)


def lecun_normal_(
    tensor: Tensor,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    shard: Shard | None = None,
    in_axis: Axis | None = None,
    out_axis: Axis | None = None,
    batch_axis: Axis = (),
    blocks: int = 1,
) -> Tensor:
    """Fill with a normal distribution of variance 1 / fan_in, cut at two standard deviations.

    Args, raises: as for xavier_uniform_.

    Source: LeCun et al. 1998, section 4.6; jax.nn.initializers.lecun_normal.

    >>> from convinit_ext import init
    >>> w = init.lecun_normal_(torch.empty(3, 5))
    """
    axes: Any = {"in_axis": in_axis, "out_axis": out_axis, "batch_axis": batch_axis, "blocks": blocks}
    return variance_scaling_(
        tensor, 1.0, "fan_in", "truncated_normal", generator, key=key, shard=shard, **axes
    )


def lecun_uniform_(
    tensor: Tensor,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    shard: Shard | None = None,
    in_axis: Axis | None = None,
    out_axis: Axis | None = None,
    batch_axis: Axis = (),
    blocks: int = 1,
) -> Tensor:
    """Fill with U(-bound, bound), bound = sqrt(3 / fan_in).

    Args, raises: as for xavier_uniform_.

    Source: LeCun et al. 1998, section 4.6; jax.nn.initializers.lecun_uniform.

    >>> from convinit_ext import init
    >>> w = init.lecun_uniform_(torch.empty(3, 5))
    """
    axes: Any = {"in_axis": in_axis, "out_axis": out_axis, "batch_axis": batch_axis, "blocks": blocks}
    return variance_scaling_(tensor, 1.0, "fan_in", "uniform", generator, key=key, shard=shard, **axes)


def _nothing_to_fill(
    tensor: Tensor, generator: torch.Generator | None, key: Key | None, shard: Shard | None
) -> Tensor:
    check_extras(tensor, generator, key, shard)
    warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
    return tensor
