"""The rule of every parameter, what it says of it, and what to say of those that no rule is for."""

from __future__ import annotations

import glob
import math
import operator
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from convinit_ext._engine import bounds_fit, largest_of, lines, listed
from convinit_ext.distributions import Constant, Distribution, Normal, TruncatedNormal, Uniform
from convinit_ext.model._checks import check_real
from convinit_ext.model._named_tensors import NamedTensor
from convinit_ext.recipes import (
    MODEL_CODE,
    RECIPES,
    ZEROS,
    CopyFrom,
    DeltaOrthogonal,
    Explained,
    Kaiming,
    Orthogonal,
    Preset,
    Recipe,
    RowZeroed,
    Rule,
    Stacked,
    Target,
    Values,
    VarianceScaling,
    Xavier,
    fans_of,
    is_distribution,
    is_values,
    layout_of,
    named,
    original,
    patterns,
)
from convinit_ext.sharding import logical_shape

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # a whole segment of a name
DISTRIBUTIONS = (Constant, Uniform, Normal, TruncatedNormal)
MATRICES = (Orthogonal, DeltaOrthogonal)
_LARGEST_NORMAL = math.sqrt(66 * math.log(2)), math.sqrt(108 * math.log(2))  # made in float32, in float64
# Initialisers that look at a parameter's shape and at its layer's fans, and at nothing else. Exactly these: a
# type derived from one may look at more.
_BY_SHAPE = {*DISTRIBUTIONS, Kaiming, Xavier, VarianceScaling}
_OF_SHAPES = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError)


class Filling(NamedTuple):
    """What a rule says of a parameter: values or where they are from, what it calls them, and the fans."""

    values: Values
    initialiser: str
    fans: tuple[int, int] | None


class Fillings:
    """What rules say of parameters. The layers of a large model repeat: equal questions are asked once."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[Filling, object]] = {}
        self._texts: dict[int, str] = {}

    def of(
        self, rule: Rule, target: Target, dtype: torch.dtype | None, padding: int | None = None
    ) -> Filling:
        """Return what the rule says of a parameter, of this dtype afterwards (None is its own).

        The row `padding` is zero unless the rule itself says which is.
        """
        tensor = target.tensor
        shape = tensor.shape
        is_by_shape = type(rule.init) in _BY_SHAPE or 0 in shape
        found = None if is_by_shape else said(rule, target, "parameter")
        layout = layout_of(target) if len(shape) > 1 else None  # fewer dimensions have no fans
        question = id(rule), id(found), shape, tensor.dtype, layout, padding
        known = self._known.get(question)
        if known is None:  # with what was said, whose id stays its own
            known = self._known[question] = self._new(rule, target, found, dtype, padding), found
        return known[0]

    def _new(
        self, rule: Rule, target: Target, found: object, dtype: torch.dtype | None, padding: int | None
    ) -> Filling:
        if id(rule) not in self._texts:
            self._texts[id(rule)] = rule.text
        text, tensor = self._texts[id(rule)], target.tensor
        if not tensor.numel():
            found = ZEROS  # a fan of zero has no std
        elif found is None:
            found = said(rule, target, "parameter")
        if isinstance(found, Explained):
            text = f"{text} {found.why}"
            found = found.values
        values = _checked(rule, target, found)
        distribution = values.distribution if isinstance(values, RowZeroed) else values
        if not (is_distribution(distribution) or isinstance(distribution, MATRICES)):
            says_itself = rule.init is values or isinstance(values, CopyFrom)
            fans = values.fans if isinstance(values, Stacked) else None
            return Filling(values, str(values) if says_itself else text, fans)
        if isinstance(distribution, TruncatedNormal) and distribution.cuts_nothing:
            text = f"{text}, cuts nothing"
        if distribution is values and padding is not None and distribution != ZEROS:
            values, text = RowZeroed(distribution, padding), f"{text}, row {padding} zero"
        if isinstance(values, RowZeroed) and values.row not in range(tensor.shape[0] if tensor.ndim else 0):
            raise ValueError(f"parameter {target.name!r}, {text}: there is no row {values.row} to make zero")
        if isinstance(distribution, MATRICES):
            says_blocks = isinstance(distribution, Orthogonal) and distribution.says_blocks_alone
            if says_blocks and layout_of(target).transposed:
                raise ValueError(
                    f"parameter {target.name!r}, {text}: blocks lie in dim 0, where "
                    f"{type(target.module).__name__} has its inputs; accepted is blocks=1"
                )
            return Filling(values, text, None)
        check_range(distribution, dtype or tensor.dtype, f"parameter {target.name!r}")
        fans = None if isinstance(distribution, Constant) else fans_of(original(rule).init, target)
        return Filling(values, text, fans)


def padding_of(group: Sequence[NamedTensor], target: Target) -> int | None:
    """Return the row of an embedding's padding_idx, wherever a tied parameter is held; None if none."""
    if target.tensor.ndim != 2:
        return None
    if target.plain is not None:
        return _padding_in(target.plain.module, target.plain.parameter, target.tensor)
    for held in group:
        places = held.places
        if held.node.module is not places[0][0]:  # it is that of like=
            places = [(held.node.module, held.name.rpartition(".")[2]), *places]
        for module, leaf in places:
            if leaf == "weight" and "padding_idx" in module.__dict__:
                row = _padding_in(module, leaf, held.tensor)
                if row is not None:
                    return row
    return None


def _padding_in(module: Any, leaf: str, tensor: Tensor) -> int | None:
    given = module.__dict__.get("padding_idx")
    shape = logical_shape(tensor)
    if leaf != "weight" or len(shape) != 2 or isinstance(given, bool | None):
        return None
    try:
        row = operator.index(given)
    except (TypeError, RuntimeError):  # a float; a tensor of several, or without values
        return None
    if "Embed" not in _names(module.__class__):
        return None
    rows = shape[0]
    return row % rows if -rows <= row < rows else None


@lru_cache(maxsize=1024)
def _names(kind: type) -> str:
    return " ".join(each.__name__ for each in kind.__mro__)


def _checked(rule: Rule, target: Target, found: object) -> Values:
    """Return what a rule says of a parameter, if that is something that a parameter can be."""
    inner = found.distribution if isinstance(found, RowZeroed) else found
    if not (is_values(found) and is_values(inner)) or isinstance(inner, RowZeroed):
        about = f"parameter {target.name!r}, {rule.text}"
        raise TypeError(f"{about}: must return a distribution, not {inner!r}")
    return found


def said(rule: Rule, target: Target, kind: str) -> object:
    """Return what a rule's initialiser says, with the name of the parameter or buffer on its errors."""
    try:
        return rule.says(target)
    except Exception as error:  # a user's
        if type(rule.init) in _BY_SHAPE and not isinstance(error, _OF_SHAPES):  # a signal handler's
            raise
        raise named(error, f"{kind} {target.name!r}, {rule.text}") from error


def check_range(distribution: Distribution, dtype: torch.dtype, what: str) -> None:
    """Raise ValueError where the dtype cannot hold a constant, normals, or a uniform's bounds and difference.

    The engine would raise it too, without a name; but normals it makes infinite, as PyTorch does.
    """
    if isinstance(distribution, Constant):
        largest = largest_of(dtype)
        if abs(distribution.value) > largest:
            raise ValueError(
                f"{what}: {dtype} cannot hold the constant {distribution.value:.6g}; its largest number is "
                f"{largest:.6g}"
            )
    elif isinstance(distribution, Uniform):
        low, high = distribution.low, distribution.high
        if not bounds_fit(low, high, dtype):
            raise ValueError(f"{what}: {dtype} cannot hold uniform values between {low} and {high}")
    elif isinstance(distribution, Normal | TruncatedNormal):
        mean, farthest = distribution.mean, distribution.std * _LARGEST_NORMAL[dtype == torch.float64]
        low, high = mean - farthest, mean + farthest
        if isinstance(distribution, TruncatedNormal):
            low, high = max(low, distribution.a), min(high, distribution.b)
        if max(abs(low), abs(high)) > largest_of(dtype):
            raise ValueError(
                f"{what}: {dtype} cannot hold normal values of mean {mean:.6g} and std "
                f"{distribution.std:.6g}, which lie between {low:.6g} and {high:.6g}; its largest number is "
                f"{largest_of(dtype):.6g}"
            )


def rules_for(held: Sequence[NamedTensor], targets: Sequence[Target], recipe: Recipe) -> list[Rule]:
    """Return the rule of each parameter; ValueError lists those without, and says how to give them one."""
    rules = recipe.rules_for(targets)
    check_real(
        each
        for each, target, rule in zip(held, targets, rules, strict=True)
        if not (each.is_plain or _gives_values(rule, target))
    )
    found = [rule for rule in rules if rule is not None]
    if len(found) < len(rules):
        lost = [each for each, rule in zip(held, rules, strict=True) if rule is None]
        raise ValueError(
            f"recipe {recipe.name!r} has no rule for {len(lost)} parameter{'s' * (len(lost) > 1)}:"
            + lines([each.described for each in lost])
            + f"\n{_advice(lost, held, recipe)}"
            + "; modules of torch.jit have no types that rules could be for: initialise before scripting"
            * any(isinstance(each.node.module, torch.jit.ScriptModule) for each in lost)
        )
    return found


def _gives_values(rule: Rule | None, target: Target) -> bool:
    """Whether a rule says the values of a complex parameter, and no distribution, which are all real."""
    if not target.tensor.is_complex():
        return True
    return rule is not None and isinstance(said(rule, target, "parameter"), Preset | CopyFrom)


def warn_own_resets(held: Sequence[NamedTensor], rules: Sequence[Rule]) -> None:
    """Warn once of modules whose own reset_parameters recipe "torch" does not follow, by types and paths.

    Rules that are not of recipe "torch" were said for such a type, or for another.
    """
    kinds: set[Any] = {each.node.module.__class__ for each in held}
    if not any(map(_resets_itself, kinds)):  # as in most models
        return
    of_torch = set(map(id, RECIPES["torch"])) - {id(MODEL_CODE)}
    paths: dict[Any, list[str]] = {}
    for each, rule in zip(held, rules, strict=True):
        kind: Any = each.node.module.__class__
        first = original(rule)
        knows_it = first is not rule and "readout_zero_init" in each.node.module.__dict__  # recipe mup
        if _resets_itself(kind) and id(first) in of_torch and not knows_it:
            paths.setdefault(kind, []).append(repr(each.node.path))
    if paths:
        shown = "; ".join(f"{kind.__name__}: {listed(dict.fromkeys(of))}" for kind, of in paths.items())
        warnings.warn(
            "recipe 'torch' does for these modules what the types of torch.nn do that they are derived from, "
            f"and not their own reset_parameters: {shown}. Give them rules of their own, before *TORCH, or "
            "call reset_parameters inside convinit_ext.intercept(model, seed)",
            stacklevel=2,
        )


@lru_cache(maxsize=1024)
def _resets_itself(kind: Any) -> bool:
    """Whether a type derived from one of torch.nn's has a reset_parameters of its own."""
    torchs = next(each for each in kind.__mro__ if each.__module__.startswith("torch."))
    return torchs is not kind and any(
        hasattr(torchs, name) and getattr(kind, name) is not getattr(torchs, name)
        for name in ("reset_parameters", "_reset_parameters")
    )


def _advice(lost: Sequence[NamedTensor], held: Sequence[NamedTensor], recipe: Recipe) -> str:
    if any(_is_traced((*each.node.parents, each.node.module)) for each in lost):
        return (
            "Tracing took their modules' types away: pass like=model, the model that was traced, best on the "
            "meta device, whose types then count"
        )
    others = {each.name for each in held} - {each.name for each in lost}
    names = _patterns([each.name for each in lost], others)
    rules = listed(f"Rule(Constant(0.0), name={name!r})" for name in names)
    rest = recipe.name.upper() if recipe.name in RECIPES else "the others"
    return (
        f"Say what they are before it, here zeros: recipe=[{rules}, *{rest}]; or run the model's own init "
        "code, where it has some, inside convinit_ext.intercept(model, seed)"
    )


def _is_traced(modules: Sequence[nn.Module]) -> bool:
    """Whether tracing made a parameter's module, the last of these, as torch.export does."""
    made = modules[-1]
    is_of_graph = type(made) is nn.Module and any(isinstance(each, GraphModule) for each in modules)
    return type(made).__name__ == "InterpreterModule" or isinstance(made, GraphModule) or is_of_graph


def _patterns(names: Sequence[str], others: Collection[str]) -> Iterator[str]:
    """Yield patterns that fit these names and none of the others. Layers that repeat have one."""
    repeating: dict[str, list[str]] = {}
    for name in names:
        repeating.setdefault(_NUMBER.sub("*", name), []).append(name)
    for pattern, group in repeating.items():
        fits = len(group) > 1 and all(patterns.matches(pattern, name) for name in group)
        if fits and not any(patterns.matches(pattern, other) for other in others):
            yield pattern
        else:
            yield from map(glob.escape, group)
