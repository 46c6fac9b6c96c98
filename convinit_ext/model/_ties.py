"""Ties that a model declares by its tie_weights(), and that to_empty() or a sharding has taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import nn

from convinit_ext.model import _named_tensors as walk
from convinit_ext.model._checks import check_parameters
from convinit_ext.model._named_tensors import Group, NamedModule, NamedTensor
from convinit_ext.model._options import Options
from convinit_ext.model._selection import Selection
from convinit_ext.recipes import others_kept, put_back, shown_copy
from convinit_ext.sharding import is_dtensor

_ByPlace: TypeAlias = dict[tuple[str, str], nn.Parameter | None]  # the path of a module, and the name there


def tied_groups(
    nodes: list[NamedModule], held: list[NamedTensor], selection: Selection, options: Options
) -> list[Group]:
    """Return the parameters to fill, each with those tied to it; checked."""
    chosen = set() if selection.chooses_all else {id(each) for each in held if selection.chosen(each)}
    if selection.chooses_all or len(chosen) == len(held):
        check_parameters(held, options)
        return _rejoined(walk.tied(held), nodes, options.reading)
    check_parameters([each for each in held if id(each) in chosen], options)
    # the others count as well, where their memory can be looked at: one may be tied to a chosen one
    others = [each for each in held if id(each) in chosen or walk.has_memory(each.tensor)]
    groups = _rejoined(walk.tied(others), nodes, options.reading)
    groups = [group for group in groups if any(id(each) in chosen for each in group)]
    return [group for group in groups if not any(selection.skipped(each) for each in group)]


def _rejoined(groups: list[Group], nodes: Sequence[NamedModule], reading: bool) -> list[Group]:
    """Return groups of parameters tied by their memory, those together that the model's own code would tie.

    In a look, what has memory of its own counts by itself. Raises ValueError for DTensors, which nobody can
    tie once they are sharded.
    """
    owners = [node for node in nodes if hasattr(type(node.module), "tie_weights")]
    if not owners:
        return groups
    modules = {id(node.module) for node in owners}
    outermost = [node for node in owners if modules.isdisjoint(map(id, node.parents))]  # which ask the others
    group_of = {id(each.tensor): at for at, group in enumerate(groups) for each in group}
    joined: dict[int, int] = {}  # the group that a group belongs to
    for ids in chain.from_iterable(map(_declared, outermost)):
        ats = sorted({group_of[each] for each in ids if each in group_of})
        for each in [each for at in ats for each in groups[at][1:]]:  # one memory, parameters of their own
            each.is_apart |= id(each.tensor) in ids and not is_dtensor(each.tensor)
        apart = [groups[at][0] for at in ats]
        if len(ats) < 2 or len({each.tensor.shape for each in apart}) > 1:
            continue
        if reading and not all(each.tensor.is_meta for each in apart):
            continue
        _check_can_be_tied(apart)
        firsts = {joined.get(at, at) for at in ats}  # some may be tied by another model already
        together = [at for at, first in [*joined.items(), *zip(ats, ats, strict=True)] if first in firsts]
        joined.update((at, min(firsts)) for at in {*ats, *together} - {min(firsts)})
    for at, first in joined.items():
        for each in groups[at]:
            each.is_apart = True
        groups[first] += groups[at]
    return [group for at, group in enumerate(groups) if at not in joined]


def _check_can_be_tied(apart: Sequence[NamedTensor]) -> None:
    if any(is_dtensor(each.tensor) for each in apart):
        names = " and ".join(repr(each.path) for each in apart[:2])
        raise ValueError(
            f"parameters {names} are tied by the model's tie_weights(), and are two DTensors now; call it "
            "before fully_shard(), which must then shard both as one group; or say that they are not tied "
            "(config.tie_word_embeddings=False)"
        )


def _declared(owner: NamedModule) -> list[list[int]]:
    """Return which tensors a model's tie_weights() makes one, by their ids; it is called on a copy."""
    own = _by_place(owner.module)
    made = _tied(owner.module, own)
    found: dict[int, list[int]] = {}
    for place, tensor in own.items():
        one = made.get(place)
        if tensor is not None and one is not None:
            found.setdefault(id(one), []).append(id(tensor))
    return [ids for ids in found.values() if len(set(ids)) > 1]


def _tied(model: nn.Module, own: _ByPlace) -> _ByPlace:
    """Return the parameters of a copy once it has tied them, and what it has put into the model itself.

    It may hold modules in a list, where no copy looks. The model is as it was then.
    """
    copy: Any = shown_copy(model)
    with torch.no_grad(), put_back(model), others_kept(copy):
        try:
            copy.tie_weights()
        except Exception:  # foreign code, which may not know a model on the meta device
            return {}
        made = _by_place(copy)
        of_copy = {id(each): made.get(place) for place, each in own.items()}
        for place, each in _by_place(model).items():
            if own.get(place) is not each:
                made[place] = of_copy.get(id(each), each)
    return made


def _by_place(model: nn.Module) -> _ByPlace:
    nodes = walk.modules(model, again=True)
    return {(node.path, leaf): each for node in nodes for leaf, each in node.module._parameters.items()}
