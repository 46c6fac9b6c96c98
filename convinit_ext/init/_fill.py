"""One fill of one tensor, or of the parts of a larger one that a process holds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active
from torch._subclasses.fake_tensor import FakeTensor
from torch.compiler import is_compiling
from torch.nn import Parameter
from torch.overrides import handle_torch_function, has_torch_function_unary
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from convinit_ext._engine import (
    PLAIN,
    SMALL_BYTES,
    Box,
    bounds_fit,
    check_memory,
    check_tensor,
    fill_one_,
    fill_small_,
    in_fake_mode,
    increment_version,
    is_plain,
    on_this_thread,
    share_memory,
)
from convinit_ext._engine import fill_ as fill_list_
from convinit_ext.distributions import Distribution, ParameterError
from convinit_ext.init._compiled import fill_in_graph_
from convinit_ext.keys import DRAW_UNDER_CAPTURE, INT64_MIN, Key, check_generator, check_not_capturing, draw
from convinit_ext.sharding import (
    FSDP,
    MEGATRON,
    Shard,
    check_alone,
    check_not_alias,
    is_dtensor,
    is_marked,
    is_sharded,
    local_of,
    logical_shape,
    parts,
)

_loaded = sys.modules
_UNIFORM = 1  # Uniform.kind
_FIT_ANY = 128.0  # bounds that `bounds_fit` allows of every dtype
# The arguments that torch.nn.init does not have, with their defaults.
_OURS: dict[str, object] = {
    "key": None,
    "shard": None,
    "groups": 1,
    "in_axis": None,
    "out_axis": None,
    "batch_axis": (),
    "blocks": 1,
    "cut": None,
    "corrected": False,
}


def fill_(
    tensor: Tensor,
    distribution: Distribution,
    generator: torch.Generator | None,
    key: Key | None,
    shard: Shard | None = None,
) -> Tensor:
    """Fill a tensor from the key if there is one, else from one drawn from the generator.

    What is wrong is raised before a key is drawn.
    """
    if (
        shard is None
        and is_plain(tensor)
        and (params := distribution.params)  # which a compiler's distributions have not yet
        and (
            (kind := distribution.kind) != _UNIFORM
            or (params[0] >= -_FIT_ANY and params[1] <= _FIT_ANY)
            or bounds_fit(params[0], params[1], tensor.dtype)
        )
    ):
        if type(tensor) is not Parameter and (MEGATRON in _loaded or FSDP in _loaded):
            check_not_alias(tensor)
        small = tensor.is_cpu and tensor.nbytes <= SMALL_BYTES
        if key is not None:
            _check_key(generator, key)
            if small:
                fill_small_(tensor, key.signed_words, kind, params)
            else:
                fill_one_(tensor, key.tensor(), kind, params)
            return tensor
        if generator is None:
            if not tensor.is_cpu:
                check_not_capturing(tensor.device, DRAW_UNDER_CAPTURE)
            free = _drawn.free
            words = (free.pop() if free else _new_words()).random_(INT64_MIN, None)
        else:
            free, words = None, _words_for(tensor, tensor.shape, generator, key)
        if small:
            fill_small_(tensor, words.data_ptr(), kind, params)
        else:
            fill_one_(tensor, words, kind, params)
        if free is not None:
            free.append(words)
        return tensor
    check_not_lost(tensor, shard)
    if not is_compiling() and tensor.is_neg():  # z.conj().imag: the values are what it shows
        with torch.no_grad(), on_this_thread():
            memory = torch._neg_view(tensor)
            fill_(memory, distribution, generator, key, shard)
            memory.neg_()
    elif shard is not None or is_sharded(tensor):
        _fill_parts_(tensor, distribution, generator, key, shard)
    else:
        if not is_traceable_wrapper_subclass(tensor):  # whose own code may know what a fill is
            check_tensor(tensor)
        _check_bounds(tensor, distribution)
        words = _words_for(tensor, tensor.shape, generator, key)
        _fill_one_(tensor, words, distribution)
    return tensor


def check_not_lost(tensor: Tensor, shard: Shard | None = None) -> None:
    """Raise for a fill that the model would not see, or of a part that nobody knows.

    Raises:
        RuntimeError: as `check_not_a_copy`; a storage without memory, to which PyTorch would write.
        ValueError: a parameter whose values DeepSpeed or FullyShardedDataParallel holds elsewhere, or a part
            of one, and it cannot be told which.
    """
    if is_compiling():
        return
    base, marked = None, is_marked(tensor)
    if not has_torch_function_unary(tensor):
        check_not_a_copy(tensor)
        base = tensor._base
    if marked or (base is not None and is_marked(base)):
        check_alone(tensor, shard is not None)
    elif shard is None:
        check_not_alias(tensor)
    if type(tensor) in PLAIN:
        check_memory(tensor)


def check_not_a_copy(tensor: Tensor) -> None:
    """Raise RuntimeError for a tensor that was computed from others, which would not see a fill of it.

    Known are those that autograd has recorded, and views of DTensors. What is computed under torch.no_grad(),
    or from parameters that need no gradient, looks like any new tensor.
    """
    if _are_functorch_transforms_active():
        return
    base = tensor if tensor._base is None else tensor._base
    recorded = base.grad_fn
    if recorded is None:
        with suppress(RuntimeError):  # of one of chunk's views, when another has changed
            recorded = tensor.grad_fn
    leaf = base if recorded is None else _leaf_of(recorded)
    if leaf is not None and _share_memory(tensor, leaf):
        return
    how = "a copy of a part of another" if recorded is None else f"computed from others ({recorded.name()})"
    raise RuntimeError(
        f"cannot fill a tensor that is {how}: nothing else would see the values. Fill the parameter: behind "
        "a parametrization or a hook the original (layer.parametrizations.weight.original, weight_v or "
        "weight_orig; init_model_(model) does), for an index, a cast, a DTensor's slice, full_tensor() or "
        "redistribute() the whole, or a view that shares its memory. Where the copy is what is wanted, pass "
        "tensor.detach()"
    )


def _leaf_of(node: Any) -> Tensor | None:
    """Return a tensor that autograd's record begins with: where memory is shared, the only one."""
    while node is not None and not hasattr(node, "variable"):
        node = next((before for before, _ in node.next_functions if before is not None), None)
    leaf: Tensor | None = None if node is None else node.variable
    return leaf


def _share_memory(tensor: Tensor, leaf: Tensor) -> bool:
    """Return whether what is written to a tensor is written to a leaf: DTensors' views may be copies."""
    if tensor is leaf or (tensor._base is leaf and not is_dtensor(leaf)):
        return True
    return share_memory(local_of(tensor), local_of(leaf))


def _fill_parts_(
    tensor: Tensor,
    distribution: Distribution,
    generator: torch.Generator | None,
    key: Key | None,
    shard: Shard | None,
) -> None:
    """Fill what this process holds of a larger tensor. The key is drawn even where it holds nothing of it, so
    that generators with one seed stay in step on all ranks."""
    with torch.no_grad():
        held = parts(tensor, shard)
    local, shape = local_of(tensor), logical_shape(tensor, shard)
    check_tensor(local)
    _check_bounds(local, distribution)
    boxes = [part.box(shape) for part in held]
    words = _words_for(local, shape, generator, key)
    if len(held) == 1:
        _fill_one_(held[0].tensor, words, distribution, boxes[0])
    else:
        fill_list_(
            [part.tensor for part in held],
            words.expand(len(held), 2).contiguous(),
            [distribution] * len(held),
            boxes,
        )
    if local is not tensor:
        increment_version(tensor)


def _fill_one_(tensor: Tensor, words: Tensor, distribution: Distribution, box: Box | None = None) -> None:
    if is_compiling():
        fill_in_graph_(tensor, words, distribution, box)
    else:
        with torch.no_grad():  # autograd has rules for views such as chunk's, gradient or not
            fill_one_(tensor, words, distribution.kind, distribution.params, box)


def _check_bounds(tensor: Tensor, distribution: Distribution) -> None:
    """Raise what the engine raises of bounds, before a key is drawn. Meta tensors may have any."""
    if distribution.kind != _UNIFORM or is_compiling() or tensor.is_meta:
        return
    low, high, *_ = distribution.params
    if not bounds_fit(low, high, tensor.dtype):
        raise ParameterError(
            "uniform_ expects bounds that the tensor's dtype can hold, and their difference too, but for "
            f"{tensor.dtype} found from={low} and to={high}"
        )


def _new_words() -> Tensor:
    with torch.inference_mode(False):
        return torch.empty(1, 2, dtype=torch.int64, device="cpu")


class _Drawn(threading.local):
    """Where plain tensors' keys are drawn to, one place a thread: a new tensor would take too long. A fill
    takes it for as long as it runs: one that a signal handler does meanwhile needs another."""

    def __init__(self) -> None:
        self.free = [_new_words()]


_drawn = _Drawn()


def _words_for(
    tensor: Tensor, shape: Sequence[int], generator: torch.Generator | None, key: Key | None
) -> Tensor:
    """Return the key's words, or the next of the generator: int64 [1, 2] on the CPU.

    Where the logical tensor, of this shape, has no elements, and on the meta device, nothing is drawn, and
    the words are zeros.

    Raises:
        TypeError, ValueError, RuntimeError: not a key, not a generator, both; a generator of another device.
    """
    if key is not None:
        _check_key(generator, key)
        return as_words(key, tensor)
    if generator is not None:
        check_generator(generator, tensor.device.type)
    if tensor.is_meta or 0 in shape:
        return torch.zeros(1, 2, dtype=torch.int64, device="cpu")
    if not is_compiling():
        check_not_capturing(tensor.device, DRAW_UNDER_CAPTURE)
    return draw(generator, tensor)


def as_words(key: Key, tensor: Tensor) -> Tensor:
    """Return the key's words, as a fake tensor for a fake one outside its mode, which would make them one."""
    if type(tensor) not in PLAIN and isinstance(tensor, FakeTensor) and not in_fake_mode():
        return tensor.new_empty(1, 2, dtype=torch.int64, device="cpu")
    return key.tensor()


def _check_key(generator: torch.Generator | None, key: Key) -> None:
    if not isinstance(key, Key):
        raise TypeError(f"key must be a convinit_ext.Key, not {type(key).__name__}")
    if generator is not None:
        raise ValueError("key= and generator= each say where the values come from; pass only one of them")


def check_extras(
    tensor: Tensor, generator: torch.Generator | None, key: Key | None, shard: Shard | None
) -> None:
    """Raise what a fill would raise of key= and shard=, where there is nothing to fill."""
    if key is not None:
        _check_key(generator, key)
    if shard is not None:
        with torch.no_grad():
            parts(tensor, shard)


def override(function: Callable[..., Tensor], arguments: dict[str, Any]) -> Tensor:
    """Hand a call to the tensor's own __torch_function__, and return what it makes of it.

    A __torch_function__ knows PyTorch's arguments: ours go only if they are given.
    """
    given = {name: each for name, each in arguments.items() if name not in _OURS or each is not _OURS[name]}
    result: Tensor = handle_torch_function(function, (given["tensor"],), **given)
    return result
