"""What a rule says, divided by a number that depends on the parameter: by depth, by width."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, TypeAlias

from convinit_ext.distributions import Constant, Distribution, Normal, TruncatedNormal, Uniform
from convinit_ext.recipes._derived import CopyFrom, NormOf
from convinit_ext.recipes._initialisers import Explained, RowZeroed, Values, is_distribution
from convinit_ext.recipes._known import unknown
from convinit_ext.recipes._orthogonal import DeltaOrthogonal, Orthogonal
from convinit_ext.recipes._rules import Rule
from convinit_ext.recipes._target import Target


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
