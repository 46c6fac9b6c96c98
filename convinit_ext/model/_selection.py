"""Which parameters and buffers a call is about (`only`, `skip`), and which rows of a parameter: a vocabulary
that grew, dead units, new experts.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from convinit_ext._engine import excerpt, listed
from convinit_ext.model import _named_tensors as walk
from convinit_ext.model._named_tensors import NamedModule, NamedTensor
from convinit_ext.model._parametrize import owners, plain_name
from convinit_ext.model._plan import Row
from convinit_ext.recipes import patterns
from convinit_ext.sharding import Runs, logical_shape

Selector: TypeAlias = "str | re.Pattern[str] | nn.Module | type[nn.Module]"
Selectors: TypeAlias = "Selector | Iterable[Selector] | Mapping[Selector, slice | Iterable[int]] | None"
Rows: TypeAlias = slice | list[int]  # of dimension 0
_WHOLE = slice(None)


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
        places = walk.every_place(model).items()
        nodes = {key: [node for node, _ in found] for key, found in places}
        inside = {id(module) for module in model.modules()}
        self._names = walk.every_name(model)
        named = {each for names in self._names.values() for name in names for each in lineage(name)}
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
                rows = _checked_rows(given[each], f"{what}[{self._unused[added]!r}]")
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
            used = [each for each in used if _WHOLE in self._rows.get(each, (_WHOLE,))]
        for each in used:
            self._unused.pop(each, None)
        return bool(used)

    def rows_of(self, held: NamedTensor, names: Sequence[str]) -> list[Rows]:
        return [rows for each in self._fitting(held, names) for rows in self._rows[each]]

    def _fitting(self, held: NamedTensor, names: Sequence[str]) -> list[object]:
        used: list[object] = []
        for name in names:
            around = list(lineage(name))
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


def lineage(name: str) -> Iterable[str]:
    """Yield the name, and those of the modules around it."""
    yield name
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _checked_rows(given: Any, what: str) -> Rows:
    """Return the rows that a caller gives, a slice or their numbers; TypeError for anything else."""
    try:
        if isinstance(given, slice):
            range(0)[given]
            return given
        if isinstance(given, Iterable) and not isinstance(given, str):
            return [_number(each) for each in (given.tolist() if isinstance(given, Tensor) else given)]
    except (TypeError, ValueError):  # the latter of a step of zero
        pass
    raise TypeError(f"{what}: rows are a slice or their numbers, such as slice(32000, None), not {given!r}")


def _number(given: Any) -> int:
    if isinstance(given, bool):  # of a mask
        raise TypeError
    return operator.index(given)


def _runs_of(rows: Sequence[Rows], size: int) -> Runs:
    """Return which of so many rows these are, in order; together, where there are several of them.

    IndexError has a number that none of the rows has.

    >>> _runs_of([slice(6, None)], 8), _runs_of([[5, 1, -2], slice(0, 1)], 8)
    ((range(6, 8),), (range(0, 2), range(5, 7)))
    """
    all_of_them = range(size)
    if len(rows) == 1 and isinstance(rows[0], slice) and rows[0].step in (None, 1):
        return (all_of_them[rows[0]],)
    chosen: set[int] = set()
    for each in rows:
        for number in all_of_them[each] if isinstance(each, slice) else each:
            if not -size <= number < size:
                raise IndexError(number)
            chosen.add(number % size)
    runs: list[range] = []
    for row in sorted(chosen):
        if runs and runs[-1].stop == row:
            runs[-1] = range(runs[-1].start, row + 1)
        else:
            runs.append(range(row, row + 1))
    return tuple(runs)


def limit(row: Row, rows: Sequence[Rows], reading: bool) -> None:
    """Let a parameter's values be for some of its rows alone; none, or all among them, are all.

    ValueError says that it has no rows, not these, or no values for the others.
    """
    if not rows or _WHOLE in rows or row.values is None:
        return
    shape = logical_shape(row.tensor)
    about = f"only: parameter {row.name!r} of shape {list(shape)}"
    if not shape:
        raise ValueError(f"{about} has no rows; choose it whole")
    try:
        runs = _runs_of(rows, shape[0])
    except IndexError as error:
        raise ValueError(f"{about} has no row {error}") from error
    if not any(runs):
        raise ValueError(f"{about} has none of these rows: {listed(map(excerpt, rows))}")
    if row.tensor.is_meta and not reading:
        raise ValueError(f"{about} is on the meta device: its other rows have no values; choose it whole")
    if runs != (range(shape[0]),):
        row.rows = runs
        row.initialiser += f", {_text(runs)}"


def _text(runs: Runs) -> str:
    number, first, last = sum(map(len, runs)), runs[0].start, runs[-1].stop - 1
    if number == 1:
        return f"row {first} alone"
    return f"rows {first} to {last} alone" if len(runs) == 1 else f"{number} rows of {first} to {last} alone"
