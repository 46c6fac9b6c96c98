"""verify: whether a model, a state dict or a weights file holds what a seed and a recipe say."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from convinit_ext._engine import (
    check_flags,
    check_not_in_fake_mode,
    check_tensor,
    excerpt,
    is_plain,
    lines,
    naming,
    uncompiled,
)
from convinit_ext.checkpoint._safetensors import open_weights
from convinit_ext.checkpoint._verdicts import Subject, Verdict, verdicts_of
from convinit_ext.checkpoint._verification import Problem, Verification, VerifiedRow
from convinit_ext.model import (
    AnyRecipe,
    Frozen,
    Names,
    Options,
    Plan,
    Row,
    Selectors,
    check_range,
    checked_on_all_ranks,
    dtype_name,
    make_plan,
    walk,
)
from convinit_ext.recipes import Fan
from convinit_ext.sharding import (
    gathered,
    is_flat_piece,
    is_sharded,
    local_of,
    logical_shape,
    parts,
    place,
    together,
)


@uncompiled
def verify(
    target: nn.Module | Mapping[str, Tensor] | str | PathLike[str],
    seed: int = 0,
    recipe: AnyRecipe = "torch",
    dtype: torch.dtype | None = None,
    fan: Fan = "true",
    *,
    model: nn.Module | None = None,
    only: Selectors = None,
    skip: Selectors = None,
    names: Names | None = None,
    frozen: Frozen = None,
    like: nn.Module | None = None,
    check_ranks: bool = False,
    progress: bool = False,
) -> Verification:
    """Compare every weight, to the bit, with the value that init_model_ gives it; there is no second copy.

    The values are made anew region by region. A tensor of another dtype than the model's must hold them
    rounded to its own. Of a sharded tensor each process looks at what it holds, and nothing is communicated.
    Buffers are looked at where their start is known, as BatchNorm's statistics; the result names the others.

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
        like: a model whose module types count, likewise.
        frozen: "keep" names frozen parameters among those that are not looked at.
        check_ranks: compare seed, recipe, fan, dtype and names of all processes, and say on each what the
            others found: a tensor that differs there is a problem here. All of them must ask for it.
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
    started, chosen = time.perf_counter(), None

    def options() -> Options:
        return Options(recipe, dtype, fan, only, skip, names, frozen=frozen, like=like, reading=True)

    def look() -> tuple[Plan, list[VerifiedRow], list[Problem], tuple[str, ...]]:
        whose = _model_of(target, model)
        plan = make_plan(whose, seed, chosen or options())
        weights = None
        if isinstance(target, str | PathLike):
            check_not_in_fake_mode("verify values")
            weights = open_weights(target)
            weights.check_contract()
        found = _subjects(plan, whose, weights.tensors if weights else target, everything=only is None)
        try:
            subjects, problems = _checked(*found, dtype)
        except (RuntimeError, ValueError) as error:
            if weights is None:
                raise
            raise type(error)(f"{target}: {error}") from error
        check_not_in_fake_mode("verify values")
        with torch.no_grad():
            before_reading = weights.check_sizes if weights else lambda: None
            verdicts = verdicts_of(plan.seed, subjects, before_reading, progress)
        rows = [_verified(subject, verdict) for subject, verdict in zip(subjects, verdicts, strict=True)]
        return plan, rows, problems, tuple(row.name for row in plan.all_rows if row.values is None)

    check_flags(check_ranks=check_ranks)
    if check_ranks:
        chosen = checked_on_all_ranks(seed, options)
        plan, rows, problems, unchecked = together(look)
        problems = [*problems, *_problems_elsewhere(rows, problems)]
    else:
        plan, rows, problems, unchecked = look()
    seconds = time.perf_counter() - started
    num_ranks = place()[1] if check_ranks else 1
    return Verification(tuple(rows), tuple(problems), unchecked, seconds, plan.seed, plan.recipe, num_ranks)


def _problems_elsewhere(rows: Iterable[VerifiedRow], problems: Iterable[Problem]) -> Iterator[Problem]:
    """Yield what the other processes found."""
    own = [Problem(row.name, "values", row.verdict) for row in rows if not row.equal]
    found = gathered([*own, *problems])
    for rank, theirs in enumerate(found):
        if rank != place()[0]:
            yield from (each._replace(text=f"rank {rank}: {each.text}") for each in theirs)


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


def _subjects(
    plan: Plan, model: nn.Module, target: object, everything: bool
) -> tuple[list[Subject], list[Problem]]:
    """Return the tensors to look at: the model's own, or given ones by every name that a parameter has."""
    rows = [row for row in plan.all_rows if row.values is not None]
    if target is model:
        return [Subject(row.name, row, row.tensor) for row in rows], []
    assert isinstance(target, Mapping)
    tensors = _by_canonical_name(target)
    names = _names(model, rows, tensors)
    subjects, problems = [], []
    for row in rows:
        known = [row.name, *(name for held in row.held for name in names[id(held.tensor)])]
        there = [name for name in dict.fromkeys(known) if name in tensors]
        distinct = walk.Distinct(detached=True)
        subjects += [
            Subject(name, row, tensors[name])
            for name in there
            if not walk.has_memory(tensors[name]) or distinct.is_new(tensors[name])
        ]
        if not there and (not row.is_buffer or row.held[0].persistent):
            problems.append(Problem(row.name, "missing", "the model has it, and it is not there"))
    if everything:
        known_names = {name for each in names.values() for name in each}
        unexpected = (name for name in tensors if name not in known_names)
        text = "it is there, and the model has no such tensor"
        problems += [Problem(name, "unexpected", text) for name in unexpected]
    return subjects, problems


def _names(model: nn.Module, rows: Iterable[Row], given: Iterable[str]) -> dict[int, list[str]]:
    """Return every name of the model's tensors by their ids, the state dict's too if a hook has others.

    A parameter has those of a buffer that is its memory as well.
    """
    names = walk.every_name(model)
    views = {walk.view(row.tensor): id(row.tensor) for row in rows if not row.is_buffer}
    for buffer in model.buffers():
        names.get(views.get(walk.view(buffer), 0), []).extend(names[id(buffer)])
    has_others = not {name for each in names.values() for name in each}.issuperset(given)
    if has_others and not any(is_flat_piece(row.tensor) for row in rows):  # which a state dict gathers
        for key, tensor in walk.with_state(model).state_dict(keep_vars=True).items():
            names.setdefault(id(tensor), []).append(walk.canonical(key))
    return names


def _by_canonical_name(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, found in given.items():
        if not isinstance(name, str):
            raise TypeError(f"the names of a state dict are strings, and {name!r} is not")
        if walk.is_extra_state(name):
            continue
        if not isinstance(found, Tensor):
            raise TypeError(f"{name!r} is a {type(found).__name__}, and not a tensor as a state dict has it")
        canonical = walk.canonical(name)
        if canonical in tensors:
            raise ValueError(f"two tensors are named {canonical!r} once wrappers are removed")
        tensors[canonical] = found
    return tensors


def _checked(
    subjects: list[Subject], problems: list[Problem], dtype: torch.dtype | None
) -> tuple[list[Subject], list[Problem]]:
    """Return those whose values can be compared; the others become problems or errors."""
    lost = [
        subject.name
        for subject in subjects
        if not _is_plain(subject)
        and (subject.tensor.is_meta or isinstance(local_of(subject.tensor), FakeTensor))
    ]
    if lost:
        raise ValueError(
            f"{len(lost)} tensor{'s' * (len(lost) > 1)} on the meta device, or fake, have no values "
            "to verify:"
            + lines(lost)
            + "\nA model on the meta device goes with a file or a state dict: verify(path, model=model)"
        )
    sound = []
    for subject in subjects:
        if dtype is not None or not _is_plain(subject):
            problem = _problem(subject, dtype)
            if problem is not None:
                problems.append(problem)
                continue
            _check(subject)
        sound.append(subject)
    return sound, problems


def _is_plain(subject: Subject) -> bool:
    """Whether it is the model's own tensor, of which planning has found that it can be read where it is."""
    return subject.row.held[0].is_plain and subject.tensor is subject.row.held[0].tensor


def _problem(subject: Subject, dtype: torch.dtype | None) -> Problem | None:
    name, row, tensor = subject
    shape, own = logical_shape(tensor), logical_shape(row.tensor)
    if shape != own:
        text = f"its shape is {excerpt(list(shape))}, and the model's {list(own)}"
        return Problem(name, "shape", text)
    if dtype is not None and tensor.dtype != row.dtype:
        return Problem(name, "dtype", f"it is {tensor.dtype}, and not {row.dtype}")
    return None


def _check(subject: Subject) -> None:
    """Check that the engine can read it, and make its values in its dtype."""
    name, row, tensor = subject
    if not is_plain(tensor):
        is_drawn = not row.is_buffer or tensor.is_complex()  # other buffers may be of any dtype
        with naming(f"tensor {name!r}"):
            if is_sharded(tensor):
                parts(tensor)  # raises where nobody knows them
            check_tensor(local_of(tensor), "verify" if is_drawn else "digest")
    distribution = row.distribution
    if not row.is_buffer and distribution is not None and tensor.dtype != row.tensor.dtype:
        check_range(distribution, tensor.dtype, f"parameter {name!r}")


def _verified(subject: Subject, verdict: Verdict) -> VerifiedRow:
    name, row, tensor = subject
    shape, num_elements = tuple(logical_shape(tensor)), local_of(tensor).numel()
    if row.rows is not None:
        num_elements = sum(part.tensor.numel() for part in row.regions(tensor))
    return VerifiedRow(
        name,
        shape,
        dtype_name(tensor.dtype),
        row.initialiser,
        num_elements,
        verdict.num_different,
        None if verdict.first is None else tuple(map(int, np.unravel_index(verdict.first, shape))),
        verdict.actual,
        verdict.expected,
    )
