"""One fingerprint of five models, whatever initialises them: a table of ways, and what each of them gives.

python benchmarks/quality/one_fingerprint.py [--sizes small] [--torch PYTHON ...] [--deepspeed PYTHON]
python benchmarks/quality/one_fingerprint.py --more --processes    # what has no row in the file yet

Small ones of the five go every way, in every build order; those at the shapes of their papers too, but with
orders in turn, and with two processes alone where --torch and --deepspeed name interpreters that have another
release of PyTorch, and DeepSpeed. For Arm and PTX: make build/arm/engine_rows build/ptx/90/engine_rows. A way
that does not go here is a row that says so.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, ROOT, write
from five_models import CASES, ORDERS, SEED
from ways import TOO_LARGE, WAYS, built

from convinit_ext import _C, keys, plan_model
from convinit_ext._engine import digests
from convinit_ext.model import Plan

WAYS_SCRIPT = Path(__file__).with_name("ways.py")
DEEPSPEED = "ZeRO-3, DeepSpeed"
ENGINES = {  # those that fill tensors without torch: a program, what runs it, and how much is not too slow
    "NEON (qemu)": (ROOT / "build/arm/engine_rows", ["qemu-aarch64"], 3 * 10**8),
    "PTX on the CPU": (ROOT / "build/ptx/90/engine_rows", [], 10**7),
}
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # as csrc/core/task.h has them
Row = dict[str, Any]


def ways(python: str, *arguments: object) -> Iterator[Row]:
    """Yield what ways.py says in another process, under the PyTorch of that interpreter."""
    command = [python, str(WAYS_SCRIPT), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    first, *rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")] or [{}]
    yield from (row | first for row in rows)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1]
        raise RuntimeError("the system ran out of memory in the midst" if "SIGKILL" in last else last)


def engine_lines(plan: Plan) -> Iterator[tuple[bytes, str]]:
    """Yield each tensor's header, and its line for engine_rows.cpp: all that a value needs but the model."""
    for row in plan.all_rows:
        head = digests.header(row.name, row.dtype, row.tensor.shape)
        digest = hashlib.blake2b(head, digest_size=16, person=b"convinit-fp1-key").digest()
        digest_words = [int.from_bytes(half, "little") for half in (digest[:8], digest[8:])]
        if row.distribution is None:
            kind, params, dtype, words = 0, (float(row.values.value), 0.0, 0.0, 0.0), row.dtype, [0, 0]
            if not dtype.is_floating_point:  # a counter of batches: zeros of as many bytes
                assert params[0] == 0 and dtype.itemsize == 8
                dtype = torch.float64
        else:
            kind, params, dtype = row.distribution.kind, row.distribution.params, row.dtype
            words = [each % 2**64 for each in keys.of_names(SEED, [row.values.key])[0].tolist()]
        numbers = [kind, *map(float.hex, map(float, params)), DTYPES.index(dtype), row.tensor.numel()]
        yield head, " ".join(map(str, [*numbers, *words, *digest_words]))


def by_engine(program: Path, runner: list[str], small: bool, models: Iterable[str]) -> Iterator[Row]:
    for name in models:
        plan = plan_model(built(CASES[name], small, ORDERS[0]), SEED, CASES[name].recipe)
        heads, lines = zip(*engine_lines(plan._plan), strict=True)
        done = subprocess.run([*runner, program], input="\n".join(lines), capture_output=True, text=True)
        sums = [list(map(int, line.split())) for line in done.stdout.splitlines()[1:]]
        if done.returncode or len(sums) != len(lines):
            raise RuntimeError(f"{program} failed on {name}: {done.stderr}{done.stdout[-200:]}")
        total = np.array(sums, dtype=np.uint64).sum(axis=0)
        yield {"order": ORDERS[0], "model": name, "fingerprint": digests.of_all(heads, total)}


def missing(program: Path, runner: list[str]) -> str | None:
    if runner and shutil.which(runner[0]) is None:
        return f"there is no {runner[0]}"
    return None if program.exists() else f"there is no {program.relative_to(ROOT)}"


class Table:
    """The rows so far: how many runs of a way gave which fingerprint, by model."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, size: str, way: str, processes: int, run: Row) -> None:
        row = self._row(size, way)
        release = run.get("torch", torch.__version__).split("+")[0]
        for key, value in (("torch", release), ("processes", processes), ("orders", run["order"])):
            row[key] = sorted({*row.setdefault(key, []), value})
        if way == DEEPSPEED:
            row["deepspeed"] = run["deepspeed"]
        counts = row.setdefault("runs", {}).setdefault(run["model"], {})
        counts[run["fingerprint"]] = counts.get(run["fingerprint"], 0) + 1

    def leave_out(self, size: str, way: str, reason: str) -> None:
        row = self._row(size, way)
        row["not_run"] = list(dict.fromkeys([*row.get("not_run", []), reason]))

    def has(self, size: str, way: str) -> bool:
        return any((row["size"], row["way"]) == (size, way) for row in self.rows)

    def in_order(self) -> list[Row]:
        """Return the rows, of the small models first, and of instruction sets from the narrowest on."""
        isas = _C.available_isas()

        def place(row: Row) -> tuple[bool, int]:
            return row["size"] == "real", isas.index(row["way"]) if row["way"] in isas else len(isas)

        return sorted(self.rows, key=place)

    def _row(self, size: str, way: str) -> Row:
        for row in self.rows:
            if (row["size"], row["way"]) == (size, way):
                return row
        self.rows.append({"size": size, "way": way})
        return self.rows[-1]

    def fingerprints(self, size: str, model: str) -> set[str]:
        """Return all that were found: one of them is what the package promises."""
        rows = [row.get("runs", {}) for row in self.rows if row["size"] == size]
        return {each for runs in rows for each in runs.get(model, ())}


def fill_table(table: Table, size: str, options: argparse.Namespace) -> Iterator[None]:
    """Add the rows of the small models, or of the real ones, and yield after each step.

    Instruction sets and ENGINES that have a row are done: a number of processes is nothing to them.
    """
    is_small = size == "small"
    sharded, few = [way for way in WAYS if way != DEEPSPEED], options.processes if is_small else [2]
    isas = [isa for isa in _C.available_isas() if not table.has(size, isa)]
    steps: list[tuple[str, int, list[str]]] = [(sys.executable, 0, isas)] if isas else []
    steps += [(sys.executable, number, sharded) for number in options.processes]
    steps += [(python, number, sharded) for python in options.torch for number in few]
    if options.deepspeed:
        steps += [(options.deepspeed, number, [DEEPSPEED]) for number in few]
    elif not table.has(size, DEEPSPEED):
        table.leave_out(size, DEEPSPEED, "there is no DeepSpeed")
    for python, processes, chosen in steps:
        arguments = ["--processes", processes, "--models", *options.models]
        arguments += ["--small", "--orders", len(ORDERS)] if is_small else ["--orders", 1]
        try:
            for run in ways(python, *arguments, "--ways", *chosen):
                table.add(size, run["way"], max(processes, 1), run)
        except RuntimeError as error:
            table.leave_out(size, f"{Path(python).name}, {processes} processes", str(error))
        yield
    for name, way in () if is_small else TOO_LARGE:
        table.leave_out(size, way, f"{name}, whose layer each of several processes would hold whole")
    add_engines(table, size, options.models)
    yield


def add_engines(table: Table, size: str, models: Iterable[str]) -> None:
    for engine, (program, runner, most) in ENGINES.items():
        if table.has(size, engine):
            continue
        if reason := missing(program, runner):
            table.leave_out(size, engine, reason)
            continue
        slow = [name for name in models if num_parameters(name, size == "small") > most]
        for run in by_engine(program, runner, size == "small", [name for name in models if name not in slow]):
            table.add(size, engine, 1, run)
        if slow:
            table.leave_out(size, engine, f"too slow for {', '.join(slow)}")


def num_parameters(name: str, small: bool) -> int:
    return sum(map(torch.numel, built(CASES[name], small, ORDERS[0]).parameters()))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=["small", "real"], default=["small", "real"])
    parser.add_argument("--more", action="store_true", help="keep the rows that the file has")
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--processes", nargs="*", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--torch", nargs="+", metavar="PYTHON", default=[])
    parser.add_argument("--deepspeed", metavar="PYTHON")
    parser.add_argument("--output", type=Path, default=RESULTS / "one_fingerprint.json")
    options = parser.parse_args(arguments)
    table, before = Table(), []
    if options.more:
        record = json.loads(options.output.read_text())
        table.rows, before = record["results"], record.get("before", [])
        before.append({key: record[key] for key in ("command", "environment")})
    models = {
        name: {
            "what": CASES[name].what,
            "parameters": num_parameters(name, False),
            "dtype": str(CASES[name].dtype).removeprefix("torch."),
        }
        for name in options.models
    }
    for _ in itertools.chain.from_iterable(fill_table(table, size, options) for size in options.sizes):
        write(options.output, {}, before=before, seed=SEED, models=models, results=table.in_order())
    differ = [
        (size, name) for size in options.sizes for name in models if len(table.fingerprints(size, name)) > 1
    ]
    print(f"more than one fingerprint: {differ}" if differ else "one fingerprint of each model")
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())
