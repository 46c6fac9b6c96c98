"""Handing a call of an initialiser to a tensor's own __torch_function__."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function

from convinit_ext.keys import Key
from convinit_ext.sharding import Shard


def override(
    function: Callable[..., Tensor],
    tensor: Tensor,
    *,
    key: Key | None = None,
    shard: Shard | None = None,
    groups: int = 1,
    **arguments: Any,
) -> Tensor:
    """What it makes of the call. It knows PyTorch's arguments: ours are added only if given."""
    if key is not None:
        arguments["key"] = key
    if shard is not None:
        arguments["shard"] = shard
    if groups != 1:
        arguments["groups"] = groups
    result: Tensor = handle_torch_function(function, (tensor,), tensor=tensor, **arguments)
    return result
