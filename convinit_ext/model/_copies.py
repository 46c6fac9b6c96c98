"""Networks that start as a copy of another, and would not any more: target and momentum networks."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from convinit_ext._engine import listed
from convinit_ext.distributions import Constant
from convinit_ext.model._before import LOOKED_AT, Beginnings
from convinit_ext.model._plan import Row
from convinit_ext.model._values import Drawn
from convinit_ext.sharding import local_of


def warn_of_copies(beginnings: Beginnings) -> None:
    """Warn where two parameters on the CPU hold the same values, and a plan gives them different ones.

    Layers that a list repeats are no copies: nn.TransformerEncoder clones them, and they are to differ.
    """
    if len({start for _, start in beginnings}) == len(beginnings):  # as in most models
        return
    alike: dict[bytes, list[Row]] = {}
    for row, start in beginnings:
        if _is_random(row, start):
            alike.setdefault(start, []).append(row)
    pairs = [pair for group in alike.values() if len(group) > 1 for pair in _pairs(group)]
    if pairs:
        (source, target), *_ = pairs
        names = listed(f"{target.name!r} of {source.name!r}" for source, target in pairs)
        warnings.warn(
            f"parameters that are copies of others get values of their own: {names}; where they are to stay "
            f"equal, give each a rule: Rule(CopyFrom({source.name!r}), name={target.name!r})",
            stacklevel=2,
        )


def _is_random(row: Row, start: bytes) -> bool:
    """Whether a parameter begins with values that are not all the same, and is not to have such values."""
    is_constant = isinstance(row.values, Drawn) and isinstance(row.values.distribution, Constant)
    return len(start) == LOOKED_AT and start[:8] != start[8:] and not is_constant


def _pairs(group: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Yield the copies in a group, each after what it is a copy of."""
    for one, other in itertools.combinations(group, 2):
        if not _is_copy(one.name, other.name, _is_frozen(one) != _is_frozen(other)):
            continue
        if _has_values_of(one, other) or not _are_equal(one.tensor, other.tensor):
            continue
        yield (other, one) if _is_frozen(one) and not _is_frozen(other) else (one, other)


def _are_equal(one: Tensor, other: Tensor) -> bool:
    is_alike = one.shape == other.shape and one.dtype == other.dtype
    return is_alike and torch.equal(local_of(one), local_of(other))


def _is_frozen(row: Row) -> bool:
    return not row.tensor.requires_grad


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
