"""The command line, `python -m convinit_ext run | verify | fingerprint | info`."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence

from convinit_ext.cli import (
    FAILURE,
    CommandError,
    environment,
    parser,
    run,
    run_fingerprint,
    run_verify,
    text_of,
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        status = _COMMANDS[options.name](options)
    except (CommandError, ValueError, TypeError, RuntimeError, MemoryError, OSError) as error:
        print(f"convinit_ext {options.name}: error: {text_of(error)}", file=sys.stderr)
        return int(options.failure)
    except (Exception, SystemExit):  # the user's code may raise anything, and that is no answer about weights
        if options.failure == FAILURE:
            raise
        traceback.print_exc()
        return int(options.failure)
    return status or 0


def _info(options: argparse.Namespace) -> None:
    facts = environment()
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    width = max(len(name) for name in facts)
    for name, fact in facts.items():
        print(f"{name.ljust(width)}  {fact}")


_COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "run": run,
    "verify": run_verify,
    "fingerprint": run_fingerprint,
    "info": _info,
}


if __name__ == "__main__":
    sys.exit(main())
