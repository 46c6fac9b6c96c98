"""The plan: one row a parameter, with its key and distribution. The engine and the report read it.

Making a plan checks everything that can be wrong with a model; it allocates nothing and writes nothing.
"""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack, is_traceable_wrapper_subclass

from convinit_ext import boxes, copies, flat_shards, ops, parametrized, patterns, walk
from convinit_ext.buffers import BufferRow, buffer_rows, known_rows
from convinit_ext.derived import Derived, check_sharding
from convinit_ext.distributions import Distribution
from convinit_ext.fill import check_writable, is_surely_writable
from convinit_ext.fillings import Filling, Fillings, check_range
from convinit_ext.initialisers import FANS, ZEROS, Fan, Target
from convinit_ext.key_names import Names, key_names
from convinit_ext.keys import Key
from convinit_ext.ops import Box, UnsupportedTensorError
from convinit_ext.recipe import Recipe
from convinit_ext.recipes import RECIPES, as_recipe
from convinit_ext.rules import Rule
from convinit_ext.selection import Selection, Selectors
from convinit_ext.spread import std_of
from convinit_ext.walk import Held

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # a whole segment of a name


@dataclass(slots=True, eq=False)
class Row:
    """A parameter: its name, what fills it, and where the values go.

    Args:
        name: canonical name.
        held: the parameter, then those tied to it by their memory.
        distribution: of the values; ZEROS where `derived` says them instead.
        zero_row: the row of dimension 0 that is zero instead, if any.
        initialiser: what the rule calls it.
        fans: (fan_in, fan_out), None for constants and for fewer than 2 dimensions.
        dtype: of the values, once filled.
        device: likewise.
        key: the name that makes its key: of another parameter if it is a copy, or what `names` says.
        derived: what PyTorch writes after the fill, instead of a fill.
        source: the parameter that it is derived from, if any.
    """

    name: str
    held: tuple[Held, ...]
    distribution: Distribution
    zero_row: int | None
    initialiser: str
    fans: tuple[int, int] | None
    dtype: torch.dtype
    device: torch.device
    key: str
    derived: Derived | None = None
    source: Held | None = None

    @property
    def tensor(self) -> Tensor:
        return self.held[0].tensor

    @property
    def fresh(self) -> bool:
        """Whether the values go to new memory: a meta parameter, or another dtype."""
        return self.tensor.is_meta or self.tensor.dtype != self.dtype

    @property
    def num_bytes(self) -> int:
        """Of what this process holds."""
        return boxes.local_of(self.tensor).numel() * self.dtype.itemsize

    @property
    def std(self) -> float:
        return std_of(self.distribution) if self.derived is None else math.nan

    def pieces(self, memory: Tensor) -> Iterator[Piece]:
        """What the engine fills of `memory`, of this row's shape: all, parts, or nothing."""
        if self.derived is not None:
            return
        if self.zero_row is None and not boxes.is_dtensor(memory):
            yield Piece(memory, self.distribution, None)
            return
        for part in boxes.parts(memory):
            rest, zero = ([part], None) if self.zero_row is None else boxes.without(part, self.zero_row)
            yield from (Piece(each.tensor, self.distribution, each.box(memory.shape)) for each in rest)
            if zero is not None:
                yield Piece(zero.tensor, ZEROS, zero.box(memory.shape))


class Piece(NamedTuple):
    """One tensor of a call into the engine, and which part of the logical tensor it is (None: all of it)."""

    memory: Tensor
    distribution: Distribution
    box: Box | None


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What init_model_ will do: the rows in the order of named_parameters(), and the buffers that change."""

    rows: tuple[Row, ...]
    buffers: tuple[BufferRow, ...]
    seed: int
    recipe: str

    @property
    def new_bytes(self) -> int:
        """Memory to allocate on the CPU: on a GPU its allocator knows better."""
        rows: Sequence[Row | BufferRow] = (*self.rows, *self.buffers)
        return sum(row.num_bytes for row in rows if row.fresh and row.device.type == "cpu")


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the caller asked for."""

    seed: int
    recipe: Recipe
    fan: Fan
    dtype: torch.dtype | None
    device: torch.device | None
    reading: bool


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
    wish = _Wish(seed, as_recipe(recipe), fan, _checked_dtype(dtype), where, reading)
    checked_seed = Key(seed, "seed").seed  # a model without parameters checks its seed too
    nodes = list(walk.modules(model))
    flat_shards.check_whole(nodes, None if reading else wish.dtype)
    if not reading:
        _check_sharded(nodes, wish)
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
    if selection is not None:
        selection.check_used()
    return Plan(rows, buffers, checked_seed, wish.recipe.name)


def _device_of(rows: Sequence[Row]) -> torch.device:
    """Where meta buffers go if nobody says: with the parameters that get memory."""
    return next((row.device for row in rows if row.tensor.is_meta), torch.device("cpu"))


def _groups(held: list[Held], selection: Selection | None, reading: bool) -> list[list[Held]]:
    """The parameters to fill, each with those tied to it; checked."""
    if selection is None:
        _check_kinds(held, reading)
        return walk.tied(held)
    chosen = {id(each) for each in held if selection.parameter(each)}
    _check_kinds([each for each in held if id(each) in chosen], reading)
    # the others count as well, where their memory can be looked at: one may be tied to a chosen one
    others = [each for each in held if id(each) in chosen or walk.has_memory(each.tensor)]
    groups = [group for group in walk.tied(others) if any(id(each) in chosen for each in group)]
    return [group for group in groups if not any(selection.skipped(each) for each in group)]


def _rows(
    groups: list[list[Held]], parameters: copies.Parameters, key_of: Callable[[str], str], wish: _Wish
) -> tuple[Row, ...]:
    targets = [_target(group[0], wish) for group in groups]
    rules = _rules_for([group[0] for group in groups], targets, wish.recipe)
    fillings = Fillings()

    def filling_of(held: Held) -> Filling:
        target = _target(held, wish)
        (rule,) = _rules_for([held], [target], wish.recipe)
        return fillings.of(rule, target.plain or target, wish.dtype)

    rows = []
    for group, target, rule in zip(groups, targets, rules, strict=True):
        filling, origin = fillings.of(rule, target.plain or target, wish.dtype), group[0]
        if filling.copy is not None:
            origin, filling = parameters.copied(origin, filling, filling_of)
            dtype = wish.dtype or target.tensor.dtype
            check_range(filling.distribution, dtype, f"parameter {target.name!r}, {filling.initialiser}")
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


def _key_names(held: list[Held], nodes: list[walk.Node], names: Names) -> dict[str, str]:
    """Buffers have keys too: a rule may draw their values."""
    buffers = (walk.canonical(each.name) for each in walk.buffers(nodes))
    return key_names((each.name for each in held), names, buffers)


def _rules_for(held: list[Held], targets: list[Target], recipe: Recipe) -> list[Rule]:
    rules = recipe.rules_for(targets)
    found = [rule for rule in rules if rule is not None]
    if len(found) < len(rules):
        lost = [each for each, rule in zip(held, rules, strict=True) if rule is None]
        raise ValueError(
            f"recipe {recipe.name!r} has no rule for {len(lost)} parameter{'s' * (len(lost) > 1)}:\n  "
            + "\n  ".join(map(_described, lost))
            + f"\n{_advice(lost, held, recipe)}"
        )
    return found


def _advice(lost: Sequence[Held], held: Sequence[Held], recipe: Recipe) -> str:
    others = {each.name for each in held} - {each.name for each in lost}
    names = _patterns([each.name for each in lost], others)
    rules = ", ".join(f"Rule(Constant(0.0), name={name!r})" for name in names)
    rest = recipe.name.upper() if recipe.name in RECIPES else "the others"
    return (
        f"Say what they are before it, here zeros: recipe=[{rules}, *{rest}]; or run the model's own init "
        "code, where it has some, inside convinit_ext.intercept(model, seed)"
    )


def _patterns(names: Sequence[str], others: Collection[str]) -> Iterator[str]:
    """Patterns that fit these names and none of the others. Layers that repeat have one."""
    repeating: dict[str, list[str]] = {}
    for name in names:
        repeating.setdefault(_NUMBER.sub("*", name), []).append(name)
    for pattern, group in repeating.items():
        if len(group) > 1 and not any(patterns.matches(pattern, other) for other in others):
            yield pattern
        else:
            yield from map(glob.escape, group)


def _described(held: Held) -> str:
    return f"{held.path} {list(held.tensor.shape)} of {type(held.node.module).__name__}"


def _target(held: Held, wish: _Wish) -> Target:
    return parametrized.target_of(held, wish.fan)


def _row(group: list[Held], filling: Filling, key: str, wish: _Wish) -> Row:
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


def _check_kinds(held: list[Held], reading: bool) -> None:
    """That every parameter is a plain floating-point tensor on a device that can be filled, or read."""
    for each in held:
        tensor = each.tensor
        if is_surely_writable(tensor):
            continue
        if boxes.is_dtensor(tensor):
            _check_placements(each)
            tensor = boxes.local_of(tensor)
        do = "verify" if reading else "fill"
        if is_traceable_wrapper_subclass(tensor):
            raise UnsupportedTensorError(
                f"parameter {each.path!r}: cannot {do} a {type(tensor).__name__}; accepted is a plain tensor"
            )
        try:
            if reading:
                ops.check_readable(tensor, do)
                continue
            ops.check_supported([tensor])
            _check_fillable(tensor)
        except UnsupportedTensorError as error:
            raise UnsupportedTensorError(f"parameter {each.path!r}: {error}") from error
        try:
            if not tensor.is_meta:
                check_writable(tensor)
        except RuntimeError as error:
            raise RuntimeError(f"parameter {each.path!r}: {error}") from error


def _check_fillable(tensor: Tensor) -> None:
    """What init's functions fill, one by one, and the engine does not among others."""
    if tensor.is_neg():
        raise UnsupportedTensorError(
            "cannot fill a view that shows its memory negated (is_neg()); accepted is its resolve_neg()"
        )
    if isinstance(tensor, FakeTensor) and tensor.fake_mode not in _get_current_dispatch_mode_stack():
        raise UnsupportedTensorError("cannot fill a fake tensor outside its FakeTensorMode")


def _check_sharded(nodes: list[walk.Node], wish: _Wish) -> None:
    """FSDP2 would put its own values back into parameters that are gathered, or of another dtype."""
    for node in nodes:
        state = boxes.fsdp_state(node.module)
        if state is boxes.FsdpState.GATHERED:
            raise ValueError(
                f"module {node.path!r} holds gathered parameters, as after a forward pass, and FSDP2 would "
                "drop what is filled; call its reshard() first"
            )
        if state is boxes.FsdpState.RUN and wish.dtype is not None:
            raise ValueError(
                f"module {node.path!r} has run under FSDP2, which keeps its dtypes; pass dtype= before the "
                "first forward pass"
            )


def _check_placements(held: Held) -> None:
    try:
        boxes.parts(held.tensor)
    except (RuntimeError, TypeError) as error:
        raise type(error)(f"parameter {held.path!r}: {error}") from error


def _checked_dtype(dtype: torch.dtype | None) -> torch.dtype | None:
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype, not {type(dtype).__name__}")
    if dtype is not None and dtype not in ops.SUPPORTED_DTYPES:
        raise ValueError(
            f"dtype {dtype} cannot be filled; accepted are {_names(tuple(ops.SUPPORTED_DTYPES))}"
        )
    return dtype


def checked_device(device: torch.device | str | None) -> torch.device:
    """Where new memory goes: ValueError if it cannot be filled there."""
    try:
        checked = torch.device("cpu" if device is None else device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r}: {error}") from error
    if checked.type == "cuda":
        _check_cuda(checked)
    elif checked.type != "cpu":
        raise ValueError(f"device {str(checked)!r} cannot be filled; accepted are cpu and cuda")
    return checked


def _check_cuda(device: torch.device) -> None:
    if not ops.HAS_CUDA:
        raise ValueError(
            f"device {str(device)!r} cannot be filled: this build has no CUDA; "
            "build it with: CONVINIT_CUDA=1 pip install --no-build-isolation ."
        )
    num_devices = torch.cuda.device_count()
    if (device.index or 0) >= num_devices:
        raise ValueError(f"device {str(device)!r}: PyTorch sees {num_devices} CUDA devices")


def _names(dtypes: Sequence[torch.dtype]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
