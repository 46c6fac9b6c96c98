"""Orthogonal initialisers: normal values of ours, a QR factorisation of PyTorch's."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.overrides import has_torch_function_unary

from convinit_ext._engine import check_tensor
from convinit_ext.distributions import Normal
from convinit_ext.init._fill import check_extras, check_not_lost, fill_, override
from convinit_ext.keys import Key, check_not_capturing
from convinit_ext.sharding import Shard, copy_whole_, local_of, logical_shape, parts


def orthogonal_(
    tensor: Tensor,
    gain: float = 1,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    shard: Shard | None = None,
) -> Tensor:
    """Fill with a (semi-)orthogonal matrix, uniform over all of them.

    The normal values are this library's to the bit; the QR factorisation is LAPACK's, whose last bits are the
    processor's and the release's. It runs on the CPU, on one thread, whatever the device and the number of
    threads, so that all of them get the same values; the host waits for it. For a shard, every process
    factorises the whole matrix and keeps its part.

    Args:
        tensor: [rows, *columns], float32 or float64; the trailing dimensions are one.
        gain: factor of the values.
        generator, key, shard: as for uniform_.

    Raises:
        ValueError: fewer than 2 dimensions.
        TypeError: a gain that is no number.
        NotImplementedError: a dtype that PyTorch has no QR factorisation for.
        RuntimeError: while a CUDA graph is captured.

    Source: Saxe et al. 2013; Mezzadri 2007 (uniformity); torch.nn.init.orthogonal_.

    >>> from convinit_ext import init
    >>> w = init.orthogonal_(torch.empty(3, 5))
    >>> torch.allclose(w @ w.T, torch.eye(3), atol=1e-6)
    True
    """
    if has_torch_function_unary(tensor):
        return override(orthogonal_, locals())
    if len(logical_shape(tensor, shard)) < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    rows, *columns = logical_shape(tensor, shard)
    return _fill_with_matrix(tensor, rows, math.prod(columns), gain, generator, key, shard)


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
        ValueError: another number of dimensions; more inputs than outputs.
        TypeError: a gain that is no number.
        NotImplementedError: a dtype that PyTorch has no QR factorisation for.

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
    return _fill_with_matrix(tensor, num_out, num_in, gain, generator, key, shard)


def _fill_with_matrix(
    tensor: Tensor,
    rows: int,
    cols: int,
    gain: float,
    generator: torch.Generator | None,
    key: Key | None,
    shard: Shard | None,
) -> Tensor:
    """Fill with an orthogonal matrix of this shape times the gain: with all of it, or if the tensor has more
    elements with it at the centre of the kernel dimensions, and zeros elsewhere."""
    shape = logical_shape(tensor, shard)
    if 0 in shape or tensor.is_meta:
        check_extras(tensor, generator, key, shard)
        return tensor
    _check(tensor, gain, shard)
    with torch.no_grad():
        matrix = _haar_matrix(fill_(local_of(tensor).new_empty((rows, cols)), Normal(), generator, key).cpu())
        matrix.mul_(gain)
        if rows * cols == math.prod(shape):
            whole = matrix.reshape(shape)
        else:
            whole = matrix.new_zeros(shape)
            centre: list[slice | int] = [slice(None), slice(None), *((size - 1) // 2 for size in shape[2:])]
            whole[tuple(centre)] = matrix
        copy_whole_(tensor, whole, shard)
    return tensor


def _check(tensor: Tensor, gain: float, shard: Shard | None) -> None:
    """Raise what is wrong before a key is drawn."""
    check_not_lost(tensor, shard)
    if tensor.dtype not in (torch.float32, torch.float64):
        raise NotImplementedError(
            f"orthogonal needs a QR factorisation: float32 or float64, not {tensor.dtype}"
        )
    if not isinstance(gain, float | int | Tensor):
        try:
            torch.empty(0, dtype=tensor.dtype, device="cpu").mul_(gain)
        except TypeError as error:
            raise TypeError(f"gain must be a number, not {gain!r}") from error
    with torch.no_grad():
        parts(tensor, shard)
    local = local_of(tensor)
    check_tensor(local)
    if not is_compiling():
        check_not_capturing(local.device, "orthogonal_ cannot be captured: its QR runs on the CPU")


def _haar_matrix(normals: Tensor) -> Tensor:
    """Return a matrix whose rows or columns, whichever are fewer, are orthonormal, uniform over all such."""
    rows, cols = normals.shape
    tall = normals.t() if rows < cols else normals
    q: Tensor = _orthonormal_in_graph(tall) if is_compiling() else _orthonormal(tall)
    return q.t() if rows < cols else q


def _orthonormal(matrix: Tensor) -> Tensor:
    """Orthonormal columns from a matrix with no more columns than rows, by QR.

    LAPACK's values depend on the number of threads, and the processes of one job may have different ones: it
    gets one.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    q: Tensor
    try:
        q, r = torch.linalg.qr(matrix)
    finally:
        torch.set_num_threads(num_threads)
    # QR alone is not uniform over the orthogonal group: Mezzadri 2007, https://arxiv.org/abs/math-ph/0609050
    q *= r.diagonal().sign()
    return q


# No compiler traces a number of threads.
@torch.library.custom_op("convinit_ext::orthonormal", mutates_args=())
def _orthonormal_in_graph(matrix: Tensor) -> Tensor:
    return _orthonormal(matrix).contiguous()


@_orthonormal_in_graph.register_fake
def _(matrix: Tensor) -> Tensor:
    return matrix.new_empty(matrix.shape)
