"""Calls the public functions with hostile arguments, and reads hostile safetensors files: `make fuzz`.

python tests/fuzz/fuzz.py [--minutes NUMBER] [--seed NUMBER] [--output FILE]

Cases are run in processes of their own, so that a crash and a hang are seen. Wrong is also an error that does
not say what is wrong, and one after the first write. A case that finds something goes into corpus.jsonl,
which test_corpus.py runs.
"""

import argparse
import base64
import faulthandler
import inspect
import json
import random
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from hostile import CALLS, Case, made_call, made_file, value
from torch import nn

import convinit_ext as package

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from measure import command, environment

CORPUS = Path(__file__).with_name("corpus.jsonl")
BATCH, SECONDS = 400, 120  # cases of a process, and how long it may take
# An AttributeError of what is no tensor, and an OverflowError, are what torch.nn.init raises.
CLEAR = TypeError, ValueError, RuntimeError, IndexError, OverflowError, AttributeError, FileNotFoundError
# What Python says where nobody looked at an argument.
UNCLEAR = "|".join(
    (
        r"^$|^(type )?'?[^']*'? ?object '?[^']*'? ?(has no attr|is not|does not)|^type object",
        r"^'[^']*' (not supported|object)|^unsupported operand|^must be real|^int too large|^bad operand",
        r"^object of type|^unhashable|^Overflow when|^too many val|^cannot unpack|^float\(\) arg",
    )
)


def finding(case: Case) -> str | None:
    """Return what is wrong with what a case does, None where nothing is."""
    if "call" in case:
        return _finding_of_call(**case)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.safetensors"
        path.write_bytes(base64.b64decode(case["file"]))
        if "index" in case:
            (path.parent / "model.safetensors.index.json").write_text(case["index"])
            path = path.parent
        for read in (package.fingerprint, lambda path: package.verify(path, 0, model=nn.Linear(3, 2))):
            try:
                read(path)
            except CLEAR as error:  # what the decoders say is in it
                if not str(error).startswith(name):
                    return f"{type(error).__name__}: {str(error)[:200]}"
            except Exception as error:
                return f"{type(error).__name__}: {str(error)[:200]}"
    return None


def _finding_of_call(call: str, arguments: dict[str, str]) -> str | None:
    made = {name: value(text) for name, text in arguments.items()}
    given = [each for each in made.values() if isinstance(each, torch.Tensor) and each.device.type == "cpu"]
    for each in made.values():
        given += each.parameters() if isinstance(each, nn.Sequential) else []
    before = [each.detach().clone() for each in given]
    signature = inspect.signature(CALLS[call]).parameters
    fixed = [made.pop(name) for name in list(made) if signature[name].kind == 0]
    try:
        CALLS[call](*fixed, **made)
    except Exception as error:
        text = f"{type(error).__name__}: {str(error)[:200]}"
        if not isinstance(error, CLEAR) or isinstance(error, UnicodeError) or re.search(UNCLEAR, str(error)):
            return text
        if any(not torch.equal(a.to_dense(), b.to_dense()) for a, b in zip(before, given, strict=True)):
            return f"after a write: {text}"
    return None


def work() -> None:
    """Run cases of standard input; print the number of each before it, and what is wrong after it."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    for number, line in enumerate(sys.stdin):
        print(number, flush=True)
        torch.manual_seed(0)
        if found := finding(json.loads(line)):
            print(number, found.encode("unicode_escape").decode(), flush=True)


def findings(cases: list[Case]) -> list[tuple[Case, str]]:
    """Run cases in a process; what is wrong with which of them."""
    text, status = "\n".join(map(json.dumps, cases)), "took too long"
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--work"], input=text, capture_output=True, text=True, timeout=SECONDS
        )
        printed, status = (
            done.stdout,
            f"status {done.returncode}: {done.stderr[-500:]}" if done.returncode else "",
        )
    except subprocess.TimeoutExpired as error:
        printed = (error.stdout or b"").decode()
    lines = [line.split(" ", 1) for line in printed.splitlines()]
    found = [(cases[int(line[0])], line[1]) for line in lines if len(line) > 1]
    if not status:
        return found
    last = int(lines[-1][0]) if lines else 0
    return [*found, (cases[last], status), *(findings(cases[last + 1 :]) if cases[last + 1 :] else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    parser.add_argument("--output", type=Path, help="a record of the run")
    parser.add_argument("--work", action="store_true")
    options = parser.parse_args()
    if options.work:
        return work()
    end, number, known = time.monotonic() + 60 * options.minutes, 0, set()
    counts = {"calls": 0, "safetensors files": 0}
    while time.monotonic() < end:
        choose = random.Random(f"{options.seed} {number}")
        number += 1
        cases = [choose.choice([made_call, made_file])(choose) for _ in range(BATCH)]
        for case in cases:
            counts["calls" if "call" in case else "safetensors files"] += 1
        for case, found in findings(cases):
            kind = case.get("call"), re.sub(r"\d+|'[^']*'|/\S*", "", found)
            if kind not in known:
                known.add(kind)
                print(json.dumps(case), found, sep="\n  ", flush=True)
                with CORPUS.open("a") as file:
                    file.write(json.dumps(case) + "\n")
    print(f"{number * BATCH} cases of seed {options.seed}: {len(known)} findings")
    if options.output:
        results = {"minutes": options.minutes, "findings": len(known), "results": counts}
        record = {"command": command(), "environment": environment(), **results}
        options.output.write_text(json.dumps(record, indent=1) + "\n")
    sys.exit(bool(known))


if __name__ == "__main__":
    main()
