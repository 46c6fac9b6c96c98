"""Which parameters and buffers a call is about (`only`, `skip`), and the names that make their keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import nn

from convinit_ext.keys import canonical_name
from convinit_ext.model import _named_tensors as walk
from convinit_ext.model._named_tensors import NamedTensor
from convinit_ext.model._parametrize import plain_name
from convinit_ext.recipes import Target, patterns

Selector: TypeAlias = "str | re.Pattern[str] | nn.Module | type[nn.Module] | Callable[[Target], bool]"
Selectors: TypeAlias = "Selector | Iterable[Selector] | None"
Names: TypeAlias = Mapping[str, str] | Callable[[str], str]


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
    target: Callable[[NamedTensor], Target]
    _chosen: dict[int, list[bool]] = field(default_factory=dict)  # of parameters, by their module's id

    @classmethod
    def of(
        cls, model: nn.Module, only: Selectors, skip: Selectors, target: Callable[[NamedTensor], Target]
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

    def parameter(self, held: NamedTensor) -> bool:
        """Whether the parameter is chosen."""
        chosen = self.only is None or self.only.fits(held, self.names_of(held), self.target)
        if self.skipped(held):
            chosen = False
        self._chosen.setdefault(id(held.node.module), []).append(chosen)
        return chosen

    def skipped(self, held: NamedTensor) -> bool:
        return self.skip is not None and self.skip.fits(held, self.names_of(held), self.target)

    def buffer(self, held: NamedTensor) -> bool:
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

    def names_of(self, held: NamedTensor) -> list[str]:
        names = self.names.get(id(held.tensor), [held.name])
        # conv.weight is a name of both halves of a normalised weight, and of the vectors of spectral_norm
        part = self.target(held).plain
        plain = part.name if part is not None else plain_name(held)
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

    def fits(
        self, held: NamedTensor, names: Sequence[str], target: Callable[[NamedTensor], Target] | None
    ) -> bool:
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


def key_names(names: Iterable[str], mapping: Names | None, buffers: Iterable[str] = ()) -> dict[str, str]:
    """The name that makes the key of each of these parameters and buffers.

    Args:
        names: canonical names of parameters.
        buffers: those of buffers; few need a key, so a function may raise LookupError for them.
        mapping: a function of the name; or a dict of names and of prefixes ("layers.0" is one of
            "layers.0.weight", "" of every name; the longest counts), to what stands there instead.

    Raises:
        TypeError: neither, or something in it that is not a string.
        ValueError: two parameters that would get one key, an entry that fits no name.

    >>> key_names(["layers.0.weight", "layers.1.weight", "head.weight"], {"layers.0": "layers.8"})
    {'layers.0.weight': 'layers.8.weight', 'layers.1.weight': 'layers.1.weight', 'head.weight': 'head.weight'}
    """
    names, buffers = list(names), list(buffers)
    if mapping is None:
        return {name: name for name in (*names, *buffers)}
    if isinstance(mapping, Mapping):
        mapped = _by_prefix((*names, *buffers), mapping)
    elif callable(mapping):
        mapped = _by_function(names, buffers, mapping)
    else:
        raise TypeError(f"names must be a dict or a function of a name, not {type(mapping).__name__}")
    return _checked(mapped)


def _by_function(names: list[str], buffers: list[str], function: Callable[[str], str]) -> dict[str, str]:
    mapped: dict[str, str] = {}
    for name in (*names, *buffers):
        try:
            mapped[name] = function(name)
        except LookupError as error:
            if name in buffers:
                continue
            raise ValueError(f"names: the function knows no name for {name!r}: {error!r}") from error
    return mapped | {name: name for name in buffers if name not in mapped}


def _canonical_prefix(prefix: str) -> str:
    try:
        return canonical_name(prefix.removesuffix("."))
    except ValueError:  # nothing but wrappers: every name
        return ""


def _by_prefix(names: Iterable[str], mapping: Mapping[str, str]) -> dict[str, str]:
    prefixes: dict[str, str] = {}
    for prefix, other in mapping.items():
        if not (isinstance(prefix, str) and isinstance(other, str)):
            raise TypeError(f"names must map str to str, and does not: {prefix!r}: {other!r}")
        prefixes[_canonical_prefix(prefix)] = other.removesuffix(".")
    unused, mapped = set(prefixes), {}
    for name in names:
        found = _longest(name, prefixes)
        mapped[name] = name if found is None else _replaced(name, found, prefixes[found])
        unused.discard(name if found is None else found)
    if unused:
        raise ValueError(
            f"names: no parameter is called or begins with {', '.join(map(repr, sorted(unused)))}"
        )
    return mapped


def _longest(name: str, prefixes: Mapping[str, str]) -> str | None:
    prefix = name
    while prefix and prefix not in prefixes:
        prefix = prefix.rpartition(".")[0]
    return prefix if prefix in prefixes else None


def _replaced(name: str, prefix: str, other: str) -> str:
    rest = name.removeprefix(prefix).removeprefix(".")
    return f"{other}.{rest}" if other and rest else other or rest


def _checked(mapped: dict[str, str]) -> dict[str, str]:
    first: dict[str, str] = {}
    for name, other in mapped.items():
        if not isinstance(other, str):
            raise TypeError(f"names: {name!r} becomes {other!r}, which is not a str")
        try:
            mapped[name] = canonical_name(other)
        except ValueError as error:
            raise ValueError(f"names: {name!r} becomes {other!r}: {error}") from error
        earlier = first.setdefault(mapped[name], name)
        if earlier != name:
            raise ValueError(
                f"names: parameters {earlier!r} and {name!r} would both get the key of {mapped[name]!r}, and "
                "so the same values"
            )
    return mapped
