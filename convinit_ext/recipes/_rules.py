"""Rules: which initialiser for which parameter. A rule looks at names, types and shapes, never at a value.

One may divide what another one says by a number that depends on the parameter: by depth, by width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from convinit_ext.distributions import Constant, Distribution, Normal, TruncatedNormal, Uniform
from convinit_ext.recipes import _patterns as patterns
from convinit_ext.recipes._derived import CopyFrom, NormOf, Preset
from convinit_ext.recipes._functions import call, is_function, named
from convinit_ext.recipes._initialisers import (
    Explained,
    Initialiser,
    RowZeroed,
    Values,
    initialiser_text,
    is_distribution,
    is_values,
)
from convinit_ext.recipes._orthogonal import DeltaOrthogonal, Orthogonal
from convinit_ext.recipes._patterns import Pattern
from convinit_ext.recipes._target import Target

_FILLING = ("torch.nn.init", "convinit_ext.init")  # modules of functions that fill a tensor


@dataclass(frozen=True, slots=True)
class Rule:
    """An initialiser, and which parameters it is for: those that meet every condition given.

    Args:
        init: a Distribution, CopyFrom("name of another parameter"), Preset(tensor), or a function of the
            Target that returns one of these or a tensor, as Kaiming and Xavier are.
        module: type, or tuple of types, of the module that owns the parameter.
        parameter: pattern on the name inside the module: "weight", "bias*".
        name: pattern on the canonical full name: "encoder.*.fc?.weight", re.compile("^layers[.][0-3][.]").
        where: a function of the Target that says yes or no.
        label: what the report calls the initialiser (otherwise its own text).
        buffer: pattern on the name inside the module, of buffers: such a rule is for buffers and not for
            parameters. The other conditions hold too.
        allow_unused: whether it may decide for no parameter or buffer of the model, which is otherwise an
            error. The rules of ready-made recipes may.

    A pattern is a glob that fits the whole name, its `*` crossing dots, or a compiled regular expression that
    is searched for in it.

    Raises:
        TypeError: an argument of another type.
        ValueError: a pattern that no name can fit; no types in module; both parameter and buffer.

    >>> from convinit_ext.distributions import Constant
    >>> Rule(Constant(1.0), module=nn.BatchNorm2d, parameter="weight").text
    'ones_'
    """

    init: Initialiser
    module: type[nn.Module] | tuple[type[nn.Module], ...] | None = None
    parameter: Pattern | None = None
    name: Pattern | None = None
    where: Callable[[Target], bool] | None = None
    label: str | None = None
    buffer: Pattern | None = None
    allow_unused: bool = False

    def __post_init__(self) -> None:
        if not (is_values(self.init) or is_function(self.init)):
            raise TypeError(
                "a rule's init must be a distribution, a CopyFrom, a Preset or a function of a Target, "
                f"not {self.init!r}"
            )
        function: Any = getattr(self.init, "func", self.init)  # of a partial
        if getattr(function, "__module__", None) in _FILLING:
            raise TypeError(
                f"a rule's init {function.__name__} takes a tensor, and not a Target: "
                "accepted are distributions, such as Constant(0.0), Normal(0.0, 0.02) and Kaiming('normal')"
            )
        types = self.module if isinstance(self.module, tuple) else (self.module,)
        if self.module is not None and not all(isinstance(each, type) for each in types):
            raise TypeError(f"a rule's module must be a module type or a tuple of them, not {self.module!r}")
        if not types:
            raise ValueError("a rule's module is empty, which fits no parameter; leave it out to fit all")
        for condition in ("parameter", "name", "buffer"):
            if getattr(self, condition) is not None:
                patterns.check(getattr(self, condition), f"a rule's {condition}")
        if not isinstance(self.label, str | None):
            raise TypeError(f"a rule's label must be a str, not {self.label!r}")
        if not isinstance(self.allow_unused, bool):
            raise TypeError(f"a rule's allow_unused must be a bool, not {self.allow_unused!r}")
        if self.where is not None and not is_function(self.where):
            raise TypeError(f"a rule's where must be a function of a Target, not {self.where!r}")
        if self.parameter is not None and self.buffer is not None:
            raise ValueError("a rule is for parameters or for buffers: give parameter= or buffer=, not both")

    def matches(self, target: Target) -> bool:
        """Whether the rule is for this parameter."""
        return self.suits(type(target.module), target.parameter) and self.matches_rest(target)

    def matches_buffer(self, target: Target) -> bool:
        """Whether the rule is for this buffer."""
        return self.suits(type(target.module), target.parameter, buffer=True) and self.matches_rest(target)

    def suits(self, module: type[nn.Module], name: str, buffer: bool = False) -> bool:
        """Whether the conditions on the module's type and on the name inside it hold."""
        pattern = self.buffer if buffer else self.parameter
        return (
            (self.buffer is not None) == buffer
            and (self.module is None or issubclass(module, self.module))
            and (pattern is None or patterns.matches(pattern, name))
        )

    def matches_rest(self, target: Target) -> bool:
        """Whether the other conditions hold, on the full name and `where`."""
        if self.name is not None and not patterns.matches(self.name, target.name):
            return False
        try:
            return self.where is None or bool(call(self.where, target))
        except Exception as error:  # the user's: not every module has the attribute
            raise named(error, f"{target.name!r}, where of {self.text}") from error

    def says(self, target: Target) -> Values | Explained:
        """Return what the initialiser says of a parameter or buffer; a tensor as a Preset."""
        if not isinstance(self.init, FunctionType) and is_values(self.init):
            return self.init
        found = call(self.init, target)
        return Preset(found) if isinstance(found, Tensor) else found

    @property
    def text(self) -> str:
        """Return what a report calls the initialiser."""
        return self.label or initialiser_text(self.init)


def unknown(target: Target) -> Distribution:
    """Mark what a recipe does not know although a later rule fits: it is listed, as what no rule fits."""
    raise ValueError("this recipe does not know it")


class Division(NamedTuple):
    """What becomes of the values that a rule says of one parameter: they are divided; the report says why.

    Without a why the divisor is 1. The rule is asked about `base` in the parameter's place, if that is there,
    whose values must then have mean zero.
    """

    divisor: float
    why: str
    base: Target | None = None


Scale: TypeAlias = Callable[[Target], Division | None]  # None leaves a parameter as the rule has it


@dataclass(frozen=True, slots=True)
class Scaled:
    """The initialiser of a rule that divides what another one says."""

    rule: Rule
    scale: Scale

    def __call__(self, target: Target) -> Values | Explained:
        division = self.scale(target)
        if division is None:
            return self.rule.says(target)
        divisor, why, base = division
        found = self.rule.says(base or target)
        if isinstance(found, Explained):
            why = f"{found.why} {why}".rstrip()
            found = found.values
        if isinstance(found, CopyFrom | NormOf):
            return found  # of values that are scaled themselves
        is_same = base is None or base.tensor.shape == target.tensor.shape
        drawn = found.distribution if isinstance(found, RowZeroed) else found
        if is_distribution(drawn):
            if base is not None and divisor != 1 and _mean(drawn) != 0:
                raise ValueError(f"a width scales values of mean 0 only, and these have {_mean(drawn):.6g}")
            values: Distribution | Orthogonal | DeltaOrthogonal = divided(drawn, divisor)
            if isinstance(values, Constant) and (divisor == 1 or values.value == 0):
                return found
        elif is_same and isinstance(drawn, Orthogonal | DeltaOrthogonal):
            values = replace(drawn, gain=drawn.gain / divisor)
        elif divisor == 1 and not isinstance(drawn, Orthogonal | DeltaOrthogonal):
            return self.rule.says(target)
        else:
            raise ValueError(f"{why}: accepted are distributions, which can be scaled; give it its own rule")
        if not why:
            return found
        return Explained(replace(found, distribution=values) if isinstance(found, RowZeroed) else values, why)


def scaled(rules: Iterable[Rule], scale: Scale) -> tuple[Rule, ...]:
    """Return rules for the same parameters, which divide what these say. Buffers' are the same."""
    return tuple(
        rule
        if rule.buffer is not None or rule.init is unknown
        else replace(rule, init=Scaled(rule, scale), label=rule.text)
        for rule in rules
    )


def original(rule: Rule) -> Rule:
    """Return the rule whose values a rule divides; itself if it divides none."""
    while isinstance(rule.init, Scaled):
        rule = rule.init.rule
    return rule


def divided(values: Distribution, divisor: float) -> Distribution:
    """Return the distribution of the quotients; TypeError for one of another package.

    >>> divided(Normal(0.0, 0.02), 4.0)
    Normal(mean=0.0, std=0.005)
    """
    for kind in (Constant, Uniform, Normal, TruncatedNormal):
        if isinstance(values, kind):
            return kind(*(getattr(values, number.name) / divisor for number in fields(kind)))
    raise TypeError(f"accepted are the distributions of this package, which can be scaled, not {values!r}")


def _mean(values: Distribution) -> float:
    if isinstance(values, Uniform):
        return (values.low + values.high) / 2
    if isinstance(values, TruncatedNormal) and values.mean - values.a != values.b - values.mean:
        return (values.a + values.b) / 2 or values.mean
    return values.params[0]
