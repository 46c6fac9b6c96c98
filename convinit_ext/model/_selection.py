"""Which of a model's parameters and buffers a call is about: what `only` and `skip` choose."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import nn

from convinit_ext.keys import canonical_name
from convinit_ext.model import _named_tensors as walk
from convinit_ext.model import _parametrize as parametrized
from convinit_ext.model._named_tensors import Held
from convinit_ext.recipes import Target, patterns

Selector: TypeAlias = "str | re.Pattern[str] | nn.Module | type[nn.Module] | Callable[[Target], bool]"
Selectors: TypeAlias = "Selector | Iterable[Selector] | None"


@dataclass(slots=True, eq=False)
class Selection:
    """What `only` and `skip` say of one model.

    A str is a glob on names, of parameters and of buffers, or of modules: then all that is inside. A regular
    expression is searched for in the names of parameters and buffers. A module stands for all that is inside,
    a type for all that its modules own, and a function is asked about each parameter.
    """

    only: _Set | None
    skip: _Set | None
    names: dict[int, list[str]]
    target: Callable[[Held], Target]
    _chosen: dict[int, list[bool]] = field(default_factory=dict)  # of parameters, by their module's id

    @classmethod
    def of(
        cls, model: nn.Module, only: Selectors, skip: Selectors, target: Callable[[Held], Target]
    ) -> Selection | None:
        """None where both are None: then everything is chosen.

        Raises:
            TypeError: something that chooses nothing: a number, a tensor.
            ValueError: a bad pattern, a module that is not part of the model.
        """
        if only is None and skip is None:
            return None
        inside = {id(module) for module in model.modules()}
        first, second = (
            None if given is None else _Set(what, given, inside)
            for what, given in (("only", only), ("skip", skip))
        )
        return cls(first, second, walk.every_name(model), target)

    def parameter(self, held: Held) -> bool:
        """Whether the parameter is chosen."""
        chosen = self.only is None or self.only.fits(held, self.names_of(held), self.target)
        if self.skipped(held):
            chosen = False
        self._chosen.setdefault(id(held.node.module), []).append(chosen)
        return chosen

    def skipped(self, held: Held) -> bool:
        return self.skip is not None and self.skip.fits(held, self.names_of(held), self.target)

    def buffer(self, held: Held) -> bool:
        """Whether the buffer is chosen, after all parameters were asked about.

        Where functions choose, it goes with the parameters of its module.
        """
        names, asked = self.names_of(held), self._chosen.get(id(held.node.module), [])
        if self.skip is not None and (
            self.skip.fits(held, names, None) or (self.skip.functions and asked and not any(asked))
        ):
            return False
        return (
            self.only is None or self.only.fits(held, names, None) or bool(self.only.functions and any(asked))
        )

    def check_used(self) -> None:
        """
        Raises:
            ValueError: a pattern, module, type or function that chose nothing.
        """
        for chosen in (self.only, self.skip):
            if chosen is not None:
                chosen.check_used()

    def names_of(self, held: Held) -> list[str]:
        names = self.names.get(id(held.tensor), [held.name])
        # conv.weight is a name of both halves of a normalised weight, and of the vectors of spectral_norm
        part = self.target(held).plain
        plain = part.name if part is not None else parametrized.plain_name(held)
        return names if plain is None else [*names, plain]


class _Set:
    """The selectors of one argument; it remembers which of them chose something."""

    def __init__(self, what: str, given: Any, inside: set[int]) -> None:
        self.what = what
        self.exact: dict[str, str] = {}  # canonical: as it was given
        self.patterns: list[re.Pattern[str]] = []
        self.modules: dict[int, nn.Module] = {}
        self.types: list[type[nn.Module]] = []
        self.functions: list[Callable[[Target], bool]] = []
        self._globs: dict[re.Pattern[str], str] = {}
        self._unused: dict[object, object] = {}  # selector: how an error shows it
        for each in _listed(given):
            self._add(each, inside)

    def _add(self, each: Any, inside: set[int]) -> None:
        if isinstance(each, str):
            patterns.check(each, self.what)
            self._add_name(each)
        elif isinstance(each, re.Pattern):
            patterns.check(each, self.what)
            self.patterns.append(each)
            self._unused[each] = each.pattern
        elif isinstance(each, nn.Module):
            if id(each) not in inside:
                raise ValueError(f"{self.what}: a module {type(each).__name__} that is not part of the model")
            self.modules[id(each)] = each
            self._unused[id(each)] = type(each).__name__
        elif isinstance(each, type) and issubclass(each, nn.Module):
            self.types.append(each)
            self._unused[each] = each.__name__
        elif callable(each) and not isinstance(each, type):
            self.functions.append(each)
            self._unused[each] = getattr(each, "__name__", repr(each))
        else:
            raise TypeError(
                f"{self.what} must be globs, regular expressions, modules, module types or functions of a "
                f"Target, not {each!r}"
            )

    def _add_name(self, text: str) -> None:
        try:
            name = canonical_name(text)
        except ValueError:
            name = text
        if patterns.is_exact(name):
            self.exact[name] = text
            self._unused[name] = text
        else:
            glob = patterns.compiled(name)
            self._globs[glob] = text
            self._unused[glob] = text

    def fits(self, held: Held, names: Sequence[str], target: Callable[[Held], Target] | None) -> bool:
        """Whether any selector does. All are asked, as each has to choose something.

        Args:
            held: a parameter or buffer.
            names: all of its names.
            target: makes what a function is asked about; None leaves functions out.
        """
        used: list[object] = []
        for name in names:
            around = list(_around(name))
            used += [each for each in around if each in self.exact]
            used += [glob for glob in self._globs if any(glob.match(each) for each in around)]
            used += [pattern for pattern in self.patterns if pattern.search(name)]
        if self.modules:
            owners = (*held.node.parents, *(module for module, _ in held.places))
            used += [id(module) for module in owners if id(module) in self.modules]
        if self.types:
            used += [kind for kind in self.types if isinstance(held.node.module, kind)]
        if self.functions and target is not None:
            seen = target(held)
            used += [function for function in self.functions if function(seen)]
        for each in used:
            self._unused.pop(each, None)
        return bool(used)

    def check_used(self) -> None:
        if self._unused:
            shown = ", ".join(repr(each) for each in self._unused.values())
            raise ValueError(f"{self.what} chooses nothing by {shown}: no parameter or buffer fits")


def _listed(given: Any) -> Iterable[Any]:
    if isinstance(given, str | re.Pattern | type) or not isinstance(given, Iterable):
        return (given,)
    return (given,) if isinstance(given, nn.Module) else given  # a ModuleList is iterable


def _around(name: str) -> Iterable[str]:
    """The name, and those of the modules around it."""
    yield name
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
