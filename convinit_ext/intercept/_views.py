"""A tensor as a part of a parameter whose memory it sees: which part, which fill of it, and under which name.

What a part's key is called is said here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor, nn

from convinit_ext._engine import Box, row_major
from convinit_ext.model import walk
from convinit_ext.sharding import parts

Region: TypeAlias = tuple[object, ...]
_MOST_KNOWN = 1024  # views of a parameter: some code fills a table row by row
# How a tensor sees its storage: offset, shape, strides, dtype.
Layout: TypeAlias = tuple[int | torch.SymInt, torch.Size, tuple[int, ...], torch.dtype]


@dataclass(slots=True, eq=False)
class Named:
    """A parameter or buffer, its name, and how often it was filled: all of it, and each region since then.

    Args:
        name: its canonical name.
        model: the outermost module.
        words: of its first fill, as the engine takes them, [1, 2].
        tensor: the parameter itself.
        path: the way to it from the model, attribute by attribute.
    """

    name: str
    model: nn.Module
    words: Tensor
    tensor: Tensor
    path: list[str]
    num_rounds: int = 0
    num_fills: dict[Region, int] = field(default_factory=dict)
    _layout: Layout | None = None
    _known: dict[Layout, Owned | None] = field(default_factory=dict)

    def is_held(self) -> bool:
        """Whether the tensor is still the model's, in this place."""
        holder = self.model
        *children, leaf = self.path
        for child in children:
            modules = holder._modules
            if child not in modules or (module := modules[child]) is None:
                return False
            holder = module
        parameters, buffers = holder._parameters, holder._buffers  # no dicts in a ScriptModule: without get
        return (leaf in parameters and parameters[leaf] is self.tensor) or (
            leaf in buffers and buffers[leaf] is self.tensor
        )

    def part(self, view: Tensor, whole: Tensor) -> Owned | None:
        """A view as a part of this one.

        Args:
            view: of the storage of `whole`.
            whole: the memory of the named tensor as it is now.

        Returns:
            None where it is not inside.
        """
        if whole is self.tensor and whole.is_contiguous() and view.dtype is whole.dtype:  # as most are
            return _part_in_order(self, view, whole)
        layout, place = _layout_of(whole), _layout_of(view)
        if layout != self._layout:
            self._layout, self._known = layout, {}
        if place not in self._known:
            if len(self._known) == _MOST_KNOWN:
                self._known.clear()
            self._known[place] = _part_of(self, view, whole, is_alike=place == layout)
        return self._known[place]


@dataclass(slots=True, eq=False)
class Owned:
    """A tensor as a part of a named one.

    Args:
        named: what it is a part of.
        region: which part; empty where it is all of it, seen in any way.
        box: its place in the row-major order of the named one; None where it is seen as the named one is,
            and where no box describes it.
        words_are_own: no box describes it.
        is_dtensor: the named one is a DTensor, and this it or its local tensor.
        is_scattered: the named one is a DTensor, and no box describes this part of its local tensor.
    """

    named: Named
    region: Region
    box: Box | None
    words_are_own: bool = False
    is_dtensor: bool = False
    is_scattered: bool = False

    def number(self) -> int:
        """How many fills of this part there were."""
        named = self.named
        if self.region:
            return named.num_rounds + named.num_fills.get(self._elements(), 0)
        return named.num_rounds + max(named.num_fills.values(), default=0)

    def count(self, number: int) -> None:
        """One more fill of this part than the number there were."""
        named = self.named
        if self.region:
            named.num_fills[self._elements()] = number - named.num_rounds + 1
        else:
            named.num_rounds = number + 1
            named.num_fills.clear()

    def _elements(self) -> Region:
        """The region, equal for all views of the same elements: w[1] and w[1:2]."""
        if self.box is None:  # in memory
            return self.region
        start, shape, strides = self.region
        return start, _steps_of(shape, strides)

    def key_name(self, number: int, alone: bool = False) -> str:
        """The name of the key of the fill of this number.

        Args:
            number: how many fills there were before.
            alone: the values are of this part by itself: no box of the whole's values.
        """
        name = self.named.name
        if self.region and (alone or self.words_are_own):
            name += "[" + ",".join(map(_text, self.region)) + "]"
        return f"{name}#{number}" if number else name


@lru_cache(maxsize=1024)
def _steps_of(shape: Sequence[int], strides: Sequence[int]) -> Region:
    """The dimensions that elements are counted along, in the order of the index; as few as there can be.

    >>> _steps_of((1, 2, 4), (99, 4, 1)), _steps_of((4, 2), (1, 6))
    (((1, 8),), ((1, 4), (6, 2)))
    """
    merged: list[tuple[int, int]] = []
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size == 1:
            continue
        if merged and merged[-1][0] * merged[-1][1] == stride:
            step, count = merged.pop()
            merged.append((step, count * size))
        else:
            merged.append((stride, size))
    return tuple(merged)


def _layout_of(tensor: Tensor) -> Layout:
    return tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def _is_inside(view: Tensor, whole: Tensor) -> bool:
    start, end = walk.span(view)
    first, last = walk.span(whole)
    return first <= start and end <= last


def _part_of(named: Named, view: Tensor, whole: Tensor, is_alike: bool) -> Owned | None:
    is_dtensor = whole is not named.tensor
    if is_alike:
        return Owned(named, (), None, is_dtensor=is_dtensor)
    if is_dtensor and not whole.numel():  # owned all the same: the processes' generators stay in step
        return Owned(named, (), None, is_dtensor=True)
    if not _is_inside(view, whole):
        return None
    if is_dtensor:
        return _part_of_shard(named, view, whole)
    box = box_in(view, whole)
    if box is None:
        return Owned(named, _memory_of(view, whole), None, words_are_own=True)
    is_all = view.numel() == whole.numel()
    return Owned(named, () if is_all else _region_of(view, box), box)


def _part_in_order(named: Named, view: Tensor, whole: Tensor) -> Owned | None:
    """Memory is in the order of the index: a view's strides are its steps there."""
    start = int(view.storage_offset() - whole.storage_offset())
    size, shape, strides, is_run = view.numel(), view.shape, view.stride(), view.is_contiguous()
    end, last = start + (size if is_run else walk.extent(shape, strides)), whole.numel()
    if start < 0 or end > last:
        return None
    if size < last:
        return Owned(named, (start, shape, strides), Box(start, strides))
    return Owned(named, (), None if is_run else Box(start, strides))


def _part_of_shard(named: Named, view: Tensor, local: Tensor) -> Owned | None:
    """The same of what this process has of a DTensor. Other processes have other parts of it: a part by
    itself would have the same key on all of them.
    """
    if view.dtype != local.dtype:
        return None
    is_all = view.numel() == local.numel()
    held = parts(named.tensor)
    box = box_in(view, local, held[0].box(named.tensor.shape)) if len(held) == 1 else None
    if box is None:
        return Owned(named, () if is_all else _memory_of(view, local), None, is_scattered=True)
    return Owned(named, () if is_all else _region_of(view, box), box)


def _region_of(view: Tensor, box: Box) -> Region:
    return box.start, view.shape, box.strides


def _text(part: object) -> str:
    return str(tuple(part)) if isinstance(part, tuple) else str(part)


def _memory_of(view: Tensor, whole: Tensor) -> Region:
    offset = int(view.storage_offset() - whole.storage_offset())
    return "memory", view.dtype, offset, view.shape, view.stride()


def box_in(view: Tensor, whole: Tensor, place: Box | None = None) -> Box | None:
    """Where a view's elements are in the row-major order of the tensor that it is a view of.

    Args:
        view: a view inside `whole`.
        whole: of any strides.
        place: of `whole` in the row-major order of a larger tensor, which is then meant.

    Returns:
        The box, None where there is none: views of another dtype, and views with a dimension that runs over
        several of a `whole` that is not contiguous.

    >>> weight = torch.empty(6, 4)
    >>> box_in(weight[2:4], weight)
    Box(start=8, strides=(4, 1))
    >>> box_in(weight[2:4], weight, Box(24, (4, 1)))
    Box(start=32, strides=(4, 1))
    """
    if view.dtype != whole.dtype:
        return None
    offset = int(view.storage_offset() - whole.storage_offset())
    begin, steps = place or Box(0, row_major(whole.shape))
    if whole.is_contiguous() and steps == row_major(whole.shape):  # so it is in whole rows of a larger one
        return Box(begin + offset, view.stride())
    start = _steps(offset, whole)
    moves = [
        _steps(stride if size > 1 else 0, whole)
        for size, stride in zip(view.shape, view.stride(), strict=True)
    ]
    corner = [
        first + sum((size - 1) * move[dim] for size, move in zip(view.shape, moves, strict=True))
        for dim, first in enumerate(start)
    ]
    if any(at >= size for at, size in zip(corner, whole.shape, strict=True)):
        return None
    return Box(begin + _dot(start, steps), tuple(_dot(move, steps) for move in moves))


def _steps(distance: int, whole: Tensor) -> list[int]:
    """How far to go along each dimension to move so far in memory; too far where that cannot be."""
    steps = [0] * whole.dim()
    for dim in sorted(range(whole.dim()), key=whole.stride, reverse=True):
        if whole.shape[dim] > 1 and whole.stride(dim) > 0:
            steps[dim], distance = divmod(distance, whole.stride(dim))
    return [*whole.shape] if distance else steps


def _dot(left: Sequence[int], right: Sequence[int]) -> int:
    return sum(a * b for a, b in zip(left, right, strict=True))
