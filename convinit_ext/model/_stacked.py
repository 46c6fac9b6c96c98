"""Values of matrices that are packed into one tensor, each with a distribution of its own."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from convinit_ext.model._values import Drawn, Piece, fill_pieces
from convinit_ext.recipes import Stacked
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
