"""Orthogonal initialisers: normal values, and their QR factorisation (docs/value-contract.md, section 8)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.overrides import has_torch_function_unary

from convinit_ext._engine import check_tensor, make_orthogonal_, on_this_thread
from convinit_ext.distributions import Axes, Axis, Matrices, Normal, as_finite, matrices_of
from convinit_ext.init._fill import check_extras, check_not_lost, fill_, override
from convinit_ext.keys import Key, check_not_capturing
from convinit_ext.sharding import Shard, copy_whole_, is_sharded, local_of, logical_shape, parts


def orthogonal_(
    tensor: Tensor,
    gain: float = 1,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    shard: Shard | None = None,
    in_axis: Axis | None = None,
    out_axis: Axis | None = None,
    batch_axis: Axis = (),
    blocks: int = 1,
) -> Tensor:
    """Fill with a (semi-)orthogonal matrix, uniform over all of them.

    The QR factorisation is this library's: its bits are the same on every processor and device. It runs on
    the CPU, on PyTorch's threads, and the host waits for it. For a shard, every process factorises the whole
    matrix and keeps its part.

    Args:
        tensor: [rows, *columns], the trailing dimensions being one; or with these axes.
        gain: factor of the values.
        generator, key, shard: as for uniform_.
        in_axis, out_axis: as for xavier_uniform_: the axes of outputs are the rows, all others the columns.
        batch_axis: the axis of matrices that are orthogonal each by itself, as experts are, or a tuple of
            them.
        blocks: how many matrices on top of each other dim 0 is, each orthogonal by itself: the gates of an
            LSTM, packed q, k and v.

    Raises:
        ValueError: fewer than 2 dimensions; blocks that do not divide the first; what xavier_uniform_ raises
            of the axes; a gain that is not finite.
        TypeError: a gain that is no number; an axis or blocks that is no integer.
        RuntimeError: while a CUDA graph is captured.

    Source: Saxe et al. 2013; Mezzadri 2007 (uniformity); torch.nn.init.orthogonal_.

    >>> from convinit_ext import init
    >>> w = init.orthogonal_(torch.empty(3, 5))
    >>> torch.allclose(w @ w.T, torch.eye(3), atol=1e-6)
    True
    >>> experts = init.orthogonal_(torch.empty(4, 8, 6), batch_axis=0, in_axis=1, out_axis=2)
    >>> torch.allclose(experts.mT @ experts, torch.eye(6).expand(4, 6, 6), atol=1e-6)
    True
    """
    if has_torch_function_unary(tensor):
        return override(orthogonal_, locals())
    axes = Axes(in_axis, out_axis, batch_axis, blocks)
    matrices = matrices_of(logical_shape(tensor, shard), axes)
    return _fill_with_matrices(tensor, matrices, gain, generator, key, shard)


def delta_orthogonal_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    shard: Shard | None = None,
) -> Tensor:
    """Fill a convolution's weight with an orthogonal matrix at the kernel's centre, zero elsewhere.

    Args:
        tensor: [out, in, *kernel] with 1 to 3 kernel dimensions and in <= out. The centre of a kernel of even
            size k is (k - 1) // 2.
        gain: factor of the values.
        generator, key, shard: as for uniform_; the values are those of orthogonal_ on [out, in].

    Raises:
        ValueError: another number of dimensions; more inputs than outputs; a gain that is not finite.
        TypeError: a gain that is no number.

    Source: Xiao et al. 2018, algorithm 1; jax.nn.initializers.delta_orthogonal.

    >>> from convinit_ext import init
    >>> w = init.delta_orthogonal_(torch.empty(8, 4, 3, 3))
    >>> torch.allclose(w[:, :, 1, 1].T @ w[:, :, 1, 1], torch.eye(4), atol=1e-6)
    True
    """
    if has_torch_function_unary(tensor):
        return override(delta_orthogonal_, locals())
    if len(logical_shape(tensor, shard)) not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    num_out, num_in, *_ = logical_shape(tensor, shard)
    if num_in > num_out:
        raise ValueError(
            f"delta_orthogonal_ needs dim 1 (inputs) <= dim 0 (outputs), but found {num_in} > {num_out}"
        )
    return _fill_with_matrices(tensor, matrices_of((num_out, num_in)), gain, generator, key, shard)


def _fill_with_matrices(
    tensor: Tensor,
    matrices: Matrices,
    gain: float,
    generator: torch.Generator | None,
    key: Key | None,
    shard: Shard | None,
) -> Tensor:
    """Fill with orthogonal matrices times the gain: with all of them, or if the tensor has more elements with
    one at the centre of the kernel dimensions, and zeros."""
    shape = logical_shape(tensor, shard)
    if 0 in shape or tensor.is_meta:
        check_extras(tensor, generator, key, shard)
        return tensor
    gain = _check(tensor, gain, shard)
    sizes, order, *each = matrices
    with torch.no_grad(), on_this_thread():
        exact = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        normals = fill_(local_of(tensor).new_empty(sizes, dtype=exact), Normal(), generator, key).cpu()
        arranged = normals.permute(order).contiguous()
        make_orthogonal_(arranged.view(each), gain)
        made = arranged.permute(sorted(order, key=order.__getitem__))
        if made.numel() == math.prod(shape):
            whole = made.reshape(shape)
        else:
            whole = made.new_zeros(shape)
            centre: list[slice | int] = [slice(None), slice(None), *((size - 1) // 2 for size in shape[2:])]
            whole[tuple(centre)] = made[0]
        copy_whole_(tensor, whole, shard)
    return tensor


def _check(tensor: Tensor, gain: float, shard: Shard | None) -> float:
    """Return the gain; raise what is wrong before a key is drawn."""
    check_not_lost(tensor, shard)
    gain = as_finite(gain, "gain")
    if shard is not None or is_sharded(tensor):
        with torch.no_grad():
            parts(tensor, shard)
    local = local_of(tensor)
    check_tensor(local)
    if not is_compiling():
        check_not_capturing(local.device, "orthogonal_ cannot be captured: its QR runs on the CPU")
    return gain
