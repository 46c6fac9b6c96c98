"""The tensor-parallel layers of Megatron-core: which part of the whole a parameter is, and of which group.

Its attributes say how it was cut; the layer, or else megatron.core.parallel_state, among which ranks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, MutableMapping
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from convinit_ext.sharding._shard import Shard

_IS_CUT = "tensor_model_parallel"
_UNSAID = "_convinit_unsaid_cut"  # of a weight that its layer has cut, and that does not say so
CUT_MARKS = (_IS_CUT, _UNSAID)
IS_ADDED_UP = "allreduce"  # False for experts that other ranks do not have, also with DeepSpeed
_STATE = "megatron.core.parallel_state"  # which is imported where there are layers
_LAYERS = frozenset(("ColumnParallelLinear", "RowParallelLinear", "VocabParallelEmbedding"))

_groups: MutableMapping[Tensor, Any] = WeakIdKeyDictionary()  # of parameters, as their layers have them


def note_layers(modules: Iterable[nn.Module]) -> None:
    """Note of which process group the parameters of Megatron's layers are, and which do not say it."""
    if _STATE not in sys.modules:
        return
    for module in modules:
        group = module.__dict__.get("tp_group")
        if group is None:
            continue
        for leaf, parameter in module._parameters.items():
            if parameter is None:
                continue
            _groups[parameter] = group
            is_cut = parameter.__dict__.get(_IS_CUT, False)
            if leaf == "weight" and not is_cut and _is_layer(type(module)) and group.size() > 1:
                setattr(parameter, _UNSAID, True)


def cut_of(tensor: Tensor) -> tuple[Shard, Any] | None:
    """Return which part of the whole a parameter with Megatron's attributes is, and its process group.

    None for one that is whole. Raises ValueError where nobody can tell, and says what to call instead.
    """
    facts = tensor.__dict__
    if not facts.get(_IS_CUT):
        if _UNSAID not in facts:
            return None
        raise ValueError(
            "it is a part of a tensor-parallel parameter of Megatron, and does not say which, as "
            "perform_initialization=False leaves it; call "
            "megatron.core.tensor_parallel.set_tensor_model_parallel_attributes(weight, True, dim, stride) "
            "for each weight of a parallel layer, with dim 0 (for RowParallelLinear 1) and stride 1 (for "
            "gate and up in one layer 2), or build the model without that option"
        )
    dim, stride = facts.get("partition_dim", -1), facts.get("partition_stride", 1)
    about = f"it is a part along dim {dim} of a tensor-parallel parameter, as Megatron cuts it,"
    instead = "fill it by a function of convinit_ext.init with key= and shard=Shard.split(...)"
    group = _groups.get(tensor)
    if group is None:
        group = _group_of_all(is_expert=not facts.get("allreduce", True))
    place = None if group is None else place_in(group)
    if place is None:
        why = f"and {_STATE}, which knows its rank and group, is not initialised"
        raise ValueError(f"{about} {why}; {instead}")
    rank, num_ranks = place
    if num_ranks == 1:
        return None
    try:
        if dim < 0:
            raise ValueError(f"there is no dim {dim}")
        shape = tuple(size * num_ranks if at == dim else size for at, size in enumerate(tensor.shape))
        return Shard.split(shape, dim, rank, num_ranks, stride), group
    except (TypeError, ValueError) as error:
        raise ValueError(f"{about} and {error}; {instead}") from error


def check_name(tensor: Tensor) -> None:
    """Raise ValueError for a parameter of an expert whose name means another expert on another rank."""
    facts = tensor.__dict__
    if facts.get(IS_ADDED_UP, True) or not _ranks_differ(facts.get("group_name")):
        return
    raise ValueError(
        "it is of an expert that this rank alone has, under a name that others have for theirs, and all "
        "would get the same values; say by names= which experts of the whole these are, as in "
        "names={'experts.0': 'experts.4'}"
    )


def _ranks_differ(group_name: Any) -> bool:
    """Return whether ranks share experts out among them, by DeepSpeed's group; True if nobody knows."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return False
    if group_name is not None:
        return bool(group_name != "ep_size_1")
    state: Any = sys.modules.get(_STATE)
    try:
        return bool(state.get_expert_model_parallel_world_size() > 1)
    except (AssertionError, AttributeError):
        return True


def place_in(group: Any) -> tuple[int, int] | None:
    """Return this process's rank in a group, and how many there are; None where it is none of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    rank = dist.get_rank(group)
    return None if rank < 0 else (rank, dist.get_world_size(group))


def _is_layer(kind: type) -> bool:
    return any(each.__name__ in _LAYERS and each.__module__.startswith("megatron.") for each in kind.__mro__)


def _group_of_all(is_expert: bool) -> Any:
    """Return the tensor-parallel group of Megatron's own records, None where there are none."""
    state: Any = sys.modules.get(_STATE)
    of_experts = getattr(state, "get_expert_tensor_parallel_group", None) if is_expert else None
    group_of = of_experts or getattr(state, "get_tensor_model_parallel_group", None)
    if group_of is None:
        return None
    try:
        return group_of()
    except (AssertionError, RuntimeError):  # not initialised
        return None
