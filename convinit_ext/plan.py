"""The plan: one row a parameter, with its key and distribution. The engine and the report read it.

Making a plan checks everything that can be wrong with a model; it allocates nothing and writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from convinit_ext import boxes, ops, walk
from convinit_ext.buffers import BufferRow, buffer_rows
from convinit_ext.distributions import Constant, Distribution, Normal, TruncatedNormal, Uniform
from convinit_ext.fill import check_writable, is_surely_writable
from convinit_ext.initialisers import FANS, ZEROS, Fan, Kaiming, RowZeroed, Target, Xavier, is_distribution
from convinit_ext.keys import Key
from convinit_ext.ops import Box, UnsupportedTensorError
from convinit_ext.recipes import as_recipe
from convinit_ext.rules import Recipe, Rule
from convinit_ext.walk import Held

_NEGLIGIBLE = 40.0  # e^-40 of a density is nothing to a standard deviation
_INTERVALS = 1000  # of Simpson's rule


@dataclass(slots=True, eq=False)
class Row:
    """A parameter: its name, what fills it, and where the values go.

    Args:
        name: canonical name, the one that makes its key.
        held: the parameter, then those tied to it by their memory.
        distribution: of the values.
        zero_row: the row of dimension 0 that is zero instead, if any.
        initialiser: what the rule calls it.
        fans: (fan_in, fan_out), None for constants and for fewer than 2 dimensions.
        dtype: of the values, once filled.
        device: likewise.
    """

    name: str
    held: tuple[Held, ...]
    distribution: Distribution
    zero_row: int | None
    initialiser: str
    fans: tuple[int, int] | None
    dtype: torch.dtype
    device: torch.device

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
        return std_of(self.distribution)

    def pieces(self, memory: Tensor) -> Iterator[Piece]:
        """What the engine needs to fill `memory`, a tensor of this row's shape: all of it, or in parts."""
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


def make_plan(
    model: nn.Module,
    seed: int = 0,
    recipe: str | Recipe | Sequence[Rule] = "torch",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    fan: Fan = "true",
) -> Plan:
    """Decide for every parameter what fills it. The arguments and errors are those of init_model_."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if fan not in FANS:
        raise ValueError(f"fan must be one of {list(FANS)}, not {fan!r}")
    where = None if device is None else checked_device(device)
    wish = _Wish(seed, as_recipe(recipe), fan, _checked_dtype(dtype), where)
    checked_seed = Key(seed, "seed").seed  # a model without parameters checks its seed too
    nodes = list(walk.modules(model))
    held = walk.parameters(nodes)
    _check_kinds(held)
    groups = walk.tied(held)
    targets = [_target(group[0], wish) for group in groups]
    rules = _rules_for(groups, targets, wish.recipe)
    fillings = _Fillings()
    rows = tuple(
        _row(group, fillings.of(rule, target, wish.dtype), wish)
        for group, target, rule in zip(groups, targets, rules, strict=True)
    )
    buffers = buffer_rows(nodes, wish.dtype, wish.device or _device_of(rows))
    return Plan(rows, buffers, checked_seed, wish.recipe.name)


def _device_of(rows: Sequence[Row]) -> torch.device:
    """Where meta buffers go if nobody says: with the parameters that get memory."""
    return next((row.device for row in rows if row.tensor.is_meta), torch.device("cpu"))


def _rules_for(groups: list[list[Held]], targets: list[Target], recipe: Recipe) -> list[Rule]:
    rules = recipe.rules_for(targets)
    found = [rule for rule in rules if rule is not None]
    if len(found) < len(rules):
        lost = [_described(group[0]) for group, rule in zip(groups, rules, strict=True) if rule is None]
        raise ValueError(
            f"recipe {recipe.name!r} has no rule for {len(lost)} parameter{'s' * (len(lost) > 1)}:\n  "
            + "\n  ".join(lost)
            + "\nPut rules for them before it: recipe=[Rule(Constant(0.0), name=...), *TORCH]"
        )
    return found


def _described(held: Held) -> str:
    return f"{held.path} {list(held.tensor.shape)} of {type(held.node.module).__name__}"


def _target(held: Held, wish: _Wish) -> Target:
    leaf = held.places[0][1]
    return Target(held.name, leaf, held.tensor, held.node.module, held.node.parents, wish.fan)


def _row(group: list[Held], filling: _Filling, wish: _Wish) -> Row:
    first = group[0]
    tensor = first.tensor
    return Row(
        first.name,
        tuple(group),
        *filling,
        wish.dtype or tensor.dtype,
        (wish.device or boxes.home_of(tensor)) if tensor.is_meta else tensor.device,
    )


class _Filling(NamedTuple):
    """What a rule makes of a parameter; the fields are those of Row."""

    distribution: Distribution
    zero_row: int | None
    initialiser: str
    fans: tuple[int, int] | None


class _Fillings:
    """What rules make of parameters. The layers of a large model repeat: equal questions are asked once."""

    def __init__(self) -> None:
        self._known: dict[object, _Filling] = {}
        self._texts: dict[int, str] = {}

    def of(self, rule: Rule, target: Target, dtype: torch.dtype | None) -> _Filling:
        tensor, module = target.tensor, target.module
        if type(rule.init) not in _BY_SHAPE:
            return self._new(rule, target, dtype)
        convolution = (module.groups, module.transposed) if isinstance(module, _ConvNd) else None
        question = id(rule), tensor.shape, tensor.dtype, convolution
        if question not in self._known:
            self._known[question] = self._new(rule, target, dtype)
        return self._known[question]

    def _new(self, rule: Rule, target: Target, dtype: torch.dtype | None) -> _Filling:
        if id(rule) not in self._texts:
            self._texts[id(rule)] = rule.text
        distribution, zero_row = _distribution(rule, target)
        if isinstance(distribution, Uniform):
            _check_range(distribution, dtype or target.tensor.dtype, target.name)
        fans = None
        if target.tensor.ndim >= 2 and not isinstance(distribution, Constant):
            fans = target.fans(getattr(rule.init, "fan", None))
        return _Filling(distribution, zero_row, self._texts[id(rule)], fans)


# Initialisers that look at a parameter's shape and its convolution's groups, and at nothing else. Exactly
# these: a type derived from one may look at more.
_BY_SHAPE = {Kaiming, Xavier, Constant, Uniform, Normal, TruncatedNormal}


def _distribution(rule: Rule, target: Target) -> tuple[Distribution, int | None]:
    """What the rule's initialiser says, with the parameter's name on its errors."""
    if target.tensor.numel() == 0:
        return ZEROS, None  # nothing to fill, and a fan of zero has no std
    try:
        drawn = rule.init if is_distribution(rule.init) else rule.init(target)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"parameter {target.name!r}, {rule.text}: {error}") from error
    values, zero_row = (drawn.distribution, drawn.row) if isinstance(drawn, RowZeroed) else (drawn, None)
    if not is_distribution(values):
        raise TypeError(f"parameter {target.name!r}, {rule.text}: must return a distribution, not {values!r}")
    if zero_row is not None and not 0 <= zero_row < target.tensor.shape[0]:
        raise ValueError(f"parameter {target.name!r}, {rule.text}: there is no row {zero_row} to make zero")
    return values, zero_row


def _check_range(distribution: Uniform, dtype: torch.dtype, name: str) -> None:
    """The engine would raise it too, without a name."""
    low, high, largest = distribution.low, distribution.high, torch.finfo(dtype).max
    if max(-low, high, high - low) > largest:
        raise ValueError(f"parameter {name!r}: {dtype} cannot hold uniform values between {low} and {high}")


def _check_kinds(held: list[Held]) -> None:
    """That every parameter is a plain floating-point tensor on a device that can be filled."""
    for each in held:
        tensor = each.tensor
        if is_surely_writable(tensor):
            continue
        if boxes.is_dtensor(tensor):
            _check_placements(each)
            tensor = boxes.local_of(tensor)
        if is_traceable_wrapper_subclass(tensor):
            raise UnsupportedTensorError(
                f"parameter {each.path!r}: cannot fill a {type(tensor).__name__}; accepted is a plain tensor"
            )
        try:
            ops.check_supported([tensor])
        except UnsupportedTensorError as error:
            raise UnsupportedTensorError(f"parameter {each.path!r}: {error}") from error
        try:
            if not tensor.is_meta:
                check_writable(tensor)
        except RuntimeError as error:
            raise RuntimeError(f"parameter {each.path!r}: {error}") from error


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


def std_of(distribution: Distribution) -> float:
    """The standard deviation of the values, of a truncated normal after its truncation.

    >>> round(std_of(Uniform(-3.0, 3.0)) ** 2, 9)
    3.0
    """
    if isinstance(distribution, Uniform):
        return (distribution.high - distribution.low) / math.sqrt(12)
    if isinstance(distribution, Normal):
        return distribution.std
    return _truncated_std(distribution) if isinstance(distribution, TruncatedNormal) else 0.0


@lru_cache(maxsize=256)
def _truncated_std(distribution: TruncatedNormal) -> float:
    """By Simpson's rule over the part that holds all but e^-40 of the density: no tail is too far."""
    if distribution.std == 0.0:
        return 0.0
    low, high = ((bound - distribution.mean) / distribution.std for bound in (distribution.a, distribution.b))
    peak = min(max(low, 0.0), high)
    if not math.isfinite(peak):
        return 0.0
    # d |peak| + d^2 / 2 = 40
    reach = 2 * _NEGLIGIBLE / (abs(peak) + math.sqrt(peak * peak + 2 * _NEGLIGIBLE))
    low, high = max(low, peak - reach), min(high, peak + reach)
    width = (high - low) / _INTERVALS
    places = [low + index * width for index in range(_INTERVALS + 1)]
    # relative to the peak: (z^2 - peak^2) / 2 without cancellation
    density = [math.exp(-(z - peak) * (z + peak) / 2) for z in places]
    weights = [
        p * (1 if index in (0, _INTERVALS) else 4 if index % 2 else 2) for index, p in enumerate(density)
    ]
    total = sum(weights)
    centre = sum(w * (z - peak) for w, z in zip(weights, places, strict=True)) / total
    variance = sum(w * (z - peak - centre) ** 2 for w, z in zip(weights, places, strict=True)) / total
    return distribution.std * math.sqrt(variance)
