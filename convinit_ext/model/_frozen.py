"""Frozen parameters: constants of a model, which a recipe must not draw, or weights like others."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence

import torch

from convinit_ext._engine import lines
from convinit_ext.distributions import Constant
from convinit_ext.model._named_tensors import Group, NamedTensor
from convinit_ext.model._options import Options
from convinit_ext.model._parametrize import target_of
from convinit_ext.model._plan import Row
from convinit_ext.model._values import Given
from convinit_ext.recipes import (
    MODEL_CODE,
    Preset,
    Recipe,
    Rule,
    Target,
    by_model_code,
    computed_table,
    is_frozen_when_made,
    is_ready_made,
)
from convinit_ext.sharding import home_of


def kept_rows(groups: Sequence[Group], held: Sequence[NamedTensor], options: Options) -> list[Row]:
    """Return the rows of frozen parameters that stay as they are, or that the model's own code computes.

    A rule of the caller's own that names a parameter decides for it; and where all of several parameters are
    frozen, and nobody says what becomes of them, they are weights like others, but for computed tables.
    Without values, on the meta device, so are those that the model's constructor freezes and its code draws;
    and constants are what its code says. `options.frozen` decides for the others.

    Raises:
        ValueError: nobody says what becomes of some; or those on the meta device would stay. They are listed.
    """
    frozen = [group for group in groups if not group[0].tensor.requires_grad]
    frozen = [group for group in frozen if not any(each.tensor.requires_grad for each in group)]
    if not frozen:
        return []
    targets = [target_of(group[0], options.fan) for group in frozen]
    rules = options.recipe.rules_for(targets)
    open_, rows, tables, starts = [], [], _Answers(computed_table), _Answers(by_model_code)
    for group, target, rule in zip(frozen, targets, rules, strict=True):
        if rule is not None and names_it(rule, options.recipe):
            continue
        stays = options.frozen == "keep" and not group[0].tensor.is_meta
        found = None if stays else tables.of(target)
        has_no_values = options.frozen is None and (options.reading or group[0].tensor.is_meta)
        if found is None and has_no_values and is_frozen_when_made(target):
            found = starts.of(target)
        if isinstance(found, Constant):
            found = Preset(torch.tensor(found.value, dtype=torch.float64).expand(target.tensor.shape))
        if isinstance(found, Preset):
            rows.append(_row(group, options, Given(found.tensor), MODEL_CODE.text))
        elif found is None:
            open_.append(group)
    if options.frozen == "draw":
        return rows
    if options.frozen is None:
        are_all = len(held) > 1 and not any(each.tensor.requires_grad for each in held)
        if options.reading or are_all or not open_:
            return rows
        raise ValueError(_question(open_, options.recipe))
    lost = [group for group in open_ if group[0].tensor.is_meta]
    if lost and not options.reading:
        raise ValueError(
            f"frozen='keep' cannot keep {_counted(lost)} on the meta device, which have no values:"
            f"{_listed(lost)}\nBuild the model where they have some, or say them by rules: "
            f"recipe=[Rule(Preset(values), name={glob.escape(lost[0][0].name)!r}), ...]"
        )
    return rows + [_row(group, options, None, "kept (frozen)") for group in open_]


def names_it(rule: Rule, recipe: Recipe) -> bool:
    """Whether a rule is the caller's and names its parameters."""
    is_own = not is_ready_made(rule) and any(rule is each for each in recipe.rules)
    return is_own and (rule.name is not None or rule.parameter is not None)


class _Answers:
    """What a model's own code says. Layers repeat: what is drawn or unknown in one is so in the others."""

    def __init__(self, ask: Callable[[Target], object]) -> None:
        self._ask = ask
        self._known: dict[object, object] = {}

    def of(self, target: Target) -> object:
        kinds = tuple(type(each) for each in (*target.parents[-1:], target.module))
        alike = kinds, tuple(target.name.split(".")[-2:]), tuple(target.tensor.shape)
        if alike in self._known:
            return self._known[alike]
        found = self._ask(target)
        if not isinstance(found, Preset | Constant):
            self._known[alike] = found
        return found


def _row(group: Group, options: Options, values: Given | None, text: str) -> Row:
    tensor = group[0].tensor
    device = tensor.device
    if values is not None and tensor.is_meta:
        device = options.device or home_of(tensor)
    return Row(group[0].name, group, values, text, None, options.dtype_of(group[0]), device)


def _question(groups: Sequence[Group], recipe: Recipe) -> str:
    return (
        f"{_counted(groups)} {'are' if len(groups) > 1 else 'is'} frozen (requires_grad=False), and recipe "
        f"{recipe.name!r} cannot know whether of constants:{_listed(groups)}\n"
        "Pass frozen='keep' to leave them as they are, or frozen='draw' to initialise them like others; or "
        f"give one a rule of its own: Rule(..., name={glob.escape(groups[0][0].name)!r})"
    )


def _counted(groups: Sequence[Group]) -> str:
    return f"{len(groups)} parameter{'s' * (len(groups) > 1)}"


def _listed(groups: Sequence[Group]) -> str:
    return lines([held.described for held, *_ in groups])
