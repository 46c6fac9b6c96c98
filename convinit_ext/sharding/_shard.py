"""Which part of a larger tensor one is: runs of indices; Shard, cut by hand; Part, memory that is a box."""

from __future__ import annotations

import itertools
import math
import operator
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from convinit_ext._engine import Box, row_major

# Indices of one dimension of the logical tensor, in the order of the local one: ranges, one after the other.
Runs: TypeAlias = tuple[range, ...]
# Of indices that the engine counts: to the end of a run of 2^32 blocks, in 64 bits with a sign.
_INDEX_END = (1 << 63) - (1 << 34)


@dataclass(frozen=True, slots=True)
class Shard:
    """Where a tensor that was cut by hand sits in the full one, for code that shards without DTensor.

    Values come from the full tensor's indices, and fans from its shape. The row-major index of the shard's
    last element in the full tensor, and the step from one to the next along each dimension, must be less
    than 2**63 - 2**34.

    Args:
        shape: of the full logical tensor.
        offset: for each dimension the index in the full tensor of the local tensor's first element, from
            which the others follow; or, where they do not follow, a range of indices, or a list of ranges
            that come one after the other: fused query, key and value rows, or gate and up projections.
        indices: None, or what `Shard.flat` makes of its arguments.

    Raises:
        TypeError, ValueError: sizes or offsets that are none; an offset that leaves the shape.

    >>> rows = Shard(shape=(8, 4), offset=(6, 0))
    >>> fused = Shard(shape=(12, 4), offset=([range(2, 4), range(6, 8), range(10, 12)], 0))
    """

    shape: tuple[int, ...]
    offset: tuple[int | range | tuple[range, ...], ...]
    indices: range | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        shape = _sizes(self.shape)
        if self.indices is not None:
            object.__setattr__(self, "shape", shape)
            _check_indices(self.indices, shape)
            return
        starts = _listed(self.offset, "offset")
        if len(shape) != len(starts):
            raise ValueError(f"offset has {len(starts)} numbers, and shape {list(shape)} {len(shape)}")
        offset = tuple(_checked_offset(each, size) for each, size in zip(starts, shape, strict=True))
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "offset", offset)

    @classmethod
    def split(cls, shape: Sequence[int], dim: int, rank: int, num_ranks: int, stride: int = 1) -> Shard:
        """Return the shard that a layer of Megatron holds: `dim` in num_ranks * stride parts, dealt in turn.

        Args:
            shape: of the full logical tensor.
            dim: the dimension that is cut (Megatron's partition_dim).
            rank: which of the ranks.
            num_ranks: among how many.
            stride: how many parts a rank has (Megatron's partition_stride).

        Raises:
            TypeError: sizes or numbers that are no integers.
            ValueError: parts that are not equal; a rank or a dimension that is not there.

        >>> Shard.split((8, 4), dim=0, rank=1, num_ranks=2).offset
        ((range(4, 8),), (range(0, 4),))
        """
        shape = _sizes(shape)
        dim, rank, num_ranks, stride = (
            _integer(value, what)
            for value, what in ((dim, "dim"), (rank, "rank"), (num_ranks, "num_ranks"), (stride, "stride"))
        )
        if not -len(shape) <= dim < len(shape):
            raise ValueError(f"there is no dim {dim} in shape {list(shape)}")
        if not 0 <= rank < num_ranks or stride < 1:
            raise ValueError(f"there is no rank {rank} of {num_ranks}, each with {stride} parts")
        size, num_parts = shape[dim], num_ranks * stride
        if size % num_parts:
            raise ValueError(f"dim {dim} has size {size}, which {num_parts} equal parts do not make")
        length = size // num_parts
        offset: list[Runs] = [(range(each),) for each in shape]
        offset[dim] = tuple(
            range(part * length, (part + 1) * length) for part in range(rank, num_parts, num_ranks)
        )
        return cls(shape, tuple(offset))

    @classmethod
    def flat(cls, shape: Sequence[int], start: int, length: int) -> Shard:
        """Return the shard of a 1-dimensional tensor that is a range of the full one, flattened.

        Args:
            shape: of the full logical tensor, whose elements are counted in row-major order.
            start: the number of the first element.
            length: how many there are.

        Raises:
            TypeError, ValueError: numbers that are none; a range that leaves the full tensor.

        >>> Shard.flat((3, 4), start=2, length=8).indices
        range(2, 10)
        """
        start = _index(start, "start")
        return cls(_sizes(shape), (), indices=range(start, start + _index(length, "length")))

    def boxes(self, local: Sequence[int]) -> Iterator[tuple[range, ...]]:
        """Return the boxes of a 1-dimensional local tensor of this shape; ValueError if it does not fit."""
        indices = self.indices or range(0)
        if tuple(local) != (len(indices),):
            raise ValueError(
                f"shard= is a range of {len(indices)} elements, and the tensor has shape {list(local)}; "
                f"accepted is a tensor of shape {[len(indices)]}"
            )
        return boxes_of_range(self.shape, indices.start, indices.stop)

    def runs(self, local: Sequence[int]) -> tuple[Runs, ...]:
        """Return the indices of each dimension of a local tensor of this shape; ValueError if none fit."""
        if len(local) != len(self.shape):
            raise ValueError(
                f"shard= is of {len(self.shape)} dimensions, and the tensor of shape {list(local)} is not"
            )
        return tuple(self._runs_of_dim(dim, size) for dim, size in enumerate(local))

    def _runs_of_dim(self, dim: int, size: int) -> Runs:
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
        return joined(runs)


def _listed(given: Any, what: str) -> tuple[Any, ...]:
    try:
        return tuple(given)
    except TypeError:
        raise TypeError(f"{what} must have a number for each dimension, and {given!r} has none") from None


def _sizes(shape: Any) -> tuple[int, ...]:
    return tuple(_index(size, "a size of shape") for size in _listed(shape, "shape"))


def _integer(value: Any, what: str) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except (TypeError, ValueError):  # the last of a tensor of several elements
        pass
    raise TypeError(f"{what} must be an int, not {value!r}")


def _index(value: Any, what: str) -> int:
    number = _integer(value, what)
    if number < 0:
        raise ValueError(f"{what} must not be negative, and {value} is")
    return number


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


def _check_indices(indices: object, shape: Sequence[int]) -> None:
    if not isinstance(indices, range) or indices.step != 1:
        raise TypeError(f"indices must be a range with step 1, not {indices!r}")
    if not 0 <= indices.start <= indices.stop <= math.prod(shape):
        raise ValueError(
            f"elements [{indices.start}, {indices.stop}) leave the full tensor of shape {list(shape)}, which "
            f"has {math.prod(shape)}"
        )


def boxes_of_range(shape: Sequence[int], start: int, stop: int) -> Iterator[tuple[range, ...]]:
    """Cut a range of a tensor's row-major index into boxes, one after the other.

    Of each dimension these are the end of a row, whole rows, and the start of one.

    >>> list(boxes_of_range((3, 4), 2, 10))
    [(range(0, 1), range(2, 4)), (range(1, 2), range(0, 4)), (range(2, 3), range(0, 2))]
    """
    if start == stop:
        return
    if not shape:
        yield ()
        return
    step = math.prod(shape[1:])
    first, last = -(-start // step), stop // step  # the whole rows
    if first > last:  # inside of one
        yield from _boxes_of_row(shape, start, stop)
        return
    yield from _boxes_of_row(shape, start, first * step)
    if first < last:
        yield (range(first, last), *map(range, shape[1:]))
    yield from _boxes_of_row(shape, last * step, stop)


def _boxes_of_row(shape: Sequence[int], start: int, stop: int) -> Iterator[tuple[range, ...]]:
    """Yield the boxes of a part of one row, which may be empty."""
    step = math.prod(shape[1:])
    row, at = divmod(start, step)
    for inner in boxes_of_range(shape[1:], at, at + stop - start):
        yield (range(row, row + 1), *inner)


def check_shard(shard: object) -> None:
    if not isinstance(shard, Shard):
        raise TypeError(f"shard must be a convinit_ext.Shard, not {type(shard).__name__}")


def joined(runs: Iterable[range]) -> Runs:
    """Return the same indices in fewer ranges: neighbours that go on in equal steps become one."""
    found: list[range] = []
    for run in filter(len, runs):
        last = found[-1] if found else None
        step = run[0] - last[-1] if last else 0
        if last and step > 0 and all(len(each) == 1 or each.step == step for each in (last, run)):
            found[-1] = range(last[0], run[-1] + 1, step)
        else:
            found.append(run)
    return tuple(found) or (range(0),)


class Part(NamedTuple):
    """A view of a local tensor, and for each dimension the indices of the logical tensor that it covers."""

    tensor: Tensor
    ranges: tuple[range, ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        """Return the indices for indexing the whole tensor."""
        return tuple(slice(each.start, each.stop, each.step) for each in self.ranges)

    def box(self, shape: Sequence[int]) -> Box:
        """Return the row-major start and strides of a part, not empty; ValueError if they are too large."""
        steps = row_major(shape)
        start, last = (
            sum(each[end] * step for each, step in zip(self.ranges, steps, strict=True)) for end in (0, -1)
        )
        if last >= _INDEX_END:
            raise ValueError(
                f"a part of a tensor of shape {list(shape)} has row-major indices from {start} to {last}, "
                f"with strides {list(steps)}; accepted are less than 2**63 - 2**34"
            )
        strides = tuple(  # of one index any will do, and the whole tensor's may be too large
            each.step * step if len(each) > 1 else min(step, _INDEX_END - 1)
            for each, step in zip(self.ranges, steps, strict=True)
        )
        return Box(start, strides)


def within(part: Part, runs: Runs, dim: int = 0) -> Iterator[Part]:
    """Yield what a region has of some indices of a dimension of the logical tensor, runs without steps."""
    own = part.ranges[dim]
    for run in runs:
        start, stop = (bisect_left(own, each) for each in (run.start, run.stop))
        if start < stop:
            ranges = (*part.ranges[:dim], own[start:stop], *part.ranges[dim + 1 :])
            yield Part(part.tensor.narrow(dim, start, stop - start), ranges)


def cut_into_views(local: Tensor, runs: Sequence[Runs]) -> Iterator[Part]:
    """Yield the views in which every dimension is one run."""
    for ranges in itertools.product(*map(placed, runs)):
        view = local
        for dim, (start, run) in enumerate(ranges):
            if len(run) != view.shape[dim]:
                view = view.narrow(dim, start, len(run))
        yield Part(view, tuple(run for _, run in ranges))


def cut_flat(local: Tensor, shard: Shard) -> Iterator[Part]:
    """Yield the boxes of a range of a flattened tensor, each as memory of its own shape."""
    start = 0
    for ranges in shard.boxes(local.shape):
        sizes = tuple(map(len, ranges))
        stop = start + math.prod(sizes)
        yield Part(local[start:stop].view(sizes), ranges)
        start = stop


def placed(runs: Runs) -> list[tuple[int, range]]:
    """Return each run with its start in the local tensor, but for empty ones."""
    starts = itertools.accumulate(map(len, runs), initial=0)
    return [(start, run) for start, run in zip(starts, runs, strict=False) if run]
