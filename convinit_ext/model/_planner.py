"""Making a plan: everything that can be wrong with a model is checked, and nothing allocated or written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike

import torch
from torch import nn

from convinit_ext.keys import checked_seed
from convinit_ext.model import _copies as copies
from convinit_ext.model import _named_tensors as walk
from convinit_ext.model import _parametrize as parametrized
from convinit_ext.model import _spectral as spectral
from convinit_ext.model._buffers import BufferRow, buffer_rows, known_rows
from convinit_ext.model._checks import check_modules, check_parameters
from convinit_ext.model._fillings import Filling, Fillings, check_range
from convinit_ext.model._key_names import Names, key_names
from convinit_ext.model._named_tensors import Held
from convinit_ext.model._options import Wish, checked_device, checked_dtype
from convinit_ext.model._plan import Plan, Row
from convinit_ext.model._selection import Selection, Selectors
from convinit_ext.model._uncovered import rules_for
from convinit_ext.recipes import FANS, Fan, Recipe, Rule, Target, as_recipe, check_sharding
from convinit_ext.sharding import boxes, flat_shards


def make_plan(
    model: nn.Module,
    seed: int = 0,
    recipe: str | PathLike[str] | Recipe | Sequence[Rule] = "torch",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    fan: Fan = "true",
    only: Selectors = None,
    skip: Selectors = None,
    names: Names | None = None,
    reading: bool = False,
    persistent: bool = False,
) -> Plan:
    """Decide for every parameter what fills it. The arguments and errors are those of init_model_.

    Args:
        reading: the plan is for a look at the model, which then need not be one that can be filled: it may
            hold gathered parameters or inference tensors. Its buffers all have rows, also those that keep
            their values, and meta ones that nobody can rebuild.
        persistent: leave out buffers that a state dict has not.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if fan not in FANS:
        raise ValueError(f"fan must be one of {list(FANS)}, not {fan!r}")
    where = None if device is None else checked_device(device)
    wish = Wish(as_recipe(recipe), fan, checked_dtype(dtype), where, reading)
    seed = checked_seed(seed)
    nodes = list(walk.modules(model))
    flat_shards.check_whole(((node.path, node.module) for node in nodes), None if reading else wish.dtype)
    if not reading:
        check_modules(nodes, wish.dtype)
    held = walk.parameters(nodes)
    selection = Selection.of(model, only, skip, lambda each: _target(each, wish))
    groups = _groups(held, selection, reading)
    key_of = str if names is None else _key_names(held, nodes, names).__getitem__
    rows = _rows(groups, copies.Parameters(model, held), key_of, wish)
    device = wish.device or _device_of(rows)

    def chosen(buffer: Held) -> bool:
        return (selection is None or selection.buffer(buffer)) and (buffer.persistent or not persistent)

    rows_of = known_rows if reading else buffer_rows
    buffers = rows_of(nodes, wish.recipe.rules, wish.dtype, device, chosen, key_of)
    _check_vectors(rows, buffers)
    if selection is not None:
        selection.check_used()
    return Plan(rows, buffers, seed, wish.recipe.name)


def _device_of(rows: Sequence[Row]) -> torch.device:
    """Where meta buffers go if nobody says: with the parameters that get memory."""
    return next((row.device for row in rows if row.tensor.is_meta), torch.device("cpu"))


def _groups(held: list[Held], selection: Selection | None, reading: bool) -> list[list[Held]]:
    """The parameters to fill, each with those tied to it; checked."""
    if selection is None:
        check_parameters(held, reading)
        return walk.tied(held)
    chosen = {id(each) for each in held if selection.parameter(each)}
    check_parameters([each for each in held if id(each) in chosen], reading)
    # the others count as well, where their memory can be looked at: one may be tied to a chosen one
    others = [each for each in held if id(each) in chosen or walk.has_memory(each.tensor)]
    groups = [group for group in walk.tied(others) if any(id(each) in chosen for each in group)]
    return [group for group in groups if not any(selection.skipped(each) for each in group)]


def _rows(
    groups: list[list[Held]], parameters: copies.Parameters, key_of: Callable[[str], str], wish: Wish
) -> tuple[Row, ...]:
    targets = [_target(group[0], wish) for group in groups]
    rules = rules_for([group[0] for group in groups], targets, wish.recipe)
    fillings = Fillings()

    def filling_of(held: Held) -> Filling:
        target = _target(held, wish)
        (rule,) = rules_for([held], [target], wish.recipe)
        return fillings.of(rule, target.plain or target, wish.dtype)

    rows = []
    for group, target, rule in zip(groups, targets, rules, strict=True):
        filling, origin = fillings.of(rule, target.plain or target, wish.dtype), group[0]
        if filling.copy is not None:
            origin, filling = parameters.copied(origin, filling, filling_of)
            dtype = wish.dtype or target.tensor.dtype
            check_range(filling.distribution, dtype, f"parameter {target.name!r}, {filling.initialiser}")
            filling = filling.copied_to(dtype, wish.dtype or origin.tensor.dtype)
        rows.append(_row(group, filling, key_of(origin.name), wish))
    _check_derived([row for row in rows if row.derived is not None], groups, parameters, wish.reading)
    return tuple(rows)


def _check_derived(
    rows: list[Row], groups: list[list[Held]], parameters: copies.Parameters, reading: bool
) -> None:
    """Finds what each is made of, and that the values will be there and fit."""
    chosen = {id(group[0]) for group in groups} if rows else set()
    for row in rows:
        assert row.derived is not None
        row.source = source = parameters.source_of(row.name, row.derived)
        try:
            if not reading and source is not None and source.tensor.is_meta and id(source) not in chosen:
                raise ValueError(
                    f"it is made of {source.name!r}, which is on the meta device and stays there"
                )
            check_sharding(row.derived, row.tensor, None if source is None else source.tensor)
            row.derived.check(row.tensor, None if source is None else source.tensor)
        except (ValueError, TypeError) as error:
            raise type(error)(f"parameter {row.name!r}, {row.initialiser}: {error}") from error
    _check_no_cycle({id(row.held[0]): row for row in rows})


def _check_no_cycle(rows: dict[int, Row]) -> None:
    """That nothing is made of itself by way of tied parameters. The rows are by the ids of what they fill."""
    for row in rows.values():
        source, seen = row.source, {id(row.held[0])}
        while source is not None and id(source) in rows:
            if id(source) in seen:
                raise ValueError(
                    f"parameter {row.name!r}, {row.initialiser}: it is made of itself, since it is tied to "
                    "what it is made of; give it a rule of its own"
                )
            seen.add(id(source))
            source = rows[id(source)].source


def _check_vectors(rows: Sequence[Row], buffers: Sequence[BufferRow]) -> None:
    """That spectral_norm, where its vectors start anew, will find them and its weight of one dtype."""
    vectors = [row.held for row in buffers if row.start is not None and spectral.is_vector(row.held)]
    if vectors:
        dtypes = {id(held.tensor): row.dtype for row in rows for held in row.held}
        dtypes |= {id(row.held.tensor): row.dtype for row in buffers}
        for held in vectors:
            spectral.check_one_dtype(held, dtypes)


def _key_names(held: list[Held], nodes: list[walk.Node], names: Names) -> dict[str, str]:
    """Buffers have keys too: a rule may draw their values."""
    buffers = (walk.canonical(each.name) for each in walk.buffers(nodes))
    return key_names((each.name for each in held), names, buffers)


def _target(held: Held, wish: Wish) -> Target:
    return parametrized.target_of(held, wish.fan)


def _row(group: list[Held], filling: Filling, key: str, wish: Wish) -> Row:
    first = group[0]
    tensor = first.tensor
    return Row(
        first.name,
        tuple(group),
        *filling[:4],
        wish.dtype or tensor.dtype,
        (wish.device or boxes.home_of(tensor)) if tensor.is_meta else tensor.device,
        key,
        filling.derived,
    )
