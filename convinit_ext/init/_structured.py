"""Initialisers with a structure: ones on a diagonal, zeros in every column. On shards as on whole tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.overrides import has_torch_function_unary

from convinit_ext._engine import (
    Box,
    UnsupportedTensorError,
    check_kind,
    check_tensor,
    increment_version,
    is_plain,
    largest_of,
    on_this_thread,
)
from convinit_ext._engine import fill_ as fill_list_
from convinit_ext.distributions import Normal, ParameterError, Uniform, as_finite, as_groups
from convinit_ext.init._compiled import fill_in_graph_
from convinit_ext.init._fill import as_words, check_extras, check_not_lost, fill_, override
from convinit_ext.keys import Key, draw
from convinit_ext.sharding import Part, Shard, is_sharded, local_of, logical_shape, parts

_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)  # for which PyTorch has few operations
_SCORES_AT_ONCE = 1 << 22  # of sparse_ on a shard: whole columns are scored, so many elements at a time


def eye_(tensor: Tensor, *, shard: Shard | None = None) -> Tensor:
    """Fill a matrix with the identity: ones on the diagonal, zeros elsewhere.

    Args:
        tensor: [rows, columns].
        shard: which part of a larger matrix this is. A DTensor's placements say it without.

    Raises:
        ValueError: not 2 dimensions.

    Source: torch.nn.init.eye_.

    >>> from convinit_ext import init
    >>> init.eye_(torch.empty(2, 3))
    tensor([[1., 0., 0.],
            [0., 1., 0.]])
    """
    check_not_lost(tensor, shard)
    if len(logical_shape(tensor, shard)) != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    return _ones_on_diagonals(tensor, 1, shard)


def dirac_(tensor: Tensor, groups: int = 1, *, shard: Shard | None = None) -> Tensor:
    """Fill a convolution's weight so that it passes as many input channels on as there are.

    Args:
        tensor: [out, in / groups, *kernel] with 1 to 3 kernel dimensions.
        groups: of the convolution; each group passes its own inputs on.
        shard: as for eye_.

    Raises:
        ValueError: another number of dimensions; groups that do not divide the first.

    Source: torch.nn.init.dirac_.

    >>> from convinit_ext import init
    >>> init.dirac_(torch.empty(2, 2, 1)).flatten()
    tensor([1., 0., 0., 1.])
    """
    check_not_lost(tensor, shard)
    if len(logical_shape(tensor, shard)) not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    return _ones_on_diagonals(tensor, as_groups(groups, logical_shape(tensor, shard)[0]), shard)


def identity_(tensor: Tensor, gain: float = 1.0, *, groups: int = 1, shard: Shard | None = None) -> Tensor:
    """Fill so that the layer passes its input on: eye_ for a matrix, dirac_ for a convolution's weight.

    Args:
        tensor: [out, in] or [out, in / groups, *kernel] with 1 to 3 kernel dimensions.
        gain: factor of the values.
        groups: of the convolution; each group passes its own inputs on.
        shard: as for eye_.

    Raises:
        ValueError: another number of dimensions; groups that do not divide the first; a gain that is not
            finite, or beyond the tensor's dtype.

    Source: torch.nn.init.eye_, torch.nn.init.dirac_.

    >>> from convinit_ext import init
    >>> w = init.identity_(torch.empty(4, 4, 3, 3))
    >>> w.sum().item(), w[2, 2, 1, 1].item()
    (4.0, 1.0)
    """
    gain = as_finite(gain, "gain")
    check_not_lost(tensor, shard)
    check_tensor(local_of(tensor))
    _check_wide(tensor, "identity_")
    if abs(gain) > (largest := largest_of(tensor.dtype)):  # infinity times zero is NaN
        raise ParameterError(f"gain must be within +-{largest} for {tensor.dtype}, but found {gain}")
    if len(logical_shape(tensor, shard)) == 2 and groups == 1:
        eye_(tensor, shard=shard)
    else:
        dirac_(tensor, groups, shard=shard)
    local = local_of(tensor)
    with torch.no_grad(), on_this_thread():
        local.mul_(gain)
    if local is not tensor:
        increment_version(tensor)
    return tensor


def _check_wide(tensor: Tensor, name: str) -> None:
    if tensor.dtype in _FLOAT8:
        raise UnsupportedTensorError(f"{name} cannot fill {tensor.dtype}; accepted are wider types")


def _ones_on_diagonals(tensor: Tensor, groups: int, shard: Shard | None) -> Tensor:
    """Zeros, and a one for output r, input r modulo the outputs of a group, at the kernel's centre."""
    shape = logical_shape(tensor, shard)
    with torch.no_grad(), on_this_thread():
        if shard is None and not is_sharded(tensor):  # by what compilers, vmap and fake tensors know
            may_overlap = not tensor.is_contiguous() and is_plain(tensor, any_dtype=True, any_strides=True)
            (check_tensor if may_overlap else check_kind)(tensor, "write")
            matrix = tensor.zero_()
            for size in shape[2:] if tensor.numel() else ():
                matrix = matrix.select(2, size // 2)
            if groups > 1:
                matrix = torch.unflatten(matrix, 0, (groups, shape[0] // groups))
            matrix.diagonal(dim1=-2, dim2=-1).fill_(1)
            return tensor
        found = parts(tensor, shard)
        local = local_of(tensor)
        check_tensor(local)
        local.zero_()
        for part in found:
            _set_ones(part, shape, groups)
        if local is not tensor:
            increment_version(tensor)
    return tensor


def _set_ones(part: Part, shape: Sequence[int], groups: int) -> None:
    rows, columns, *kernel = part.ranges
    centre = [size // 2 for size in shape[2:]]
    if not all(place in indices for place, indices in zip(centre, kernel, strict=True)):
        return
    matrix = part.tensor
    for place, indices in zip(centre, kernel, strict=True):
        matrix = matrix.select(2, indices.index(place))
    per_group = shape[0] // groups
    inputs = [row % per_group for row in rows]
    ones = [(place, columns.index(each)) for place, each in enumerate(inputs) if each in columns]
    if ones:
        matrix[tuple(torch.tensor(ones, device=matrix.device).t())] = 1


def sparse_(
    tensor: Tensor,
    sparsity: float,
    std: float = 0.01,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    shard: Shard | None = None,
) -> Tensor:
    """Fill a matrix with N(0, std^2), and set the same number of elements of each column to zero.

    Zero are, of each column, the ceil(sparsity * rows) elements whose scores are lowest (of equal scores,
    those further up). The scores are the float64 uniform [0, 1) fill of a matrix of the same shape: with
    `key`, that of the same seed and the name with "#zeros" appended; without, that of a second key drawn.

    Args:
        tensor: [rows, columns].
        sparsity: fraction of each column to be zero. Above 1 it is all of it; a negative one is the fraction
            (its size rounded down to whole rows) that is not zero, as PyTorch has it.
        std: standard deviation of the other values.
        generator, key, shard: as for uniform_.

    Raises:
        ValueError: not 2 dimensions; std < 0.
        ValueError, OverflowError: a sparsity that is NaN, or infinite.

    Source: Martens 2010; torch.nn.init.sparse_.

    >>> from convinit_ext import init
    >>> w = init.sparse_(torch.empty(10, 5), sparsity=0.1)
    >>> (w == 0).sum(dim=0)
    tensor([1, 1, 1, 1, 1])
    """
    if has_torch_function_unary(tensor):
        return override(sparse_, locals())
    if len(logical_shape(tensor, shard)) != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    if tensor.is_meta:
        check_extras(tensor, generator, key, shard)
        return tensor
    _check_wide(tensor, "sparse_")
    shape = logical_shape(tensor, shard)
    in_graph = is_compiling() and shard is None and not is_sharded(tensor)  # where sizes may be symbols
    with torch.no_grad():
        found = [] if in_graph else parts(tensor, shard)
    num_zeros = _num_zeros(sparsity, shape[0])
    fill_(tensor, Normal(0.0, std), generator, key, shard)
    if 0 in shape:
        return tensor
    local = local_of(tensor)
    words = draw(generator, local) if key is None else as_words(Key(key.seed, key.name + "#zeros"), local)
    with torch.no_grad(), on_this_thread():
        if in_graph:
            scores = tensor.new_empty(shape, dtype=torch.float64)
            fill_in_graph_(scores, words, Uniform())
            tensor.masked_fill_(_lowest(scores, num_zeros), 0)
        for part in found:
            _zero_lowest(part, shape, num_zeros, words)
    return tensor


def _num_zeros(sparsity: float, num_rows: int) -> int:
    """Of each column. PyTorch slices a permutation of the rows: a negative number leaves so many out, and one
    that is too large takes all.
    """
    try:
        number = math.ceil(sparsity * num_rows)
        return min(number, num_rows) if number >= 0 else max(number + num_rows, 0)
    except (TypeError, ValueError, OverflowError) as error:
        raise type(error)(f"sparsity must be a finite number, but found {sparsity!r}") from error


def _zero_lowest(part: Part, shape: tuple[int, ...], num_zeros: int, words: Tensor) -> None:
    """Zeroes, in the part's rows, the lowest scores of its columns. A column is scored whole."""
    rows, columns = part.ranges
    for start in range(0, len(columns), max(1, _SCORES_AT_ONCE // shape[0])):
        some = columns[start : start + max(1, _SCORES_AT_ONCE // shape[0])]
        scores = part.tensor.new_empty((shape[0], len(some)), dtype=torch.float64)
        fill_list_([scores], words, [Uniform()], [Box(some.start, (shape[1], some.step))])
        lowest = _lowest(scores, num_zeros)
        part.tensor[:, start : start + len(some)].masked_fill_(lowest[rows.start : rows.stop : rows.step], 0)


def _lowest(scores: Tensor, number: int) -> Tensor:
    """Return which scores are so many of the lowest of their column."""
    lowest = torch.zeros_like(scores, dtype=torch.bool)
    return lowest.scatter_(0, scores.argsort(dim=0, stable=True)[:number], True)
