"""verify: whether a model, a state dict or a weights file holds what a seed and a recipe say."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from os import PathLike

import torch
from torch import Tensor, nn

from convinit_ext._engine import check_not_in_fake_mode, row_major, uncompiled
from convinit_ext.checkpoint import _subjects as subjects
from convinit_ext.checkpoint import _verdicts as verdicts
from convinit_ext.checkpoint import _weights_file as weights_file
from convinit_ext.checkpoint._expected import Expected
from convinit_ext.checkpoint._subjects import Subject
from convinit_ext.checkpoint._verdicts import Verdict
from convinit_ext.checkpoint._verification import (
    Problem,
    Share,
    Verification,
    VerifiedRow,
    merged,
    shapes_that_differ,
)
from convinit_ext.model import BufferRow, Names, Piece, Plan, Row, Selectors, make_plan
from convinit_ext.recipes import Fan, Recipe, Rule, initialiser_text
from convinit_ext.sharding import boxes, ranks

_PROGRESS_STEPS = 64  # the bar moves at most so often: each step is a call into the engine of its own


@uncompiled
def verify(
    target: nn.Module | Mapping[str, Tensor] | str | PathLike[str],
    seed: int = 0,
    recipe: str | PathLike[str] | Recipe | Sequence[Rule] = "torch",
    dtype: torch.dtype | None = None,
    fan: Fan = "true",
    *,
    model: nn.Module | None = None,
    only: Selectors = None,
    skip: Selectors = None,
    names: Names | None = None,
    check_ranks: bool = False,
    progress: bool = False,
) -> Verification:
    """Compare every weight, to the bit, with the value that init_model_ gives it; there is no second copy.

    The values are made anew block by block. A tensor of another dtype than the model's must hold them rounded
    to its own. Of a sharded tensor each process looks at what it holds, and nothing is communicated. Buffers
    are looked at where their start is known, as BatchNorm's statistics; the result names the others.

    Args:
        target: a model; or, with `model`, a state dict, the path of a .safetensors file, of the index of
            several, or of a folder that holds either.
        seed: as it was given to init_model_; so are recipe, fan and names.
        recipe: likewise.
        dtype: what all floating-point tensors must have; None takes each as it is.
        fan: likewise.
        model: whose names and module types count where target is no model; it may be on the meta device.
        only: what to look at, as for init_model_.
        skip: what to leave out, likewise.
        names: the names that make the keys, likewise.
        check_ranks: put together what all processes found, and compare their seeds; all of them must ask for
            it. Of a replica only the worst counts; tensors of one name and several shapes are a problem.
        progress: show a tqdm bar that counts bytes.

    Returns:
        A Verification, which is true if all is equal: a row for each tensor with the number of elements that
        differ and the first of them, and what is missing, unexpected, or of another shape.

    Raises:
        ValueError: a tensor on the meta device; arguments, recipes and models that init_model_ refuses. As
            WeightsError, a file that is not what it should be, or of another contract version.
        UnsupportedTensorError: a tensor of a dtype, layout or device that has no values of ours.
        TypeError: an argument of another type; a state dict or a path without `model`.
        RuntimeError: (check_ranks) another process could not do its part.

    >>> from convinit_ext import init_model_
    >>> model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    >>> report = init_model_(model, seed=7, recipe="he")
    >>> bool(verify(model, seed=7, recipe="he"))
    True
    >>> model[1].weight.data[1, 3] += 1
    >>> found = verify(model, seed=7, recipe="he")
    >>> found.different, found.rows[2].num_different, found.rows[2].first_index
    (('1.weight',), 1, (1, 3))
    """
    started = time.perf_counter()
    question = _Question(model, seed, recipe, dtype, fan, names)
    if check_ranks:
        ranks.check_same_seed(seed)
        looks = ranks.gathered(ranks.together(lambda: _look(target, question, only, skip, progress)))
    else:
        looks = [_look(target, question, only, skip, progress)]
    shares = [look.shares for look in looks]
    return Verification(
        merged(shares),
        tuple(dict.fromkeys(chain(shapes_that_differ(shares), *(look.problems for look in looks)))),
        tuple(dict.fromkeys(name for look in looks for name in look.unchecked)),
        time.perf_counter() - started,
        looks[0].seed,
        looks[0].recipe,
        len(looks),
    )


@dataclass(frozen=True, slots=True)
class _Question:
    """What the caller asked for, but for the selection."""

    model: nn.Module | None
    seed: int
    recipe: str | PathLike[str] | Recipe | Sequence[Rule]
    dtype: torch.dtype | None
    fan: Fan
    names: Names | None

    def plan(self, model: nn.Module, only: Selectors, skip: Selectors) -> Plan:
        return make_plan(
            model,
            self.seed,
            self.recipe,
            None,
            self.dtype,
            self.fan,
            only,
            skip,
            self.names,
            reading=True,
        )

    def row_of(self, model: nn.Module, name: str) -> Row:
        """Of a parameter that is not looked at itself."""
        (row,) = self.plan(model, re.compile(rf"\A{re.escape(name)}\Z"), None).rows
        return row


@dataclass(frozen=True, slots=True)
class _Look:
    """What one process found."""

    shares: list[Share]
    problems: list[Problem]
    unchecked: tuple[str, ...]
    seed: int
    recipe: str


def _look(
    target: nn.Module | Mapping[str, Tensor] | str | PathLike[str],
    question: _Question,
    only: Selectors,
    skip: Selectors,
    progress: bool,
) -> _Look:
    model = _model_of(target, question.model)
    tensors = None if isinstance(target, nn.Module) else _tensors_of(target)
    plan = question.plan(model, only, skip)
    if tensors is None:
        found = subjects.of_model(plan, question.dtype)
    else:
        found = subjects.of_tensors(plan, model, tensors, question.dtype, everything=only is None)
    check_not_in_fake_mode("verify values")
    rows = {row.name: row for row in plan.rows}
    expected = Expected(
        plan.seed,
        lambda name: rows[name] if name in rows else question.row_of(model, name),
        {subject.row.name: subject.dtype for subject in found.subjects if isinstance(subject.row, Row)},
    )
    with torch.no_grad():
        found_values = _verdicts(plan.seed, found.subjects, expected, progress)
    shares = [_share(*each) for each in zip(found.subjects, found_values, strict=True)]
    return _Look(shares, found.problems, found.unchecked, plan.seed, plan.recipe)


def _model_of(target: object, model: nn.Module | None) -> nn.Module:
    if isinstance(target, nn.Module):
        if model is not None:
            raise TypeError("target is a model itself: pass no model= with it")
        return target
    if not isinstance(target, Mapping | str | PathLike):
        raise TypeError(f"target must be a model, a state dict or a path, not {type(target).__name__}")
    if not isinstance(model, nn.Module):
        raise TypeError(
            "a state dict or a path says no module types: pass model=, which may be on the meta device"
        )
    return model


def _tensors_of(target: Mapping[str, Tensor] | str | PathLike[str]) -> Mapping[str, subjects.Found]:
    if isinstance(target, Mapping):
        return target
    weights = weights_file.open_weights(target)
    weights_file.check_contract(weights)
    return weights.tensors


def _verdicts(seed: int, looked_at: Sequence[Subject], expected: Expected, progress: bool) -> list[Verdict]:
    """In the order of the subjects."""
    found: dict[int, Verdict] = {}
    drawn = [(subject, pieces) for subject in looked_at if (pieces := subject.pieces()) is not None]
    total = sum(subject.num_bytes for subject in looked_at)
    with _bar(total if progress else None) as advance:
        for group, num_bytes in _groups(drawn, total // _PROGRESS_STEPS if progress else total):
            by_key = [(subject.row.key, pieces) for subject, pieces in group]
            whose = (id(subject) for subject, _ in group)
            found |= zip(whose, verdicts.of_pieces(seed, by_key), strict=True)
            advance(num_bytes)
        for subject in looked_at:
            if id(subject) not in found:
                found[id(subject)] = verdicts.of_other(seed, subject, expected)
                advance(subject.num_bytes)
    return [found[id(subject)] for subject in looked_at]


@contextmanager
def _bar(total: int | None) -> Iterator[Callable[[int], object]]:
    """What moves a bar by so many bytes; there is none without a total."""
    if total is None:
        yield lambda num_bytes: None
        return
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    with tqdm(total=total, unit="B", unit_scale=True, desc="verify") as bar:
        yield bar.update


_Drawn = tuple[Subject, Iterable[Piece]]


def _groups(drawn: Sequence[_Drawn], step: int) -> Iterator[tuple[list[_Drawn], int]]:
    """Neighbours of `step` bytes or more together, and how many they are."""
    group: list[_Drawn] = []
    num_bytes = 0
    for each in drawn:
        group.append(each)
        num_bytes += each[0].num_bytes
        if num_bytes >= step:
            yield group, num_bytes
            group, num_bytes = [], 0
    if group:
        yield group, num_bytes


def _share(subject: Subject, verdict: Verdict) -> Share:
    found, shape, part = subject.found, tuple(subject.found.shape), None
    if isinstance(found, Tensor) and boxes.is_dtensor(found):
        part = tuple(each.ranges for each in boxes.parts(found))
    row = VerifiedRow(
        subject.name,
        shape,
        _dtype_text(subject.dtype),
        _initialiser(subject.row),
        subject.num_elements,
        verdict.num_different,
        None if verdict.first is None else _unravelled(verdict.first, shape),
        verdict.actual,
        verdict.expected,
    )
    return Share(row, part)


@lru_cache(maxsize=64)
def _dtype_text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _initialiser(row: Row | BufferRow) -> str:
    if isinstance(row, Row):
        return row.initialiser
    return "preset" if isinstance(row.start, Tensor) else initialiser_text(row.start)


def _unravelled(index: int, shape: Sequence[int]) -> tuple[int, ...]:
    places = []
    for step in row_major(shape):
        at, index = divmod(index, step)
        places.append(at)
    return tuple(places)
