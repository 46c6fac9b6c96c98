"""Making a plan: everything that can be wrong with a model is checked, and nothing allocated or written."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import nn

from convinit_ext._engine import lines, naming
from convinit_ext.distributions import Constant
from convinit_ext.keys import checked_seed
from convinit_ext.model import _named_tensors as walk
from convinit_ext.model._attributes import attributes_from_meta
from convinit_ext.model._before import (
    beginnings,
    constants,
    is_unwritten,
    warn_of_copies,
    warn_of_overflow,
)
from convinit_ext.model._buffers import buffer_rows
from convinit_ext.model._checks import check_modules, check_reducers
from convinit_ext.model._filling import (
    DISTRIBUTIONS,
    Filling,
    Fillings,
    check_range,
    padding_of,
    rules_for,
    warn_own_resets,
)
from convinit_ext.model._frozen import kept_rows
from convinit_ext.model._named_tensors import Group, NamedModule, NamedTensor
from convinit_ext.model._names import key_names, take_modules
from convinit_ext.model._options import Options
from convinit_ext.model._parametrize import target_of
from convinit_ext.model._plan import Plan, Row, uncollected
from convinit_ext.model._selection import Selection, limit
from convinit_ext.model._ties import tied_groups
from convinit_ext.model._unused import check_rules_used
from convinit_ext.model._values import Computed, Drawn, DrawnParts, Given, Norm, Rounded, Values, values_of
from convinit_ext.recipes import (
    CopyFrom,
    NormOf,
    Preset,
    RowZeroed,
    check_given,
    made_once,
    unchanged,
)
from convinit_ext.sharding import (
    FlatPiece,
    flat_pieces,
    home_of,
    is_dtensor,
    logical,
    logical_shape,
)


@uncollected()
@made_once()
@unchanged()
def make_plan(model: nn.Module, seed: int, options: Options) -> Plan:
    """Decide for every parameter and buffer what its values are. The errors are those of init_model_."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    seed = checked_seed(seed)
    nodes = list(walk.modules(model))
    modules = ((node.path, node.module) for node in nodes)
    pieces = flat_pieces(modules, None if options.reading else options.dtype, whole=options.persistent)
    if not options.reading:
        check_modules(nodes, None if options.persistent else options.dtype)
    held = walk.parameters(nodes)
    if pieces:
        held = _with_pieces(held, nodes, pieces)
    take_modules(held, options.like)
    selection = Selection(model, options.only, options.skip)
    groups = tied_groups(nodes, held, selection, options)
    key_of = _key_of(held, nodes, options)
    kept = kept_rows(groups, held, options)
    planner = _Planner(model, held, groups, kept, key_of, options)
    rows = planner.rows()
    if selection.has_rows:
        for row in rows:
            limit(row, [each for held in row.held for each in selection.rows_of(held)], options.reading)
    if not (options.reading or options.persistent):
        check_reducers(nodes, (held.tensor for row in rows if row.is_fresh for held in row.held))
    seconds = {id(each) for group in groups for each in group[1:]} if len(groups) < len(held) else ()
    asked = [each for each in held if id(each) not in seconds] if seconds else held
    check_rules_used(options.recipe, planner.used, asked, nodes, options.fan)
    starts = [] if options.reading else beginnings(rows)
    warn_of_copies(starts)
    meta = (row for row in rows if not row.held[0].is_plain and row.tensor.is_meta)
    on_meta = [row.device for row in meta]  # meta buffers go with such parameters
    device = options.device or (on_meta[0] if on_meta else torch.device("cpu"))

    def chosen(buffer: NamedTensor) -> bool:
        return selection.chosen(buffer, is_parameter=False) and (not options.persistent or buffer.persistent)

    is_new = not options.reading and is_unwritten(rows)
    buffers, lost = buffer_rows(nodes, rows, options, device, chosen, key_of, is_new)
    from_meta = on_meta or any(row.tensor.is_meta for row in buffers)
    # to_empty() leaves plain attributes where they are.
    asked_of = nodes if (from_meta or is_new) and not options.persistent else []
    attributes, odd = attributes_from_meta(asked_of, chosen, device)
    if lost or odd:
        by_rules = "Say them by rules, recipe=[Rule(lambda target: values, buffer=...), *TORCH], assign"
        number = len(lost) + len(odd)
        raise ValueError(
            f"nobody can know the values of {number} buffer{'s' * (number > 1)} on the meta device:"
            + lines([*lost, *odd])
            + f"\n{by_rules if lost else 'Assign'} them before, or build the model on the CPU"
        )
    selection.check_used()
    if options.dtype is not None and not (options.reading or is_new):
        warn_of_overflow((*rows, *buffers))
    return Plan(rows, buffers, seed, options.recipe.name, constants(starts, options), attributes, nodes)


def _with_pieces(
    held: list[NamedTensor], nodes: list[NamedModule], pieces: dict[int, list[FlatPiece]]
) -> list[NamedTensor]:
    """Put the pieces of flat parameters in their place, each under its own name."""
    by_module = {id(node.module): node for node in nodes}
    found = []
    for each in held:
        if id(each.tensor) not in pieces:
            found.append(each)
        for module, leaf, tensor in pieces.get(id(each.tensor), ()):
            node = by_module[id(module)]
            name = walk.canonical(walk.join(node.canonical, leaf))
            found.append(NamedTensor(tensor, walk.join(node.path, leaf), name, node, [(module, leaf)]))
    return found


def _key_of(held: list[NamedTensor], nodes: list[NamedModule], options: Options) -> Callable[[str], str]:
    """Return the name that makes a key, by the canonical one. Buffers have keys too: a rule may draw them."""
    if options.names is None:
        return str
    buffers = (walk.canonical(each.name) for each in walk.buffers(nodes))
    return key_names((each.name for each in held), options.names, buffers).__getitem__


class _Planner:
    """The rows of a model's parameters: of the groups of tied ones to fill, `kept` being those that stay."""

    def __init__(
        self,
        model: nn.Module,
        held: list[NamedTensor],
        groups: list[Group],
        kept: list[Row],
        key_of: Callable[[str], str],
        options: Options,
    ) -> None:
        self._model = model
        self._held = held
        self._kept = {id(row.held[0]): row for row in kept}
        self._groups = [group for group in groups if id(group[0]) not in self._kept] if kept else groups
        self._key_of = key_of
        self._options = options
        self._fillings = Fillings()
        self.used: set[int] = set()  # ids of rules

    def rows(self) -> tuple[Row, ...]:
        options = self._options
        firsts = [group[0] for group in self._groups]
        targets = [target_of(each, options.fan) for each in firsts]
        rules = rules_for(firsts, targets, options.recipe)
        self.used.update(map(id, rules))
        if not options.reading:
            warn_own_resets(firsts, rules)
        rows = []
        for group, target, rule in zip(self._groups, targets, rules, strict=True):
            first, tensor = group[0], group[0].tensor
            padding = padding_of(group, target)
            filling = self._fillings.of(rule, target.plain or target, options.dtype, padding)
            values, fans = self._values(first, filling, padding=padding)
            device = (options.device or home_of(tensor)) if tensor.is_meta else tensor.device
            dtype = tensor.dtype if options.dtype is None else options.dtype_of(first)
            rows.append(Row(first.name, group, values, filling.initialiser, fans, dtype, device))
        if not self._kept:
            return tuple(rows)
        order = {id(each): at for at, each in enumerate(self._held)}
        return tuple(sorted([*rows, *self._kept.values()], key=lambda row: order[id(row.held[0])]))

    def _values(
        self,
        held: NamedTensor,
        filling: Filling,
        within: tuple[NamedTensor, ...] = (),
        padding: int | None = None,
    ) -> tuple[Values, tuple[int, int] | None]:
        """Return a parameter's values and fans.

        Args:
            within: the norms that these values are for.
            padding: the row that is zero in a copy too.
        """
        said, tensor = filling.values, held.tensor
        shape = tensor.shape if held.is_plain else logical_shape(tensor)
        if isinstance(said, DISTRIBUTIONS):  # most of them
            return Drawn(self._key_of(held.name), shape, said), filling.fans
        said, row = (said.distribution, said.row) if isinstance(said, RowZeroed) else (said, None)
        if isinstance(said, CopyFrom):
            return self._copied(held, filling, padding)
        with naming(f"parameter {held.name!r}, {filling.initialiser}"):
            if isinstance(said, NormOf):
                return self._norm(held, said, (*within, held)), None
            if isinstance(said, Preset):
                said.check(logical(tensor), self._options.dtype_of(held))
            return values_of(said, self._key_of(held.name), shape, row), filling.fans

    def _filling(self, held: NamedTensor) -> Filling:
        target = target_of(held, self._options.fan)
        (rule,) = rules_for([held], [target], self._options.recipe)
        padding = padding_of(self._group_of.get(id(held), (held,)), target)
        return self._fillings.of(rule, target.plain or target, self._options.dtype, padding)

    def _copied(
        self, held: NamedTensor, filling: Filling, padding: int | None
    ) -> tuple[Values, tuple[int, int] | None]:
        """Return the values of the parameter at the end of a chain of copies, and its fans."""
        origin, chain = held, [held]
        own, said = filling, filling.values
        while isinstance(said, CopyFrom):
            origin = self._named(said.name, f"parameter {origin.name!r} copies from")
            if origin in chain:
                cycle = " -> ".join(repr(each.name) for each in (*chain[chain.index(origin) :], origin))
                raise ValueError(f"parameters copy from each other in a cycle: {cycle}")
            chain.append(origin)
            row = self._kept.get(id(origin))
            if row is None:
                own = self._filling(origin)
            else:
                given = row.values.tensor if isinstance(row.values, Given) else origin.tensor.detach()
                own = Filling(Preset(given), "", None)
            said = own.values
        shape, own_shape = logical_shape(origin.tensor), logical_shape(held.tensor)
        if shape != own_shape:
            raise ValueError(
                f"parameter {held.name!r} of shape {list(own_shape)} cannot copy from "
                f"{origin.name!r} of shape {list(shape)}"
            )
        if held.tensor.is_complex() != origin.tensor.is_complex():
            raise TypeError(
                f"parameter {held.name!r} of {held.tensor.dtype} cannot copy from {origin.name!r} of "
                f"{origin.tensor.dtype}: only one of them is complex"
            )
        values, fans = self._values(origin, own)
        dtype, drawn = map(self._options.dtype_of, (held, origin))
        is_drawn = isinstance(values, Computed | DrawnParts)
        if isinstance(values, Drawn):
            if padding is not None and values.zero_row not in (None, padding):
                raise ValueError(
                    f"parameter {held.name!r} has padding row {padding} and cannot copy from "
                    f"{origin.name!r}, whose row {values.zero_row} is zero; give it a rule of its own"
                )
            values.zero_row = values.zero_row if padding is None else padding  # of this copy alone
            check_range(values.distribution, dtype, f"parameter {held.name!r}, {filling.initialiser}")
            is_drawn = not isinstance(values.distribution, Constant)
        draws_others = is_drawn and dtype != drawn and torch.float64 in (dtype, drawn)
        return (Rounded(values, drawn) if draws_others else values), fans

    def _norm(self, held: NamedTensor, said: NormOf, within: tuple[NamedTensor, ...]) -> Norm:
        """Return the norm of what another parameter will hold: its planned values, or those that it keeps."""
        source = self._named(said.name, "it is the norm of")
        if source in within:
            raise ValueError(
                "it is made of itself, since it is tied to what it is made of; give it a rule of its own"
            )
        said.check(logical(held.tensor), logical(source.tensor))
        options, dtype, shape = self._options, source.tensor.dtype, logical_shape(source.tensor)
        if options.reading or id(source) in self._group_of:
            values, _ = self._values(source, self._filling(source), within)
            dtype = options.dtype_of(source)
        elif source.tensor.is_meta:
            raise ValueError(f"it is made of {source.name!r}, which is on the meta device and stays there")
        elif is_dtensor(source.tensor):
            raise ValueError(f"it needs the whole of {source.name!r}, a DTensor; give it a rule of its own")
        elif shape != source.tensor.shape:
            raise ValueError(f"it needs the whole of {source.name!r}, and has a part; give it its own rule")
        else:
            check_given(source.tensor, source.tensor)
            values = Given(source.tensor)
        return Norm(values, shape, dtype, said.dim, options.dtype_of(held), logical_shape(held.tensor))

    def _named(self, name: str, asking: str) -> NamedTensor:
        """Return the parameter that is filled, by any name of it or of those tied to it."""
        found = self._by_name.get(name)
        if found is None:
            raise ValueError(f"{asking} {name!r}, which the model does not have")
        return self._group_of.get(id(found), (found,))[0]

    @cached_property
    def _group_of(self) -> dict[int, Group]:
        return {id(each): group for group in self._groups for each in group}

    @cached_property
    def _by_name(self) -> dict[str, NamedTensor]:
        names = walk.every_name(self._model)
        groups = walk.tied([each for each in self._held if walk.has_memory(each.tensor)])
        return {
            name: group[0]
            for group in groups
            for each in group
            for name in (each.name, *names.get(id(each.tensor), ()))
        }
