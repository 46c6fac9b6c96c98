"""What the command line accepts: the options of every command, and how their texts are read."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, NoReturn

from convinit_ext._engine import ops
from convinit_ext.checkpoint import parsed_size
from convinit_ext.keys import checked_seed
from convinit_ext.recipes import RECIPES, SUFFIXES, patterns

DTYPES = tuple(str(dtype).removeprefix("torch.") for dtype in ops.SUPPORTED_DTYPES)
USAGE, FAILURE = 2, 1  # exit statuses
_PART = r"[^\s./\\:]+"  # of a name with dots; a module's file may be called my-model
_SPEC = re.compile(rf"{_PART}(\.{_PART})*:{_PART}(\.{_PART})*")
_PATH = "a .safetensors file, an index, or a folder that holds either"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: error: {message}\n")


def parser() -> argparse.ArgumentParser:
    """Of the whole command line.

    `name` is the command, `failure` the exit status when it cannot go on, `refuse` ends run as wrong usage.
    """
    whole = _Parser("python -m convinit_ext", description="Fill a model's weights, fast and reproducibly.")
    whole.set_defaults(failure=FAILURE)
    commands = whole.add_subparsers(dest="name", required=True, metavar="{run,verify,fingerprint,info}")
    _add_run(commands)
    _add_verify(commands)
    _add_fingerprint(commands)
    info = commands.add_parser("info", help="build, instruction set in use, threads, CUDA, contract version")
    info.add_argument("--json", action="store_true", help="print JSON")
    return whole


def _add_run(commands: Any) -> None:
    run = commands.add_parser("run", help="initialise a model, print the report, compare with torch.nn.init")
    run.add_argument(
        "--model", type=spec, metavar="MODULE:CALLABLE", help="makes the model (default: the bundled one)"
    )
    run.add_argument("--seed", type=seed, default=0, help="in [-2**63, 2**64) (default: 0)")
    run.add_argument(
        "--recipe",
        type=recipe,
        default="torch",
        help=f"{', '.join(RECIPES)}, a .toml or .json file, or MODULE:NAME of yours",
    )
    _add_selection(run, "initialise nothing else", "leave it as it is")
    run.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    run.add_argument("--dtype", choices=DTYPES, help="of the parameters (default: the model's own)")
    run.add_argument("--device", help="where they go, such as cuda (default: cpu)")
    run.add_argument("--threads", type=positive, help="as torch.set_num_threads (default: PyTorch's)")
    run.add_argument(
        "--construct",
        choices=("meta", "cpu"),
        help="where MODULE:CALLABLE runs: without memory, or with, on --device "
        "(default: meta; cpu with --only and --skip)",
    )
    run.add_argument(
        "--save",
        type=destination,
        metavar="DIR|FILE.safetensors",
        help="write the initialised weights to disk, block by block: no memory is filled, and there is no "
        "comparison. The same command finishes a run that was interrupted",
    )
    run.add_argument(
        "--max-shard-size",
        type=size,
        help="of each file in DIR, such as 500MB or 2GiB (default: 5GB)",
    )
    run.add_argument("--overwrite", action="store_true", help="replace other weights that DIR or FILE holds")
    run.set_defaults(refuse=run.error)
    run.add_argument("--json", action="store_true", help="print JSON")
    run.add_argument("--no-compare", action="store_true", help="leave torch.nn.init out")
    run.add_argument(
        "--repeats", type=positive, default=3, help="of the comparison, which shows medians (default: 3)"
    )


def _add_verify(commands: Any) -> None:
    text = "whether a weights file holds, to the bit, what a seed and a recipe say"
    parser = commands.add_parser(
        "verify",
        help=text,
        description=f"Say {text}: names what differs, and the first element of each. Nothing is written.",
        epilog="Exit status: 0 all is equal, 1 something differs or is missing, 2 it could not be checked.",
    )
    parser.set_defaults(failure=USAGE)
    parser.add_argument("path", metavar="PATH", help=_PATH)
    _add_model(parser, required=True)
    parser.add_argument("--seed", type=seed, help="in [-2**63, 2**64) (default: what the file says, or 0)")
    parser.add_argument("--recipe", type=recipe, help="as for run (default: what the file says, or torch)")
    _add_selection(parser, "look at nothing else", "leave it out")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="what the weights must have (default: what they have)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_fingerprint(commands: Any) -> None:
    parser = commands.add_parser(
        "fingerprint",
        help="one number for all the values of a weights file, or of an initialisation",
        description="Print the fingerprint of a weights file, or of what a model's initialisation will be. "
        "Its values are generated block by block, and none are kept.",
        epilog="Exit status: 0 done, 1 not the number that --expect says, 2 it could not be computed.",
    )
    parser.set_defaults(failure=USAGE)
    parser.add_argument("path", nargs="?", metavar="PATH", help=_PATH)
    _add_model(parser, required=False)
    parser.add_argument("--seed", type=seed, help="with --model (default: 0)")
    parser.add_argument("--recipe", type=recipe, help="with --model, as for run")
    parser.add_argument("--dtype", choices=DTYPES, help="with --model (default: the model's own)")
    parser.add_argument("--each", action="store_true", help="of every tensor by itself; of a PATH")
    parser.add_argument("--expect", type=fingerprint, metavar="HEX", help="fail if it is another one")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_model(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument(
        "--model",
        type=spec,
        required=required,
        metavar="MODULE:CALLABLE",
        help="makes the model, whose names and module types count and no value",
    )
    parser.add_argument("--threads", type=positive, help="as torch.set_num_threads (default: PyTorch's)")
    parser.add_argument(
        "--construct",
        choices=("meta", "cpu"),
        help="where MODULE:CALLABLE runs (default: meta)",
    )


def _add_selection(parser: argparse.ArgumentParser, only: str, skip: str) -> None:
    for option, what in (("--only", only), ("--skip", skip)):
        parser.add_argument(
            option,
            action="append",
            type=pattern,
            metavar="PATTERN",
            help=f"{what}: a glob on the names of parameters or modules, or re:EXPRESSION; may be repeated",
        )


def spec(text: str) -> str:
    if not _SPEC.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form MODULE:CALLABLE, as package.module:callable; MODULE is what Python "
            "imports, and no path"
        )
    return text


def recipe(text: str) -> str:
    if ":" in text:
        return spec(text)
    if text not in RECIPES and not text.endswith(SUFFIXES):
        raise argparse.ArgumentTypeError(
            f"there is no recipe {text!r}; there are {', '.join(RECIPES)}, and files in "
            f"{' or '.join(SUFFIXES)}"
        )
    return text


def pattern(text: str) -> patterns.Pattern:
    try:
        return patterns.parse(text, "the pattern")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def seed(text: str) -> int:
    try:
        return checked_seed(int(text, 0))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed: {error}") from error


def destination(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("--save is empty; it takes a folder, or a file in .safetensors")
    return Path(text)


def size(text: str) -> int:
    try:
        return parsed_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def fingerprint(text: str) -> str:
    if len(text) != 32 or any(digit not in "0123456789abcdef" for digit in text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a fingerprint, 32 digits of 0123456789abcdef")
    return text
