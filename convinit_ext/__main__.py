"""The command line, `python -m convinit_ext run | verify | info`: it parses and prints, and nothing else."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import importlib.util
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

import convinit_ext
from convinit_ext import _C, bundled_model, ops, patterns
from convinit_ext.compare import compare, construct, wait_for
from convinit_ext.keys import Key
from convinit_ext.model import available_memory, init_model_
from convinit_ext.plan import checked_device
from convinit_ext.recipe_file import SUFFIXES
from convinit_ext.recipes import RECIPES
from convinit_ext.report import Report, size_text
from convinit_ext.saving import save_model
from convinit_ext.shard_files import parsed_size
from convinit_ext.verify import verify
from convinit_ext.weights_file import open_weights

DTYPES = tuple(str(dtype).removeprefix("torch.") for dtype in ops.SUPPORTED_DTYPES)
_USAGE, _FAILURE = 2, 1  # exit statuses


class CommandError(Exception):
    """A command cannot go on; its text is the one line that the user sees."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        status: int | None = options.command(options)
    except (CommandError, ValueError, TypeError, RuntimeError, MemoryError, OSError) as error:
        print(f"convinit_ext {options.name}: error: {error}", file=sys.stderr)
        return int(options.failure)
    except Exception:  # the user's code may raise anything; that it did is not the answer "something differs"
        if options.failure == _FAILURE:
            raise
        traceback.print_exc()
        return int(options.failure)
    return status or 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("python -m convinit_ext", description="Fill a model's weights, fast and reproducibly.")
    parser.set_defaults(failure=_FAILURE)
    commands = parser.add_subparsers(dest="name", required=True, metavar="{run,verify,info}")
    run = commands.add_parser("run", help="initialise a model, print the report, compare with torch.nn.init")
    run.set_defaults(command=_run)
    run.add_argument(
        "--model", type=_spec, metavar="MODULE:CALLABLE", help="makes the model (default: the bundled one)"
    )
    run.add_argument("--seed", type=_seed, default=0, help="in [-2**63, 2**64) (default: 0)")
    run.add_argument(
        "--recipe",
        type=_recipe,
        default="torch",
        help=f"{', '.join(RECIPES)}, a .toml or .json file, or MODULE:NAME of yours",
    )
    _add_selection(run, "initialise nothing else", "leave it as it is")
    run.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    run.add_argument("--dtype", choices=DTYPES, help="of the parameters (default: the model's own)")
    run.add_argument("--device", help="where they go, such as cuda (default: cpu)")
    run.add_argument("--threads", type=_positive, help="as torch.set_num_threads (default: PyTorch's)")
    run.add_argument(
        "--construct",
        choices=("meta", "cpu"),
        help="where MODULE:CALLABLE runs: without memory, or with, on --device "
        "(default: meta; cpu with --only and --skip)",
    )
    run.add_argument(
        "--save",
        type=Path,
        metavar="DIR|FILE.safetensors",
        help="write the initialised weights to disk, block by block: no memory is filled, and there is no "
        "comparison. The same command finishes a run that was interrupted",
    )
    run.add_argument(
        "--max-shard-size",
        type=_size,
        default="5GB",
        help="of each file in DIR, such as 500MB or 2GiB (default: 5GB)",
    )
    run.add_argument("--overwrite", action="store_true", help="replace other weights that DIR or FILE holds")
    run.add_argument("--json", action="store_true", help="print JSON")
    run.add_argument("--no-compare", action="store_true", help="leave torch.nn.init out")
    run.add_argument(
        "--repeats", type=_positive, default=3, help="of the comparison, which shows medians (default: 3)"
    )
    _add_verify(commands)
    info = commands.add_parser("info", help="build, instruction set in use, threads, CUDA, contract version")
    info.set_defaults(command=_info)
    info.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_selection(parser: argparse.ArgumentParser, only: str, skip: str) -> None:
    for option, what in (("--only", only), ("--skip", skip)):
        parser.add_argument(
            option,
            action="append",
            type=_pattern,
            metavar="PATTERN",
            help=f"{what}: a glob on the names of parameters or modules, or re:EXPRESSION; may be repeated",
        )


def _add_verify(commands: Any) -> None:
    text = "whether a weights file holds, to the bit, what a seed and a recipe say"
    parser = commands.add_parser(
        "verify",
        help=text,
        description=f"Say {text}: names what differs, and the first element of each. Nothing is written.",
        epilog="Exit status: 0 all is equal, 1 something differs or is missing, 2 it could not be checked.",
    )
    parser.set_defaults(command=_verify, failure=_USAGE)
    parser.add_argument(
        "path", type=Path, metavar="PATH", help="a .safetensors file, an index, or a folder that holds either"
    )
    parser.add_argument(
        "--model",
        type=_spec,
        required=True,
        metavar="MODULE:CALLABLE",
        help="makes the model, whose names and module types count and no value",
    )
    parser.add_argument("--seed", type=_seed, help="in [-2**63, 2**64) (default: what the file says, or 0)")
    parser.add_argument("--recipe", type=_recipe, help="as for run (default: what the file says, or torch)")
    _add_selection(parser, "look at nothing else", "leave it out")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="what the weights must have (default: what they have)"
    )
    parser.add_argument("--threads", type=_positive, help="as torch.set_num_threads (default: PyTorch's)")
    parser.add_argument(
        "--construct",
        choices=("meta", "cpu"),
        default="meta",
        help="where MODULE:CALLABLE runs (default: meta)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(options: argparse.Namespace) -> None:
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.save and options.dry_run:
        raise CommandError("--dry-run makes no weights that --save could write")
    recipe = _imported(options.recipe, "recipe") if ":" in options.recipe else options.recipe
    dtype = getattr(torch, options.dtype) if options.dtype else None
    device = checked_device(options.device)
    build = _imported(options.model, "model") if options.model else _bundled(dtype, device)
    on_meta = _constructs_on_meta(options)
    say = functools.partial(print, file=sys.stderr if options.json else sys.stdout)
    say(_environment_line())
    model = _built(build, on_meta, device)
    if options.save:
        _save(model, options, recipe, dtype)
        return
    report = _initialised(model, options, recipe, device, dtype)
    result: dict[str, object] = {"environment": _environment(), "report": report.to_dict()}
    if not options.json:
        print(f"\n{report}")
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


def _verify(options: argparse.Namespace) -> int:
    if options.threads:
        torch.set_num_threads(options.threads)
    metadata = open_weights(options.path).metadata
    seed, recipe = _said_by(metadata, options, functools.partial(print, file=sys.stderr))
    found = verify(
        options.path,
        seed,
        _imported(recipe, "recipe") if ":" in recipe else recipe,
        getattr(torch, options.dtype) if options.dtype else None,
        model=_built(_imported(options.model, "model"), options.construct == "meta", torch.device("cpu")),
        only=options.only,
        skip=options.skip,
    )
    print(found.to_json(indent=2) if options.json else found)
    return 0 if found else _FAILURE


def _said_by(
    metadata: Mapping[str, str], options: argparse.Namespace, say: Callable[[str], None]
) -> tuple[int, str]:
    """The seed and the recipe: as given, otherwise those that the file was saved with."""
    try:
        seed = _seed(metadata.get("seed", "0")) if options.seed is None else options.seed
        recipe = _recipe(metadata.get("recipe", "torch")) if options.recipe is None else options.recipe
    except argparse.ArgumentTypeError as error:
        raise CommandError(
            f"what {options.path} says is of no use, pass --seed and --recipe: {error}"
        ) from error
    for what, given, taken in (("seed", options.seed, seed), ("recipe", options.recipe, recipe)):
        stored = metadata.get(what)
        if stored is not None and given is None:
            say(f"notice: {what} {taken}, as {options.path} says")
        elif stored is not None and stored != str(given):
            say(f"notice: {what} {given}, as given, though {options.path} says {stored}")
    return seed, recipe


def _info(options: argparse.Namespace) -> None:
    facts = _environment()
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    width = max(len(name) for name in facts)
    for name, fact in facts.items():
        print(f"{name.ljust(width)}  {fact}")


def _environment() -> dict[str, object]:
    build = _C.build_info()
    return {
        "convinit_ext": convinit_ext.__version__,
        "value contract": convinit_ext.CONTRACT_VERSION,
        "torch running": torch.__version__,
        "torch built for": build["torch"],
        "compiler": build["compiler"],
        "instruction set": _C.isa(),
        "instruction sets here": ", ".join(_C.available_isas()),
        "threads": torch.get_num_threads(),
        "cuda": build["cuda"],
        "gpus": ", ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))) or "none",
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cpus",
    }


def _environment_line() -> str:
    threads = torch.get_num_threads()
    return (
        f"convinit_ext {convinit_ext.__version__}, torch {torch.__version__}, {_C.isa()}, "
        f"{threads} thread{'s' * (threads != 1)}"
    )


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


def _built(build: Callable[[], nn.Module], on_meta: bool, device: torch.device) -> nn.Module:
    try:
        model = construct(build, on_meta, device)
    except Exception as error:  # it is the user's code, and may raise anything
        hint = "; --construct cpu may help" if on_meta else ""
        raise CommandError(f"the model's constructor raised {type(error).__name__}: {error}{hint}") from error
    if not isinstance(model, nn.Module):
        raise CommandError(
            f"the model's constructor returned a {type(model).__name__}, not a torch.nn.Module"
        )
    return model


def _imported(spec: str, what: str) -> Any:
    module_name, _, path = spec.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError) as error:
        raise CommandError(f"{what} {spec!r}: {error}") from error
    return found


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
        facts = {"environment": _environment(), "report": saved.plan.to_dict(), "saved": saved.to_dict()}
        print(json.dumps(facts, indent=2))
    else:
        print(f"\n{saved.plan}\n\n{saved}")


def _spec(text: str) -> str:
    module_name, _, path = text.partition(":")
    if not (module_name and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form MODULE:CALLABLE")
    return text


def _recipe(text: str) -> str:
    if ":" in text:
        return _spec(text)
    if text not in RECIPES and not text.endswith(SUFFIXES):
        raise argparse.ArgumentTypeError(
            f"there is no recipe {text!r}; there are {', '.join(RECIPES)}, and files in "
            f"{' or '.join(SUFFIXES)}"
        )
    return text


def _pattern(text: str) -> patterns.Pattern:
    try:
        return patterns.parse(text, "the pattern")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _seed(text: str) -> int:
    try:
        return Key(int(text, 0), "seed").seed
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed: {error}") from error


def _size(text: str) -> int:
    try:
        return parsed_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
