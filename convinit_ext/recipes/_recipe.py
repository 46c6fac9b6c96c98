"""A recipe: an ordered list of rules, in Python or read from a TOML or JSON file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convinit_ext.recipes import _file as recipe_file
from convinit_ext.recipes._initialisers import Target
from convinit_ext.recipes._norms import DEFAULTS
from convinit_ext.recipes._rules import Rule

# The ready-made recipes by name; recipes.py enters them. A recipe can extend one of these.
RECIPES: dict[str, Recipe] = {}


@dataclass(frozen=True, slots=True)
class Recipe:
    """An ordered list of rules; the first that matches a parameter decides.

    Args:
        rules: in order.
        name: for the report.
        defaults: whether norm weights are ones and biases zeros where no rule matches.

    Raises:
        TypeError: something that is not a Rule among them.

    >>> from convinit_ext.recipes._initialisers import ONES
    >>> [rule.text for rule in Recipe((Rule(ONES, name="*.scale"),))]
    ['ones_']
    """

    rules: tuple[Rule, ...]
    name: str = "custom"
    defaults: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise TypeError(f"a recipe is a list of convinit_ext.recipes.Rule, and {rule!r} is none")

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """The recipe in a .toml or .json file (docs/recipes.md says what is in it).

        Raises:
            OSError: the file cannot be read.
            ValueError: what is in it is no recipe; the file, the rule's number and what is accepted are said.
        """
        return cls._made(recipe_file.read(path, {name: recipe.rules for name, recipe in RECIPES.items()}))

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Recipe:
        """The recipe that to_dict() or a file describes.

        Raises:
            ValueError, TypeError: what is wrong with it, with the rule's number.

        >>> recipe = Recipe.from_dict({"rules": [{"module": "Linear", "init": "normal_(0, 0.02)"}]})
        >>> recipe.rules[0].text
        'normal_(0, 0.02)'
        """
        known = {name: recipe.rules for name, recipe in RECIPES.items()}
        return cls._made(recipe_file.from_dict(given, known))

    @classmethod
    def _made(cls, contents: recipe_file.Contents) -> Recipe:
        return cls(contents.rules, contents.name, contents.defaults)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as strings, numbers, lists and dicts, as they stand in a file.

        Raises:
            ValueError: a rule that cannot be written: a function without a name to import it by, or a tensor.

        >>> from convinit_ext.recipes._initialisers import ONES
        >>> Recipe((Rule(ONES, name="*.scale"),)).to_dict()["rules"]
        [{'init': 'ones_', 'name': '*.scale'}]
        """
        known = {name: recipe.rules for name, recipe in RECIPES.items()}
        return recipe_file.to_dict(recipe_file.Contents(self.rules, self.name, self.defaults), known)

    def rules_for(self, targets: Sequence[Target]) -> list[Rule | None]:
        """The rule of each parameter; None where no rule matches."""
        rules = self.rules + DEFAULTS if self.defaults else self.rules
        suitable: dict[tuple[type, str], tuple[Rule, ...]] = {}  # by what the parameters of a type share
        found: list[Rule | None] = []
        for target in targets:
            if target.plain is not None:
                found.append(_rule_of_part(rules, target, target.plain))
                continue
            shared = type(target.module), target.parameter
            if shared not in suitable:
                suitable[shared] = tuple(rule for rule in rules if rule.suits(*shared))
            found.append(_first(suitable[shared], target))
        return found


def _first(rules: Iterable[Rule], target: Target) -> Rule | None:
    for rule in rules:
        if rule.matches_rest(target):
            return rule
    return None


def _rule_of_part(rules: Iterable[Rule], part: Target, plain: Target) -> Rule | None:
    """The rule of a part of a parametrized weight: that of the plain weight, or one that names the part.

    A part with a start of its own has that, unless a rule fits the part's name and not the plain weight's.
    """
    if part.start is None:
        return next((rule for rule in rules if rule.matches(plain) or rule.singles_out(part)), None)
    named = (rule for rule in rules if rule.singles_out(part) and not rule.matches(plain))
    return next(named, Rule(part.start))
