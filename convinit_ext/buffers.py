"""Buffers: what becomes of each when its model is initialised, and which ones nobody can rebuild."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from convinit_ext import walk
from convinit_ext.walk import Held, Node

# A module type, and the constant that each of its buffers starts from (as its reset_running_stats does).
STARTS: tuple[tuple[type[nn.Module], dict[str, float]], ...] = (
    (_NormBase, {"running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0.0}),
)


@dataclass(frozen=True, slots=True, eq=False)
class BufferRow:
    """A buffer that changes: it starts anew from `value`, or (None) keeps its values in the model's dtype."""

    held: Held
    value: float | None
    dtype: torch.dtype
    device: torch.device

    @property
    def fresh(self) -> bool:
        """Whether it needs new memory: a meta buffer, or another dtype."""
        return self.held.tensor.is_meta or self.held.tensor.dtype != self.dtype

    @property
    def num_bytes(self) -> int:
        return self.held.tensor.numel() * self.dtype.itemsize

    def new(self) -> Tensor:
        """The buffer's values in new memory."""
        if self.value is None:
            return self.held.tensor.to(self.dtype)
        return torch.full_like(self.held.tensor, self.value, dtype=self.dtype, device=self.device)


def buffer_rows(
    nodes: Iterable[Node], dtype: torch.dtype | None, device: torch.device
) -> tuple[BufferRow, ...]:
    """The buffers that initialising a model of these modules changes.

    Raises:
        ValueError: meta buffers that nobody knows how to rebuild; all of them are named.
    """
    rows, lost = [], []
    for held in walk.buffers(nodes):
        tensor, value = held.tensor, _start(held)
        if tensor.is_meta and value is None and tensor.numel():
            lost.append(f"{held.path} {list(tensor.shape)} of {type(held.node.module).__name__}")
        wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        if value is not None or tensor.is_meta or wanted != tensor.dtype:
            value = 0.0 if tensor.is_meta and value is None else value  # no elements
            rows.append(BufferRow(held, value, wanted, device if tensor.is_meta else tensor.device))
    if lost:
        raise ValueError(
            f"nobody can know the values of {len(lost)} buffer{'s' * (len(lost) > 1)} on the meta device:\n  "
            + "\n  ".join(lost)
            + "\nAssign them before, or build the model on the CPU"
        )
    return tuple(rows)


def _start(held: Held) -> float | None:
    for kind, values in STARTS:
        if isinstance(held.node.module, kind) and held.places[0][1] in values:
            return values[held.places[0][1]]
    return None
