"""The command `run`: a model is initialised and compared with torch.nn.init, or streamed to disk."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convinit_ext.checkpoint import fingerprint, save_model
from convinit_ext.cli._arguments import of_arguments
from convinit_ext.cli._common import builder, built, dtype_of, environment, environment_line, recipe_of
from convinit_ext.cli._unet import FULL_WIDTH, UNet, width_for
from convinit_ext.distributions import Distribution, Normal, TruncatedNormal, Uniform
from convinit_ext.model import (
    Frozen,
    Options,
    Report,
    available_memory,
    checked_device,
    init_model_,
    make_plan,
    size_text,
    table,
    terminal_width,
    time_text,
    wrapped,
)
from convinit_ext.recipes import TORCH, as_recipe

Build = Callable[[], nn.Module]


def run(options: argparse.Namespace) -> None:
    _check_save(options)
    options.recipe, options.dtype = recipe_of(options.recipe, options.allow_code), dtype_of(options.dtype)
    with of_arguments():
        options.device = checked_device(options.device)
    build = builder(options.model) if options.model else _bundled(options.dtype, options.device)
    if options.construct is None:  # what is not chosen keeps the constructor's values; on meta it has none
        has_rows = any(rows != slice(None) for rows in (options.only or {}).values())
        is_kept = (options.only or options.skip) and not options.dry_run
        options.construct = "cpu" if has_rows or is_kept else "meta"
    print(environment_line(), file=sys.stderr if options.json else sys.stdout)
    model = built(build, options.construct == "meta", options.device)
    if options.save:
        _save(model, options)
        return
    report = _initialised(model, options)
    number = None if options.dry_run else _fingerprint_of(model)
    facts: dict[str, object] = {"environment": environment()}
    facts["report"] = report.to_dict() | {"fingerprint": number}
    if not options.json:
        print(f"\n{report}" + (f"\nfingerprint {number}" if number else ""))
    del model
    if _compares(options):
        cases = compare(build, options)
        facts["comparison"] = {"cases": [case.to_dict() for case in cases]}
        if not options.json:
            print(f"\nThe same model by torch.nn.init, in turns; medians of {options.repeats}:\n")
            print("\n".join(table(_HEADER, [case.cells() for case in cases], num_left=1)))
            if noise := [case.noise for case in cases if case.noise]:
                text = f"noisy, this machine may be busy: {'; '.join(noise)}; see --repeats"
                print(f"\n{wrapped(text, terminal_width())}")
    if options.json:
        print(json.dumps(facts, indent=2))


def _check_save(options: argparse.Namespace) -> None:
    if options.save and options.dry_run:
        options.refuse("--dry-run makes no weights that --save could write")
    for option, value in (("--max-shard-size", options.max_shard_size), ("--overwrite", options.overwrite)):
        if value and not options.save:
            options.refuse(f"{option} is for --save, which is not there")


def _bundled(dtype: torch.dtype | None, device: torch.device) -> Build:
    """Return the constructor of the bundled model, at the largest width for which the device has room."""
    itemsize = (dtype or torch.get_default_dtype()).itemsize
    available = available_memory() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    width = width_for(None if available is None else available // itemsize)
    if width < FULL_WIDTH:
        print(
            f"notice: {size_text(available or 0)} of memory are available, so the bundled model is scaled "
            f"down from width {FULL_WIDTH} to {width}",
            file=sys.stderr,
        )
    return functools.partial(UNet, width)


def _save(model: nn.Module, options: argparse.Namespace) -> None:
    saved = save_model(
        model,
        options.save,
        options.seed,
        options.recipe,
        options.dtype,
        max_shard_size=options.max_shard_size,
        only=options.only,
        skip=options.skip,
        frozen=options.frozen,
        overwrite=options.overwrite,
        progress=sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None,
    )
    if options.json:
        facts = {"environment": environment(), "report": saved.plan.to_dict(), "saved": saved.to_dict()}
        print(json.dumps(facts, indent=2))
    else:
        print(f"\n{saved.plan}\n\n{saved}")


def _initialised(model: nn.Module, options: argparse.Namespace) -> Report:
    """Fill the model; the report's time is until the values are there, on a GPU too."""
    seconds: list[float] = []
    with _timed(seconds, options.device):
        report = init_model_(
            model,
            options.seed,
            options.recipe,
            options.device,
            options.dtype,
            only=options.only,
            skip=options.skip,
            frozen=options.frozen,
            dry_run=options.dry_run,
        )
    return dataclasses.replace(report, seconds=seconds[0])


def _fingerprint_of(model: nn.Module) -> str | None:
    try:
        return fingerprint(model)
    except (TypeError, ValueError) as error:
        print(f"notice: no fingerprint: {error}", file=sys.stderr)
        return None


def _compares(options: argparse.Namespace) -> bool:
    if options.no_compare or options.dry_run or options.only or options.skip:
        return False
    if options.dtype is not None and options.dtype.itemsize == 1:
        print("notice: PyTorch fills no float8, so the comparison is left out", file=sys.stderr)
        return False
    return True


_HEADER = ("", "convinit_ext", "torch.nn.init", "ratio")
_NOISE = 2.0  # between the largest ratio of two repeats and the smallest


@dataclasses.dataclass
class Case:
    """One way to initialise the model, by this package and by torch.nn.init: seconds of every repeat."""

    name: str
    num_bytes: int = 0
    ours: list[float] = dataclasses.field(default_factory=list)
    theirs: list[float] = dataclasses.field(default_factory=list)

    @property
    def ratio(self) -> float:
        return statistics.median(self.theirs) / statistics.median(self.ours)

    @property
    def noise(self) -> str:
        """The ratios that two repeats could have given, where they are far apart; else nothing."""
        low, high = min(self.theirs) / max(self.ours), max(self.theirs) / min(self.ours)
        return f"{self.name.partition(':')[0]} {low:.1f}x to {high:.1f}x" if high > _NOISE * low else ""

    def to_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self) | {"ratio": self.ratio, "noisy": bool(self.noise)}

    def cells(self) -> list[str]:
        medians = map(statistics.median, (self.ours, self.theirs))
        shown = [f"{time_text(seconds)}  {size_text(self.num_bytes / seconds)}/s" for seconds in medians]
        return [self.name, *shown, f"{self.ratio:.1f}x"]


def compare(build: Build, options: argparse.Namespace) -> tuple[Case, Case]:
    """Time both in turns, `repeats` times. Only one model is in memory at a time."""
    device, recipe = options.device, options.recipe
    cold, warm = Case("cold: construct and fill"), Case("warm: fill in place")
    for _ in range(options.repeats):
        with _timed(cold.ours, device):
            model = built(build, options.construct == "meta", device)
            report = init_model_(model, options.seed, recipe, device, options.dtype, frozen=options.frozen)
        cold.num_bytes = warm.num_bytes = report.num_bytes
        with _timed(warm.ours, device):
            init_model_(model, options.seed, recipe, frozen=options.frozen)
        fill = _fill_of_torch(model, recipe, options.frozen)
        with _timed(warm.theirs, device):
            fill()
        del model, fill
        with _timed(cold.theirs, device), device if device.type != "cpu" else contextlib.nullcontext():
            _construct_and_fill_of_torch(build, options)
    return cold, warm


@contextlib.contextmanager
def _timed(seconds: list[float], device: torch.device) -> Iterator[None]:
    """Append how long it took, until a GPU has done what was queued."""
    _wait_for(device)
    started = time.perf_counter()
    yield
    _wait_for(device)
    seconds.append(time.perf_counter() - started)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _construct_and_fill_of_torch(build: Build, options: argparse.Namespace) -> None:
    """Constructing fills with PyTorch's defaults; another recipe is a second pass over the parameters."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(options.dtype or before)
    try:
        model = build()
    finally:
        torch.set_default_dtype(before)
    if as_recipe(options.recipe) is not TORCH:
        _fill_of_torch(model, options.recipe, options.frozen)()


def _fill_of_torch(model: nn.Module, recipe: Any, frozen: Frozen) -> Callable[[], None]:
    """Return what a user of PyTorch runs: every reset_parameters, or torch.nn.init on every parameter."""
    if as_recipe(recipe) is TORCH:
        return functools.partial(_reset, model)
    rows = (
        (row.tensor, row.distribution) for row in make_plan(model, 0, Options(recipe, frozen=frozen)).rows
    )
    fills = [(tensor, drawn) for tensor, drawn in rows if drawn is not None]  # torch.nn.init has no others
    return functools.partial(_fill_each, fills)


def _reset(model: nn.Module) -> None:
    for module in reversed(list(model.modules())):  # a Transformer draws its own values after its layers did
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset):
            reset()


def _fill_each(fills: Sequence[tuple[Tensor, Distribution]]) -> None:
    for tensor, distribution in fills:
        if isinstance(distribution, Uniform):
            nn.init.uniform_(tensor, distribution.low, distribution.high)
        elif isinstance(distribution, Normal):
            nn.init.normal_(tensor, distribution.mean, distribution.std)
        elif isinstance(distribution, TruncatedNormal):
            nn.init.trunc_normal_(tensor, *distribution.params)
        else:
            nn.init.constant_(tensor, distribution.params[0])
