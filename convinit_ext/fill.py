"""One fill of one tensor, from a key or from a generator; and what must hold before a key is drawn."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active
from torch._C import _len_torch_dispatch_stack as _dispatch_modes
from torch._subclasses.fake_tensor import FakeTensor
from torch.compiler import is_compiling
from torch.nn import Parameter
from torch.overrides import handle_torch_function

from convinit_ext.boxes import is_dtensor, local_of, logical_shape, parts
from convinit_ext.distributions import Distribution, ParameterError
from convinit_ext.keys import DRAW_UNDER_CAPTURE, INT64_MIN, Key, check_not_capturing, draw
from convinit_ext.ops import (
    HAS_CUDA,
    LARGEST,
    SMALL,
    SUPPORTED_DTYPES,
    check_inference,
    check_supported,
    fill_one_,
    fill_part_,
    fill_small_,
    increment_version,
)
from convinit_ext.ops import fill_ as fill_list_
from convinit_ext.shards import Shard


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
        and type(tensor) in _PLAIN
        and tensor.dtype in SUPPORTED_DTYPES
        and tensor.is_cpu
        and tensor.layout is _STRIDED
        and tensor.is_contiguous()
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
    elif not is_compiling() and tensor.is_neg():
        _fill_negated_(tensor, distribution, generator, key, shard)
    elif shard is not None or is_dtensor(tensor):
        _fill_parts_(tensor, distribution, generator, key, shard)
    elif not _bounds_fit(distribution, tensor.dtype):
        _refuse_bounds(tensor, distribution)
    elif generator is None and key is None and tensor.is_cuda and _is_plain_cuda(tensor):
        check_not_capturing(tensor.device, DRAW_UNDER_CAPTURE)
        words = _drawn.words.random_(INT64_MIN, None)
        fill_one_(tensor, words, distribution.kind, distribution.params)
    else:
        fill_one_(tensor, _words(tensor, generator, key), distribution.kind, distribution.params)
    return tensor


def _fill_negated_(
    tensor: Tensor,
    distribution: Distribution,
    generator: torch.Generator | None,
    key: Key | None,
    shard: Shard | None,
) -> None:
    """A view that shows its memory negated, as z.conj().imag does: the values are what it shows."""
    with torch.no_grad():
        memory = torch._neg_view(tensor)
        fill_(memory, distribution, generator, key, shard)
        memory.neg_()


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
    words = _words(local, generator, key, drawn_anyway=True)
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
        _check_key(generator, key)
    if shard is not None:
        with torch.no_grad():
            parts(tensor, shard)


def _is_plain_cuda(tensor: Tensor) -> bool:
    """Whether nothing about the tensor can raise after its key was drawn, and nobody watches."""
    return (
        HAS_CUDA
        and type(tensor) in _PLAIN
        and tensor.dtype in SUPPORTED_DTYPES
        and tensor.layout is _STRIDED
        and tensor.is_contiguous()
        and not is_compiling()
        and not _dispatch_modes()
        and not _are_functorch_transforms_active()
        and not (tensor.is_neg() or tensor.is_nested or tensor.is_inference())
        and tensor.data_ptr() != 0
    )


_UNIFORM = 1  # Uniform.kind
_STRIDED = torch.strided
_PLAIN = (Tensor, Parameter)


class _Drawn(threading.local):
    """Where plain tensors' keys are drawn to, one place a thread: a new tensor would take too long."""

    def __init__(self) -> None:
        with torch.inference_mode(False):
            self.words = torch.empty(1, 2, dtype=torch.int64, device="cpu")
        self.address = self.words.data_ptr()


_drawn = _Drawn()


def _words(
    tensor: Tensor, generator: torch.Generator | None, key: Key | None, drawn_anyway: bool = False
) -> Tensor:
    """The key's words, or the next of the generator if there is anything to fill."""
    if key is not None:
        _check_key(generator, key)
        return key.tensor()
    if generator is not None:
        _check_generator(tensor, generator)
    if drawn_anyway or _takes_words(tensor):
        if not is_compiling():
            check_not_capturing(tensor.device, DRAW_UNDER_CAPTURE)
        return draw(generator, tensor)
    return _no_words()


def _check_key(generator: torch.Generator | None, key: Key) -> None:
    if not isinstance(key, Key):
        raise TypeError(f"key must be a convinit_ext.Key, not {type(key).__name__}")
    if generator is not None:
        raise ValueError("key= and generator= each say where the values come from; pass only one of them")


def _no_words() -> Tensor:
    return torch.zeros(1, 2, dtype=torch.int64, device="cpu")


def _bounds_fit(distribution: Distribution, dtype: torch.dtype) -> bool:
    """Whether the dtype holds a uniform's bounds and, of PyTorch's own types, their difference."""
    if distribution.kind != _UNIFORM or dtype not in LARGEST:
        return True
    low, high, *_ = distribution.params
    largest = LARGEST[dtype]
    return -low <= largest and high <= largest and (high - low <= largest or dtype.itemsize == 1)


def _refuse_bounds(tensor: Tensor, distribution: Distribution) -> None:
    """The engine raises it, before anything is drawn; but it sees no fake tensors. Meta ones may have any."""
    if isinstance(tensor, FakeTensor):
        low, high, *_ = distribution.params
        raise ParameterError(
            f"uniform_ expects bounds and a width that {tensor.dtype} can hold, but found from={low} and "
            f"to={high}"
        )
    fill_one_(tensor, _no_words(), distribution.kind, distribution.params)


def _check_generator(tensor: Tensor, generator: torch.Generator) -> None:
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, not {type(generator).__name__}")
    if generator.device.type not in ("cpu", tensor.device.type):
        raise RuntimeError(
            f"Expected a '{tensor.device.type}' device type for generator but found '{generator.device.type}'"
        )


def _takes_words(tensor: Tensor) -> bool:
    """Whether the fill will write. If it will not, or will raise, the generator stays as it is."""
    return (
        tensor.dtype in SUPPORTED_DTYPES
        and tensor.numel() > 0
        and (tensor.is_cpu or (HAS_CUDA and tensor.is_cuda))
        and tensor.layout is _STRIDED
        and not tensor.is_nested
        and (is_compiling() or _may_be_written(tensor))
    )


def _may_be_written(tensor: Tensor) -> bool:
    """Whether `check_places` would raise nothing."""
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        return False
    is_plain = type(tensor) in _PLAIN and not _are_functorch_transforms_active()  # others may have no storage
    if is_plain and not tensor.untyped_storage().size():
        return False
    return tensor.is_contiguous() or not _overlaps_itself(tensor)


def _overlaps_itself(tensor: Tensor) -> bool:
    known = torch._debug_has_internal_overlap(tensor)  # 1: surely, 0: surely not, 2: nobody knows
    if known < 2:
        return bool(known)
    extent = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride < extent:
            return _places_overlap(tensor)
        extent += (size - 1) * stride
    return False


def is_surely_writable(tensor: Tensor) -> bool:
    """A quick yes for the tensors of most models: `check_writable` would raise nothing."""
    return (
        type(tensor) in _PLAIN
        and tensor.dtype in SUPPORTED_DTYPES
        and tensor.layout is _STRIDED
        and tensor.is_cpu
        and tensor.is_contiguous()
        and not (tensor.is_neg() or tensor.is_nested or tensor.is_inference() or is_compiling())
        and tensor.data_ptr() != 0
    )


def check_writable(tensor: Tensor) -> None:
    """For functions that write with PyTorch's own operations: what the engine would refuse, first.

    Raises:
        UnsupportedTensorError, RuntimeError: as ops.fill_.
    """
    if is_compiling():  # there is no memory to look at
        return
    check_supported([tensor])
    check_places(tensor)


def check_places(tensor: Tensor) -> None:
    """The same but for the dtype, for buffers.

    Raises:
        RuntimeError: an inference tensor outside inference mode, no memory, elements that overlap.
    """
    check_inference(tensor)
    if tensor.numel() and not tensor.untyped_storage().size():
        raise RuntimeError("the tensor's storage holds no memory (it was resized to nothing)")
    if _overlaps_itself(tensor):
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a single memory "
            "location. Please clone() the tensor before performing the operation."
        )


def _places_overlap(tensor: Tensor) -> bool:
    places = torch.zeros(tensor.shape, dtype=torch.int64, device="cpu")
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        along = [1] * tensor.dim()
        along[dim] = size
        places += (torch.arange(size, device="cpu") * stride).view(along)
    ordered = places.flatten().sort().values
    return bool((ordered[1:] == ordered[:-1]).any())


def override(
    function: Callable[..., Tensor],
    tensor: Tensor,
    *,
    key: Key | None = None,
    shard: Shard | None = None,
    groups: int = 1,
    **arguments: Any,
) -> Tensor:
    """Hand the call to a __torch_function__. It knows PyTorch's arguments: ours are added only if given."""
    if key is not None:
        arguments["key"] = key
    if shard is not None:
        arguments["shard"] = shard
    if groups != 1:
        arguments["groups"] = groups
    result: Tensor = handle_torch_function(function, (tensor,), tensor=tensor, **arguments)
    return result
