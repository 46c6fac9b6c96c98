"""What the command line accepts: the options of every command, and how their texts are read."""

from __future__ import annotations

import argparse
import contextlib
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import convinit_ext
from convinit_ext._engine import SUPPORTED_DTYPES
from convinit_ext.checkpoint import parsed_size
from convinit_ext.keys import checked_seed
from convinit_ext.recipes import RECIPES, SUFFIXES, as_recipe, patterns

_T = TypeVar("_T")
USAGE, FAILURE, INTERRUPTED, CLOSED = 2, 1, 130, 141  # exit statuses; the last two as a shell has them
PROGRAM = "python -m convinit_ext"
_STATUS = "Exit status: 0 done, 1 it failed, 2 wrong usage, 130 interrupted by Ctrl-C."
_DTYPES = tuple(str(dtype).removeprefix("torch.") for dtype in SUPPORTED_DTYPES)
_PART = r"[^\s./\\:]+"  # of a name with dots; a module's file may be called my-model
_SPEC = re.compile(rf"{_PART}(\.{_PART})*:{_PART}(\.{_PART})*")
_ROWS = re.compile(r"(?!re:)(.+)\[(-?\d+)?:(-?\d+)?\]")  # no class of characters that a name would fit
_PATH = "a .safetensors file, an index, or a folder that holds either"
_MODEL = "makes the model, whose names and module types count and no value"
_RECIPE = f"{', '.join(RECIPES)}, a .toml or .json file, or MODULE:NAME of yours"
_ALLOW_CODE = "import the functions and module types that the recipe's file names (default: refuse it)"
_INPUTS = (
    "a tensor, a tuple of arguments or a dict of keyword arguments, or a function that returns one "
    "(default: a guess by the first layers)"
)
_SAVE = (
    "write the initialised weights to disk, block by block: no memory is filled, and there is no comparison. "
    "The same command finishes a run that was interrupted"
)
_STREAMS = (
    "element: the parameter's own words in order (default); name: of layers.0.NAME, layers.1.NAME, ...; "
    "seed: of the seeds from --seed on; shard: of a matrix that ranks hold by columns, 1,000 each"
)
_CHECKS = "whether a weights file holds, to the bit, what a seed and a recipe say"


class ArgumentError(ValueError):
    """An option that is of no use, as is found after all of them were read."""


@contextlib.contextmanager
def of_arguments() -> Iterator[None]:
    """Make an ArgumentError of a ValueError inside: what raises it knows of no options."""
    try:
        yield
    except ValueError as error:
        raise ArgumentError(str(error)) from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line.

    `name` is the command, `failure` the exit status when it cannot go on, `refuse` ends run as wrong usage.
    """
    about = (
        "Fill a model's weights, fast and reproducibly; say what they are. COMMAND --help says more of each."
    )
    named = _described(about, _STATUS, ["run --dry-run", "info"]) | {
        "usage": f"{PROGRAM} COMMAND [OPTION ...]"
    }
    whole = _Parser(PROGRAM, **named)
    whole.add_argument("--version", action="version", version=f"convinit_ext {convinit_ext.__version__}")
    whole.set_defaults(failure=FAILURE)
    commands = whole.add_subparsers(
        dest="name", required=True, prog=PROGRAM, metavar="{run,inspect,verify,fingerprint,stream,info}"
    )
    _add_run(commands)
    _add_inspect(commands)
    _add_verify(commands)
    _add_fingerprint(commands)
    _add_stream(commands)
    facts = "build, instruction set in use, threads, CUDA, contract version"
    about = f"Print facts about the installation and the machine, for a bug report: {facts}."
    info = commands.add_parser("info", help=facts, **_described(about, _STATUS, ["info --json"]))
    info.add_argument("--json", action="store_true", help="print JSON")
    return whole


def _described(about: str, status: str, examples: Sequence[str], takes: str = "") -> dict[str, Any]:
    """Return what a parser prints around its options; the examples can be copied, so they are not wrapped."""
    name = examples[0].split()[0]
    commands = "".join(f"\n  {PROGRAM} {example}" for example in examples)
    return {
        "description": textwrap.fill(about),
        "epilog": f"{textwrap.fill(status)}\n\nexample{'s' * (len(examples) > 1)}:{commands}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "usage": f"{PROGRAM} {name} {takes}[OPTION ...]",  # argparse's own lists every option, too far right
    }


def _add_run(commands: Any) -> None:
    about = (
        "Initialise a model as init_model_ does, print what each parameter got, and time it against "
        "torch.nn.init; or, with --save, write the weights to disk. Without --model it takes a bundled U-Net."
    )
    examples = [
        "run --model my_module:build --seed 7 --recipe he",
        "run --model my_module:build --seed 7 --save folder",
    ]
    what = "initialise a model, print the report, compare with torch.nn.init"
    run = commands.add_parser("run", help=what, **_described(about, _STATUS, examples))
    run.set_defaults(refuse=run.error, seed=0, recipe="torch")
    places = "without memory, or with, on --device (default: meta; cpu with --only and --skip)"
    _add_model(run, "makes the model (default: the bundled one)", places)
    _add_values(
        run, "in [-2**63, 2**64) (default: 0)", _RECIPE, "of the parameters (default: the model's own)"
    )
    _add_selection(run, "initialise nothing else", "leave it as it is")
    add = run.add_argument
    add("--dry-run", action="store_true", help="say what would be done, and do nothing")
    add("--device", help="where the parameters go, such as cuda (default: cpu)")
    add("--save", type=_destination, metavar="DIR|FILE.safetensors", help=_SAVE)
    add("--max-shard-size", type=_size, help="of each file in DIR, such as 500MB or 2GiB (default: 5GB)")
    add("--overwrite", action="store_true", help="replace other weights that DIR or FILE holds")
    add("--no-compare", action="store_true", help="leave torch.nn.init out")
    add("--repeats", type=_positive, default=3, help="of the comparison, which shows medians (default: 3)")


def _add_inspect(commands: Any) -> None:
    about = (
        "Run a model once, forwards and backwards, and say what is wrong: dead and exploding layers, weights "
        "that are not as intended. With --recipe it is filled first, once for each."
    )
    status = (
        "Exit status: 0 whatever it finds, 1 it could not look, 2 wrong usage, 130 interrupted by Ctrl-C."
    )
    examples = ["inspect --model my_module:build --recipe he"]
    what = "how signal and gradients spread over a model's layers, and how its weights lie"
    inspect = commands.add_parser("inspect", help=what, **_described(about, status, examples))
    add = inspect.add_argument
    add("--model", type=_spec, required=True, metavar="MODULE:CALLABLE", help="makes the model")
    add("--inputs", type=_spec, metavar="MODULE:NAME", help=_INPUTS)
    values = "(default: the constructor's values); may be repeated"
    add("--recipe", type=_recipe, action="append", help=f"{_RECIPE} {values}")
    add("--expected", type=_recipe, help="without --recipe: what the weights are held against")
    _add_allow_code(inspect)
    _add_frozen(inspect)
    add("--seed", type=seed_of, default=0, help="of everything that is random (default: 0)")
    add("--plot", type=Path, metavar="FILE.png", help="draw it too; needs matplotlib")
    _add_threads_and_json(inspect)


def _add_verify(commands: Any) -> None:
    about = f"Say {_CHECKS}: names what differs, and the first element of each. Nothing is written."
    status = (
        "Exit status: 0 all is equal, 1 something differs or is missing, 2 it could not be checked, or wrong "
        "usage, 130 interrupted by Ctrl-C."
    )
    examples = ["verify folder --model my_module:build --seed 7"]
    verify = commands.add_parser("verify", help=_CHECKS, **_described(about, status, examples, "PATH "))
    verify.set_defaults(failure=USAGE)
    verify.add_argument("path", metavar="PATH", help=_PATH)
    _add_model(verify, _MODEL, "without memory, or with (default: meta)", required=True)
    _add_values(
        verify,
        "in [-2**63, 2**64) (default: what the file says, or 0)",
        "as for run (default: what the file says, or torch)",
        "what the weights must have (default: what they have)",
    )
    _add_selection(verify, "look at nothing else", "leave it out")


def _add_fingerprint(commands: Any) -> None:
    about = (
        "Print the fingerprint of a weights file, or of what a model's initialisation will be, whose values "
        "are generated block by block and not kept."
    )
    status = (
        "Exit status: 0 done, 1 not the number that --expect says, 2 it could not be computed, or wrong "
        "usage, 130 interrupted by Ctrl-C."
    )
    examples = ["fingerprint folder", "fingerprint --model my_module:build --seed 7"]
    what = "one number for all the values of a weights file, or of an initialisation"
    number = commands.add_parser("fingerprint", help=what, **_described(about, status, examples, "[PATH] "))
    number.set_defaults(failure=USAGE)
    number.add_argument("path", nargs="?", metavar="PATH", help=_PATH)
    _add_model(number, _MODEL, "without memory, or with (default: meta)")
    own = "with --model (default: the model's own)"
    _add_values(number, "with --model (default: 0)", "with --model, as for run", own)
    number.add_argument("--each", action="store_true", help="of every tensor by itself; of a PATH")
    number.add_argument("--expect", type=_fingerprint, metavar="HEX", help="fail if it is another one")


def _add_stream(commands: Any) -> None:
    about = (
        "Write Philox words to a pipe, as 32-bit integers, lowest byte first: of one parameter, or of many "
        "streams, a word of each in turn. Ends when the reader does."
    )
    what = "the random words behind the values, for a test battery that reads a pipe"
    examples = ["stream --by name | dieharder -a -g 200"]
    stream = commands.add_parser("stream", help=what, **_described(about, _STATUS, examples))
    add = stream.add_argument
    add("--seed", type=seed_of, default=0, help="in [-2**63, 2**64) (default: 0)")
    add("--name", dest="parameter", default="weight", help="of the parameter (default: weight)")
    add("--by", choices=("element", "name", "seed", "shard"), default="element", help=_STREAMS)
    add("--streams", type=_positive, metavar="NUMBER", help="how many streams (default: 1000)")
    add("--count", type=_positive, metavar="WORDS", help="how many words in all (default: endless)")


def _add_model(parser: argparse.ArgumentParser, model: str, places: str, required: bool = False) -> None:
    add = parser.add_argument
    add("--model", type=_spec, required=required, metavar="MODULE:CALLABLE", help=model)
    add("--construct", choices=("meta", "cpu"), help=f"where MODULE:CALLABLE runs: {places}")
    _add_threads_and_json(parser)


def _add_threads_and_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=_positive, help="as torch.set_num_threads (default: PyTorch's)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_values(parser: argparse.ArgumentParser, seed: str, recipe: str, dtype: str) -> None:
    parser.add_argument("--seed", type=seed_of, help=seed)
    parser.add_argument("--recipe", type=_recipe, help=recipe)
    _add_allow_code(parser)
    parser.add_argument("--dtype", choices=_DTYPES, help=dtype)
    _add_frozen(parser)


def _add_allow_code(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--allow-code", action="store_true", default=None, help=_ALLOW_CODE)


def _add_frozen(parser: argparse.ArgumentParser) -> None:
    frozen = "frozen parameters beside others that are not: keep them as they are, or draw them"
    parser.add_argument("--frozen", choices=("keep", "draw"), help=frozen)


def _add_selection(parser: argparse.ArgumentParser, only: str, skip: str) -> None:
    globs = "a glob on the names of parameters or modules, or re:EXPRESSION"
    rows = "embed.weight[32000:] are rows of a parameter"
    more = "may be repeated"
    add = parser.add_argument
    add("--only", action=_Only, type=_with_rows, metavar="PATTERN", help=f"{only}: {globs}; {rows}; {more}")
    add("--skip", action="append", type=_pattern, metavar="PATTERN", help=f"{skip}: {globs}; {more}")


class _Only(argparse.Action):
    """Collects patterns with their rows, as only= takes them."""

    def __call__(self, parser: Any, options: argparse.Namespace, given: Any, option: Any = None) -> None:
        pattern, rows = given
        chosen = getattr(options, self.dest) or {}
        if chosen.setdefault(pattern, rows) != rows:
            raise argparse.ArgumentError(
                self, f"{patterns.text_of(pattern)!r} stands there twice, with other rows"
            )
        setattr(options, self.dest, chosen)


def _spec(text: str) -> str:
    if not _SPEC.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form MODULE:CALLABLE, as package.module:callable; MODULE is what Python "
            "imports, and no path"
        )
    return text


def _recipe(text: str) -> str:
    if ":" in text:
        return _spec(text)
    if not text.endswith(SUFFIXES):  # a file is read later, when it is known what it may name
        _read(as_recipe, text)
    return text


def _read(read: Callable[..., _T], *given: Any) -> _T:
    """Return what a function reads; of another's errors argparse shows no text."""
    try:
        return read(*given)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _pattern(text: str) -> patterns.Pattern:
    return _read(patterns.parse, text, "the pattern")


def _with_rows(text: str) -> tuple[patterns.Pattern, slice]:
    found = _ROWS.fullmatch(text)
    if found is None:
        return _pattern(text), slice(None)
    name, *ends = found.groups()
    return _pattern(name), slice(*(None if end is None else int(end) for end in ends))


def seed_of(text: str) -> int:
    try:
        return checked_seed(int(text, 0))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed: {error}") from error


def _destination(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("--save is empty; it takes a folder, or a file in .safetensors")
    return Path(text)


def _size(text: str) -> int:
    return _read(parsed_size, text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _fingerprint(text: str) -> str:
    if len(text) != 32 or any(digit not in "0123456789abcdef" for digit in text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a fingerprint, 32 digits of 0123456789abcdef")
    return text
