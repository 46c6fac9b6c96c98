"""Which part of a logical tensor a tensor is: told by a Shard, or read off a DTensor's placements.

Arithmetic on indices alone: no communication, no process group, no device. All that the package knows of
DTensors and of FSDP2 is here.
"""

from __future__ import annotations

import enum
import itertools
import math
import operator
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convinit_ext._engine import Box, increment_version, row_major
from convinit_ext.sharding._shard import Runs, Shard, check_shard, joined

# Of indices that the engine counts: to the end of a run of 2^32 blocks, in 64 bits with a sign.
_INDEX_END = (1 << 63) - (1 << 34)


class Part(NamedTuple):
    """A view of a local tensor, and for each dimension the indices of the logical tensor that it covers."""

    tensor: Tensor
    ranges: tuple[range, ...]

    def box(self, shape: Sequence[int]) -> Box:
        """Return the row-major start and strides of a part that is not empty.

        Args:
            shape: of the logical tensor.

        Raises:
            ValueError: indices that the engine cannot count.
        """
        steps = row_major(shape)
        start, last = (
            sum(each[end] * step for each, step in zip(self.ranges, steps, strict=True)) for end in (0, -1)
        )
        strides = tuple(each.step * step for each, step in zip(self.ranges, steps, strict=True))
        if max(last, *strides, 0) >= _INDEX_END:
            raise ValueError(
                f"a part of a tensor of shape {list(shape)} has row-major indices from {start} to {last}, "
                f"with strides {list(strides)}; accepted are less than 2**63 - 2**34"
            )
        return Box(start, strides)


def is_dtensor(tensor: Tensor) -> bool:
    if type(tensor).__name__ != "DTensor":
        return False
    module = sys.modules.get("torch.distributed.tensor")  # which is imported where there are DTensors
    return module is not None and isinstance(tensor, module.DTensor)


def local_of(tensor: Tensor) -> Tensor:
    """Return the memory that this process has of a DTensor; any other tensor itself."""
    if not is_dtensor(tensor):
        return tensor
    with torch.no_grad():
        local: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return local


def logical_shape(tensor: Tensor, shard: Shard | None) -> tuple[int, ...]:
    """Return the shape that fans and indices refer to. A DTensor's own shape is that of the whole."""
    if shard is None:
        return tensor.shape
    check_shard(shard)
    return shard.shape


def parts(tensor: Tensor, shard: Shard | None = None) -> list[Part]:
    """Return the tensor's memory in this process as boxes of the logical tensor; none where it is empty.

    Args:
        tensor: a DTensor, or a local tensor with `shard`; without, it is the whole.
        shard: where it sits.

    Raises:
        TypeError: not a Shard; a DTensor with a Shard; placements that nobody here knows.
        ValueError: a Shard that leaves the logical shape, or does not fit the tensor.
        RuntimeError: a Partial placement on more than one rank.
    """
    if is_dtensor(tensor):
        if shard is not None:
            raise TypeError("a DTensor's placements say where it sits: pass no shard= with it")
        local = local_of(tensor)
        runs = _runs_of_dtensor(tensor, local)
    elif shard is None:
        return [Part(tensor, tuple(map(range, tensor.shape)))] if tensor.numel() else []
    else:
        check_shard(shard)
        if shard.indices is not None:
            return list(_cut_flat(tensor, shard))
        local, runs = tensor, shard.runs(tensor.shape)
    return list(_cut(local, runs)) if local.numel() else []


def copy_whole_(tensor: Tensor, whole: Tensor, shard: Shard | None = None) -> None:
    """Copy from the whole logical tensor what this one holds of it; not recorded by autograd."""
    with torch.no_grad():
        for part in parts(tensor, shard):
            part.tensor.copy_(whole[tuple(slice(each.start, each.stop, each.step) for each in part.ranges)])
    if is_dtensor(tensor):
        increment_version(tensor)


def without(part: Part, row: int) -> tuple[list[Part], Part | None]:
    """Split one index of dimension 0 of the logical tensor off: the rest, and that index's part, if any."""
    rows, *others = part.ranges
    if row not in rows:
        return [part], None
    at = rows.index(row)

    def cut(start: int, stop: int) -> Part:
        return Part(part.tensor[start:stop], (rows[start:stop], *others))

    rest = [cut(start, stop) for start, stop in ((0, at), (at + 1, len(rows))) if start < stop]
    return rest, cut(at, at + 1)


def home_of(tensor: Tensor) -> torch.device:
    """Return where a meta tensor's memory goes by default: a DTensor's kind of device, else the CPU."""
    return torch.device(tensor.device_mesh.device_type if is_dtensor(tensor) else "cpu")  # type: ignore[attr-defined]


class Sharding(NamedTuple):
    """How the ranks of a DTensor's mesh share it.

    Args:
        mesh: its DeviceMesh.
        ranks: all of the mesh, in order.
        first: whether this rank is the first of those that hold what it does.
        is_cut: whether they do not all hold the same.
        is_outside: whether this rank is none of them, and holds nothing.
    """

    mesh: Any
    ranks: tuple[int, ...]
    first: bool
    is_cut: bool
    is_outside: bool


def sharding_of(tensor: Tensor) -> Sharding | None:
    """Return how ranks share a DTensor; None for any other tensor."""
    if not is_dtensor(tensor):
        return None
    spec: Any = tensor._spec  # type: ignore[attr-defined]
    coordinate = spec.mesh.get_coordinate()
    copied = [placement.is_replicate() for placement in spec.placements]
    return Sharding(
        spec.mesh,
        tuple(spec.mesh.mesh.flatten().tolist()),
        first=coordinate is not None and not any(itertools.compress(coordinate, copied)),
        is_cut=any(size > 1 for size, copy in zip(spec.mesh.shape, copied, strict=True) if not copy),
        is_outside=coordinate is None,
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


def _cut(local: Tensor, runs: Sequence[Runs]) -> Iterator[Part]:
    """Yield the views in which every dimension is one run."""
    for ranges in itertools.product(*map(_placed, runs)):
        view = local
        for dim, (start, run) in enumerate(ranges):
            if len(run) != view.shape[dim]:
                view = view.narrow(dim, start, len(run))
        yield Part(view, tuple(run for _, run in ranges))


def _cut_flat(local: Tensor, shard: Shard) -> Iterator[Part]:
    """Yield the boxes of a range of a flattened tensor, each as memory of its own shape."""
    start = 0
    for ranges in shard.boxes(local.shape):
        sizes = tuple(map(len, ranges))
        stop = start + math.prod(sizes)
        yield Part(local[start:stop].view(sizes), ranges)
        start = stop


def _placed(runs: Runs) -> list[tuple[int, range]]:
    """Return each run with its start in the local tensor, but for empty ones."""
    starts = itertools.accumulate(map(len, runs), initial=0)
    return [(start, run) for start, run in zip(starts, runs, strict=False) if run]


class Cut(NamedTuple):
    """One placement of a dimension: among how many ranks, which of them, and how finely it is strided."""

    num_ranks: int
    rank: int
    split_factor: int


def _runs_of_dtensor(tensor: Tensor, local: Tensor) -> tuple[Runs, ...]:
    """Return the indices of each dimension that this rank holds."""
    spec: Any = tensor._spec  # type: ignore[attr-defined]
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
    return tuple(run[max(start - at, 0) : max(stop - at, 0)] for at, run in _placed(runs))
