"""One fill of one tensor, or of the parts of a larger one that a process holds."""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active, _get_tracing_state
from torch._C import _len_torch_dispatch_stack as _dispatch_modes
from torch._subclasses.fake_tensor import FakeTensor
from torch.compiler import is_compiling

from convinit_ext._engine import (
    HAS_CUDA,
    PLAIN,
    SMALL,
    STRIDED,
    SUPPORTED_DTYPES,
    bounds_fit,
    check_writable,
    fill_one_,
    fill_part_,
    fill_small_,
    increment_version,
)
from convinit_ext._engine import fill_ as fill_list_
from convinit_ext.distributions import Distribution, ParameterError
from convinit_ext.init._words import check_key, no_words, words_for
from convinit_ext.keys import DRAW_UNDER_CAPTURE, INT64_MIN, Key, check_not_capturing
from convinit_ext.sharding import Shard, is_dtensor, local_of, logical_shape, parts

_UNIFORM = 1  # Uniform.kind


def fill_(
    tensor: Tensor,
    distribution: Distribution,
    generator: torch.Generator | None,
    key: Key | None,
    shard: Shard | None = None,
) -> Tensor:
    """Fill from the key if there is one, else from one drawn from the generator."""
    if (  # a small plain tensor, and nobody watches: spelled out here, as it is most calls
        generator is None
        and key is None
        and shard is None
        and type(tensor) in PLAIN
        and tensor.dtype in SUPPORTED_DTYPES
        and tensor.is_cpu
        and tensor.layout is STRIDED
        and tensor.is_contiguous()
        and _get_tracing_state() is None
        and tensor.numel() <= SMALL
        and (distribution.kind != _UNIFORM or _bounds_fit(distribution, tensor.dtype))
        and not is_compiling()
        and not _dispatch_modes()
        and not _are_functorch_transforms_active()
        and not (tensor.is_neg() or tensor.is_nested or tensor.is_inference())
        and (data := tensor.data_ptr())  # there are elements, and memory for them
    ):
        _drawn.words.random_(INT64_MIN, None)
        fill_small_(tensor, _drawn.address, distribution.kind, distribution.params, 0, data)
    elif not is_compiling() and tensor.is_neg():  # z.conj().imag: the values are what it shows
        with torch.no_grad():
            memory = torch._neg_view(tensor)
            fill_(memory, distribution, generator, key, shard)
            memory.neg_()
    elif shard is not None or is_dtensor(tensor):
        _fill_parts_(tensor, distribution, generator, key, shard)
    elif not _bounds_fit(distribution, tensor.dtype):
        _refuse_bounds(tensor, distribution)
    elif generator is None and key is None and tensor.is_cuda and _is_plain_cuda(tensor):
        check_not_capturing(tensor.device, DRAW_UNDER_CAPTURE)
        words = _drawn.words.random_(INT64_MIN, None)
        fill_one_(tensor, words, distribution.kind, distribution.params)
    else:
        fill_one_(tensor, words_for(tensor, generator, key), distribution.kind, distribution.params)
    return tensor


def _fill_parts_(
    tensor: Tensor,
    distribution: Distribution,
    generator: torch.Generator | None,
    key: Key | None,
    shard: Shard | None,
) -> None:
    """What this process holds of a larger tensor. The key is drawn even where it holds nothing of it, so that
    generators with one seed stay in step on all ranks."""
    with torch.no_grad():
        held = parts(tensor, shard)
    local, shape = local_of(tensor), logical_shape(tensor, shard)
    check_writable(local)
    if key is None and (local.is_meta or math.prod(shape) == 0):
        return
    if not _bounds_fit(distribution, local.dtype):
        _refuse_bounds(local, distribution)
    boxes = [part.box(shape) for part in held]
    words = words_for(local, generator, key, drawn_anyway=True)
    if len(held) == 1:
        fill_part_(held[0].tensor, words, distribution.kind, distribution.params, boxes[0])
    else:
        fill_list_(
            [part.tensor for part in held],
            words.expand(len(held), 2).contiguous(),
            [distribution] * len(held),
            boxes,
        )
    if local is not tensor:
        increment_version(tensor)


def check_extras(
    tensor: Tensor, generator: torch.Generator | None, key: Key | None, shard: Shard | None
) -> None:
    """What a fill would raise of key= and shard=, where there is nothing to fill."""
    if key is not None:
        check_key(generator, key)
    if shard is not None:
        with torch.no_grad():
            parts(tensor, shard)


def _is_plain_cuda(tensor: Tensor) -> bool:
    """Whether nothing about the tensor can raise after its key was drawn, and nobody watches."""
    return (
        HAS_CUDA
        and type(tensor) in PLAIN
        and tensor.dtype in SUPPORTED_DTYPES
        and tensor.layout is STRIDED
        and tensor.is_contiguous()
        and not is_compiling()
        and not _dispatch_modes()
        and not _are_functorch_transforms_active()
        and not (tensor.is_neg() or tensor.is_nested or tensor.is_inference())
        and tensor.data_ptr() != 0
    )


def _bounds_fit(distribution: Distribution, dtype: torch.dtype) -> bool:
    if distribution.kind != _UNIFORM:
        return True
    low, high, *_ = distribution.params
    return bounds_fit(low, high, dtype)


def _refuse_bounds(tensor: Tensor, distribution: Distribution) -> None:
    """The engine raises it, before anything is drawn; but it sees no fake tensors. Meta ones may have any."""
    if isinstance(tensor, FakeTensor):
        low, high, *_ = distribution.params
        raise ParameterError(
            f"uniform_ expects bounds and a width that {tensor.dtype} can hold, but found from={low} and "
            f"to={high}"
        )
    fill_one_(tensor, no_words(), distribution.kind, distribution.params)


class _Drawn(threading.local):
    """Where plain tensors' keys are drawn to, one place a thread: a new tensor would take too long."""

    def __init__(self) -> None:
        with torch.inference_mode(False):
            self.words = torch.empty(1, 2, dtype=torch.int64, device="cpu")
        self.address = self.words.data_ptr()


_drawn = _Drawn()
