"""init_model_: a whole model filled by one call into the engine, every parameter by its own name."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from convinit_ext import keys, ops
from convinit_ext.boxes import is_dtensor
from convinit_ext.initialisers import Fan
from convinit_ext.plan import Plan, Row, make_plan
from convinit_ext.report import Report, ReportRow, size_text
from convinit_ext.rules import Recipe, Rule

if TYPE_CHECKING:
    from convinit_ext.buffers import BufferRow

_MEMORY_FACTS = Path("/proc/meminfo")  # Linux; elsewhere memory is not checked
_CONTROL_GROUP = Path("/sys/fs/cgroup")  # as a container sees its own
_PROGRESS_STEPS = 64  # the bar moves at most so often: each step is a call into the engine of its own


def init_model_(
    model: nn.Module,
    seed: int = 0,
    recipe: str | Recipe | Sequence[Rule] = "torch",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = False,
    fan: Fan = "true",
) -> Report:
    """Fill every parameter of a model in place; its values depend on the seed and the parameter's name alone.

    Parameters on the meta device get memory, which the filling threads touch first. Tied parameters are
    filled once, under the first name that named_parameters() gives, and stay tied. BatchNorm's running
    statistics start anew. A module of a type derived from one of torch.nn counts as that one.

    Args:
        model: any module; DDP, torch.compile, FSDP and checkpoint wrappers do not change a name.
        seed: in [-2**63, 2**64).
        recipe: "torch" (every module as its reset_parameters does), "he", "xavier", a Recipe, or
            a list of rules.
        device: where meta parameters and buffers go, such as "cuda"; None is the CPU.
        dtype: of all floating-point parameters and buffers afterwards; None leaves each its own.
        progress: show a tqdm bar that counts bytes.
        fan: "true", or "torch" for PyTorch's own fans of transposed and grouped convolutions (which recipe
            "torch" always has).

    Returns:
        A Report: what each parameter got, and how long it took; on a GPU, until all work was queued.

    Raises:
        ValueError: parameters that no rule covers, lazy ones, equal names, shared memory, meta buffers that
            nobody can rebuild (all of them named); a seed out of range; an unknown recipe, fan or dtype.
        UnsupportedTensorError: a parameter of a dtype, layout or device that cannot be filled.
        MemoryError: less memory available than the new tensors need.
        torch.cuda.OutOfMemoryError: the same on a GPU.
        TypeError: an argument of another type.
        After an error the model is as it was.

    >>> model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
    >>> report = init_model_(model, seed=7)
    >>> report.num_elements, report.rows[0].initialiser
    (44, 'kaiming_uniform_(a=2.23607)')
    """
    started = time.perf_counter()
    plan = make_plan(model, seed, recipe, device, dtype, fan)
    check_memory(plan.new_bytes)
    with torch.no_grad():
        filled = [_memory_for(row) for row in plan.rows]
        buffers = [row.new() if row.fresh else None for row in plan.buffers]
        _fill(plan.seed, plan.rows, filled, progress)
        for row, memory in zip(plan.rows, filled, strict=True):
            if row.fresh:
                _place(row, memory)
        for buffer_row, buffer in zip(plan.buffers, buffers, strict=True):
            _place_buffer(buffer_row, buffer)
    return _report(plan, time.perf_counter() - started)


def check_memory(num_bytes: int) -> None:
    """Raises MemoryError where the system says that the CPU's memory has less than this to give."""
    available = available_memory()
    if available is not None and num_bytes > available:
        raise MemoryError(
            f"the model needs {size_text(num_bytes)} of new memory, and {size_text(available)} are available"
        )


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping, inside a container's limit; None where nobody says."""
    known = [number for number in (_system_memory(), _container_memory()) if number is not None]
    return min(known, default=None)


def _container_memory() -> int | None:
    """What control group version 2 leaves to this process's group."""
    try:
        limit, used = (
            (_CONTROL_GROUP / name).read_text().strip() for name in ("memory.max", "memory.current")
        )
    except OSError:
        return None
    return max(0, int(limit) - int(used)) if limit.isdigit() and used.isdigit() else None


def _system_memory() -> int | None:
    try:
        facts = _MEMORY_FACTS.read_text()
    except OSError:
        return None
    for line in facts.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024  # the file counts in KiB
    return None


def _memory_for(row: Row) -> Tensor:
    """The parameter itself, or new memory of its memory format that nothing has touched yet."""
    if not row.fresh:
        return row.tensor
    return torch.empty_like(row.tensor.detach(), dtype=row.dtype, device=row.device)


def _fill(seed: int, rows: Sequence[Row], filled: Sequence[Tensor], progress: bool) -> None:
    if not progress:
        _fill_once(seed, zip(rows, filled, strict=True))
        return
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    total = sum(row.num_bytes for row in rows)
    with tqdm(total=total, unit="B", unit_scale=True, desc="init_model_") as bar:
        for group, num_bytes in _groups(rows, filled, total // _PROGRESS_STEPS):
            _fill_once(seed, group)
            bar.update(num_bytes)


def _fill_once(seed: int, filled: Iterable[tuple[Row, Tensor]]) -> None:
    """One call into the engine: it balances threads over all the bytes, whatever tensors they belong to."""
    pieces = [(row.name, piece) for row, memory in filled for piece in row.pieces(memory)]
    boxes = [piece.box for _, piece in pieces]
    ops.fill_(
        [piece.memory for _, piece in pieces],
        keys.of_names(seed, [name for name, _ in pieces]),
        [piece.distribution for _, piece in pieces],
        boxes if any(boxes) else None,
    )


def _groups(
    rows: Sequence[Row], filled: Sequence[Tensor], step: int
) -> Iterator[tuple[list[tuple[Row, Tensor]], int]]:
    """Neighbouring rows of `step` bytes or more together."""
    group: list[tuple[Row, Tensor]] = []
    num_bytes = 0
    for row, memory in zip(rows, filled, strict=True):
        group.append((row, memory))
        num_bytes += row.num_bytes
        if num_bytes >= step:
            yield group, num_bytes
            group, num_bytes = [], 0
    if group:
        yield group, num_bytes


def _place(row: Row, memory: Tensor) -> None:
    """Puts filled memory wherever the parameter is held. A meta parameter becomes a new one of its type."""
    for held in row.held:
        parameter = held.tensor
        if not (parameter.is_meta or is_dtensor(parameter)):  # assigning a DTensor's data changes nothing
            grad, parameter.grad = parameter.grad, None
            parameter.data = memory
            parameter.grad = None if grad is None else grad.to(row.dtype)
            continue
        fresh = _parameter_like(parameter, memory)
        for module, leaf in held.places:
            setattr(module, leaf, fresh)  # not _parameters[leaf]: recurrent modules keep a second list


def _parameter_like(parameter: Tensor, memory: Tensor) -> Tensor:
    """A parameter of the same type and with the same attributes, whose values are in `memory`."""
    if not is_dtensor(parameter):
        fresh = torch.Tensor._make_subclass(type(parameter), memory, parameter.requires_grad)
    else:
        fresh = nn.Parameter(memory, parameter.requires_grad)
        fresh.grad = None if parameter.grad is None else parameter.grad.to(memory.dtype)
    fresh.__dict__.update(parameter.__dict__)
    return fresh


def _place_buffer(row: BufferRow, buffer: Tensor | None) -> None:
    if buffer is None:
        assert row.value is not None
        row.held.tensor.fill_(row.value)
        return
    for module, leaf in row.held.places:
        module._buffers[leaf] = buffer


def _report(plan: Plan, seconds: float) -> Report:
    names = {dtype: str(dtype).removeprefix("torch.") for dtype in {row.dtype for row in plan.rows}}
    rows = tuple(
        ReportRow(
            row.name,
            tuple(row.tensor.shape),
            names[row.dtype],
            row.initialiser,
            row.fans[0] if row.fans else None,
            row.fans[1] if row.fans else None,
            row.std,
            row.num_bytes,
        )
        for row in plan.rows
    )
    return Report(rows=rows, seconds=seconds, seed=plan.seed, recipe=plan.recipe)
