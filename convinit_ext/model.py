"""init_model_: a whole model filled by one call into the engine, every parameter by its own name."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from convinit_ext import keys, ops, parametrized
from convinit_ext.boxes import is_dtensor
from convinit_ext.derived import norm_dtype
from convinit_ext.fingerprint import LaterFingerprint
from convinit_ext.initialisers import Fan
from convinit_ext.key_names import Names
from convinit_ext.keys import Key
from convinit_ext.plan import Plan, Row, make_plan
from convinit_ext.planned import entries, fingerprint_of
from convinit_ext.ranks import check_same_seed
from convinit_ext.recipe import Recipe
from convinit_ext.report import Report, ReportRow, size_text
from convinit_ext.rules import Rule
from convinit_ext.selection import Selectors
from convinit_ext.watched import Watched

if TYPE_CHECKING:
    from convinit_ext.buffers import BufferRow
    from convinit_ext.walk import Held

_MEMORY_FACTS = Path("/proc/meminfo")  # Linux; elsewhere memory is not checked
_CONTROL_GROUP = Path("/sys/fs/cgroup")  # as a container sees its own
_PROGRESS_STEPS = 64  # the bar moves at most so often: each step is a call into the engine of its own


def init_model_(
    model: nn.Module,
    seed: int = 0,
    recipe: str | PathLike[str] | Recipe | Sequence[Rule] = "torch",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = False,
    fan: Fan = "true",
    check_ranks: bool = False,
    *,
    only: Selectors = None,
    skip: Selectors = None,
    names: Names | None = None,
    dry_run: bool = False,
) -> Report:
    """Fill every parameter of a model in place; its values depend on the seed and the parameter's name alone.

    Parameters on the meta device get memory, which the filling threads touch first. Tied parameters are
    filled once, under the first name that named_parameters() gives, and stay tied. BatchNorm's running
    statistics start anew. A module of a type derived from one of torch.nn counts as that one.

    Args:
        model: any module; DDP, torch.compile, FSDP and checkpoint wrappers do not change a name.
        seed: in [-2**63, 2**64).
        recipe: "torch" (every module as its reset_parameters does), "he", "xavier", "lecun", "trunc_normal",
            "gpt", "llama", the path of a .toml or .json file, a Recipe, or a list of rules.
        device: where meta parameters and buffers go, such as "cuda"; None is the CPU, and for DTensors their
            mesh's kind of device.
        dtype: of all floating-point parameters and buffers afterwards; None leaves each its own.
        progress: show a tqdm bar that counts bytes.
        fan: "true", or "torch" for PyTorch's own fans of transposed and grouped convolutions (which recipe
            "torch" always has).
        check_ranks: compare the seed with those of all other processes first; all of them must ask for it.
        only: what to initialise, the rest is left as it is: globs on names of parameters, buffers or modules,
            regular expressions, modules, module types, functions of a Target; one of them or a list. Every
            name of a tied parameter counts.
        skip: what to leave as it is, likewise; it wins over only.
        names: the names that make the keys, instead of the model's: a dict of names or prefixes, or a
            function of a name.
        dry_run: change and allocate nothing; the report says what would be done.

    Returns:
        A Report: what each parameter got, and how long it took; on a GPU, until all work was queued. Its
        `fingerprint` is computed when first asked for.

    Raises:
        ValueError: parameters that no rule covers, lazy ones, equal names, shared memory, meta buffers that
            nobody can rebuild (all of them named); copies in a cycle, of unknown parameters or of another
            shape; a constant or bounds that a dtype cannot hold; FullyShardedDataParallel's pieces of
            parameters; a pattern that chooses nothing; a seed out of range, or (check_ranks) another one on
            another rank; an unknown recipe, fan or dtype.
        UnsupportedTensorError: a parameter of a dtype, layout or device that cannot be filled.
        MemoryError: less memory available than the new tensors need.
        torch.cuda.OutOfMemoryError: the same on a GPU.
        TypeError: an argument of another type.
        After an error the model is as it was.

    >>> model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
    >>> report = init_model_(model, seed=7)
    >>> report.num_elements, report.rows[0].initialiser
    (44, 'kaiming_uniform_(a=2.23607)')
    >>> [row.name for row in init_model_(model, seed=8, only="1").rows]
    ['1.weight', '1.bias']
    """
    started = time.perf_counter()
    if check_ranks:
        check_same_seed(seed)
    plan = make_plan(model, seed, recipe, device, dtype, fan, only, skip, names)
    if not dry_run:
        run(plan, plan.seed, progress)
    report = report_of(plan, plan.seed, time.perf_counter() - started, dry_run)
    return report if dry_run else dataclasses.replace(report, later=LaterFingerprint(Watched(model).moment()))


def plan_model(
    model: nn.Module,
    seed: int = 0,
    recipe: str | PathLike[str] | Recipe | Sequence[Rule] = "torch",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    fan: Fan = "true",
    *,
    only: Selectors = None,
    skip: Selectors = None,
    names: Names | None = None,
) -> ModelPlan:
    """Plan an initialisation that can be run, and run again, without planning anew.

    The arguments and errors are those of init_model_. Nothing is changed or allocated before `run()`.

    >>> model = nn.Linear(8, 4)
    >>> plan = plan_model(model, seed=7)
    >>> first, second = plan.run(), plan.run(seed=8)
    >>> first.seed, second.seed
    (7, 8)
    """
    return ModelPlan(model, make_plan(model, seed, recipe, device, dtype, fan, only, skip, names))


class ModelPlan:
    """What init_model_ would do to one model: `print(plan)` shows it, `plan.run()` does it.

    Attributes:
        report: what each parameter gets.
    """

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self._model = model
        self._plan = plan
        self._remember()
        self.report = report_of(plan, plan.seed, 0.0, dry=True)

    def run(self, seed: int | None = None, progress: bool = False) -> Report:
        """Fill the planned parameters, and start the planned buffers anew. May be called again and again.

        Args:
            seed: another than the plan's, for this run.
            progress: show a tqdm bar that counts bytes.

        Raises:
            RuntimeError: the model has other tensors than when it was planned or last run.
            ValueError, TypeError: a seed as init_model_ refuses it.
            MemoryError: less memory available than the new tensors need.
        """
        started = time.perf_counter()
        checked = self._plan.seed if seed is None else Key(seed, "seed").seed
        changed = self._seen.changed()
        if changed:
            raise RuntimeError(
                f"{len(changed)} tensor{'s' * (len(changed) > 1)} of the model changed since it was planned, "
                f"{changed[0]!r} first: their place, shape, dtype or device; plan it again"
            )
        if self._whole is not None and not progress:
            self._whole.fill(checked)
        else:
            run(self._plan, checked, progress)
            self._remember()
        seconds = time.perf_counter() - started
        later = LaterFingerprint(self._watched.moment())
        return Report(self.report.rows, seconds, checked, self._plan.recipe, later=later)

    def fingerprint(self, seed: int | None = None) -> str:
        """What convinit_ext.fingerprint(model) is after a run: generated block by block; nothing is changed.

        A model on the meta device stays there. Where DTensors are sharded, each process generates all of it,
        without communication.

        Args:
            seed: another than the plan's.

        Raises:
            ValueError, TypeError: a seed as init_model_ refuses it; tensors that nothing fills, or of a kind
                that no file holds.

        >>> plan = plan_model(nn.Linear(8, 4), seed=7)
        >>> plan.fingerprint() == plan.run().fingerprint
        True
        """
        checked = self._plan.seed if seed is None else Key(seed, "seed").seed
        with torch.no_grad():
            return fingerprint_of(entries(self._model, dataclasses.replace(self._plan, seed=checked)))

    def _remember(self) -> None:
        plan = self._plan
        held = [*(each for row in plan.rows for each in row.held), *(row.held for row in plan.buffers)]
        self._seen = _Seen(held)
        self._watched = Watched(self._model)
        self._whole = None if plan.buffers else _Whole.of(plan.rows)

    def __str__(self) -> str:
        return str(self.report)


class _Seen:
    """What must still hold of tensors when their plan runs: where they are held, and what they are. A plan is
    run again within microseconds for each tensor, and so are these questions.
    """

    def __init__(self, held: Sequence[Held]) -> None:
        places = [(each, module, leaf) for each in held for module, leaf in each.places]
        self._held = [each for each, _, _ in places]
        self._tensors = [each.tensor for each in self._held]
        self._places = [
            (module._parameters if leaf in module._parameters else module._buffers, leaf)
            for _, module, leaf in places
        ]
        self._facts = self._now()

    def changed(self) -> list[str]:
        """The paths of those that are no longer there, or of another shape, dtype or device."""
        now = self._now()
        if now == self._facts:
            return []
        return list(
            dict.fromkeys(
                held.path
                for held, fact, before in zip(
                    self._held, zip(*now, strict=True), zip(*self._facts, strict=True), strict=True
                )
                if fact != before
            )
        )

    def _now(self) -> tuple[list[int], list[torch.Size], list[torch.dtype], list[torch.device]]:
        tensors = self._tensors
        return (
            [id(holder.get(leaf)) for holder, leaf in self._places],
            [tensor.shape for tensor in tensors],
            [tensor.dtype for tensor in tensors],
            [tensor.device for tensor in tensors],
        )


class _Whole:
    """The one call that a plan comes down to where all it does is to fill parameters that have memory."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._tensors = [row.tensor for row in rows]
        self._names = [row.key for row in rows]
        self._kinds, self._params = ops.encoded([row.distribution for row in rows])
        self._seed: int | None = None

    @staticmethod
    def of(rows: Sequence[Row]) -> _Whole | None:
        if any(
            row.fresh or row.derived or row.zero_row is not None or is_dtensor(row.tensor) for row in rows
        ):
            return None
        return _Whole(rows)

    def fill(self, seed: int) -> None:
        if seed != self._seed:
            self._keys, self._seed = keys.of_names(seed, self._names), seed
        ops.fill_encoded_(self._tensors, self._keys, self._kinds, self._params)


def run(plan: Plan, seed: int, progress: bool = False) -> None:
    """Do what a plan says. All that can fail comes before the first write."""
    check_memory(plan.new_bytes)
    with torch.no_grad():
        filled = [_memory_for(row) for row in plan.rows]
        buffers = [row.new(seed) if row.fresh else None for row in plan.buffers]
        _fill(seed, plan.rows, filled, progress)
        _derive(seed, plan.rows, filled)
        for row, memory in zip(plan.rows, filled, strict=True):
            if row.fresh:
                _place(row, memory)
        for buffer_row, buffer in zip(plan.buffers, buffers, strict=True):
            _place_buffer(buffer_row, buffer, seed)
        for buffer_row in plan.buffers:
            if buffer_row.start is not None:
                parametrized.settle(buffer_row.held)


def _derive(seed: int, rows: Sequence[Row], filled: Sequence[Tensor]) -> None:
    """Writes presets, then norms of other parameters, which may be presets."""
    derived = [(row, memory) for row, memory in zip(rows, filled, strict=True) if row.derived is not None]
    if not derived:
        return
    chosen = {id(row.held[0]): (row, memory) for row, memory in zip(rows, filled, strict=True)}
    for row, memory in sorted(derived, key=lambda each: each[0].source is not None):
        assert row.derived is not None
        row.derived.write_(memory, _source_of(row, seed, chosen))


def _source_of(row: Row, seed: int, chosen: Mapping[int, tuple[Row, Tensor]]) -> Tensor | None:
    """What the parameter that a row is made of becomes, not yet rounded where its dtype is narrow.

    Args:
        row: with a source or without.
        seed: of the model.
        chosen: the rows that are filled and their memory, by the id of what they hold.
    """
    if row.source is None:
        return None
    source, memory = chosen.get(id(row.source), (None, row.source.tensor))
    dtype = norm_dtype(memory.dtype)
    if source is None or dtype == memory.dtype:
        return memory
    exact = torch.empty_like(memory.detach(), dtype=dtype)
    if source.derived is None:
        fill_rows(seed, [(source, exact)])
    else:
        source.derived.write_(exact, _source_of(source, seed, chosen))
    return exact


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
        fill_rows(seed, zip(rows, filled, strict=True))
        return
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    total = sum(row.num_bytes for row in rows)
    with tqdm(total=total, unit="B", unit_scale=True, desc="init_model_") as bar:
        for group, num_bytes in _groups(rows, filled, total // _PROGRESS_STEPS):
            fill_rows(seed, group)
            bar.update(num_bytes)


def fill_rows(seed: int, filled: Iterable[tuple[Row, Tensor]]) -> None:
    """One call into the engine: it balances threads over all the bytes, whatever tensors they belong to."""
    pieces = [(row.key, piece) for row, memory in filled for piece in row.pieces(memory)]
    boxes = [piece.box for _, piece in pieces]
    ops.fill_(
        [piece.memory for _, piece in pieces],
        keys.of_names(seed, [key for key, _ in pieces]),
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
        held.tensor = fresh


def _parameter_like(parameter: Tensor, memory: Tensor) -> Tensor:
    """A parameter of the same type and with the same attributes, whose values are in `memory`."""
    if not is_dtensor(parameter):
        fresh = torch.Tensor._make_subclass(type(parameter), memory, parameter.requires_grad)
    else:
        fresh = nn.Parameter(memory, parameter.requires_grad)
        fresh.grad = None if parameter.grad is None else parameter.grad.to(memory.dtype)
    fresh.__dict__.update(parameter.__dict__)
    return fresh


def _place_buffer(row: BufferRow, buffer: Tensor | None, seed: int) -> None:
    if buffer is None:
        if row.start is not None:
            row.write_(row.held.tensor, seed)
        return
    before, row.held.tensor = row.held.tensor, buffer
    for module, leaf in row.held.places:
        module._buffers[leaf] = buffer
        for name, value in list(vars(module).items()):
            if value is before:  # kept under a second name: original_inv_freq in transformers 4
                setattr(module, name, buffer)


def report_of(plan: Plan, seed: int, seconds: float, dry: bool = False) -> Report:
    """What a plan does to each parameter."""
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
    return Report(rows=rows, seconds=seconds, seed=seed, recipe=plan.recipe, dry=dry)
