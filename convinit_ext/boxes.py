"""Which part of a larger logical tensor a tensor is: told by a Shard, or read off a DTensor's placements.

Arithmetic on indices alone: no communication, no process group, no device. Nothing here fills a tensor.
"""

from __future__ import annotations

import enum
import itertools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.distributed import is_available

from convinit_ext.ops import Box, increment_version

# Indices of one dimension of the logical tensor, in the order of the local one: ranges, one after the other.
Runs: TypeAlias = tuple[range, ...]


class Part(NamedTuple):
    """A view of a local tensor, and for each dimension the indices of the logical tensor that it covers."""

    tensor: Tensor
    ranges: tuple[range, ...]

    def box(self, shape: Sequence[int]) -> Box:
        """Of a logical tensor of this shape."""
        steps = _row_major(shape)
        starts = (each.start if each else 0 for each in self.ranges)
        return Box(
            sum(start * step for start, step in zip(starts, steps, strict=True)),
            tuple(each.step * step for each, step in zip(self.ranges, steps, strict=True)),
        )


@dataclass(frozen=True, slots=True)
class Shard:
    """Where a tensor that was cut by hand sits in the full one, for code that shards without DTensor.

    Values come from the full tensor's indices, and fans from its shape.

    Args:
        shape: of the full logical tensor.
        offset: for each dimension the index in the full tensor of the local tensor's first element, from
            which the others follow; or, where they do not follow, a range of indices, or a list of ranges
            that come one after the other: fused query, key and value rows, or gate and up projections.

    Raises:
        TypeError, ValueError: sizes or offsets that are none; an offset that leaves the shape.

    >>> rows = Shard(shape=(8, 4), offset=(6, 0))
    >>> fused = Shard(shape=(12, 4), offset=([range(2, 4), range(6, 8), range(10, 12)], 0))
    """

    shape: tuple[int, ...]
    offset: tuple[int | range | tuple[range, ...], ...]

    def __post_init__(self) -> None:
        shape = tuple(_index(size, "a size of shape") for size in self.shape)
        if len(shape) != len(self.offset):
            raise ValueError(f"offset has {len(self.offset)} numbers, and shape {list(shape)} {len(shape)}")
        offset = tuple(_checked_offset(each, size) for each, size in zip(self.offset, shape, strict=True))
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "offset", offset)

    @classmethod
    def split(cls, shape: Sequence[int], dim: int, rank: int, num_ranks: int, stride: int = 1) -> Shard:
        """What Megatron's layers hold: `dim` cut into num_ranks * stride equal parts, dealt out in turn.

        Args:
            shape: of the full logical tensor.
            dim: the dimension that is cut (Megatron's partition_dim).
            rank: whose shard.
            num_ranks: among how many.
            stride: how many parts a rank has (Megatron's partition_stride).

        Raises:
            ValueError: parts that are not equal; a rank or a dimension that is not there.

        >>> Shard.split((8, 4), dim=0, rank=1, num_ranks=2).offset
        ((range(4, 8),), (range(0, 4),))
        """
        if not -len(shape) <= dim < len(shape):
            raise ValueError(f"there is no dim {dim} in shape {list(shape)}")
        if not 0 <= rank < num_ranks or stride < 1:
            raise ValueError(f"there is no rank {rank} of {num_ranks}, each with {stride} parts")
        size, num_parts = shape[dim], num_ranks * stride
        if size % num_parts:
            raise ValueError(f"dim {dim} has size {size}, which {num_parts} equal parts do not make")
        length = size // num_parts
        parts = tuple(range(part * length, (part + 1) * length) for part in range(rank, num_parts, num_ranks))
        offset: list[Runs] = [(range(each),) for each in shape]
        offset[dim] = parts
        return cls(tuple(shape), tuple(offset))

    def runs(self, local: Sequence[int]) -> tuple[Runs, ...]:
        """The indices of each dimension of a local tensor of this shape.

        Raises:
            ValueError: it is not as large as the offsets say, or leaves the full shape.
        """
        if len(local) != len(self.shape):
            raise ValueError(
                f"shard= is of {len(self.shape)} dimensions, and the tensor of shape {list(local)} is not"
            )
        return tuple(self._runs_of(dim, size) for dim, size in enumerate(local))

    def _runs_of(self, dim: int, size: int) -> Runs:
        offset = self.offset[dim]
        if isinstance(offset, int):
            if offset + size > self.shape[dim]:
                raise ValueError(
                    f"shard= leaves the full tensor: dim {dim} covers [{offset}, {offset + size}) of "
                    f"{self.shape[dim]}"
                )
            return (range(offset, offset + size),)
        runs = (offset,) if isinstance(offset, range) else offset
        if sum(map(len, runs)) != size:
            raise ValueError(
                f"shard= gives {sum(map(len, runs))} indices for dim {dim}, and the tensor has size {size}"
            )
        return _joined(runs)


def _index(value: Any, what: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{what} must be an int, not {value!r}")
    if operator.index(value) < 0:
        raise ValueError(f"{what} must not be negative, and {value} is")
    return operator.index(value)


def _checked_offset(offset: Any, size: int) -> int | range | tuple[range, ...]:
    if isinstance(offset, list | tuple):
        return tuple(_checked_range(each, size) for each in offset)
    if isinstance(offset, range):
        return _checked_range(offset, size)
    start = _index(offset, "an offset")
    if start > size:
        raise ValueError(f"an offset of {start} is outside a dimension of size {size}")
    return start


def _checked_range(indices: Any, size: int) -> range:
    if not isinstance(indices, range):
        raise TypeError(f"an offset must be an int, a range or a list of ranges, not one with {indices!r}")
    if indices and not (0 <= indices[0] < size and 0 <= indices[-1] < size and indices.step > 0):
        raise ValueError(f"{indices} must rise, and stay inside a dimension of size {size}")
    return indices


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


def check_shard(shard: object) -> None:
    if not isinstance(shard, Shard):
        raise TypeError(f"shard must be a convinit_ext.Shard, not {type(shard).__name__}")


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
    return _joined(runs)


def _literal(size: int, cuts: tuple[Cut, ...]) -> Runs:
    """From left to right, each cuts what is left."""
    runs: Runs = (range(size),)
    for cut in cuts:
        parts = (_chunk(runs, cut.split_factor, part) for part in range(cut.split_factor))
        runs = _joined(run for part in parts for run in _chunk(part, cut.num_ranks, cut.place))
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


def _joined(runs: Any) -> Runs:
    """The same indices in fewer ranges: neighbours that go on in equal steps are one."""
    joined: list[range] = []
    for run in filter(len, runs):
        last = joined[-1] if joined else None
        step = run[0] - last[-1] if last else 0
        if last and step > 0 and all(len(each) == 1 or each.step == step for each in (last, run)):
            joined[-1] = range(last[0], run[-1] + 1, step)
        else:
            joined.append(run)
    return tuple(joined) or (range(0),)


def _row_major(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(itertools.accumulate(reversed(shape[1:]), operator.mul, initial=1))[::-1] if shape else ()
