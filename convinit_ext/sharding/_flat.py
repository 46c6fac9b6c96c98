"""FullyShardedDataParallel, the older FSDP: its ranks keep ranges of one flat parameter. Which range of which
parameter is read off its own records, where the flat parameter is sharded; elsewhere pieces are refused.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from convinit_ext._engine import row_major
from convinit_ext.sharding._foreign import (
    check_foreign,
    foreign,
    is_of_flat,
    is_unknown_piece,
    know,
    note_layers,
)
from convinit_ext.sharding._shard import Shard

_ACCEPTED = (
    "accepted are a model that is initialised before it is wrapped, or before its first forward pass, a call "
    "inside FullyShardedDataParallel.summon_full_params(model), with its defaults, on every rank, the "
    "strategy NO_SHARD with use_orig_params=True, and FSDP2's fully_shard"
)
FSDP = "torch.distributed.fsdp._flat_param"  # which is imported where there are flat parameters
# By what FSDP shows of flat parameters.
_handles: MutableMapping[Tensor, Callable[[], Any]] = WeakIdKeyDictionary()


class FlatPiece(NamedTuple):
    """A range of a flat parameter that no module holds by itself, and the module and name that it is of."""

    module: nn.Module
    name: str
    tensor: Tensor


def flat_pieces(
    modules: Iterable[tuple[str, nn.Module]], dtype: torch.dtype | None = None, whole: bool = False
) -> dict[int, list[FlatPiece]]:
    """Note which parts of the whole the parameters of modules are, and return the pieces of flat ones.

    These are by the id of a flat parameter, where FSDP shows that and not its pieces. The modules come with
    their paths; `dtype` is what parameters are to have afterwards; `whole` refuses pieces.

    Raises:
        ValueError: pieces of which nobody can tell what they are; a dtype that FSDP would not know of.
    """
    found: dict[int, list[FlatPiece]] = {}
    modules = list(modules)
    note_layers(module for _, module in modules)
    fsdp = sys.modules.get("torch.distributed.fsdp")  # which is imported where there are wrappers
    if fsdp is None:
        return found
    known: set[int] = set()
    for path, module in modules:
        handle: Any = module._handle if isinstance(module, fsdp.FullyShardedDataParallel) else None
        if handle is None:  # no wrapper, or one without parameters of its own
            continue
        about = f"module {path!r} is a FullyShardedDataParallel"
        shows_whole = _shows_whole(handle)
        if not shows_whole and (whole or not _is_at_rest(handle)):
            raise ValueError(f"{about}, whose parameters are pieces of a flat one; {_ACCEPTED}")
        if dtype not in (None, handle.flat_param.dtype):
            raise ValueError(f"{about}, which keeps its dtypes; pass dtype= before the model is wrapped")
        if not shows_whole:
            pieces = _noted(handle)
            if not handle._use_orig_params:
                found[id(handle.flat_param)] = pieces
        known.add(id(handle.flat_param))
        known.update(map(id, (*(handle.flat_param._params or ()), *(handle.flat_param._shared_params or ()))))
    _check_no_strays(modules, known)
    return found


def tied_places(modules: Iterable[nn.Module]) -> list[list[tuple[nn.Module, str]]]:
    """Return where each tied parameter of flat ones is held; a state dict gathers it once for each place."""
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    found: dict[tuple[int, str], list[tuple[nn.Module, str]]] = {}
    for module in modules if fsdp is not None else ():
        handle: Any = module._handle if isinstance(module, fsdp.FullyShardedDataParallel) else None
        for info in () if handle is None else handle.flat_param._shared_param_infos:
            first = info.prim_module, info.prim_param_name
            places = found.setdefault((id(info.prim_module), info.prim_param_name), [first])
            places.append((info.module, info.param_name))
    return list(found.values())


def note_alone(tensor: Tensor) -> None:
    """Note which part of the whole a piece of a flat parameter is, of which no model says it."""
    handle = _handle_of(tensor) if is_unknown_piece(tensor) else None
    if handle is not None and not _shows_whole(handle) and _is_at_rest(handle):
        _noted(handle)


def check_alone(tensor: Tensor, is_placed: bool) -> None:
    """Raise ValueError, with what to call instead, for a parameter that cannot be filled without its model.

    It has the attributes of another framework, or is a view of such a one; `is_placed` if the caller says by
    a Shard which part it is. Otherwise that is noted.
    """
    base = tensor._base  # a view's; that of a slice, or of what FSDP shows after a forward pass
    if base is not None and not is_placed and (is_of_flat(base) or foreign(base) is not None):
        raise ValueError(
            "it is a view of a parameter that is in parts on several processes, and it cannot be told which "
            "part; fill the whole parameter, or say it by key= and shard="
        )
    note_alone(tensor)
    handle = _handle_of(tensor) if is_of_flat(tensor) else None
    if handle is None:
        check_foreign(tensor, writing=True, is_placed=is_placed)
    elif not _shows_whole(handle) and (tensor is handle.flat_param or not _is_at_rest(handle)):
        raise ValueError(f"it is a part of a FullyShardedDataParallel's flat parameter; {_ACCEPTED}")


def _handle_of(tensor: Tensor) -> Any:
    """Return what FSDP handles a flat parameter by, None where it is gone.

    No attribute of a flat parameter leads there, so all objects are looked through, once for a new tensor.
    """
    if tensor not in _handles:
        module: Any = sys.modules.get(FSDP)
        _handles[tensor] = lambda: None
        for handle in gc.get_objects() if module is not None else ():
            if type(handle) is module.FlatParamHandle:
                flat = handle.flat_param
                for each in (flat, *(flat._params or ()), *(flat._shared_params or ())):
                    _handles[each] = ref(handle)
    return _handles[tensor]()


def _is_at_rest(handle: Any) -> bool:
    """Return whether the flat parameter is this rank's shard, of plain tensors in row-major order."""
    flat = handle.flat_param
    strides = (tuple(row_major(shape)) for shape in flat._shapes)
    return (
        handle._training_state.name == "IDLE"
        and handle.uses_sharded_strategy
        and handle.is_sharded(flat)
        and (not hasattr(flat, "_full_param_padded") or handle.needs_unshard())  # none is kept beside it
        and not any(each is not None for each in flat._param_extensions)
        and all(map(_same_order, flat._shapes, strides, flat._strides))
    )


def _same_order(shape: Sequence[int], strides: Sequence[int], found: Sequence[int]) -> bool:
    return all(size < 2 or step == own for size, step, own in zip(shape, strides, found, strict=True))


def _noted(handle: Any) -> list[FlatPiece]:
    """Note where the pieces of a flat parameter sit in their parameters, and return them."""
    flat = handle.flat_param
    given = flat._params or [None] * flat._num_params
    pieces = []
    shards: dict[tuple[int, str], Shard] = {}
    for parameter, shape, info, place in zip(
        given, flat._shapes, flat._shard_param_infos, flat._param_infos, strict=True
    ):
        start, length = (info.intra_param_start_idx, info.numel_in_shard) if info.in_shard else (0, 0)
        begin = info.offset_in_shard or 0
        tensor = flat.detach()[begin : begin + length] if parameter is None else parameter
        shard = shards[id(place.module), place.param_name] = Shard.flat(shape, start, length)
        know(tensor, shard, lambda: _keeps_fills(handle))
        pieces.append(FlatPiece(place.module, place.param_name, tensor))
    for parameter, info in zip(flat._shared_params or (), flat._shared_param_infos, strict=False):
        shard = shards[id(info.prim_module), info.prim_param_name]
        know(parameter, shard, lambda: _keeps_fills(handle))
    return pieces


def _keeps_fills(handle: Any) -> bool:
    """A vector that one rank has all of looks the same in summon_full_params, which keeps fills too."""
    return _is_at_rest(handle) or _shows_whole(handle)


def _shows_whole(handle: Any) -> bool:
    """After a forward pass parameters may be whole, too, but FSDP would drop what is filled."""
    if handle._training_state.name == "SUMMON_FULL_PARAMS":
        return not handle.is_sharded(handle.flat_param)
    return not handle.uses_sharded_strategy and handle._use_orig_params


def _check_no_strays(modules: Iterable[tuple[str, nn.Module]], known: set[int]) -> None:
    """A module inside a wrapper that is not among the modules: nobody can tell what its parameters are."""
    for path, module in modules:
        for leaf, parameter in module._parameters.items():
            if hasattr(parameter, "_fsdp_flattened") and id(parameter) not in known:
                raise ValueError(
                    f"parameter {f'{path}.{leaf}'.lstrip('.')!r} may be a piece of the flat one of a "
                    f"FullyShardedDataParallel around it; pass that module. There {_ACCEPTED}"
                )
