"""Orthogonal matrices as initialisers: docs/value-contract.md, section 8. How they are made a plan knows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from convinit_ext.distributions import as_blocks, as_plain


@dataclass(frozen=True, slots=True)
class Orthogonal:
    """Make orthogonal_ of torch.nn.init: an orthogonal matrix, uniform over all of them.

    Args:
        gain: factor of the values.
        blocks: how many matrices on top of each other the rows are, each orthogonal by itself.

    Raises:
        ValueError, TypeError: an argument that is not one of these.

    Source: Saxe et al. 2013.

    >>> Orthogonal(blocks=4)
    Orthogonal(gain=1.0, blocks=4)
    """

    gain: float = 1.0
    blocks: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "gain", _checked_gain(self.gain))
        object.__setattr__(self, "blocks", as_blocks(self.blocks))

    def check(self, shape: Sequence[int]) -> None:
        """Raise ValueError for a shape that it cannot fill."""
        if len(shape) < 2:
            raise ValueError(f"accepted are 2 or more dimensions, not {list(shape)}")
        if shape[0] % self.blocks:
            raise ValueError(f"blocks must divide dim 0, but found {shape[0]} and blocks={self.blocks}")


@dataclass(frozen=True, slots=True)
class DeltaOrthogonal:
    """Make delta_orthogonal_: an orthogonal matrix at the centre of a convolution's kernel, zero elsewhere.

    Args:
        gain: factor of the values.

    Raises:
        ValueError, TypeError: another gain than a finite number.

    Source: Xiao et al. 2018.

    >>> DeltaOrthogonal()
    DeltaOrthogonal(gain=1.0)
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "gain", _checked_gain(self.gain))

    def check(self, shape: Sequence[int]) -> None:
        """Raise ValueError for a shape that it cannot fill."""
        if len(shape) not in (3, 4, 5):
            raise ValueError(f"accepted are [out, in, *kernel] of 3, 4, or 5 dimensions, not {list(shape)}")
        if shape[1] > shape[0]:
            raise ValueError(f"dim 1 (inputs) must be <= dim 0 (outputs), but found {shape[1]} > {shape[0]}")


def _checked_gain(gain: float) -> float:
    if not isinstance(gain, float | int):
        raise TypeError(f"gain must be a number, not {gain!r}")
    if not -sys.float_info.max <= gain <= sys.float_info.max:
        raise ValueError(f"gain must be finite, but found {gain}")
    return as_plain(gain)
