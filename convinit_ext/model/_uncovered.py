"""The rule of every parameter, and what to say of those that no rule is for."""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterator, Sequence

from convinit_ext.model._named_tensors import Held
from convinit_ext.recipes import RECIPES, Recipe, Rule, Target, patterns

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # a whole segment of a name


def rules_for(held: Sequence[Held], targets: Sequence[Target], recipe: Recipe) -> list[Rule]:
    """One for each.

    Args:
        held: the parameters.
        targets: the same as rules see them.
        recipe: whose rules.

    Raises:
        ValueError: parameters without a rule; all of them are listed, and how to give them one is said.
    """
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


def _described(held: Held) -> str:
    return f"{held.path} {list(held.tensor.shape)} of {type(held.node.module).__name__}"


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
