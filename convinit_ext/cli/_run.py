"""The command `run`: a model is initialised and compared with torch.nn.init, or streamed to disk."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from convinit_ext.checkpoint import fingerprint, save_model
from convinit_ext.cli import _unet as bundled_model
from convinit_ext.cli._common import built, environment, environment_line, imported
from convinit_ext.cli._compare import compare, wait_for
from convinit_ext.model import Report, available_memory, checked_device, init_model_, size_text


def run(options: argparse.Namespace) -> None:
    _check_save(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    recipe = imported(options.recipe, "recipe") if ":" in options.recipe else options.recipe
    dtype = getattr(torch, options.dtype) if options.dtype else None
    device = checked_device(options.device)
    build = imported(options.model, "model") if options.model else _bundled(dtype, device)
    on_meta = _constructs_on_meta(options)
    say = functools.partial(print, file=sys.stderr if options.json else sys.stdout)
    say(environment_line())
    model = built(build, on_meta, device)
    if options.save:
        _save(model, options, recipe, dtype)
        return
    report = _initialised(model, options, recipe, device, dtype)
    number = None if options.dry_run else _fingerprint_of(model)
    facts = report.to_dict() | {"fingerprint": number}
    result: dict[str, object] = {"environment": environment(), "report": facts}
    if not options.json:
        print(f"\n{report}" + (f"\nfingerprint {number}" if number else ""))
    del model
    if _compares(options, dtype):
        comparison = compare(build, options.seed, recipe, dtype, options.repeats, on_meta, device)
        result["comparison"] = comparison.to_dict()
        if not options.json:
            print(
                f"\nThe same model by torch.nn.init, in turns; medians of {options.repeats}:\n\n{comparison}"
            )
    if options.json:
        print(json.dumps(result, indent=2))


def _check_save(options: argparse.Namespace) -> None:
    if options.save and options.dry_run:
        options.refuse("--dry-run makes no weights that --save could write")
    for option, value in (("--max-shard-size", options.max_shard_size), ("--overwrite", options.overwrite)):
        if value and not options.save:
            options.refuse(f"{option} is for --save, which is not there")


def _fingerprint_of(model: nn.Module) -> str | None:
    try:
        return fingerprint(model)
    except (TypeError, ValueError) as error:
        print(f"notice: no fingerprint: {error}", file=sys.stderr)
        return None


def _compares(options: argparse.Namespace, dtype: torch.dtype | None) -> bool:
    if options.no_compare or options.dry_run or options.only or options.skip:
        return False
    if dtype is not None and dtype.itemsize == 1:
        print("notice: PyTorch fills no float8, so the comparison is left out", file=sys.stderr)
        return False
    return True


def _initialised(
    model: nn.Module,
    options: argparse.Namespace,
    recipe: Any,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Report:
    """Filled; the report's time is until the values are there, on a GPU too."""
    wait_for(device)
    started = time.perf_counter()
    report = init_model_(
        model,
        options.seed,
        recipe,
        device,
        dtype,
        only=options.only,
        skip=options.skip,
        dry_run=options.dry_run,
    )
    wait_for(device)
    return dataclasses.replace(report, seconds=time.perf_counter() - started)


def _bundled(dtype: torch.dtype | None, device: torch.device) -> Callable[[], nn.Module]:
    """The bundled model, at the largest width that leaves the device room to breathe."""
    itemsize = (dtype or torch.get_default_dtype()).itemsize
    available = available_memory() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    width = bundled_model.width_for(None if available is None else available // itemsize)
    if width < bundled_model.FULL_WIDTH:
        print(
            f"notice: {size_text(available or 0)} of memory are available, so the bundled model is scaled "
            f"down from width {bundled_model.FULL_WIDTH} to {width}",
            file=sys.stderr,
        )
    return functools.partial(bundled_model.UNet, width)


def _constructs_on_meta(options: argparse.Namespace) -> bool:
    """What is not chosen keeps the values that the constructor gave it; on meta it would have none."""
    partly = (options.only or options.skip) and not options.dry_run
    return options.construct == "meta" or (options.construct is None and not partly)


def _save(model: nn.Module, options: argparse.Namespace, recipe: Any, dtype: torch.dtype | None) -> None:
    saved = save_model(
        model,
        options.save,
        options.seed,
        recipe,
        dtype,
        max_shard_size=options.max_shard_size,
        only=options.only,
        skip=options.skip,
        overwrite=options.overwrite,
        progress=sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None,
    )
    if options.json:
        facts = {"environment": environment(), "report": saved.plan.to_dict(), "saved": saved.to_dict()}
        print(json.dumps(facts, indent=2))
    else:
        print(f"\n{saved.plan}\n\n{saved}")
