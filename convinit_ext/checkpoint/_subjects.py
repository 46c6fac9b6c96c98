"""What a verification looks at: each row of a plan, and the tensor that should hold its values; and what is
amiss before any value is looked at.

The tensors are the model's own, or those of a state dict or a weights file by their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from convinit_ext._engine import UnsupportedTensorError, check_dtype, check_readable, is_surely_writable, ops
from convinit_ext.checkpoint._verification import Problem
from convinit_ext.checkpoint._weights_file import StoredTensor
from convinit_ext.model import BufferRow, Piece, Plan, Row, check_range, walk
from convinit_ext.recipes import is_distribution
from convinit_ext.sharding import boxes

Found: TypeAlias = Tensor | StoredTensor


@dataclass(slots=True, eq=False)
class Subject:
    """A row of the plan, and a tensor that should hold its values.

    Args:
        name: canonical name of the tensor; not the row's where a tied parameter is there under another.
        row: what the values should be.
        found: the tensor.

    Attributes:
        num_elements: those that this process holds.
    """

    name: str
    row: Row | BufferRow
    found: Found
    num_elements: int = field(init=False)

    def __post_init__(self) -> None:
        found = self.found
        self.num_elements = boxes.local_of(found).numel() if isinstance(found, Tensor) else found.num_elements

    @property
    def dtype(self) -> torch.dtype:
        return self.found.dtype

    @property
    def num_bytes(self) -> int:
        return self.num_elements * self.dtype.itemsize

    def pieces(self) -> Iterable[Piece] | None:
        """What the engine compares by itself; None where the tensor is in a file, or its values are made."""
        row, found = self.row, self.found
        if not isinstance(found, Tensor):
            return None
        if isinstance(row, Row):
            return row.pieces(found) if row.derived is None else None
        if (
            not is_distribution(row.start)
            or found.dtype not in ops.SUPPORTED_DTYPES
            or boxes.is_dtensor(found)
        ):
            return None
        return (Piece(found, row.start, None),)


class Subjects(NamedTuple):
    """All of them, the problems, and the names of buffers whose start nobody knows."""

    subjects: list[Subject]
    problems: list[Problem]
    unchecked: tuple[str, ...]


def of_model(plan: Plan, dtype: torch.dtype | None) -> Subjects:
    """The model's own tensors.

    Raises:
        ValueError: tensors on the meta device, all of them named.
        UnsupportedTensorError, RuntimeError: one that cannot be read.
    """
    rows = _known(plan)
    held = [(_name(row), row, row.tensor if isinstance(row, Row) else row.held.tensor) for row in rows]
    return _checked([Subject(*each) for each in held], [], _unchecked(plan), dtype)


def of_tensors(
    plan: Plan, model: nn.Module, given: Mapping[str, Found], dtype: torch.dtype | None, everything: bool
) -> Subjects:
    """The tensors of a state dict or of a file, which is looked at under every name that a parameter has.

    Args:
        plan: of the model.
        model: whose names count.
        given: tensors by name.
        dtype: what floating-point tensors must have, if anybody says.
        everything: whether tensors that the model has not are a problem.

    Raises:
        TypeError: something that is no tensor.
        ValueError: two tensors of one canonical name; tensors on the meta device.
        UnsupportedTensorError, RuntimeError: one that cannot be read.
    """
    tensors = _by_canonical_name(given)
    names = walk.every_name(model)
    subjects, problems = [], []
    for row in _known(plan):
        there = [name for name in _names(row, names) if name in tensors]
        subjects += [Subject(name, row, tensors[name]) for name in _distinct(there, tensors)]
        if not there and _is_saved(row):
            problems.append(Problem(_name(row), "missing", "the model has it, and it is not there"))
    if everything:
        known = {name for each in names.values() for name in each}
        problems += [
            Problem(name, "unexpected", "it is there, and the model has no such tensor")
            for name in tensors
            if name not in known
        ]
    return _checked(subjects, problems, _unchecked(plan), dtype)


def _known(plan: Plan) -> Iterator[Row | BufferRow]:
    yield from plan.rows
    yield from (row for row in plan.buffers if row.start is not None)


def _unchecked(plan: Plan) -> tuple[str, ...]:
    return tuple(_name(row) for row in plan.buffers if row.start is None)


def _name(row: Row | BufferRow) -> str:
    return row.name if isinstance(row, Row) else walk.canonical(row.held.name)


def _names(row: Row | BufferRow, names: Mapping[int, list[str]]) -> list[str]:
    """Every name of a parameter and of those tied to it; the row's own first."""
    held = row.held if isinstance(row, Row) else (row.held,)
    return list(dict.fromkeys([_name(row), *(name for each in held for name in names[id(each.tensor)])]))


def _is_saved(row: Row | BufferRow) -> bool:
    """Whether state_dict() has it."""
    if isinstance(row, Row):
        return True
    return any(leaf not in module._non_persistent_buffers_set for module, leaf in row.held.places)


def _by_canonical_name(given: Mapping[str, Found]) -> dict[str, Found]:
    tensors: dict[str, Found] = {}
    for name, found in given.items():
        if not isinstance(name, str):
            raise TypeError(f"the names of a state dict are strings, and {name!r} is not")
        if walk.is_extra_state(name):
            continue
        if not isinstance(found, Tensor | StoredTensor):
            raise TypeError(f"{name!r} is a {type(found).__name__}, and not a tensor as a state dict has it")
        canonical = walk.canonical(name)
        if canonical in tensors:
            raise ValueError(f"two tensors are named {canonical!r} once wrappers are removed")
        tensors[canonical] = found
    return tensors


def _distinct(names: list[str], tensors: Mapping[str, Found]) -> Iterator[str]:
    """Without names for the memory that an earlier one has."""
    seen = set()
    for name in names:
        found = tensors[name]
        if isinstance(found, Tensor) and walk.has_memory(found):
            view = walk.view(found)
            if view in seen:
                continue
            seen.add(view)
        yield name


def _checked(
    subjects: list[Subject], problems: list[Problem], unchecked: tuple[str, ...], dtype: torch.dtype | None
) -> Subjects:
    """Those whose values can be compared; the others become problems or errors."""
    _check_have_values(subjects)
    sound = []
    for subject in subjects:
        problem = _problem(subject, dtype)
        if problem is not None:
            problems.append(problem)
            continue
        try:
            _check(subject)
        except (UnsupportedTensorError, RuntimeError) as error:
            raise type(error)(f"tensor {subject.name!r}: {error}") from error
        sound.append(subject)
    return Subjects(sound, problems, unchecked)


def _check_have_values(subjects: list[Subject]) -> None:
    lost = [
        subject.name
        for subject in subjects
        if isinstance(subject.found, Tensor)
        and (subject.found.is_meta or isinstance(boxes.local_of(subject.found), FakeTensor))
    ]
    if lost:
        raise ValueError(
            f"{len(lost)} tensor{'s' * (len(lost) > 1)} on the meta device, or fake, have no values "
            "to verify:\n  "
            + "\n  ".join(lost)
            + "\nA model on the meta device goes with a file or a state dict: verify(path, model=model)"
        )


def _problem(subject: Subject, dtype: torch.dtype | None) -> Problem | None:
    row, shape = subject.row, subject.found.shape
    wanted = row.tensor.shape if isinstance(row, Row) else row.held.tensor.shape
    if shape != wanted:
        text = f"its shape is {list(shape)}, and the model's {list(wanted)}"
        return Problem(subject.name, "shape", text)
    if dtype is not None and subject.dtype != row.dtype:
        return Problem(subject.name, "dtype", f"it is {subject.dtype}, and not {row.dtype}")
    return None


def _check(subject: Subject) -> None:
    """That the engine can read it, and make its values in its dtype."""
    row, found = subject.row, subject.found
    drawn = isinstance(row, Row) or found.dtype.is_complex  # other buffers may be of any dtype
    if not isinstance(found, Tensor):
        if drawn:
            check_dtype(found.dtype, "verify")
    elif not is_surely_writable(found):
        _check_memory(found, drawn)
    if isinstance(row, Row) and found.dtype != row.tensor.dtype:
        check_range(row.distribution, found.dtype, f"parameter {subject.name!r}")


def _check_memory(tensor: Tensor, drawn: bool) -> None:
    if boxes.is_dtensor(tensor):
        boxes.parts(tensor)  # raises where nobody knows them
    tensor = boxes.local_of(tensor)
    if drawn or is_traceable_wrapper_subclass(tensor) or tensor.layout is not torch.strided:
        check_readable(tensor, "verify")
    if tensor.numel() and not tensor.untyped_storage().size():
        raise RuntimeError("its storage holds no memory (it was resized to nothing)")
