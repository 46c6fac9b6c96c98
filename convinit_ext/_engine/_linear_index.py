"""Row-major indices of a logical tensor's elements, and which of them a part of it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """Which part of a larger logical tensor a tensor is.

    Local element ``j`` has the row-major linear index ``start + sum(j[d] * strides[d])`` in the logical one.
    """

    start: int
    strides: tuple[int, ...]


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The step in the linear index of each dimension of a tensor of this shape.

    >>> row_major((2, 3, 4))
    (12, 4, 1)
    """
    step, steps = 1, []
    for size in reversed(shape):
        steps.append(step)
        step *= size
    return tuple(reversed(steps))
