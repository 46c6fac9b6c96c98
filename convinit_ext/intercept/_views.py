"""A tensor as a part of a model's parameter: which part, which fill of it, and the name of the fill's key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from convinit_ext._engine import Box, extent, row_major, span
from convinit_ext.sharding import (
    is_flat_piece,
    is_marked,
    is_placeholder,
    is_sharded,
    local_of,
    logical_shape,
    parts,
)


class Layout(NamedTuple):
    """Where a tensor's elements are in its storage."""

    offset: int
    shape: torch.Size
    strides: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        return cls(int(tensor.storage_offset()), tensor.shape, tensor.stride())


# A dimension of a tensor: its stride in memory, its size, and its step in the row-major index of the whole.
Dim: TypeAlias = tuple[int, int, int]
# Which elements of the whole a view has, however it sees them: w[1] and w[1:2] have the same.
Elements: TypeAlias = tuple[int, tuple[Dim, ...]]


@dataclass(slots=True, eq=False)
class TrackedParameter:
    """A parameter or buffer of a model, and how often it was filled inside a block.

    Args:
        name: its canonical name.
        model: the outermost module.
        words: of the key of its first fill, int64 [1, 2].
        tensor: the parameter itself.
        path: the attributes that lead to it from the model.
        runs: of a DTensor, once they are asked for: what this process holds of it, and where in the whole.
        num_fills: fills up to the last one of the whole.
        num_part_fills: fills of each part since then.
    """

    name: str
    model: nn.Module
    words: Tensor
    tensor: Tensor
    path: list[str]
    runs: list[tuple[Layout, Box | None]] = field(default_factory=list)
    num_fills: int = 0
    num_part_fills: dict[Elements, int] = field(default_factory=dict)

    def is_in_model(self) -> bool:
        """Return whether the model still holds the tensor in this place."""
        module: Any = self.model
        *children, leaf = self.path
        for child in children:
            modules = module._modules  # a ScriptModule's are no dicts: without get
            if child not in modules or modules[child] is None:
                return False
            module = modules[child]
        parameters, buffers = module._parameters, module._buffers
        return (leaf in parameters and parameters[leaf] is self.tensor) or (
            leaf in buffers and buffers[leaf] is self.tensor
        )

    def part(self, view: Tensor, whole: Tensor) -> ParameterView | None:
        """Return a view of `whole`, its memory here, as a part of this; None if it is outside of that.

        RuntimeError says that no box describes it.
        """
        is_cut = is_sharded(self.tensor)  # at times: other frameworks gather parameters
        if whole.is_complex() and not is_cut:  # w.real and w.imag are slices of it
            whole = torch.view_as_real(whole)
        shape, strides, size, last = view.shape, view.stride(), view.numel(), whole.numel()
        offset = int(view.storage_offset() - whole.storage_offset())
        is_same_type = view.dtype is whole.dtype
        box: Box | None = None
        if is_same_type and not is_cut and whole.is_contiguous():  # most are in the index's order
            is_run = view.is_contiguous()
            if offset < 0 or offset + (size if is_run else extent(shape, strides)) > last:
                return None
            if size < last or not is_run:
                box = Box(offset, strides)
        elif last and not (is_same_type and (offset, shape, strides) == (0, whole.shape, whole.stride())):
            box = self._box(view, whole)
            if box is None:
                return None
        if box is None or size == last:
            return ParameterView(self, box, None)
        return ParameterView(self, box, (box.start, _steps(shape, box.strides)))

    def _box(self, view: Tensor, whole: Tensor) -> Box | None:
        """Return where the view is in the parameter, None where it is not inside it."""
        if is_marked(self.tensor) or (is_sharded(self.tensor) and not self.runs):
            shape = logical_shape(self.tensor)
            self.runs = [(Layout.of(part.tensor), part.box(shape)) for part in parts(self.tensor)]
        seen, begins_inside = Layout.of(view), view.dtype is not whole.dtype
        for layout, place in self.runs or [(Layout.of(whole), None)] if not begins_inside else ():
            box = box_in(seen, layout, place)
            if box is not None:
                return box
            first = Layout(seen.offset, torch.Size(), ())
            begins_inside |= box_in(first, layout, place) is not None  # else perhaps between its elements
        (start, end), (first_byte, last_byte) = span(view), span(whole)
        if start < first_byte or end > last_byte or not begins_inside:
            return None
        here = "on this rank " if is_sharded(self.tensor) else ""
        raise RuntimeError(
            f"cannot fill this view of {self.name!r} inside intercept: {_described(view)}. Its elements are "
            "not at regular steps in the row-major order of the parameter, which is "
            f"{here}{_described(whole)}. Fill the parameter itself, or slices that keep its dtype and its "
            "dimensions"
        )


@dataclass(slots=True, eq=False)
class ParameterView:
    """A tensor as a part of a model's parameter.

    Its box is None where it is seen as the parameter is, its elements where it has all that this process
    holds.
    """

    parameter: TrackedParameter
    box: Box | None
    elements: Elements | None

    def number(self) -> int:
        """Return how many fills of this part there were."""
        parameter = self.parameter
        if self.elements is None:
            return parameter.num_fills + max(parameter.num_part_fills.values(), default=0)
        return parameter.num_fills + parameter.num_part_fills.get(self.elements, 0)

    def count(self, number: int) -> None:
        """Count the fill of this part that had this number."""
        parameter = self.parameter
        if self.elements is None:
            parameter.num_fills = number + 1
            parameter.num_part_fills.clear()
        else:
            parameter.num_part_fills[self.elements] = number + 1 - parameter.num_fills

    def check_not_cut(self, tensor: Tensor, by_place: bool = False) -> None:
        """Check that a slice of another framework's part is what it is on one process, and no part of that.

        Args:
            tensor: the slice.
            by_place: whether its values depend on where each element is alone, not on the slice's shape.

        Raises:
            ValueError: it is a part, or a slice of a range of the flattened parameter.
        """
        whole, box = self.parameter.tensor, self.box
        if box is None or not is_marked(whole):  # of a DTensor's local tensor fans are what the code computes
            return
        local, shape = local_of(whole).shape, logical_shape(whole)
        is_flat = len(local) != len(shape) or is_flat_piece(whole)
        if is_flat and self.elements is not None and not is_placeholder(whole):
            about = "this process has a range of the flattened parameter, whose slices are no slices of it"
        elif by_place:
            return
        else:
            cut = zip(row_major(shape), local, shape, strict=False)
            is_whole = not is_flat and not any(
                size != full and _runs_along(step, full, tensor.shape, box) for step, size, full in cut
            )
            if is_whole:
                return
            about = "this process has a part of the parameter, and of the slice"
        raise ValueError(
            f"cannot fill this slice of {self.parameter.name!r} inside intercept: {about}. Fill the "
            "parameter itself, or the slice by a function of convinit_ext.init with key= and shard="
        )

    def key_name(self, number: int, shape: torch.Size | None = None) -> str:
        """Return the name of the key of a fill that has so many before it.

        With the view's shape, that of a fill of this part by itself, whose values are no part of the whole's.
        """
        name = self.parameter.name
        if shape is not None and self.box is not None and self.elements is not None:
            name += f"[{self.box.start},{tuple(shape)},{tuple(self.box.strides)}]"
        return f"{name}#{number}" if number else name


def is_recorded(tensor: Tensor) -> bool:
    """Return whether autograd recorded how a tensor came about: a view, or a copy of something else."""
    try:
        return tensor.grad_fn is not None
    except RuntimeError:  # of one of chunk's views, when another has changed
        return True


@lru_cache(maxsize=1024)
def box_in(view: Layout, whole: Layout, place: Box | None = None) -> Box | None:
    """Return where a view's elements are in the row-major order of a logical tensor; None if in no box.

    It is a view of `whole`, of the same dtype, which has a place in the logical tensor or is it. No box has a
    view that is not inside `whole`, or with a dimension that runs over several of it which do not follow each
    other in memory as they do in the index.

    >>> weight = torch.empty(6, 4)
    >>> box_in(Layout.of(weight[2:4]), Layout.of(weight), Box(24, (4, 1)))
    Box(start=32, strides=(4, 1))
    """
    if view.offset < whole.offset:
        return None
    place = place or Box(0, row_major(whole.shape))
    moves = [stride if size > 1 else 0 for size, stride in zip(view.shape, view.strides, strict=True)]
    distances = [view.offset - whole.offset, *moves]  # in memory; divided among the dimensions of the whole
    steps = [0] * len(distances)
    for stride, size, step in reversed(_merged(zip(whole.strides, whole.shape, place.strides, strict=True))):
        counts = [distance // stride for distance in distances]
        if counts[0] + sum((n - 1) * count for n, count in zip(view.shape, counts[1:], strict=True)) >= size:
            return None
        distances = [distance % stride for distance in distances]
        steps = [before + count * step for before, count in zip(steps, counts, strict=True)]
    if any(distances):
        return None
    is_in_order = whole.strides == place.strides == row_major(whole.shape)
    return Box(place.start + steps[0], view.strides if is_in_order else tuple(steps[1:]))


def _runs_along(step: int, size: int, view: Sequence[int], box: Box) -> bool:
    """Return whether a view's elements differ in one index of the logical tensor, of this step and size."""
    return any(
        stride % (step * size) and box.start % step + stride * (count - 1) >= step
        for stride, count in zip(box.strides, view, strict=True)
    )


@lru_cache(maxsize=1024)
def _steps(shape: torch.Size, strides: tuple[int, ...]) -> tuple[Dim, ...]:
    """Return the steps between a view's elements in the index, the same for all views of these elements."""
    return tuple(_merged(zip(strides, shape, strides, strict=True)))


def _merged(dims: Iterable[Dim]) -> list[Dim]:
    """Return dimensions in the order of memory. Those that follow each other there and in the index are one.

    >>> _merged([(12, 2, 12), (4, 3, 4), (1, 4, 1)]), _merged([(1, 4, 3), (4, 3, 1)])
    ([(1, 24, 1)], [(1, 4, 3), (4, 3, 1)])
    """
    merged: list[Dim] = []
    for stride, size, step in sorted(dims):
        inner_stride, inner_size, inner_step = merged[-1] if merged else (0, 0, 0)
        if merged and (stride, step) == (inner_stride * inner_size, inner_step * inner_size):
            merged[-1] = (inner_stride, inner_size * size, inner_step)
        elif size > 1 and stride > 0:
            merged.append((stride, size, step))
    return merged


def _described(tensor: Tensor) -> str:
    shape, strides = list(tensor.shape), list(tensor.stride())
    return f"{tensor.dtype} of shape {shape}, strides {strides}, at offset {tensor.storage_offset()}"


def with_marks(tensor: Tensor, view: ParameterView | None) -> Tensor:
    """Return a tensor whose attributes say which part of a larger one it is: `.data` has none of them."""
    if view is not None and view.box is None and is_marked(view.parameter.tensor):
        return view.parameter.tensor
    return tensor
