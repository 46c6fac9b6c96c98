"""Which part of a larger logical tensor a tensor is: told by a Shard, or read off a DTensor's placements.

Arithmetic on indices alone: no communication, no process group, no device. Nothing here fills a tensor.
"""

from __future__ import annotations

import enum
import itertools
import operator
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed import is_available

from convinit_ext._engine import Box, increment_version, row_major
from convinit_ext.sharding._shard import Runs, Shard, check_shard, joined

# Of indices that the engine counts: to the end of a run of 2^32 blocks, in 64 bits with a sign.
_INDEX_END = (1 << 63) - (1 << 34)


class Part(NamedTuple):
    """A view of a local tensor, and for each dimension the indices of the logical tensor that it covers."""

    tensor: Tensor
    ranges: tuple[range, ...]

    def box(self, shape: Sequence[int]) -> Box:
        """Of a logical tensor of this shape.

        Raises:
            ValueError: indices that the engine cannot count.
        """
        steps = row_major(shape)
        starts = (each.start if each else 0 for each in self.ranges)
        start = sum(start * step for start, step in zip(starts, steps, strict=True))
        strides = tuple(each.step * step for each, step in zip(self.ranges, steps, strict=True))
        last = start + sum(
            (len(each) - 1) * step for each, step in zip(self.ranges, strides, strict=True) if each
        )
        if max(last, *strides, 0) >= _INDEX_END:
            raise ValueError(
                f"a part of a tensor of shape {list(shape)} has row-major indices from {start} to {last}, "
                f"with strides {list(strides)}; accepted are less than 2**63 - 2**34"
            )
        return Box(start, strides)


def is_dtensor(tensor: Tensor) -> bool:
    return type(tensor).__name__ == "DTensor" and isinstance(tensor, _dtensor_type())


@lru_cache(maxsize=1)
def _dtensor_type() -> type:
    if not is_available():
        return type(None)
    from torch.distributed.tensor import DTensor

    return DTensor


def local_of(tensor: Tensor) -> Tensor:
    """The memory that this process has of a DTensor; any other tensor itself."""
    if not is_dtensor(tensor):
        return tensor
    with torch.no_grad():
        local: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return local


def logical_shape(tensor: Tensor, shard: Shard | None) -> tuple[int, ...]:
    """The shape that fans and indices refer to. A DTensor's own shape is that of the whole."""
    if shard is None:
        return tensor.shape
    check_shard(shard)
    return shard.shape


def parts(tensor: Tensor, shard: Shard | None = None) -> list[Part]:
    """The tensor's memory in this process as boxes of the logical tensor; none where it is empty.

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
        local, runs = local_of(tensor), _runs_of_dtensor(tensor)
    elif shard is None:
        return [Part(tensor, tuple(map(range, tensor.shape)))] if tensor.numel() else []
    else:
        check_shard(shard)
        local, runs = tensor, shard.runs(tensor.shape)
    return list(_cut(local, runs)) if local.numel() else []


def copy_whole_(tensor: Tensor, whole: Tensor, shard: Shard | None = None) -> None:
    """Copies from the whole logical tensor what this one holds of it; not recorded by autograd."""
    with torch.no_grad():
        for part in parts(tensor, shard):
            part.tensor.copy_(whole[tuple(slice(each.start, each.stop, each.step) for each in part.ranges)])
    if is_dtensor(tensor):
        increment_version(tensor)


def without(part: Part, row: int) -> tuple[list[Part], Part | None]:
    """The part without one index of dimension 0 of the logical tensor, and that index's own part, if any."""
    rows, *others = part.ranges
    if row not in rows:
        return [part], None
    at = rows.index(row)

    def cut(start: int, stop: int) -> Part:
        return Part(part.tensor[start:stop], (rows[start:stop], *others))

    rest = [cut(start, stop) for start, stop in ((0, at), (at + 1, len(rows))) if start < stop]
    return rest, cut(at, at + 1)


def home_of(tensor: Tensor) -> torch.device:
    """Where a meta tensor's memory goes if nobody says: the kind of device of a DTensor's mesh; the CPU."""
    return torch.device(tensor.device_mesh.device_type if is_dtensor(tensor) else "cpu")  # type: ignore[attr-defined]


def share_rows(one: Tensor, other: Tensor, dim: int) -> bool:
    """Whether two DTensors are cut alike, and along `dim` alone: a process has the same rows of both."""
    if not (is_dtensor(one) and is_dtensor(other)):
        return False
    specs: list[Any] = [one._spec, other._spec]  # type: ignore[attr-defined]
    if specs[0].mesh != specs[1].mesh or specs[0].placements != specs[1].placements:
        return False
    return all(getattr(placement, "dim", dim) == dim for placement in specs[0].placements)


class Sharding(NamedTuple):
    """How the ranks of a DTensor's mesh share it.

    Args:
        mesh: its DeviceMesh.
        ranks: all of the mesh, in order.
        num_replicas: how many of them hold the same as any one rank, that one included.
        first: whether this rank is the first of those that hold what it does.
        is_cut: whether they do not all hold the same.
        is_outside: whether this rank is none of them, and holds nothing.
    """

    mesh: Any
    ranks: tuple[int, ...]
    num_replicas: int
    first: bool
    is_cut: bool
    is_outside: bool


def sharding_of(tensor: Tensor) -> Sharding | None:
    """None for a tensor that is no DTensor."""
    if not is_dtensor(tensor):
        return None
    spec: Any = tensor._spec  # type: ignore[attr-defined]
    mesh = spec.mesh
    coordinate = mesh.get_coordinate()
    num_replicas, first, is_cut = 1, coordinate is not None, False
    for axis, (placement, size) in enumerate(zip(spec.placements, mesh.shape, strict=True)):
        if placement.is_replicate():
            num_replicas *= size
            first = first and coordinate[axis] == 0
        else:
            is_cut = is_cut or size > 1
    ranks = tuple(mesh.mesh.flatten().tolist())
    return Sharding(mesh, ranks, num_replicas, first, is_cut, is_outside=coordinate is None)


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
    """The views in which every dimension is one run."""
    for ranges in itertools.product(*map(_placed, runs)):
        view = local
        for dim, (start, each) in enumerate(ranges):
            if len(each) != view.shape[dim]:
                view = view.narrow(dim, start, len(each))
        yield Part(view, tuple(each for _, each in ranges))


def _placed(runs: Runs) -> list[tuple[int, range]]:
    """Each run with its start in the local tensor."""
    starts = itertools.accumulate(map(len, runs), initial=0)
    return [(start, run) for start, run in zip(starts, runs, strict=False) if run]


def _runs_of_dtensor(tensor: Tensor) -> tuple[Runs, ...]:
    spec: Any = tensor._spec  # type: ignore[attr-defined]
    coordinate = spec.mesh.get_coordinate()
    sizes, local = tuple(tensor.shape), tuple(local_of(tensor).shape)
    if coordinate is None:  # this rank is outside the mesh
        return tuple((range(0),) for _ in sizes)
    mesh_shape = tuple(spec.mesh.shape)
    for placement, num_ranks in zip(spec.placements, mesh_shape, strict=True):
        _check_placement(placement, num_ranks)
    found = []
    for dim, (size, own) in enumerate(zip(sizes, local, strict=True)):
        cuts = tuple(
            Cut(num_ranks, place, getattr(placement, "split_factor", 1))
            for placement, num_ranks, place in _axes(spec, dim, mesh_shape, coordinate)
        )
        found.append(_runs_of_dim(size, cuts, None if 0 in local else own))
    if 0 in local and all(any(map(len, runs)) for runs in found):
        raise RuntimeError(
            f"a DTensor's local shape is {list(local)}, which is empty, and its placements give it elements "
            f"of {list(sizes)}"
        )
    return tuple(found)


def _axes(
    spec: Any, dim: int, mesh_shape: tuple[int, ...], coordinate: Sequence[int]
) -> Iterator[tuple[Any, int, int]]:
    """The placements that cut a dimension, with the size of their mesh axis and this rank's place on it."""
    order: Sequence[int] = range(len(mesh_shape))
    for entry in getattr(spec, "shard_order", None) or ():  # where PyTorch keeps an order of its own
        if entry.tensor_dim == dim:
            order = entry.mesh_dims
    for axis in order:
        if getattr(spec.placements[axis], "dim", None) == dim:
            yield spec.placements[axis], mesh_shape[axis], coordinate[axis]


class Cut(NamedTuple):
    """One placement of a dimension: among how many ranks, which of them, and how finely it is strided."""

    num_ranks: int
    place: int
    split_factor: int


@lru_cache(maxsize=4096)
def _runs_of_dim(size: int, cuts: tuple[Cut, ...], own: int | None) -> Runs:
    """What a rank owns of one dimension; `own` is the size of what it has, None where that tells nothing.

    A strided shard is one of two things. FSDP2 makes it where tensor parallelism cut first, on a later axis:
    then all are plain cuts, in another order. By itself it is one chunk of each of its parts.
    """
    readings = [read(size, cuts) for read in (_reordered, _literal)]
    for runs in readings:
        if runs is not None and own in (None, sum(map(len, runs))):
            return runs
    raise RuntimeError(
        f"a DTensor's dimension of size {size} has a local size of {own}, which its cuts do not give: {cuts}"
    )


def _reordered(size: int, cuts: tuple[Cut, ...]) -> Runs | None:
    """The split factor of a cut counts the ranks of the later axes that cut before it."""
    order: list[Cut] = []
    for cut in reversed(cuts):
        before = itertools.accumulate((each.num_ranks for each in order), operator.mul, initial=1)
        place = next((at for at, count in enumerate(before) if count == cut.split_factor), None)
        if place is None:
            return None
        order.insert(place, cut)
    runs: Runs = (range(size),)
    for cut in order:
        runs = _chunk(runs, cut.num_ranks, cut.place)
    return joined(runs)


def _literal(size: int, cuts: tuple[Cut, ...]) -> Runs:
    """From left to right, each cuts what is left."""
    runs: Runs = (range(size),)
    for cut in cuts:
        parts = (_chunk(runs, cut.split_factor, part) for part in range(cut.split_factor))
        runs = joined(run for part in parts for run in _chunk(part, cut.num_ranks, cut.place))
    return runs


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


def _chunk(runs: Runs, num_chunks: int, index: int) -> Runs:
    """As torch.chunk: equal parts, but for the last ones, which may be smaller or empty."""
    size = sum(map(len, runs))
    length = -(-size // num_chunks)
    start, stop = index * length, (index + 1) * length
    return tuple(run[max(start - at, 0) : max(stop - at, 0)] for at, run in _placed(runs))
