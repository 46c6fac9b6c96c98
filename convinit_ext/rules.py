"""Rules: which initialiser for which parameter. A rule looks at names, types and shapes, never at a value.

The ready-made lists of rules are in recipes.py; nothing here touches memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from convinit_ext.initialisers import ONES, ZEROS, Initialiser, Target, initialiser_text, is_distribution

NORMS: tuple[type[nn.Module], ...] = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

_BIAS = re.compile(
    r"(\w+_)?bias(_[ih]h\w*)?"
)  # bias, in_proj_bias, and the bias_ih_l0_reverse of recurrent modules


@dataclass(frozen=True, slots=True)
class Rule:
    """An initialiser, and which parameters it is for: those that meet every condition given.

    Args:
        init: a Distribution, or a function of the Target that returns one, as Kaiming and Xavier are.
        module: type, or tuple of types, of the module that owns the parameter.
        parameter: glob on the name inside the module: "weight", "bias*".
        name: glob on the canonical full name: "encoder.*.fc?.weight".
        where: a function of the Target that says yes or no.
        label: what the report calls the initialiser (otherwise its own text).

    Raises:
        TypeError: an argument of another type.

    >>> Rule(ONES, module=nn.BatchNorm2d, parameter="weight").text
    'ones_'
    """

    init: Initialiser
    module: type[nn.Module] | tuple[type[nn.Module], ...] | None = None
    parameter: str | None = None
    name: str | None = None
    where: Callable[[Target], bool] | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if not (is_distribution(self.init) or callable(self.init)):
            raise TypeError(
                f"a rule's init must be a distribution or a function of a Target, not {self.init!r}"
            )
        types = self.module if isinstance(self.module, tuple) else (self.module,)
        if self.module is not None and not all(isinstance(each, type) for each in types):
            raise TypeError(f"a rule's module must be a module type or a tuple of them, not {self.module!r}")
        for condition in ("parameter", "name", "label"):
            if not isinstance(getattr(self, condition), str | None):
                raise TypeError(f"a rule's {condition} must be a str, not {getattr(self, condition)!r}")
        if self.where is not None and not callable(self.where):
            raise TypeError(f"a rule's where must be a function of a Target, not {self.where!r}")

    def matches(self, target: Target) -> bool:
        return self.suits(type(target.module), target.parameter) and self.matches_rest(target)

    def suits(self, module: type[nn.Module], parameter: str) -> bool:
        """The conditions on a module's type and on a parameter's name inside it."""
        return (self.module is None or issubclass(module, self.module)) and (
            self.parameter is None or fnmatchcase(parameter, self.parameter)
        )

    def matches_rest(self, target: Target) -> bool:
        """The conditions on the one parameter."""
        if self.name is not None and not fnmatchcase(target.name, self.name):
            return False
        return self.where is None or bool(self.where(target))

    @property
    def text(self) -> str:
        return self.label or initialiser_text(self.init)


# What a list of rules need not say: norm layers' weights are ones, biases zeros.
DEFAULTS: tuple[Rule, ...] = (
    Rule(ONES, module=NORMS, parameter="weight"),
    Rule(ZEROS, where=lambda target: target.tensor.ndim <= 1 and bool(_BIAS.fullmatch(target.parameter))),
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """An ordered list of rules; the first that matches a parameter decides.

    Args:
        rules: in order.
        name: for the report.
        defaults: whether norm weights are ones and biases zeros where no rule matches.

    Raises:
        TypeError: something that is not a Rule among them.

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

    def rules_for(self, targets: Sequence[Target]) -> list[Rule | None]:
        """The rule of each parameter; None where no rule matches."""
        rules = self.rules + DEFAULTS if self.defaults else self.rules
        suitable: dict[tuple[type, str], tuple[Rule, ...]] = {}  # by what the parameters of a type share
        found: list[Rule | None] = []
        for target in targets:
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
