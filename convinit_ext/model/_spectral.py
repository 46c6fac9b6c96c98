"""The vectors of spectral_norm, which settle together once both are drawn."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from convinit_ext.model._named_tensors import NamedTensor
from convinit_ext.model._parametrize import check_one_dtype, settled, spectral_weight, vectors_of
from convinit_ext.model._plan import Row
from convinit_ext.model._values import Computed, Values, whole


def settle(rows: Sequence[Row], parameters: Sequence[Row]) -> None:
    """Make the drawn vectors of spectral_norm what PyTorch starts from, where the second of them is drawn."""
    if not any(vectors_of(row.held[0]) for row in rows):
        return
    vectors = {(id(row.held[0].places[0][0]), row.held[0].places[0][1]): row for row in rows}
    by_tensor = {id(held.tensor): row for row in (*parameters, *rows) for held in row.held}
    for row in rows:
        held = row.held[0]
        module, leaf = held.places[0]
        names = vectors_of(held)
        if names is None or leaf != names[1]:
            continue
        check_one_dtype(held, {tensor: each.dtype for tensor, each in by_tensor.items()})
        both = {name: each for name in names if (each := vectors.get((id(module), name))) is not None}
        weight = spectral_weight(held)
        settling = _Settling(held, {name: (each, each.values) for name, each in both.items()}, weight)
        settling.source = by_tensor.get(id(weight))
        for name, each in both.items():
            each.values = settling.values_of(name)


class _Settling:
    """The vectors of one spectral_norm, which settle together."""

    def __init__(
        self, held: NamedTensor, drawn: dict[str, tuple[Row, Values | None]], weight: Tensor | None
    ) -> None:
        self._held = held
        self._drawn = drawn
        self._weight = weight
        self.source: Row | None = None  # of the weight, if it starts anew too

    def values_of(self, name: str) -> Computed:
        def said() -> str:
            starts = [values.text() for _, values in self._drawn.values() if values is not None]
            source = self.source.values if self.source is not None else None
            return f"settled {name} {starts} {'' if source is None else source.text()}"

        return Computed(said, lambda seed, dtype: self._settled(seed)[name])

    def _settled(self, seed: int) -> dict[str, Tensor]:
        drawn = {
            name: whole(values, seed, row.tensor.shape, row.dtype)
            for name, (row, values) in self._drawn.items()
            if values is not None
        }
        return settled(self._held, drawn, self._made_weight(seed))

    def _made_weight(self, seed: int) -> Tensor | None:
        if self.source is not None and self.source.values is not None:
            return whole(self.source.values, seed, self.source.tensor.shape, self.source.dtype)
        weight = self._weight
        return None if weight is None or weight.is_meta else weight.detach().cpu().contiguous()
