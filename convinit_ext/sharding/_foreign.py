"""Parameters that another framework cut: what this process holds of them, read off their own attributes.

DeepSpeed's ZeRO-3 leaves an empty placeholder, and beside it a range of the flattened parameter (ds_tensor).
Megatron's layers hold parts along one dimension: attributes say how one was cut; the layer, or else
megatron.core.parallel_state, among which ranks.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.utils.weak import WeakIdKeyDictionary

from convinit_ext._engine import MARKS
from convinit_ext.sharding._shard import Shard

_ZERO3 = "ds_shape"
_IS_CUT = "tensor_model_parallel"
_UNSAID = "_convinit_unsaid_cut"  # of a weight that its layer has cut, and that does not say so
_IS_ADDED_UP = "allreduce"  # False for experts that other ranks do not have, also with DeepSpeed
MEGATRON = "megatron.core.parallel_state"  # which is imported where there are layers
_LAYERS = frozenset(("ColumnParallelLinear", "RowParallelLinear", "VocabParallelEmbedding"))
_AUTO_TP = "ds_is_replaced_module"  # beside Megatron's mark, but without where it is cut
_CARRIED = "_convinit_shard"  # on memory that is no parameter of the model
_FLAT = "_fsdp_flattened"  # what FullyShardedDataParallel calls the pieces of its flat parameter
_MARKS = frozenset((_ZERO3, _IS_CUT, _UNSAID, _CARRIED, _FLAT))
# Of parameters that DeepSpeed's optimizers hold in higher precision: ZeRO-1 and 2, ZeRO-3.
_MASTERS = frozenset(("_hp_mapping", "_z3_optimizer"))
MARKS.update(_MARKS, _MASTERS, {_IS_ADDED_UP})

_groups: MutableMapping[Tensor, Any] = WeakIdKeyDictionary()  # of parameters, as their layers have them
# Pieces of flat parameters: the range, and whether FSDP keeps what is written to them.
_known: MutableMapping[Tensor, tuple[Shard, Callable[[], bool]]] = WeakIdKeyDictionary()


class Foreign(NamedTuple):
    """What this process holds of a parameter that another framework cut."""

    local: Tensor  # its memory here
    shape: tuple[int, ...]  # of the logical tensor; where that cannot be told, of the memory
    shard: Shard | None  # where the memory sits; None where that cannot be told
    problem: str = ""  # why it cannot be told
    group: Any = None  # the process group that shares the parameter; None is the default one
    is_cut: bool = False  # whether that is known although it is not known which part this process has


def know(tensor: Tensor, shard: Shard, keeps_fills: Callable[[], bool]) -> None:
    """Note that a tensor is a piece of a flat parameter, and which range of its own it is."""
    setattr(tensor, _FLAT, True)
    _known[tensor] = shard, keeps_fills


def is_flat_piece(tensor: Tensor) -> bool:
    """Return whether a tensor is a piece of FullyShardedDataParallel's flat parameter."""
    return _FLAT in tensor.__dict__ and foreign(tensor) is not None


def is_flat_parameter(tensor: Tensor) -> bool:
    """Return whether a tensor is the flat parameter itself of a FullyShardedDataParallel."""
    return "_is_flat_param" in tensor.__dict__


def is_placeholder(tensor: Tensor) -> bool:
    """Return whether a parameter is one of ZeRO-3's, whose own memory is empty."""
    return _ZERO3 in tensor.__dict__ and foreign(tensor) is not None


def is_of_flat(tensor: Tensor) -> bool:
    """Return whether FullyShardedDataParallel made a tensor, or took it, for its flat parameter."""
    return _FLAT in tensor.__dict__


def is_unknown_piece(tensor: Tensor) -> bool:
    """Return whether a tensor is of a flat parameter, and its place in that was never noted."""
    return not is_dynamo_compiling() and is_of_flat(tensor) and tensor not in _known


def is_marked(tensor: Tensor) -> bool:
    """Return whether a tensor has attributes that say more of it than its shape and memory do."""
    if is_dynamo_compiling():  # which traces no tensor's attributes
        return False
    facts = getattr(tensor, "__dict__", None)
    if not facts and facts is not None:
        return False
    if not isinstance(tensor, Tensor):
        raise AttributeError(  # as of torch.nn.init
            f"what is filled must be a torch.Tensor, not a {type(tensor).__name__}; of a layer pass a "
            "parameter, such as layer.weight"
        )
    return not MARKS.isdisjoint(facts or ())


def foreign(tensor: Tensor) -> Foreign | None:
    """Return what this process holds of a parameter; None if it is whole, or cut by nobody known here."""
    if is_dynamo_compiling():  # which traces no tensor's attributes
        return None
    facts = tensor.__dict__
    if not facts or _MARKS.isdisjoint(facts):
        return None
    if _CARRIED in facts:
        found: Foreign = facts[_CARRIED]
        return found._replace(local=tensor)
    if _FLAT in facts:
        shard, _ = _known.get(tensor, (None, None))
        if shard is None or tensor.shape != (len(shard.indices or ()),):  # shown whole
            return None
        return Foreign(tensor, shard.shape, shard)
    if _ZERO3 in facts:
        return _of_zero3(tensor, facts)
    return _of_megatron(tensor, facts)


def carrying(memory: Tensor, tensor: Tensor) -> Tensor:
    """Return memory that takes a parameter's place, after noting on it which part of the whole it is."""
    found = foreign(tensor)
    if found is not None:
        memory.__dict__[_CARRIED] = found
    return memory


def keeps_dtype(tensor: Tensor) -> bool:
    """Return whether a parameter's memory belongs to a larger one, so that its dtype cannot change."""
    found = foreign(tensor)
    return found is not None and found.shard is not None and found.shard.indices is not None


def check_foreign(tensor: Tensor, writing: bool, is_placed: bool = False) -> None:
    """Raise ValueError where nobody can tell what this process holds, or a write would be undone."""
    found = foreign(tensor)
    if found is not None and found.shard is None and not is_placed:
        raise ValueError(found.problem)
    _, keeps_fills = _known.get(tensor, (None, None)) if _FLAT in tensor.__dict__ else (None, None)
    if keeps_fills is not None and not keeps_fills():
        raise ValueError(
            "FullyShardedDataParallel has gathered it since, and would drop what is filled; plan it again"
        )
    if writing and not _MASTERS.isdisjoint(tensor.__dict__):
        raise ValueError(
            "DeepSpeed's optimizer holds a copy of it, and the next step would bring the old values back; "
            "initialise the model before deepspeed.initialize"
        )


def settle(tensor: Tensor) -> None:
    """Copy a parameter that ZeRO-3 has gathered into the range that stays when it is released."""
    facts = tensor.__dict__
    if not facts or _ZERO3 not in facts or facts.get("ds_tensor") is None:
        return
    if foreign(tensor) is None:
        kept = _zero3_range(tensor, facts)
        if kept.shard is not None and kept.shard.indices:
            indices = kept.shard.indices
            kept.local.copy_(tensor.detach().reshape(-1)[indices.start : indices.stop])


def _of_zero3(tensor: Tensor, facts: dict[str, Any]) -> Foreign | None:
    shape = tuple(facts[_ZERO3])
    if tensor.shape == shape and getattr(facts.get("ds_status"), "name", "AVAILABLE") == "AVAILABLE":
        return None  # gathered
    return _zero3_range(tensor, facts)


def _zero3_range(tensor: Tensor, facts: dict[str, Any]) -> Foreign:
    shape, piece = tuple(facts[_ZERO3]), facts.get("ds_tensor")
    about = f"it is a placeholder of DeepSpeed's ZeRO-3, of shape {list(shape)} (ds_shape)"
    instead = (
        "initialise it inside deepspeed.zero.GatheredParameters(model.parameters(), modifier_rank=0), or "
        "before it is partitioned"
    )

    group = facts.get("ds_process_group")
    place = _place_in(group)

    def unknown(why: str) -> Foreign:
        problem, local = f"{about}, {why}; {instead}", tensor if piece is None else piece
        return Foreign(local, shape, None, problem, group, is_cut=place is not None)

    if piece is None:
        return unknown("without a ds_tensor that holds its values")
    if facts.get("ds_secondary_tensor") is not None:
        return unknown("with a second copy, ds_secondary_tensor")
    if place is None:
        return unknown("and torch.distributed, which knows this process's range of it, is not initialised")
    rank, num_ranks = place
    num_elements = math.prod(shape)
    size = -(-num_elements // num_ranks)
    if piece.shape != (size,):
        return unknown(
            f"whose ds_tensor has shape {list(piece.shape)}, and not {[size]} as on {num_ranks} ranks"
        )
    start = min(rank * size, num_elements)
    length = min(size, num_elements - start)
    return Foreign(piece.detach()[:length], shape, Shard.flat(shape, start, length), group=group)


def _of_megatron(tensor: Tensor, facts: dict[str, Any]) -> Foreign | None:
    """Return which part of the whole a parameter with Megatron's attributes is; None of one that is whole."""

    def unknown(problem: str) -> Foreign:
        return Foreign(tensor, tuple(tensor.shape), None, problem)

    if _AUTO_TP in facts:
        problem = "it is a part of a larger one, as DeepSpeed's AutoTP cuts it; initialise the model before "
        return unknown(f"{problem}deepspeed.initialize")
    if not facts.get(_IS_CUT):
        if _UNSAID not in facts:
            return None
        return unknown(
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
        group = _group_of_all(is_expert=not facts.get(_IS_ADDED_UP, True))
    place = None if group is None else _place_in(group)
    if place is None:
        why = f"and {MEGATRON}, which knows its rank and group, is not initialised"
        return unknown(f"{about} {why}; {instead}")
    rank, num_ranks = place
    if num_ranks == 1:
        return None
    try:
        if dim < 0:
            raise ValueError(f"there is no dim {dim}")
        shape = tuple(size * num_ranks if at == dim else size for at, size in enumerate(tensor.shape))
        return Foreign(tensor, shape, Shard.split(shape, dim, rank, num_ranks, stride), group=group)
    except (TypeError, ValueError) as error:
        return unknown(f"{about} and {error}; {instead}")


def note_layers(modules: Iterable[nn.Module]) -> None:
    """Note of which process group the parameters of Megatron's layers are, and which do not say it."""
    if MEGATRON not in sys.modules:
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


def check_name(tensor: Tensor) -> None:
    """Raise ValueError for a parameter of an expert whose name means another expert on another rank."""
    facts = tensor.__dict__
    if facts.get(_IS_ADDED_UP, True) or not _ranks_differ(facts.get("group_name")):
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
    state: Any = sys.modules.get(MEGATRON)
    try:
        return bool(state.get_expert_model_parallel_world_size() > 1)
    except (AssertionError, AttributeError):
        return True


def _place_in(group: Any) -> tuple[int, int] | None:
    """Return this process's rank in a group, and how many there are; None where it is none of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    rank = dist.get_rank(group)
    return None if rank < 0 else (rank, dist.get_world_size(group))


def _is_layer(kind: type) -> bool:
    return any(each.__name__ in _LAYERS and each.__module__.startswith("megatron.") for each in kind.__mro__)


def _group_of_all(is_expert: bool) -> Any:
    """Return the tensor-parallel group of Megatron's own records, None where there are none."""
    state: Any = sys.modules.get(MEGATRON)
    of_experts = getattr(state, "get_expert_tensor_parallel_group", None) if is_expert else None
    group_of = of_experts or getattr(state, "get_tensor_model_parallel_group", None)
    if group_of is None:
        return None
    try:
        return group_of()
    except (AssertionError, RuntimeError):  # not initialised
        return None
