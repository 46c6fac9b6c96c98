"""The command line: `python -m convinit_ext run | inspect | verify | fingerprint | stream | info`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence

import torch

from convinit_ext.cli._arguments import CLOSED, FAILURE, INTERRUPTED, PROGRAM, ArgumentError, parser
from convinit_ext.cli._check import run_fingerprint, run_inspect, run_verify
from convinit_ext.cli._common import environment, text_of
from convinit_ext.cli._run import run
from convinit_ext.cli._stream import run_stream
from convinit_ext.model import SelectionError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of these arguments, or this process's, and return the exit status."""
    options = parser().parse_args(arguments)
    try:
        if getattr(options, "threads", None):
            torch.set_num_threads(options.threads)
        status = _COMMANDS[options.name](options) or 0
        print(end="", flush=True)
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the exit
        return 0 if options.name == "stream" else CLOSED  # which has no other end
    except KeyboardInterrupt:
        rest = "; the same command finishes it" if getattr(options, "save", None) else ""
        print(f"convinit_ext {options.name}: interrupted{rest}", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, TypeError, RuntimeError, MemoryError, OSError, ImportError) as error:
        is_usage = isinstance(error, ArgumentError | SelectionError)
        more = f" (see {PROGRAM} {options.name} --help)" if is_usage else ""
        print(f"convinit_ext {options.name}: error: {text_of(error)}{more}", file=sys.stderr)
        return int(options.failure)
    except (Exception, SystemExit):  # the user's code may raise anything, and that is no answer about weights
        if options.failure == FAILURE:
            raise
        traceback.print_exc()
        return int(options.failure)


def _info(options: argparse.Namespace) -> None:
    facts = environment()
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts))
    for name, fact in facts.items():
        print(f"{name.ljust(width)}  {fact}")


_COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "run": run,
    "inspect": run_inspect,
    "verify": run_verify,
    "fingerprint": run_fingerprint,
    "stream": run_stream,
    "info": _info,
}
