"""Recipes: ordered lists of rules, in Python or from a file, ready-made by name, or another one by depth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, replace
from functools import partial
from os import PathLike, fspath
from os.path import realpath
from pathlib import Path
from typing import Any, TypeVar

from convinit_ext._engine import check_flags, excerpt, reason
from convinit_ext.recipes._adapters import WORDS
from convinit_ext.recipes._depth import By, ByDepth, scaled_by_depth
from convinit_ext.recipes._file import SUFFIXES, check_table, read, rule_from_dict, rule_to_dict
from convinit_ext.recipes._functions import is_own
from convinit_ext.recipes._known import DEFAULTS
from convinit_ext.recipes._model_code import LAST, MODEL_CODE
from convinit_ext.recipes._patterns import Pattern
from convinit_ext.recipes._rules import Rule, original, unknown
from convinit_ext.recipes._target import Target

_T = TypeVar("_T")

# The ready-made recipes by name: ready_made() enters them.
RECIPES: dict[str, Recipe] = {}
_LAST = set(map(id, LAST))
_OWN: dict[int, Rule] = {}  # by id: the rules of ready-made recipes

_KEYS = ("name", "extends", "defaults", "allow_unused", "depth_scaled", "rules")
_TYPES = {"defaults": (bool,), "allow_unused": (bool,), "rules": (list,)}  # of values; the others are str
_MAX_DEPTH = 100  # of files that extend files


@dataclass(frozen=True, slots=True)
class Recipe:
    """An ordered list of rules; the first that matches a parameter decides.

    Args:
        rules: in order.
        name: for the report.
        defaults: whether norm weights are ones and biases zeros where no rule matches.
        allow_unused: whether each of the rules may decide for no parameter or buffer of a model.

    Raises:
        TypeError: something that is not a Rule among them; a name that is no text.

    >>> from convinit_ext.distributions import Constant
    >>> [rule.text for rule in Recipe((Rule(Constant(1.0), name="*.scale"),))]
    ['ones_']
    """

    rules: tuple[Rule, ...]
    name: str = "custom"
    defaults: bool = True
    allow_unused: InitVar[bool] = False

    def __post_init__(self, allow_unused: bool) -> None:
        check_flags(allow_unused=allow_unused, defaults=self.defaults)
        if not isinstance(self.name, str):
            raise TypeError(f"a recipe's name must be a str, not {excerpt(self.name)}")
        rules = tuple(self.rules) if isinstance(self.rules, Iterable) else (self.rules,)
        for rule in rules:
            if not isinstance(rule, Rule):
                raise TypeError(f"a recipe is a list of convinit_ext.recipes.Rule, and {rule!r} is none")
        if allow_unused:
            rules = tuple(rule if rule.allow_unused else replace(rule, allow_unused=True) for rule in rules)
        object.__setattr__(self, "rules", rules)

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    @classmethod
    def load(cls, path: str | PathLike[str], *, allow_code: bool = False) -> Recipe:
        """Return the recipe in a .toml or .json file (docs/recipes.md says what is in it).

        Args:
            path: of the file, and of those that it extends.
            allow_code: whether they may name functions, and module types that are not of torch.nn. These
                are imported, and functions called: for files that you trust as you trust code.

        Raises:
            OSError: the file cannot be read.
            ValueError, TypeError: what is wrong, with the file, the rule's number and what is accepted.
        """
        check_flags(allow_code=allow_code)
        return _load(Path(path), (), allow_code)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], *, allow_code: bool = False) -> Recipe:
        """Return the recipe that to_dict() or a file describes.

        Args:
            given: the table.
            allow_code: as for load().

        Raises:
            ValueError, TypeError: what is wrong, with the rule's number and what is accepted.

        >>> recipe = Recipe.from_dict({"rules": [{"module": "Linear", "init": "normal_(0, 0.02)"}]})
        >>> recipe.rules[0].text
        'normal_(0, 0.02)'
        """
        check_flags(allow_code=allow_code)
        return _from_dict(given, (), allow_code)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as strings, numbers, lists and dicts, as they stand in a file.

        A ready-made recipe's rules at the end become `extends`.

        Raises:
            ValueError: a rule that cannot be written: a function without a name to import it by, or a tensor.

        >>> from convinit_ext.distributions import Constant
        >>> Recipe((Rule(Constant(1.0), name="*.scale"),)).to_dict()["rules"]
        [{'init': 'ones_', 'name': '*.scale'}]
        """
        table: dict[str, Any] = {"name": self.name, "defaults": self.defaults}
        ends = [name for name, each in RECIPES.items() if self.rules[-len(each.rules) :] == each.rules]
        own = self.rules
        if ends:
            longest = max(ends, key=lambda name: len(RECIPES[name].rules))
            table["extends"], own = longest, own[: len(own) - len(RECIPES[longest].rules)]
        return {**table, "rules": _each(rule_to_dict, own)}

    def rules_for(self, targets: Sequence[Target]) -> list[Rule | None]:
        """Return the rule of each parameter; None where no rule matches."""
        names = "\n".join(target.name for target in targets)
        rules: list[Rule] = []
        last: dict[int, Rule] = {}  # where it holds a ready-made one, whose last come after all others
        for rule in self.rules:
            first = id(original(rule))
            if first in _LAST:
                last.setdefault(first, rule)
            elif WORDS.get(id(rule.where), "") in names:
                rules.append(rule)
        rules += (*last.values(), *(DEFAULTS if self.defaults else ()))
        code = last.get(id(MODEL_CODE))
        # By what the parameters of a type share, rules each with what is left to ask.
        suitable: dict[tuple[type, str], list[tuple[Rule, Callable[[Target], bool] | None]]] = {}
        found: list[Rule | None] = []
        for target in targets:
            if target.plain is not None:
                found.append(_rule_of_part(rules, target, target.plain))
                continue
            shared = type(target.module), target.parameter
            offered = suitable.get(shared)
            if offered is None:
                offered = suitable[shared] = [(rule, _rest_of(rule)) for rule in rules if rule.suits(*shared)]
            for rule, fits in offered:
                if fits is None or fits(target):
                    found.append(rule)
                    break
            else:
                found.append(None)
        return [
            _instead(target, code) if rule is not None and rule.init is unknown else rule
            for target, rule in zip(targets, found, strict=True)
        ]


def _instead(target: Target, code: Rule | None) -> Rule | None:
    """Return the rule of a parameter that another marks as unknown: the model's own code, if it is asked."""
    return code if code is not None and code.matches(target) else None


def _rest_of(rule: Rule) -> Callable[[Target], bool] | None:
    """Return what is left to ask where a rule suits a type and a name inside it; None where nothing is."""
    if rule.name is None and (rule.where is None or is_own(rule.where)):
        return rule.where
    return rule.matches_rest


def _rule_of_part(rules: Iterable[Rule], part: Target, plain: Target) -> Rule | None:
    """Return the rule of a part of a parametrized weight: the plain weight's, or one that names the part.

    A part with a start of its own has that, unless a rule fits the part's name and not the plain weight's.
    """

    def names_part(rule: Rule) -> bool:
        return (rule.parameter is not None or rule.name is not None) and rule.matches(part)

    if part.start is None:
        return next((rule for rule in rules if rule.matches(plain) or names_part(rule)), None)
    return next((rule for rule in rules if names_part(rule) and not rule.matches(plain)), Rule(part.start))


def _load(path: Path, extending: tuple[Path, ...], allow_code: bool) -> Recipe:
    """Return the recipe in a file that the last of the files `extending` extends."""
    files = (*extending, path)
    if realpath(path) in map(realpath, extending):
        raise ValueError(f"recipes extend each other in a cycle: {' -> '.join(map(str, files))}")
    if len(files) > _MAX_DEPTH:
        raise ValueError(f"{path}: recipes extend each other more than {_MAX_DEPTH} deep")
    return _from_dict(read(path), files, allow_code)


def _from_dict(given: object, files: tuple[Path, ...], allow_code: bool) -> Recipe:
    """Return the recipe of a table, which stands in the last of the files."""
    place = f"{files[-1]}: " if files else ""
    table = check_table(given, f"{place}a recipe", _KEYS, _TYPES)
    rules = _each(partial(rule_from_dict, allow_code=allow_code), table.get("rules", ()), place)
    if "extends" in table:
        try:
            rules += _by_name(table["extends"], allow_code, files, f"{place}extends: ")
        except OSError as error:
            raise ValueError(f"{place}extends {excerpt(table['extends'])}: {reason(error)}") from error
    name = table.get("name", files[-1].stem if files else "custom")
    if "depth_scaled" in table:
        try:
            rules = list(scaled_by_depth(rules, ByDepth(table["depth_scaled"]), name))
        except ValueError as error:
            raise ValueError(f"{place}depth_scaled: {error}") from error
    return Recipe(tuple(rules), name, table.get("defaults", True), table.get("allow_unused", False))


def _by_name(name: str, allow_code: bool, files: tuple[Path, ...] = (), place: str = "") -> Recipe:
    """Return a ready-made recipe, or that of a file, which the last of the files extends."""
    if name in RECIPES:
        return RECIPES[name]
    if not name.endswith(SUFFIXES):
        accepted = f"{', '.join(RECIPES)}, and files in {' or '.join(SUFFIXES)}"
        raise ValueError(f"{place}there is no recipe {excerpt(name)}; there are {accepted}")
    return _load(files[-1].parent / name if files else Path(name), files, allow_code)


def _each(convert: Callable[[Any], _T], rules: Iterable[object], place: str = "") -> list[_T]:
    converted = []
    for number, rule in enumerate(rules, 1):
        try:
            converted.append(convert(rule))
        except (ValueError, TypeError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{place}rule {number}: {error}") from error
    return converted


def ready_made(*recipes: Recipe) -> None:
    """Enter recipes into RECIPES by their names."""
    RECIPES.update((each.name, each) for each in recipes)


def own(name: str, *rules: Rule, needed: Rule | None = None) -> Recipe:
    """Return a recipe of this package, whose rules are remembered as such.

    They may decide for nothing, but for the one that is needed, which is the first.
    """
    recipe = Recipe(rules, name, defaults=False, allow_unused=True)
    if needed is not None:
        recipe = Recipe((needed, *recipe), name, defaults=False)
    _OWN.update((id(each), each) for rule in recipe for each in (rule, original(rule)))
    return recipe


def is_ready_made(rule: Rule) -> bool:
    """Whether a rule is one of a ready-made recipe, and not the caller's.

    >>> is_ready_made(RECIPES["he"].rules[0]), is_ready_made(Rule(RECIPES["he"].rules[0].init))
    (True, False)
    """
    return id(original(rule)) in _OWN


def as_recipe(recipe: str | PathLike[str] | Recipe | Sequence[Rule], *, allow_code: bool = False) -> Recipe:
    """Return the recipe of this name, in this .toml or .json file, or of this list of rules.

    Args:
        recipe: one of these.
        allow_code: what a file may name, as for Recipe.load().

    Raises:
        ValueError: no recipe of that name, or a file that is no recipe.
        OSError: a file that cannot be read.
        TypeError: none of these.

    >>> "kaiming_normal_(nonlinearity='relu')" in [rule.text for rule in as_recipe("he")]
    True
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str | PathLike):
        return _by_name(fspath(recipe), allow_code)
    if isinstance(recipe, list | tuple):
        return Recipe(tuple(recipe))
    raise TypeError(f"recipe must be a name, a Recipe or a list of rules, not {type(recipe).__name__}")


def depth_scaled(
    recipe: str | PathLike[str] | Recipe | Sequence[Rule] = "torch",
    by: By = "model",
    num_layers: int | None = None,
    weights: Pattern | None = None,
) -> Recipe:
    """Return a recipe with smaller weights where each block writes into the residual stream.

    Args:
        recipe: what everything else gets, and these before they are divided.
        by: "model" divides by sqrt(2 num_layers), as GPT-2 and Megatron have it; "layer" by
            sqrt(2 (layer + 1)), layer the block's own number from 0, as torchtitan's depth_init has it.
        num_layers: blocks of the whole model, for by="model". None reads it from the config of the nearest
            module that has one, otherwise it is the length of the outermost ModuleList around the parameter.
        weights: pattern on the names of the weights to divide: a glob or a regular expression. None is the
            last projection of attention and of the feed-forward part, by the names in docs/recipes.md.

    Raises:
        ValueError: another `by`; num_layers below 1, or with by="layer"; a recipe that scales by depth
            itself. When used: no such weights, no number of layers, weights of values that cannot be scaled.
        TypeError: an argument of another type.

    Source: Radford et al. 2019, section 2.3; Megatron-LM's scaled_init_method_normal; torchtitan's Llama 3.

    >>> from torch import nn
    >>> from convinit_ext import plan_model
    >>> blocks = nn.ModuleList(nn.ModuleDict({"fc1": nn.Linear(4, 8), "fc2": nn.Linear(8, 4)}) for _ in "ab")
    >>> print(plan_model(blocks, recipe=depth_scaled("lecun", by="layer")).report.rows[6].initialiser)
    lecun_normal_ / sqrt(2 * 2)
    """
    inner, scale = as_recipe(recipe), ByDepth(by, num_layers, weights)
    rules = scaled_by_depth(inner.rules, scale, inner.name)
    return Recipe(rules, f"depth_scaled({inner.name})", inner.defaults)
