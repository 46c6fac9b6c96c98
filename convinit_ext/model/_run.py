"""Carrying a plan out: memory for its rows, their values, and new memory put into the model."""

from __future__ import annotations

import contextlib
import re
import warnings
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import deterministic

from convinit_ext._engine import listed, progress_bar
from convinit_ext.model._attributes import put
from convinit_ext.model._checks import check_not_faked
from convinit_ext.model._named_tensors import NamedTensor
from convinit_ext.model._plan import Plan, Row
from convinit_ext.model._report import size_text
from convinit_ext.model._values import Drawn, Norm, fill_pieces
from convinit_ext.sharding import is_dtensor, local_of, settle

_PROGRESS_STEPS = 64  # the bar moves at most so often: each step is a call into the engine of its own
_MEMORY_FACTS = Path("/proc/meminfo")
_CONTROL_GROUP = Path("/sys/fs/cgroup")  # as a container sees its own
_FILE_CACHE = ("active_file", "inactive_file")  # of memory.stat: given up where memory runs short
# Of gradients, which PyTorch keeps beside the attributes of a tensor.
_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")

_Item = TypeVar("_Item")
_Filled: TypeAlias = Sequence[tuple[Row, Tensor]]  # rows with the memory that takes their values


def run(plan: Plan, seed: int, progress: bool = False) -> None:
    """Write the values of a plan's rows into its model. All that can fail comes before the first write."""
    check_not_faked(plan.held())
    check_memory(plan.new_bytes)
    with torch.no_grad():
        with _untouched_memory():
            filled = [(row, row.memory()) for row in plan.all_rows]
        _write(seed, filled, progress)
        replaced: list[str] = []
        for row, memory in filled:
            if memory is not row.tensor:
                replaced += _place(row, memory)
            else:
                settle(memory)
            for held in row.held:
                if held.is_apart:
                    _assign(held, row.tensor)
                    held.is_apart = False
        for attribute, values in plan.attributes:
            put(attribute, values)
    if replaced:
        warnings.warn(
            "parameters are new objects now, since something holds on to the old (a weak reference or an "
            f"autograd graph); make optimizers of the model's parameters anew: {listed(map(repr, replaced))}",
            stacklevel=2,
        )


@contextlib.contextmanager
def _untouched_memory() -> Iterator[None]:
    """Keep use_deterministic_algorithms from filling new memory with NaN: all of it is written anyway."""
    fills = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]  # a property of the module
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # as above
    try:
        yield
    finally:
        deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]  # as above


def _place(row: Row, memory: Tensor) -> list[str]:
    """Put a row's new memory into the model, wherever the tensor or those tied to it are held.

    Returns the paths of parameters that could not stay the objects that they were.
    """
    if row.is_buffer:
        for held in row.held:
            _place_buffer(held, memory)
    elif row.tensor.is_meta or is_dtensor(row.tensor):
        return _swap_in(row, memory)
    else:
        for held in row.held:
            parameter = held.tensor
            grad, parameter.grad = parameter.grad, None
            parameter.data = memory
            parameter.grad = None if grad is None else grad.to(memory.dtype)
    return []


def _write(seed: int, filled: _Filled, progress: bool) -> None:
    """Write what is drawn by one call into the engine, then given tensors, then norms of either."""
    drawn = [(row, memory) for row, memory in filled if isinstance(row.values, Drawn)]
    sizes = [local_of(memory).nbytes for _, memory in drawn] if progress else None
    with progress_bar(sum(sizes) if sizes is not None else None, "init_model_") as advance:
        for group, num_bytes in in_steps(drawn, sizes):
            fill_pieces(seed, (piece for row, memory in group for piece in row.pieces_of(memory)))
            advance(num_bytes)
    others = [each for each in filled if not isinstance(each[0].values, Drawn | None)]
    for row, memory in sorted(others, key=lambda each: isinstance(each[0].values, Norm)):
        row.write_(seed, memory)


def in_steps(items: Sequence[_Item], sizes: Sequence[int] | None) -> Iterator[tuple[Sequence[_Item], int]]:
    """Yield neighbours together as a progress bar moves on, and their bytes; all at once without sizes."""
    if sizes is None:
        yield items, 0
        return
    group: list[_Item] = []
    step = sum(sizes) // _PROGRESS_STEPS
    num_bytes = 0
    for item, size in zip(items, sizes, strict=True):
        group.append(item)
        num_bytes += size
        if num_bytes >= step:
            yield group, num_bytes
            group, num_bytes = [], 0
    if group:
        yield group, num_bytes


def _swap_in(row: Row, memory: Tensor) -> list[str]:
    """Make written memory a parameter's, which stays the same object, in optimizers and lists too.

    What is tied to it by its memory alone becomes a parameter of that memory too.
    """
    lost = []
    for held in row.held:
        parameter = held.tensor
        grad, parameter.grad = parameter.grad, None  # the swap wants nobody else to hold the tensor
        if is_dtensor(memory):
            fresh: Tensor = nn.Parameter(memory, parameter.requires_grad)
        else:
            fresh = torch.Tensor._make_subclass(type(parameter), memory, parameter.requires_grad)
        fresh.__dict__.update(parameter.__dict__)
        for hooks in _HOOKS:
            if getattr(parameter, hooks) is not None:
                setattr(fresh, hooks, getattr(parameter, hooks))
        if not _swapped(held, fresh):
            lost.append(held.path)
            _assign(held, fresh)
        held.tensor.grad = None if grad is None or grad.is_meta else grad.to(memory.dtype)
    return [] if isinstance(memory, FakeTensor) else lost  # nobody trains those


def _swapped(held: NamedTensor, fresh: Tensor) -> bool:
    """Make a tensor what a new one is; False where a weak reference, or a graph, holds on to it."""
    recurrent = [module for module, _ in held.places if "_flat_weight_refs" in vars(module)]
    for module in recurrent:  # weak references, which PyTorch drops for a swap too
        module._flat_weight_refs = []  # type: ignore[assignment]  # no tensor
    try:
        torch.utils.swap_tensors(held.tensor, fresh)  # type: ignore[no-untyped-call]  # PyTorch's
    except RuntimeError:
        return False
    finally:
        for module in recurrent:
            weights: Any = module._flat_weights
            module._flat_weight_refs = [each if each is None else weakref.ref(each) for each in weights]  # type: ignore[assignment]  # as above
    return True


def _assign(held: NamedTensor, parameter: Tensor) -> None:
    held.tensor = parameter
    for module, leaf in held.places:
        setattr(module, leaf, parameter)  # not _parameters[leaf]: recurrent modules keep a second list


def _place_buffer(held: NamedTensor, buffer: Tensor) -> None:
    before = held.tensor
    if before.is_meta and type(before) is type(buffer) and _swapped(held, buffer.detach()):
        return  # wherever else it is held
    held.tensor = buffer
    for module, leaf in held.places:
        module._buffers[leaf] = buffer
        for name, value in list(vars(module).items()):
            if value is before:  # kept under a second name: original_inv_freq in transformers 4
                setattr(module, name, buffer)


def check_memory(num_bytes: int) -> None:
    """Raise MemoryError where the system says that the CPU's memory has less than this to give."""
    available = available_memory()
    if available is not None and num_bytes > available:
        raise MemoryError(
            f"the model needs {size_text(num_bytes)} of new memory, and {size_text(available)} are available"
        )


def available_memory() -> int | None:
    """Return the bytes that can be allocated without swapping, within a container too; None if unknown."""
    known = [number for number in (_system_memory(), _container_memory()) if number is not None]
    return min(known, default=None)


def _container_memory() -> int | None:
    """What control group version 2 leaves to this process's group. Its use counts the cache of files too."""
    try:
        limit, used, facts = (
            (_CONTROL_GROUP / name).read_text().strip()
            for name in ("memory.max", "memory.current", "memory.stat")
        )
    except OSError:
        return None
    if not (limit.isdigit() and used.isdigit()):
        return None
    entries = (line.split() for line in facts.splitlines())
    cached = sum(int(number) for name, number in entries if name in _FILE_CACHE)
    return max(0, int(limit) - int(used) + cached)


def _system_memory() -> int | None:
    try:
        facts = _MEMORY_FACTS.read_text()
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s*(\d+)", facts, re.MULTILINE)
    return None if found is None else int(found[1]) * 1024  # the file counts in KiB
