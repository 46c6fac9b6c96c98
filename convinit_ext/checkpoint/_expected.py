"""The values that a row's tensor should hold where the engine does not compare them itself: presets, norms of
another parameter, buffers. They are made anew, one tensor at a time, and never of what the model holds now.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from convinit_ext.model import BufferRow, Row, fill_rows, write_derived_
from convinit_ext.recipes import Preset, norm_dtype
from convinit_ext.sharding import is_dtensor


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    """Makes them.

    Args:
        seed: of the model.
        row_of: the row of a parameter that another is derived from, by its name.
        dtypes: what parameters have, by their names, where it is not the model's.
    """

    seed: int
    row_of: Callable[[str], Row]
    dtypes: Mapping[str, torch.dtype]

    def values(self, row: Row | BufferRow, like: Tensor) -> Tensor:
        """All of them, or what this process holds of them.

        Args:
            row: what they should be.
            like: the tensor that should hold them, or one of its shape and dtype on the meta device.

        Returns:
            The whole; or, where `like` is the model's own DTensor, one that is cut likewise.
        """
        if isinstance(row, BufferRow):
            if isinstance(row.start, Tensor):
                return row.start
            memory = torch.empty(like.shape, dtype=like.dtype, device=_home(like))
            return dataclasses.replace(row, dtype=like.dtype).write_(memory, self.seed)
        if isinstance(row.derived, Preset):
            return row.derived.tensor
        if like is row.tensor:  # then the plan knows that this process can make its part alone
            return self._written(row, torch.empty_like(like.detach()))
        return self._written(row, torch.empty(like.shape, dtype=like.dtype, device=_home(like)))

    def _written(self, row: Row, memory: Tensor) -> Tensor:
        """What init_model_ writes into memory of the row's shape."""
        if row.derived is None:
            fill_rows(self.seed, [(row, memory)])
            return memory
        source = None if row.source is None else self._source(row.source.name, memory)
        write_derived_(self.seed, row, memory, source)
        return memory

    def _source(self, name: str, memory: Tensor) -> Tensor:
        row = self.row_of(name)
        dtype = norm_dtype(self.dtypes.get(name, row.tensor.dtype))
        if is_dtensor(row.tensor) != is_dtensor(memory):
            return self._written(row, torch.empty(row.tensor.shape, dtype=dtype, device=memory.device))
        return self._written(row, torch.empty_like(row.tensor.detach(), dtype=dtype, device=memory.device))


def _home(like: Tensor) -> torch.device:
    return torch.device("cpu") if like.is_meta else like.device
