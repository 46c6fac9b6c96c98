"""Orthogonal matrices as initialisers: docs/value-contract.md, section 8. How they are made a plan knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from convinit_ext.distributions import Axes, Axis, as_finite, matrices_of
from convinit_ext.recipes._target import check_axes


@dataclass(frozen=True, slots=True)
class Orthogonal:
    """Make orthogonal_ of torch.nn.init: an orthogonal matrix, uniform over all of them.

    Args:
        gain: factor of the values.
        blocks: how many matrices on top of each other dim 0 is, each orthogonal by itself.
        in_axis, out_axis, batch_axis: as for init.orthogonal_.

    Raises:
        ValueError, TypeError: an argument that is not one of these.

    Source: Saxe et al. 2013.

    >>> Orthogonal(blocks=4).axes
    Axes(in_axis=None, out_axis=None, batch_axis=(), blocks=4)
    """

    gain: float = 1.0
    blocks: int = 1
    in_axis: Axis | None = field(default=None, kw_only=True)
    out_axis: Axis | None = field(default=None, kw_only=True)
    batch_axis: Axis = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "gain", as_finite(self.gain, "gain"))
        check_axes(self)

    @property
    def axes(self) -> Axes:
        return Axes(self.in_axis, self.out_axis, self.batch_axis, self.blocks)

    @property
    def says_blocks_alone(self) -> bool:
        """Whether there are blocks of outputs that are in dim 0 because nothing else is said."""
        return self.blocks != 1 and self.out_axis is None

    def check(self, shape: Sequence[int]) -> None:
        """Raise ValueError for a shape that it cannot fill."""
        if len(shape) < 2:
            raise ValueError(f"accepted are 2 or more dimensions, not {list(shape)}")
        matrices_of(shape, self.axes)


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
        object.__setattr__(self, "gain", as_finite(self.gain, "gain"))

    def check(self, shape: Sequence[int]) -> None:
        """Raise ValueError for a shape that it cannot fill."""
        if len(shape) not in (3, 4, 5):
            raise ValueError(f"accepted are [out, in, *kernel] of 3, 4, or 5 dimensions, not {list(shape)}")
        if shape[1] > shape[0]:
            raise ValueError(f"dim 1 (inputs) must be <= dim 0 (outputs), but found {shape[1]} > {shape[0]}")
