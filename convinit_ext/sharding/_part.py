"""Part: a view of memory that is a box of a logical tensor; how memory of any kind is cut into such views."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from convinit_ext._engine import Box, row_major
from convinit_ext.sharding._shard import Runs, Shard

# Of indices that the engine counts: to the end of a run of 2^32 blocks, in 64 bits with a sign.
_INDEX_END = (1 << 63) - (1 << 34)


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
