"""Which parameters and buffers a call is about (`only`, `skip`), and the names that make their keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from convinit_ext._engine import excerpt, listed
from convinit_ext.keys import canonical_name
from convinit_ext.model import _named_tensors as walk
from convinit_ext.model._named_tensors import NamedModule, NamedTensor
from convinit_ext.model._parametrize import owners, plain_name
from convinit_ext.model._rows import WHOLE, Rows, checked_rows
from convinit_ext.recipes import is_function, named, patterns

Selector: TypeAlias = "str | re.Pattern[str] | nn.Module | type[nn.Module]"
Selectors: TypeAlias = "Selector | Iterable[Selector] | Mapping[Selector, slice | Iterable[int]] | None"
Names: TypeAlias = Mapping[str, str] | Callable[[str], str]


class SelectionError(ValueError):
    """Something in only= or skip= that chooses nothing."""


class Selection:
    """What `only` and `skip` say of one model.

    A str is a name of a parameter, a buffer or a module, all that is inside of which it then means, or a glob
    on such names. A regular expression is searched for in the names of parameters and buffers. A module
    stands for all that is inside, a type for all that its modules own. `only` may map each to rows of the
    parameters that it chooses.

    Raises:
        TypeError: something that chooses nothing: a number, a tensor; rows that are none, or of `skip`.
        ValueError: a bad pattern, a module that is not part of the model.
    """

    def __init__(self, model: nn.Module, only: Selectors, skip: Selectors) -> None:
        self._only = self._skip = None
        self.chooses_all = only is None and skip is None
        self.has_rows = isinstance(only, Mapping)
        if isinstance(skip, Mapping):
            raise TypeError("skip= takes no rows, only= does: {name: slice(start, stop)}")
        if self.chooses_all:
            return
        nodes = walk.every_node(model)
        inside = {id(module) for module in model.modules()}
        self._names = walk.every_name(model)
        named = {each for names in self._names.values() for name in names for each in _around(name)}
        self._only = None if only is None else _Set("only", only, inside, nodes, named)
        self._skip = None if skip is None else _Set("skip", skip, inside, nodes, named)

    def chosen(self, held: NamedTensor, is_parameter: bool = True) -> bool:
        """Whether the parameter or buffer is chosen. Both arguments are asked: each must choose something."""
        if self.chooses_all:
            return True
        is_chosen = self._only is None or self._only.fits(held, self._names_of(held), is_parameter)
        return not self.skipped(held) and is_chosen

    def rows_of(self, held: NamedTensor) -> list[Rows]:
        """Return the rows by which a parameter is chosen."""
        return [] if self._only is None else self._only.rows_of(held, self._names_of(held))

    def skipped(self, held: NamedTensor) -> bool:
        return self._skip is not None and self._skip.fits(held, self._names_of(held))

    def check_used(self) -> None:
        """Raise ValueError for a pattern, module or type that chose nothing."""
        for chosen in (self._only, self._skip):
            if chosen is not None:
                chosen.check_used()

    def _names_of(self, held: NamedTensor) -> list[str]:
        """Return every name; conv.weight is one of both halves of a normalised weight, and of its vectors."""
        names, plain = self._names.get(id(held.tensor), [held.name]), plain_name(held)
        return names if plain is None else [*names, plain]


class _Set:
    """The selectors of one argument; it remembers which of them chose something."""

    def __init__(
        self,
        what: str,
        given: Any,
        inside: set[int],
        nodes: Mapping[int, Sequence[NamedModule]],
        names: set[str],
    ) -> None:
        self._what, self._nodes, self._names = what, nodes, names
        self._exact: set[str] = set()
        self._patterns: list[tuple[re.Pattern[str], bool]] = []  # and whether it is a glob
        self._modules: set[int] = set()
        self._types: list[type[nn.Module]] = []
        self._unused: dict[object, object] = {}  # selector: how an error shows it
        self._rows: dict[object, list[Rows]] = {}
        for each in _listed(given):
            added = self._added(each, inside)
            self._unused[added] = each if isinstance(each, str) else _shown(each)
            if isinstance(given, Mapping):
                rows = checked_rows(given[each], f"{what}[{self._unused[added]!r}]")
                self._rows.setdefault(added, []).append(rows)  # two names may be one without wrappers

    def _added(self, each: Any, inside: set[int]) -> object:
        if isinstance(each, str | re.Pattern):
            name = walk.canonical(each) if isinstance(each, str) else None
            if name not in self._names:
                patterns.check(each, self._what)
            if name is not None and (name in self._names or patterns.is_exact(name)):
                self._exact.add(name)
                return name
            is_glob = isinstance(each, str)
            pattern = patterns.compiled(walk.canonical(each)) if isinstance(each, str) else each
            self._patterns.append((pattern, is_glob))
            return pattern
        if isinstance(each, nn.Module):
            if id(each) not in inside:
                raise ValueError(
                    f"{self._what}: a module {type(each).__name__} that is not part of the model"
                )
            self._modules.add(id(each))
            return id(each)
        if isinstance(each, type) and issubclass(each, nn.Module):
            self._types.append(each)
            return each
        raise TypeError(
            f"{self._what} must be globs, regular expressions, modules or module types, not {excerpt(each)}"
        )

    def fits(self, held: NamedTensor, names: Sequence[str], is_parameter: bool = True) -> bool:
        """Whether any selector does: all are asked, as each has to choose something. A buffer has no rows."""
        used = self._fitting(held, names)
        if not is_parameter:
            used = [each for each in used if WHOLE in self._rows.get(each, (WHOLE,))]
        for each in used:
            self._unused.pop(each, None)
        return bool(used)

    def rows_of(self, held: NamedTensor, names: Sequence[str]) -> list[Rows]:
        return [rows for each in self._fitting(held, names) for rows in self._rows[each]]

    def _fitting(self, held: NamedTensor, names: Sequence[str]) -> list[object]:
        used: list[object] = []
        for name in names:
            around = list(_around(name))
            used += [each for each in around if each in self._exact]
            for pattern, is_glob in self._patterns:
                if any(map(pattern.match, around)) if is_glob else pattern.search(name):
                    used.append(pattern)
        nodes = [held.node, *self._nodes.get(id(held.tensor), ())] if self._modules or self._types else ()
        holders = {id(module) for node in nodes for module in (*node.parents, node.module)}
        types = {type(module) for node in nodes for module in owners(node)}
        used += self._modules & holders
        return used + [kind for kind in self._types if any(issubclass(each, kind) for each in types)]

    def check_used(self) -> None:
        if self._unused:
            shown = listed(map(repr, self._unused.values()))
            raise SelectionError(f"{self._what} chooses nothing by {shown}: no parameter or buffer fits")


def _shown(each: Any) -> object:
    if isinstance(each, re.Pattern):
        return each.pattern
    return each.__name__ if isinstance(each, type) else type(each).__name__


def _listed(given: Any) -> Iterable[Any]:
    if isinstance(given, str | re.Pattern | type | Tensor) or not isinstance(given, Iterable):
        return (given,)
    return (given,) if isinstance(given, nn.Module) else given  # a ModuleList is iterable


def _around(name: str) -> Iterable[str]:
    """Yield the name, and those of the modules around it."""
    yield name
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def key_names(names: Iterable[str], mapping: Names | None, buffers: Iterable[str] = ()) -> dict[str, str]:
    """Return the name that makes the key of each of these parameters and buffers, by canonical name.

    Few buffers need a key, so a function may raise LookupError for them. A dict has names and prefixes
    ("layers.0" is one of "layers.0.weight", "" of every name; the longest counts), and what stands there
    instead.

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
    elif is_function(mapping):
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
        except Exception as error:  # the user's
            raise named(error, f"names: the function, called with {name!r}") from error
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
        found = next((each for each in (*_around(name), "") if each in prefixes), None)
        mapped[name] = name if found is None else _replaced(name, found, prefixes[found])
        unused.discard(name if found is None else found)
    if unused:
        raise ValueError(f"names: no parameter is called or begins with {listed(map(repr, sorted(unused)))}")
    return mapped


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
