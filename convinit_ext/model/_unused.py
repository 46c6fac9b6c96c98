"""Rules that decide for nothing: a typo, or a wrapper's prefix, is an error and not passed over."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice

from convinit_ext._engine import lines, listed
from convinit_ext.model import _named_tensors as walk
from convinit_ext.model._named_tensors import NamedModule, NamedTensor
from convinit_ext.model._parametrize import target_of, target_of_buffer
from convinit_ext.recipes import Fan, Recipe, Rule, Target, patterns

_NUMBER = re.compile(r"\d+")
_MOST = 2000  # names that are compared with a rule's


def check_rules_used(
    recipe: Recipe, used: set[int], held: Sequence[NamedTensor], nodes: Sequence[NamedModule], fan: Fan
) -> None:
    """Raise ValueError, which names them and the nearest names, for rules that decide for nothing.

    `used` has the ids of those that decide for a parameter that is filled; `held` are the parameters that
    rules are asked for, also those that are not filled.
    """
    if all(rule.allow_unused or id(rule) in used for rule in recipe.rules):  # as in most calls
        return
    targets = [target_of(each, fan) for each in held]
    used = {id(rule) for rule in recipe.rules_for(targets)}
    buffers = list(map(target_of_buffer, walk.buffers(nodes)))
    for rule in recipe.rules:
        if rule.buffer is not None and any(map(rule.matches_buffer, buffers)):
            used.add(id(rule))
    names = {id(each.tensor): each.name for each in held}
    lost = [
        f"rule {number} ({_shown(rule)}) {_reason(rule, targets, buffers, nodes, names)}"
        for number, rule in enumerate(recipe.rules, 1)
        if not (id(rule) in used or _may_be_unused(rule))
    ]
    if lost:
        raise ValueError(
            f"recipe {recipe.name!r} has {len(lost)} rule{'s' * (len(lost) > 1)} without effect:"
            + lines(lost)
            + "\nCorrect them, or allow it: Rule(..., allow_unused=True), or Recipe(rules, allow_unused=True)"
        )


def _may_be_unused(rule: Rule) -> bool:
    """Whether it says so, or has no condition: it is for whatever other rules leave, which may be nothing."""
    return rule.allow_unused or not (_conditions(rule) or rule.where)


def _conditions(rule: Rule) -> dict[str, str]:
    """Return what a rule asks of types and names, as text."""
    kinds = rule.module if isinstance(rule.module, tuple) else (rule.module,) if rule.module else ()
    given = {key: getattr(rule, key) for key in ("parameter", "name", "buffer")}
    named = {key: patterns.text_of(each) for key, each in given.items() if each is not None}
    return ({"module": "|".join(kind.__name__ for kind in kinds)} if kinds else {}) | named


def _shown(rule: Rule) -> str:
    conditions = [
        f"{key}={text if key == 'module' else repr(text)}" for key, text in _conditions(rule).items()
    ]
    return ", ".join([rule.text, *conditions, *(["where=..."] if rule.where else [])])


def _reason(
    rule: Rule,
    targets: Sequence[Target],
    buffers: Sequence[Target],
    nodes: Sequence[NamedModule],
    names: Mapping[int, str],
) -> str:
    if rule.buffer is None:
        fits = (
            each.name for each in targets if rule.matches(each) or (each.plain and rule.matches(each.plain))
        )
        first = next(fits, None)
        if first is not None:
            return f"is never reached: an earlier rule decides for {first!r}"
    tied = next(_tied(rule, nodes, names), None)
    if tied is not None:
        return f"fits {tied[0]!r}, which is tied to {tied[1]!r}; the first name counts"
    near = _nearest(rule, targets if rule.buffer is None else buffers, nodes)
    kind = "parameter" if rule.buffer is None else "buffer"
    return f"fits no {kind}" + (
        f"; nearest {'are' if len(near) > 1 else 'is'} {listed(near)}" if near else ""
    )


def _tied(rule: Rule, nodes: Sequence[NamedModule], names: Mapping[int, str]) -> Iterator[tuple[str, str]]:
    """Yield parameters that the rule fits by another of their names, each with the name that counts."""
    every_name = walk.every_name(nodes[0].module)
    for node in nodes:
        for leaf, tensor in node.module._parameters.items():
            if tensor is None:
                continue
            for name in every_name[id(tensor)]:
                if rule.matches(Target(name, leaf, tensor, node.module, node.parents)):
                    yield name, names.get(id(tensor), "another")


def _nearest(rule: Rule, targets: Sequence[Target], nodes: Sequence[NamedModule]) -> list[str]:
    """Return what is most like the first condition that names something. Of layers that repeat, the first."""
    conditions = _conditions(rule)
    key = next((each for each in ("name", "parameter", "buffer", "module") if each in conditions), None)
    if key is None:
        return []
    wanted = conditions[key].removeprefix("re:")
    if key == "module":
        wanted, names = wanted.partition("|")[0], [type(node.module).__name__ for node in nodes]
    else:
        names = [each.name if key == "name" else each.parameter for each in targets]
    distinct = {_NUMBER.sub("*", name): name for name in reversed(names)}
    close = get_close_matches(_NUMBER.sub("*", wanted), islice(distinct, _MOST), n=3, cutoff=0.3)
    return [repr(distinct[each]) for each in close]
