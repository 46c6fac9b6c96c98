"""FullyShardedDataParallel, the older FSDP: its ranks keep pieces of one flat parameter, which are no parts
of tensors that could be filled. Whether a model shows such pieces is read off its own records.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

_ACCEPTED = (
    "accepted are a model that is initialised before it is wrapped, a call inside "
    "FullyShardedDataParallel.summon_full_params(model), with its defaults, on every rank, the strategy "
    "NO_SHARD with use_orig_params=True, and FSDP2's fully_shard"
)


def check_whole(modules: Iterable[tuple[str, nn.Module]], dtype: torch.dtype | None = None) -> None:
    """Check that no parameter of these modules is a piece, on this rank or on another.

    Args:
        modules: with their paths.
        dtype: that parameters are to have afterwards; None leaves each its own.

    Raises:
        ValueError: there are pieces; a dtype that FSDP would not know of.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")  # which is imported where there are wrappers
    if fsdp is None:
        return
    known: set[int] = set()
    modules = list(modules)
    for path, module in modules:
        handle: Any = module._handle if isinstance(module, fsdp.FullyShardedDataParallel) else None
        if handle is None:  # no wrapper, or one without parameters of its own
            continue
        about = f"module {path!r} is a FullyShardedDataParallel"
        if not _shows_whole(handle):
            raise ValueError(f"{about}, whose parameters are pieces of a flat one; {_ACCEPTED}")
        if dtype is not None:
            raise ValueError(f"{about}, which keeps its dtypes; pass dtype= before the model is wrapped")
        known.update(map(id, (*(handle.flat_param._params or ()), *(handle.flat_param._shared_params or ()))))
    _check_no_strays(modules, known)


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
