"""Values that are not one distribution's: of packed matrices, orthogonal, by formulas, by a model's code."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convinit_ext import init, keys
from convinit_ext.model._values import Computed, Drawn, Piece, fill_pieces
from convinit_ext.recipes import DeltaOrthogonal, Orthogonal, Redrawn, Stacked, Transformed
from convinit_ext.sharding import Part


@dataclass(frozen=True, slots=True, eq=False)
class DrawnParts:
    """Values that are drawn as one tensor is, by the key and index, each part by its own distribution."""

    key: str
    shape: Sequence[int]
    said: Stacked

    def pieces(self, part: Part) -> Iterator[Piece]:
        """Yield what the engine fills of a region."""
        dim, stop = self.said.dim, 0
        own = part.ranges[dim]
        for size, distribution in self.said.parts:
            start, stop = stop, stop + size
            low, high = (bisect_left(own, each) for each in (start, stop))
            if low < high:
                view = part.tensor.narrow(dim, low, high - low)
                ranges = (*part.ranges[:dim], own[low:high], *part.ranges[dim + 1 :])
                yield Piece(self.key, view, distribution, Part(view, ranges).box(self.shape))

    def write_(self, seed: int, part: Part) -> None:
        fill_pieces(seed, self.pieces(part))

    def text(self) -> str:
        parts = [(size, Drawn(self.key, (), each).text()) for size, each in self.said.parts]
        return f"dim {self.said.dim}: {parts}"


def made_by(said: Redrawn | Transformed, name: str, shape: Sequence[int]) -> Computed:
    """Return the values that a model's own code draws, or a formula makes, with the key of a name."""
    if isinstance(said, Redrawn):
        text = f"drawn by the model itself {name!r} {said.kind}"
        return Computed(lambda: text, lambda seed, dtype: said.values(keys.Key(seed, name)))
    return Computed(
        lambda: f"{said} {said.distribution} {name!r}",
        lambda seed, dtype: said.values(keys.Key(seed, name), shape, dtype),
    )


def orthogonal(
    said: Orthogonal | DeltaOrthogonal, name: str, shape: Sequence[int], zero_row: int | None = None
) -> Computed:
    """Return orthogonal matrices with the key of a name, `zero_row` zero; ValueError if they do not fit."""
    said.check(shape)

    def compute(seed: int, dtype: torch.dtype) -> Tensor:
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        made, key = torch.empty(tuple(shape), dtype=exact, device="cpu"), keys.Key(seed, name)
        if isinstance(said, Orthogonal):
            init.orthogonal_(made, said.gain, key=key, **said.axes._asdict())
        else:
            init.delta_orthogonal_(made, said.gain, key=key)
        if zero_row is not None:
            made[zero_row] = 0
        return made

    return Computed(lambda: f"{said} {name!r} {zero_row}", compute)
