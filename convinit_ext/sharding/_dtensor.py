"""Which part of a logical tensor a tensor is: told by a Shard, or read off a DTensor's placements.

Arithmetic on indices alone: no communication, no process group, no device. All that the package knows of
DTensors and of FSDP2 is here.
"""

from __future__ import annotations

import enum
import itertools
import operator
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from convinit_ext._engine import PLAIN, UnsupportedTensorError, increment_version
from convinit_ext.sharding._flat import note_alone
from convinit_ext.sharding._foreign import foreign, is_marked
from convinit_ext.sharding._shard import (
    Part,
    Runs,
    Shard,
    check_shard,
    cut_flat,
    cut_into_views,
    joined,
    placed,
)


def is_dtensor(tensor: Tensor) -> bool:
    if type(tensor).__name__ != "DTensor":
        return False
    module = sys.modules.get("torch.distributed.tensor")  # which is imported where there are DTensors
    return module is not None and isinstance(tensor, module.DTensor)


def is_partial(tensor: Tensor) -> bool:
    """Return whether a tensor is a DTensor of whose elements ranks hold terms, or the like."""
    if not is_dtensor(tensor):
        return False
    spec: Any = tensor._spec  # type: ignore[attr-defined]  # of a DTensor
    return any(
        placement.is_partial() and size > 1
        for placement, size in zip(spec.placements, spec.mesh.shape, strict=True)
    )


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor may be a part of a larger one, so that `parts` has to be asked."""
    return is_dtensor(tensor) or is_marked(tensor)


def local_of(tensor: Tensor) -> Tensor:
    """Return the memory that this process has of a sharded tensor; any other tensor itself."""
    if not is_dtensor(tensor):
        found = foreign(tensor)
        return tensor if found is None else found.local
    with torch.no_grad():
        local: Any = tensor.to_local()  # type: ignore[attr-defined]  # a DTensor
    if type(local).__name__ == "AsyncCollectiveTensor":  # of redistribute(..., async_op=True)
        local = local.trigger_wait()
    found_local: Tensor = local
    return found_local


def logical_shape(tensor: Tensor, shard: Shard | None = None) -> tuple[int, ...]:
    """Return the shape that fans and indices refer to. A DTensor's own shape is that of the whole."""
    if shard is None:
        usual = not is_dynamo_compiling() and type(tensor) in PLAIN and not tensor.__dict__
        if usual or not is_marked(tensor):  # most are: this is asked for every fill
            return tensor.shape
        note_alone(tensor)
        found = foreign(tensor)
        return tensor.shape if found is None else found.shape
    check_shard(shard)
    is_marked(tensor)  # refuses what is no tensor
    return shard.shape


def logical(tensor: Tensor) -> Tensor:
    """Return a tensor of the logical shape: itself, or in place of a part one on the meta device."""
    found = foreign(tensor)
    if found is None:
        return tensor
    return torch.empty(found.shape, dtype=found.local.dtype, device="meta")


def parts(tensor: Tensor, shard: Shard | None = None) -> list[Part]:
    """Return the tensor's memory in this process as boxes of the logical tensor; none where it is empty.

    A `shard` says where a local tensor sits. One without is the whole, or what another framework made of it.

    Raises:
        TypeError: not a Shard; a DTensor with a Shard; placements that nobody here knows.
        ValueError: a Shard that leaves the logical shape, or does not fit the tensor; another framework's
            part of which it cannot be told where it sits.
        RuntimeError: a Partial placement on more than one rank.
        UnsupportedTensorError: a DTensor inside LocalTensorMode.
    """
    if is_dtensor(tensor):
        if shard is not None:
            raise TypeError("a DTensor's placements say where it sits: pass no shard= with it")
        local = local_of(tensor)
        runs = _runs_of_dtensor(tensor, local)
    elif shard is None and (found := foreign(tensor)) is not None:
        if found.shard is None:
            raise ValueError(found.problem)
        return parts(found.local.detach(), found.shard)
    elif shard is None:
        return [Part(tensor, tuple(map(range, tensor.shape)))] if tensor.numel() else []
    else:
        check_shard(shard)
        if shard.indices is not None:
            return list(cut_flat(tensor, shard))
        local, runs = tensor, shard.runs(tensor.shape)
    return list(cut_into_views(local, runs)) if local.numel() else []


def copy_whole_(tensor: Tensor, whole: Tensor, shard: Shard | None = None) -> None:
    """Copy from the whole logical tensor what this one holds of it; not recorded by autograd."""
    with torch.no_grad():
        if shard is None and not is_sharded(tensor):  # also of symbolic sizes, which ranges cannot have
            tensor.copy_(whole)
            return
        for part in parts(tensor, shard):
            part.tensor.copy_(whole[part.slices])
    if is_dtensor(tensor):
        increment_version(tensor)


def home_of(tensor: Tensor) -> torch.device:
    """Return where a meta tensor's memory goes by default: a DTensor's kind of device, else the CPU."""
    return torch.device(tensor.device_mesh.device_type if is_dtensor(tensor) else "cpu")  # type: ignore[attr-defined]  # of a DTensor


class Sharding(NamedTuple):
    """How the ranks of a mesh, or of a process group in its place, share a tensor."""

    groups: Callable[[], Sequence[Any]]  # returns the process groups of the mesh's axes
    device_type: str  # the kind of device that they serve
    ranks: tuple[int, ...]  # all of the mesh, in order
    first: bool  # whether this rank is the first of those that hold what it does
    is_cut: bool  # whether they do not all hold the same
    is_outside: bool  # whether this rank is none of them, and holds nothing


def sharding_of(tensor: Tensor) -> Sharding | None:
    """Return how ranks share a sharded tensor; None for any other tensor."""
    if not is_dtensor(tensor):
        found = foreign(tensor)
        if found is None or not (found.is_cut or found.shard is not None):
            return None
        group, ranks = found.group, tuple(dist.get_process_group_ranks(found.group))
        kind = "cpu" if "cpu" in str(dist.get_backend_config(group)) else found.local.device.type
        return Sharding(lambda: [group], kind, ranks, first=True, is_cut=len(ranks) > 1, is_outside=False)
    _check_one_rank(tensor._local_tensor)  # type: ignore[attr-defined]  # a DTensor's
    spec: Any = tensor._spec  # type: ignore[attr-defined]  # as above
    coordinate = spec.mesh.get_coordinate()
    copied = [placement.is_replicate() for placement in spec.placements]
    return Sharding(
        lambda: [spec.mesh.get_group(axis) for axis in range(spec.mesh.ndim)],
        spec.mesh.device_type,
        tuple(spec.mesh.mesh.flatten().tolist()),
        first=coordinate is not None and not any(itertools.compress(coordinate, copied)),
        is_cut=any(size > 1 for size, copy in zip(spec.mesh.shape, copied, strict=True) if not copy),
        is_outside=coordinate is None,
    )


def _check_one_rank(local: Tensor) -> None:
    if type(local).__name__ == "LocalTensor":
        raise UnsupportedTensorError(
            "cannot fill or read a DTensor inside LocalTensorMode, where one process stands for all ranks; "
            "accepted are DTensors in a process for each rank"
        )


class FsdpState(enum.Enum):
    """Of a module that fully_shard was called on: as it was made, after its first run, or gathered."""

    NEW, RUN, GATHERED = range(3)


def fsdp_state(module: object) -> FsdpState | None:
    """None for any other module. Read off FSDP2's own records, for want of a public question."""
    if not hasattr(type(module), "reshard") or not hasattr(module, "_get_fsdp_state"):
        return None
    state: Any = module._get_fsdp_state()
    groups = getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]
    groups = [group for group in groups if group is not None]
    if not all(getattr(group, "is_sharded", True) for group in groups):
        return FsdpState.GATHERED
    has_run = any(getattr(group, "_reset_sharded_params", False) for group in groups)
    return FsdpState.RUN if has_run else FsdpState.NEW


class Cut(NamedTuple):
    """One placement of a dimension: among how many ranks, which of them, and how finely it is strided."""

    num_ranks: int
    rank: int
    split_factor: int


def _runs_of_dtensor(tensor: Tensor, local: Tensor) -> tuple[Runs, ...]:
    """Return the indices of each dimension that this rank holds."""
    _check_one_rank(local)
    spec: Any = tensor._spec  # type: ignore[attr-defined]  # a DTensor's
    coordinate = spec.mesh.get_coordinate()
    nothing = ((range(0),),) * tensor.dim()
    if coordinate is None:  # this rank is outside the mesh
        return nothing
    cuts = _cuts_of_dims(spec, coordinate, tensor.dim())
    readings = [_readings(size, each) for size, each in zip(tensor.shape, cuts, strict=True)]
    if local.numel():
        return tuple(map(_fitting, tensor.shape, cuts, readings, local.shape))
    # Other sizes of an empty tensor tell nothing: fully_shard makes an empty one [0, 0].
    if all(any(map(len, runs)) for each in readings for runs in each):
        raise RuntimeError(
            f"a DTensor's local shape is {list(local.shape)}, which is empty, and its placements give it "
            f"elements of {list(tensor.shape)}"
        )
    return nothing


def _cuts_of_dims(spec: Any, coordinate: Sequence[int], num_dims: int) -> list[tuple[Cut, ...]]:
    """Return the cuts of each dimension, in the order of the mesh if PyTorch has no order of its own."""
    orders = {entry.tensor_dim: entry.mesh_dims for entry in getattr(spec, "shard_order", None) or ()}
    axes = list(zip(spec.placements, spec.mesh.shape, coordinate, strict=True))
    for placement, num_ranks, _ in axes:
        _check_placement(placement, num_ranks)
    found = []
    for dim in range(num_dims):
        ordered = (axes[axis] for axis in orders.get(dim, range(len(axes))))
        found.append(
            tuple(
                Cut(num_ranks, rank, getattr(placement, "split_factor", 1))
                for placement, num_ranks, rank in ordered
                if getattr(placement, "dim", None) == dim
            )
        )
    return found


def _check_placement(placement: Any, num_ranks: int) -> None:
    if placement.is_partial():
        if num_ranks > 1:
            raise RuntimeError(
                f"a DTensor with placement {placement!r} on {num_ranks} ranks is a sum that nobody can fill; "
                "accepted are Shard and Replicate"
            )
    elif not (placement.is_replicate() or type(placement).__name__ in ("Shard", "_StridedShard")):
        raise TypeError(
            f"cannot fill a DTensor with placement {placement!r}; accepted are Shard and Replicate"
        )


def _fitting(size: int, cuts: tuple[Cut, ...], readings: Sequence[Runs], local_size: int) -> Runs:
    for runs in readings:
        if sum(map(len, runs)) == local_size:
            return runs
    raise RuntimeError(
        f"a DTensor's dimension of size {size} has a local size of {local_size}, which its cuts do not give: "
        f"{cuts}"
    )


@lru_cache(maxsize=4096)
def _readings(size: int, cuts: tuple[Cut, ...]) -> tuple[Runs, ...]:
    """Return the indices of one dimension that a rank may hold.

    Strided shards are cut in one of two ways, and their placements do not tell which: fully_shard cuts what
    tensor parallelism on a later axis of the mesh left; distribute_tensor cuts from left to right. They
    differ for uneven sizes alone. The local size decides; if it fits both, fully_shard's comes first, which
    is what full_tensor() takes.
    """
    readings = (_as_fully_shard(size, cuts), _as_distribute_tensor(size, cuts))
    return tuple(runs for runs in readings if runs is not None)


def _as_fully_shard(size: int, cuts: tuple[Cut, ...]) -> Runs | None:
    """Cut in the order that split factors say: each is the number of parts that later axes made before it."""
    order: list[Cut] = []
    for cut in reversed(cuts):
        num_parts = list(itertools.accumulate((each.num_ranks for each in order), operator.mul, initial=1))
        if cut.split_factor not in num_parts:
            return None
        order.insert(num_parts.index(cut.split_factor), cut)
    runs: Runs = (range(size),)
    for cut in order:
        runs = _chunk(runs, cut.num_ranks, cut.rank)
    return joined(runs)


def _as_distribute_tensor(size: int, cuts: tuple[Cut, ...]) -> Runs:
    """Cut from left to right, a strided shard into its chunk of every one of `split_factor` parts."""
    runs: Runs = (range(size),)
    for cut in cuts:
        parts = (_chunk(runs, cut.split_factor, part) for part in range(cut.split_factor))
        runs = joined(run for part in parts for run in _chunk(part, cut.num_ranks, cut.rank))
    return runs


def _chunk(runs: Runs, num_chunks: int, index: int) -> Runs:
    """Return one of the chunks that torch.chunk makes: of equal sizes, but for the last ones."""
    length = -(-sum(map(len, runs)) // num_chunks)
    start, stop = index * length, (index + 1) * length
    return tuple(run[max(start - at, 0) : max(stop - at, 0)] for at, run in placed(runs))
