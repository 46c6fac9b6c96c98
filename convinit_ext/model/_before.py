"""What parameters hold before they are filled: how each begins, which are zero, which nobody has written."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from convinit_ext._engine import is_plain
from convinit_ext.distributions import Constant
from convinit_ext.model._frozen import names_it
from convinit_ext.model._options import Options
from convinit_ext.model._parametrize import target_of
from convinit_ext.model._plan import Row
from convinit_ext.model._values import Drawn
from convinit_ext.sharding import local_of

LOOKED_AT = 16  # bytes of each parameter
_Memory = ctypes.c_char * LOOKED_AT  # half the time of ctypes.string_at

Beginnings: TypeAlias = Sequence[tuple[Row, bytes]]


def beginnings(rows: Iterable[Row]) -> Beginnings:
    """Return the first bytes of parameters on the CPU that stay, or are drawn whole and not as zeros."""
    found = []
    for row in rows:
        first, values = row.held[0], row.values
        if row.rows is not None:
            continue
        if isinstance(values, Drawn):
            if isinstance(values.distribution, Constant) and not values.distribution.value:
                continue
        elif values is not None:
            continue
        local = first.tensor if first.is_plain else local_of(first.tensor)
        if local.is_cpu and (first.is_plain or is_plain(local)):
            size, address = local.nbytes, local.data_ptr()
            is_long = size >= LOOKED_AT
            start = _Memory.from_address(address).raw if is_long else ctypes.string_at(address, size)
            found.append((row, start))
    return found


def zeros(starts: Beginnings, options: Options) -> tuple[str, ...]:
    """Return the names of parameters that are zero, but for biases, and are to have other values.

    A rule of the caller's own that names one knows what it does.
    """
    found = [row.held[0] for row, start in starts if not start.strip(b"\0") and _is_zero(row)]
    if not found or is_unwritten(row for row, _ in starts):
        return ()
    rules = options.recipe.rules_for([target_of(held, options.fan) for held in found])
    pairs = zip(found, rules, strict=True)
    return tuple(held.name for held, rule in pairs if rule is None or not names_it(rule, options.recipe))


def _is_zero(row: Row) -> bool:
    tensor = row.held[0].tensor
    if row.values is None or row.held[0].places[0][1] == "bias" or not row.held[0].is_plain:
        return False
    return not tensor.detach().reshape(-1).view(torch.uint8).any()


def is_unwritten(rows: Iterable[Row]) -> bool:
    """Whether all parameters are in memory that nothing has been written to: it may hold anything."""
    tensors = (local_of(row.tensor) for row in rows if row.tensor.numel())
    first = next(tensors, None)
    return first is not None and not any(map(is_written, itertools.chain((first,), tensors)))


def is_written(tensor: Tensor) -> bool:
    """Whether a tensor has no memory, or something was written there: into deep-copied buffers, too."""
    return tensor.is_meta or tensor.is_inference() or tensor._version > 0
