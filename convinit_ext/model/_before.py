"""What parameters hold before they are filled: how each begins, which are constant, unwritten, copies."""

from __future__ import annotations

import ctypes
import glob
import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor, nn

from convinit_ext._engine import is_plain, listed
from convinit_ext.distributions import Constant
from convinit_ext.model._frozen import names_it
from convinit_ext.model._options import Options
from convinit_ext.model._parametrize import target_of
from convinit_ext.model._plan import Row
from convinit_ext.model._values import Drawn
from convinit_ext.recipes import check_finite_stay
from convinit_ext.sharding import local_of

_LOOKED_AT = 16  # bytes of each parameter
_Memory = ctypes.c_char * _LOOKED_AT  # half the time of ctypes.string_at

# Modules that are given a layer and hold clones of it.
_REPEATING = (nn.TransformerEncoder, nn.TransformerDecoder)

Beginnings: TypeAlias = Sequence[tuple[Row, bytes]]


def beginnings(rows: Iterable[Row]) -> Beginnings:
    """Return the first bytes of parameters on the CPU that stay, or are drawn whole."""
    found = []
    for row in rows:
        first, values = row.held[0], row.values
        if row.rows is not None or not (values is None or isinstance(values, Drawn)):
            continue
        local = first.tensor if first.is_plain else local_of(first.tensor)
        if local.is_cpu and (first.is_plain or is_plain(local)):
            size, address = local.nbytes, local.data_ptr()
            is_long = size >= _LOOKED_AT
            start = _Memory.from_address(address).raw if is_long else ctypes.string_at(address, size)
            found.append((row, start))
    return found


def constants(starts: Beginnings, options: Options) -> dict[str, float]:
    """Return the values of parameters that hold one alone, and are to have others; of biases not zero.

    A rule of the caller's own that names a parameter knows what it does.
    """
    found = [
        (row.held[0], value)
        for row, start in starts
        if (len(start) < _LOOKED_AT or start[0] == start[8]) and (value := _lost(row, start)) is not None
    ]
    if not found or is_unwritten(row for row, _ in starts):
        return {}
    rules = options.recipe.rules_for([target_of(held, options.fan) for held, _ in found])
    pairs = zip(found, rules, strict=True)
    return {
        held.name: value
        for (held, value), rule in pairs
        if rule is None or not names_it(rule, options.recipe)
    }


def _lost(row: Row, start: bytes) -> float | None:
    """Return the one value that a parameter holds now, and not afterwards."""
    held, values = row.held[0], row.values
    if not isinstance(values, Drawn) or not held.is_plain:
        return None
    tensor = held.tensor.detach().reshape(-1)
    item = start[: tensor.itemsize]
    if item * (len(start) // len(item)) != start or (item == start and any(start)):  # one number is one value
        return None
    value, distribution = _number(item, tensor.dtype), values.distribution
    if isinstance(distribution, Constant) and _rounded(distribution.value, tensor.dtype) == value:
        return None
    if not value and held.places[0][1] == "bias":
        return None
    return value if (tensor == tensor[0]).all() else None


@lru_cache(maxsize=64)
def _number(item: bytes, dtype: torch.dtype) -> float:
    return torch.frombuffer(bytearray(item), dtype=dtype).double().item()


@lru_cache(maxsize=64)
def _rounded(value: float, dtype: torch.dtype) -> float:
    return torch.tensor(value, dtype=torch.float64).to(dtype).double().item()


def is_unwritten(rows: Iterable[Row]) -> bool:
    """Whether all parameters are in memory that nothing has been written to: it may hold anything."""
    tensors = (local_of(row.tensor) for row in rows if row.tensor.numel())
    first = next(tensors, None)
    return first is not None and not any(map(is_written, itertools.chain((first,), tensors)))


def is_written(tensor: Tensor) -> bool:
    """Whether a tensor has no memory, or something was written there: into deep-copied buffers, too."""
    return tensor.is_meta or tensor.is_inference() or tensor._version > 0


def warn_of_overflow(rows: Iterable[Row]) -> None:
    """Warn of tensors that keep values which become infinite, since their new dtype cannot hold them."""
    lost = []
    for row in rows:
        is_kept = row.values is None or row.rows is not None
        if is_kept and row.dtype != row.tensor.dtype and not row.tensor.is_meta:
            try:
                check_finite_stay(local_of(row.tensor), row.dtype)
            except ValueError as error:
                lost.append(f"{row.name!r} ({error})")
    if lost:
        warnings.warn(
            f"these tensors keep their values, of which some become infinite: {listed(lost)}; give them "
            "others, or leave dtype= out",
            stacklevel=2,
        )


def warn_of_copies(beginnings: Beginnings) -> None:
    """Warn where two parameters on the CPU hold the same values, and a plan gives them different ones.

    So start target and momentum networks. Layers that a list repeats are no copies, nor is the one that they
    were made of: nn.TransformerEncoder clones them, and they are to differ. Nor is
    what memory happens to hold, which nobody has written: some, where all parameters of a copy would be.
    """
    if len({start for _, start in beginnings}) == len(beginnings):  # as in most models
        return
    alike: dict[bytes, list[Row]] = {}
    for row, start in beginnings:
        if _is_random(row, start):
            alike.setdefault(start, []).append(row)
    pairs = [pair for group in alike.values() if len(group) > 1 for pair in _pairs(group)]
    found = {id(row) for pair in pairs for row in pair}
    are_all = all(id(row) in found for group in alike.values() for row in group)
    if pairs and (are_all or not is_unwritten(row for row, _ in beginnings)):
        (source, target), *_ = pairs
        names = listed(f"{target.name!r} of {source.name!r}" for source, target in pairs)
        warnings.warn(
            f"parameters that are copies of others get values of their own: {names}; where they are to stay "
            f"equal, give each a rule: Rule(CopyFrom({source.name!r}), name={glob.escape(target.name)!r})",
            stacklevel=2,
        )


def _is_random(row: Row, start: bytes) -> bool:
    """Whether a parameter begins with values that are not all the same, and is not to have such values."""
    is_constant = isinstance(row.values, Drawn) and isinstance(row.values.distribution, Constant)
    return len(start) == _LOOKED_AT and start[:8] != start[8:] and not is_constant


def _pairs(group: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Yield the copies in a group, each after what it is a copy of."""
    for one, other in itertools.combinations(group, 2):
        a, b = one.tensor, other.tensor
        is_other = a.shape != b.shape or a.dtype != b.dtype or _has_values_of(one, other)
        is_pattern = _is_repeated(one) != _is_repeated(other)  # the layer that was cloned
        if is_other or is_pattern or not _is_copy(one.name, other.name, a.requires_grad != b.requires_grad):
            continue
        if torch.equal(local_of(a), local_of(b)):
            yield (other, one) if b.requires_grad and not a.requires_grad else (one, other)


def _is_repeated(row: Row) -> bool:
    return any(isinstance(each, _REPEATING) for each in row.held[0].node.parents)


def _has_values_of(one: Row, other: Row) -> bool:
    values, others = one.values, other.values
    if not (isinstance(values, Drawn) and isinstance(others, Drawn)):
        return values is others  # both are kept
    return values.key == others.key


def _is_copy(name: str, other: str, one_is_frozen: bool) -> bool:
    """Whether two names are those of one parameter in two networks: they differ in more than numbers."""
    if one_is_frozen:
        return True
    own, its = name.split("."), other.split(".")
    while own and its and own[-1] == its[-1]:
        own, its = own[:-1], its[:-1]
    while own and its and own[0] == its[0]:
        own, its = own[1:], its[1:]
    is_suffix = len(own) < len(name.split("."))
    return is_suffix and not all(segment.isdecimal() for segment in (*own, *its))
