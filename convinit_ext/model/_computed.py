"""Values that are not one distribution's: of packed matrices, orthogonal, by formulas, by a model's code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from convinit_ext import init, keys
from convinit_ext.distributions import Distribution
from convinit_ext.model._values import Computed, Drawn, Given, Piece, Values, fill_pieces
from convinit_ext.recipes import DeltaOrthogonal, Orthogonal, Preset, Redrawn, Stacked, Transformed
from convinit_ext.sharding import Part, within

Said: TypeAlias = Distribution | Preset | Stacked | Redrawn | Transformed | Orthogonal | DeltaOrthogonal


@dataclass(frozen=True, slots=True, eq=False)
class DrawnParts:
    """Values that are drawn as one tensor is, by the key and index, each part by its own distribution."""

    key: str
    shape: Sequence[int]
    said: Stacked

    def pieces(self, part: Part) -> Iterator[Piece]:
        """Yield what the engine fills of a region."""
        stop = 0
        for size, distribution in self.said.parts:
            start, stop = stop, stop + size
            for each in within(part, (range(start, stop),), self.said.dim):
                yield Piece(self.key, each.tensor, distribution, each.box(self.shape))

    def write_(self, seed: int, part: Part) -> None:
        fill_pieces(seed, self.pieces(part))

    def text(self) -> str:
        parts = [(size, Drawn(self.key, (), each).text()) for size, each in self.said.parts]
        return f"dim {self.said.dim}: {parts}"


def values_of(said: Said, key: str, shape: Sequence[int], zero_row: int | None = None) -> Values:
    """Return the values that a rule says, but for those that are another parameter's.

    ValueError says that matrices do not fit the shape. The row `zero_row` of what is drawn is zero.
    """
    if isinstance(said, Redrawn | Transformed | Orthogonal | DeltaOrthogonal):
        return _computed(said, key, shape, zero_row)
    if isinstance(said, Stacked):
        return DrawnParts(key, shape, said)
    return Given(said.tensor) if isinstance(said, Preset) else Drawn(key, shape, said, zero_row)


def _computed(
    said: Redrawn | Transformed | Orthogonal | DeltaOrthogonal,
    name: str,
    shape: Sequence[int],
    zero_row: int | None,
) -> Computed:
    """Return the values that a model's own code draws, or a formula makes, with the key of a name."""
    if isinstance(said, Redrawn):
        text = f"drawn by the model itself {name!r} {said.kind}"
    elif isinstance(said, Transformed):
        text = f"{said} {said.distribution} {name!r}"
    else:
        said.check(shape)
        text = f"{said} {name!r} {zero_row}"

    def compute(seed: int, dtype: torch.dtype) -> Tensor:
        key = keys.Key(seed, name)
        if isinstance(said, Redrawn):
            return said.values(key)
        if isinstance(said, Transformed):
            return said.values(key, shape, dtype)
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        made = torch.empty(tuple(shape), dtype=exact, device="cpu")
        if isinstance(said, Orthogonal):
            init.orthogonal_(made, said.gain, key=key, **said.axes._asdict())
        else:
            init.delta_orthogonal_(made, said.gain, key=key)
        if zero_row is not None:
            made[zero_row] = 0
        return made

    return Computed(lambda: text, compute)
