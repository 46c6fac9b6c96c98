"""FullyShardedDataParallel, the older FSDP: its ranks keep ranges of one flat parameter. Which range of which
parameter is read off its own records, where the flat parameter is sharded; elsewhere pieces are refused.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convinit_ext._engine import row_major
from convinit_ext.sharding._foreign import know
from convinit_ext.sharding._shard import Shard

_ACCEPTED = (
    "accepted are a model that is initialised before it is wrapped, or before its first forward pass, a call "
    "inside "
    "FullyShardedDataParallel.summon_full_params(model), with its defaults, on every rank, the strategy "
    "NO_SHARD with use_orig_params=True, and FSDP2's fully_shard"
)


class FlatPiece(NamedTuple):
    """A range of a flat parameter that no module holds by itself, and the module and name that it is of."""

    module: nn.Module
    name: str
    tensor: Tensor


def flat_pieces(
    modules: Iterable[tuple[str, nn.Module]], dtype: torch.dtype | None = None, whole: bool = False
) -> dict[int, list[FlatPiece]]:
    """Note which ranges of the whole the parameters of these modules are, and return those of flat ones.

    Args:
        modules: with their paths.
        dtype: that parameters are to have afterwards; None leaves each its own.
        whole: refuse pieces.

    Returns:
        By the id of a flat parameter the pieces to take in its place, where FSDP shows it and not them.

    Raises:
        ValueError: pieces of which nobody can tell what they are; a dtype that FSDP would not know of.
    """
    found: dict[int, list[FlatPiece]] = {}
    fsdp = sys.modules.get("torch.distributed.fsdp")  # which is imported where there are wrappers
    if fsdp is None:
        return found
    known: set[int] = set()
    modules = list(modules)
    for path, module in modules:
        handle: Any = module._handle if isinstance(module, fsdp.FullyShardedDataParallel) else None
        if handle is None:  # no wrapper, or one without parameters of its own
            continue
        about = f"module {path!r} is a FullyShardedDataParallel"
        shows_whole = _shows_whole(handle)
        if not shows_whole and (whole or not _is_at_rest(handle)):
            raise ValueError(f"{about}, whose parameters are pieces of a flat one; {_ACCEPTED}")
        if dtype is not None:
            raise ValueError(f"{about}, which keeps its dtypes; pass dtype= before the model is wrapped")
        if not shows_whole:
            pieces = _noted(handle)
            if not handle._use_orig_params:
                found[id(handle.flat_param)] = pieces
        known.add(id(handle.flat_param))
        known.update(map(id, (*(handle.flat_param._params or ()), *(handle.flat_param._shared_params or ()))))
    _check_no_strays(modules, known)
    return found


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
        know(tensor, shard, lambda: _is_at_rest(handle))
        pieces.append(FlatPiece(place.module, place.param_name, tensor))
    for parameter, info in zip(flat._shared_params or (), flat._shared_param_infos, strict=False):
        shard = shards[id(info.prim_module), info.prim_param_name]
        know(parameter, shard, lambda: _is_at_rest(handle))
    return pieces


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
