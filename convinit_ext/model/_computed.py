"""Values that a computation on whole tensors gives: orthogonal matrices, formulas, a model's own code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convinit_ext import init, keys
from convinit_ext.model._values import Computed
from convinit_ext.recipes import DeltaOrthogonal, Orthogonal, Redrawn, Transformed


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
    """Return orthogonal matrices with the key of a name.

    Args:
        said: which.
        name: that makes their key.
        shape: of the logical tensor.
        zero_row: the row of dimension 0 that is zero instead, if any.

    Raises:
        ValueError: a shape that they do not fit.
    """
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
