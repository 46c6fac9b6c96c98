"""Tensors that share the memory of a parameter in parts and do not say so: `.data`, `detach()`, slices.

Only the parameter itself has the attributes of the framework that cut it. So where there is such a framework,
and others hold a tensor's memory too, Python's objects are looked through for who that is, and remembered.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from weakref import ref

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C import _has_storage
from torch.compiler import is_compiling
from torch.nn import Parameter

from convinit_ext._engine import storage_of
from convinit_ext.sharding._flat import FSDP, check_alone, note_alone
from convinit_ext.sharding._foreign import (
    MEGATRON,
    foreign,
    is_flat_piece,
    is_marked,
    is_of_flat,
    is_placeholder,
)

_num_users: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)
_loaded = sys.modules
_holders: dict[int, list[ref[Tensor]]] = {}  # by storage, as the last look found them


def may_be_alias(tensor: Tensor) -> bool:
    """Return whether `owners` is worth asking: a quick no for parameters, and where nothing cuts any."""
    return type(tensor) is not Parameter and (MEGATRON in _loaded or FSDP in _loaded)


def owners(tensor: Tensor) -> list[Tensor]:
    """Return the marked tensors, mostly one parameter, whose memory a tensor without marks shares."""
    if type(tensor) is not Tensor or is_compiling() or is_marked(tensor) or not _has_storage(tensor):
        return []
    base, storage = tensor._base, storage_of(tensor)
    if base is None or not is_marked(base):
        may_be_cut = MEGATRON in _loaded or (FSDP in _loaded and dist.is_initialized())
        if tensor.numel() and not may_be_cut:  # an empty one may be of a placeholder of DeepSpeed's
            return []
        if not is_held_by_others(storage, 1 + (base is not None)):
            return []
    found = list(_known(storage))
    if not found:
        _look(storage)
        found = list(_known(storage))
    return [each for each in found if is_marked(each)]


def is_held_by_others(storage: int, num_known: int = 1) -> bool:
    """Return whether a storage may be held by more tensors than so many: where nobody counts them, it may."""
    return _num_users is None or _num_users(storage) >= _USERS_OF_ONE + num_known


def check_not_slice(tensor: Tensor) -> None:
    """Check that constants written to a tensor are written to what it seems to be.

    ValueError says that it is no part of a placeholder of ZeRO-3's, or a slice of a range of a flat
    parameter.
    """
    found = owners(tensor)
    pieces = [each for each in found if is_of_flat(each)]
    for each in pieces:
        note_alone(each)
    seen = tensor.storage_offset(), tensor.numel()
    if any(map(is_placeholder, found)) or (
        pieces
        and seen not in [(each.storage_offset(), each.numel()) for each in pieces if is_flat_piece(each)]
    ):
        check_not_alias(tensor)


def check_not_alias(tensor: Tensor) -> None:
    """Raise ValueError for a tensor that shares memory with a parameter in parts, and say what to fill."""
    for owner in owners(tensor):
        check_alone(owner, is_placed=False)
        if foreign(owner) is not None:
            raise ValueError(
                "it is `.data`, or a view, of a parameter that is in parts on several processes, and does "
                "not say which part it has; fill the parameter itself, or say it by key= and shard="
            )


def _known(storage: int) -> Iterator[Tensor]:
    for reference in _holders.get(storage, ()):
        holder = reference()
        if holder is not None and storage_of(holder) == storage:  # else this memory is another's now
            yield holder


def _look(storage: int) -> None:
    """Note who holds which memory: parameters, what has marks, and all tensors of one storage."""
    _holders.clear()
    with torch._C.DisableTorchFunctionSubclass():  # any tensor may turn up, and some refuse to be asked
        for each in gc.get_objects():
            if issubclass(type(each), Tensor) and _has_storage(each):
                own = storage_of(each)
                if own == storage or issubclass(type(each), Parameter) or is_marked(each):
                    _holders.setdefault(own, []).append(ref(each))


_alone = torch.empty(1, device="cpu")  # the Python object that stands for memory may be one more user
_USERS_OF_ONE = _num_users(storage_of(_alone)) if _num_users else 0
