"""Runs test batteries of random number generators on words of five kinds of streams, and on finished samples.

python benchmarks/quality/batteries.py [--full] [--smallcrush PROGRAM] [--only STREAM] [--output FILE]
python benchmarks/quality/batteries.py --tests --smallcrush PROGRAM --size crush [--minutes NUMBER] [--go-on]

Needs dieharder (Debian: apt-get install dieharder) for all tests but none; with --smallcrush also TestU01
and the program made of smallcrush.c; for finished samples scipy. --full is all of dieharder, Crush 96 tests
of TestU01: each more than half an hour of one core for a stream. With --minutes what has not ended by then
is left out; --go-on keeps what the result file has and runs the rest: each of TestU01's tests by itself, on
the stream from its first word, --jobs at once.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import math
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import FRESH_SEEDS, RESULTS, is_weak, processor_seconds, write

from convinit_ext.cli import _stream

# As options of `python -m convinit_ext stream`.
WORDS: dict[str, tuple[str, int]] = {
    "one key": ("element", 1),
    "1,000 adjacent names": ("name", 1000),
    "1,000 adjacent seeds": ("seed", 1000),
    "one index under 2^20 names": ("name", 1 << 20),
    "8 shards of one key": ("shard", 8),
}
# Finished samples of one key, as words: the 16 high bits of two samples' places in their distribution.
SAMPLES = {
    f"{kind} {dtype}": (kind, dtype)
    for dtype in ("float32", "float64")
    for kind in ("uniform", "normal", "truncated_normal")
}
STREAMS = (*WORDS, *SAMPLES)
# dieharder's tests but for those that its author calls suspect, those that need more than some 10^8 words,
# and most widths of tuples.
FAST = ("0", "1", "3", "4", "8", "9", "10", "11", "12", "13", "15", "16", "100", "101", "102", "200 -n 6")
FAST += ("201 -n 5", "202 -n 5", "204", "205", "206", "207", "208", "209")
FULL = ("-a",)
CUT = {  # names as dieharder prints them, of 20 characters; its -d takes the whole ones
    "diehard_count_1s_str": "diehard_count_1s_stream",
    "diehard_count_1s_byt": "diehard_count_1s_byte",
}
ROW = re.compile(r"^\s*(\S+)\|\s*(\d+)\|\s*\d+\|\s*\d+\|\s*([\d.]+)\|", re.MULTILINE)  # of dieharder
STATISTIC = re.compile(r"^= (.+?) \| (\S+)$", re.MULTILINE)  # of smallcrush.c

SIZES = {"smallcrush": "SmallCrush", "crush": "Crush", "bigcrush": "BigCrush"}
NUM_TESTS = {"smallcrush": 10, "crush": 96, "bigcrush": 106}
OUT_OF_WORDS = 3  # smallcrush.c's status
MOST_SAMPLES = 1 << 48  # in one tensor of which pieces are filled

versions: dict[str, str] = {}  # of the batteries that ran
Found = list[tuple[str, float]]  # the name of a statistic, and its p-value
Battery = Callable[[str, int, list[str]], Found]  # of a stream and a seed: all statistics, or at least these


def words_of(stream: str, seed: int) -> Iterator[np.ndarray[Any, Any]]:
    """Return the arrays of a stream's words, without end."""
    if stream in WORDS:
        by, num_streams = WORDS[stream]
        return _stream.interleaved(seed, "weight", by, num_streams)
    return words_of_samples(*SAMPLES[stream], seed)


def words_of_samples(kind: str, dtype: str, seed: int) -> Iterator[np.ndarray[Any, Any]]:
    import samples

    tensor = torch.empty(samples.CHUNK, dtype=samples.DTYPES[dtype])
    for start in itertools.count(0, samples.CHUNK):
        samples.fill_(tensor, kind, seed, start, MOST_SAMPLES)
        place = samples.cdf(kind, tensor.numpy().astype(np.float64))
        yield np.minimum(place * 65536.0, 65535.0).astype("<u2").view("<u4")


def fed(command: list[str], stream: str, seed: int, until: float = math.inf) -> str:
    """Return what a program prints that reads the stream's words until it has enough, or until that time."""
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output) as process,
    ):
        assert process.stdin
        accepted = {0}
        with contextlib.suppress(BrokenPipeError), process.stdin:  # it has enough, perhaps at the last flush
            for words in words_of(stream, seed):
                if time.monotonic() > until:
                    accepted.add(OUT_OF_WORDS)
                    break
                process.stdin.write(words.data)
        process.wait()
        output.seek(0)
        printed = output.read()
    if process.returncode not in accepted:
        raise RuntimeError(f"{' '.join(command)} failed with status {process.returncode}: {printed}")
    return printed


def dieharder(test: str, stream: str, seed: int, only: Sequence[str] = ()) -> Found:
    """Return what a test of dieharder says, "-a" for all: what it is, and how wide its tuples are.

    Of all, those of the statistics `only`: each test by itself, on the stream from its first word.
    """
    chosen = [["-a"] if test == "-a" else ["-d", *test.split()]]
    if test == "-a" and only:
        # A name is "sts_serial 12", perhaps with a number behind it.
        tests = dict.fromkeys(tuple(name.split()[:2]) for name in only)
        chosen = [["-d", CUT.get(name, name), "-n", width] for name, width in tests]
    found = []
    for arguments in chosen:
        command = ["dieharder", "-g", "200", *arguments]
        rows = ROW.findall(fed(command, stream, seed))
        found += numbered([(f"{name} {width}", float(p)) for name, width, p in rows], command)
    return found


def crush(
    program: str,
    arguments: Sequence[str],
    stream: str,
    seed: int,
    only: Sequence[str] = (),
    until: float = math.inf,
) -> Found:
    """Return what TestU01 says; of a battery's tests all, or those of the statistics `only`."""
    command = [program, *arguments, *dict.fromkeys(name.split()[0] for name in only)]
    printed = fed(command, stream, seed, until)
    if version := re.search(r"TestU01 ([\d.]+)", printed):
        versions["TestU01"] = version[1]
    found = [(name, float(p)) for name, p in STATISTIC.findall(printed)]
    return numbered(found, command) if found or time.monotonic() < until else []


def numbered(found: Found, command: list[str]) -> Found:
    """Return the same with a number behind names that occur more than once; never nothing."""
    if not found:
        raise RuntimeError(f"{' '.join(command)} printed no p-value")
    counted: dict[str, Any] = {}
    numbers = [next(counted.setdefault(name, itertools.count(1))) for name, _ in found]
    return [
        (f"{name} #{number}" if number > 1 else name, p)
        for (name, p), number in zip(found, numbers, strict=True)
    ]


def judged(battery: Battery, stream: str, tests: list[str]) -> list[dict[str, Any]]:
    """Return a row for each p-value on seed 0; a weak one has those of the fresh seeds beside it."""
    rows: list[dict[str, Any]] = [
        {"stream": stream, "test": name, "p": p} for name, p in battery(stream, 0, tests)
    ]
    if weak := [row for row in rows if is_weak(row["p"])]:
        names = [row["test"] for row in weak]
        fresh = {str(seed): dict(battery(stream, seed, names)) for seed in FRESH_SEEDS}
        for row in weak:
            row["fresh"] = {seed: found.get(row["test"]) for seed, found in fresh.items()}
    return rows


def batteries(options: argparse.Namespace) -> dict[str, Battery]:
    """Return what is to be run, by the name that its rows have."""
    until = time.monotonic() + 60 * options.minutes

    def of_dieharder(test: str) -> Battery:
        return functools.partial(dieharder, test)

    def of_crush(*arguments: str) -> Battery:
        def battery(stream: str, seed: int, only: list[str]) -> Found:
            return crush(options.smallcrush, arguments, stream, seed, only, math.inf if seed else until)

        return battery

    chosen = {}
    if options.smallcrush:
        size, name = options.size, SIZES[options.size]
        chosen = {name: of_crush(size), f"{name}, bits reversed": of_crush(size, "reversed")}
    tests = FULL if options.full else FAST if options.tests is None else options.tests
    return chosen | {f"dieharder {test}": of_dieharder(test) for test in tests}


def runs(options: argparse.Namespace, battery: str, ended: set[str]) -> list[list[str]]:
    """Return which tests each run of a battery makes; none named are all. `ended`: those that have rows."""
    if not options.go_on:
        return [[]]
    if battery.startswith("dieharder"):
        return [] if ended else [[]]
    numbers = map(str, range(1, NUM_TESTS[options.size] + 1))
    return [[number] for number in numbers if number not in ended]


def version_of_dieharder() -> str:
    if not shutil.which("dieharder"):
        raise SystemExit("batteries.py: there is no dieharder on PATH (Debian: apt-get install dieharder)")
    printed = subprocess.run(["dieharder", "-l"], capture_output=True, text=True).stdout
    return re.search(r"version (\S+)", printed)[1]  # type: ignore[index]  # it always says one


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--tests", nargs="*", help='of dieharder, as its -d takes them: "202 -n 5"')
    parser.add_argument("--smallcrush", metavar="PROGRAM", help="made of smallcrush.c")
    parser.add_argument("--size", choices=SIZES, default="smallcrush", help="TestU01's battery")
    parser.add_argument("--minutes", type=float, default=math.inf, help="of TestU01, all together")
    parser.add_argument("--only", action="append", choices=STREAMS, help="default: all")
    parser.add_argument("--output", type=Path, default=RESULTS / "quality_stream.json")
    parser.add_argument("--go-on", action="store_true", help="keep the rows of the output's file")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, with --go-on")
    return parser.parse_args(arguments)


def kept(options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows that the output's file has, and what it says of each run that made them."""
    if not (options.go_on and options.output.exists()):
        return [], []
    record = json.loads(options.output.read_text())
    rows = record.pop("results")
    return rows, [*record.pop("before", []), record]


def main(arguments: list[str] | None = None) -> None:
    options = parsed(arguments)
    if options.tests != []:
        versions["dieharder"] = version_of_dieharder()
    rows, before = kept(options)
    ended = {(row["battery"], row["stream"], row["test"].split()[0]) for row in rows}
    chosen = batteries(options)
    tasks = [
        (name, stream, tests)
        for name in chosen
        for stream in options.only or STREAMS
        for tests in runs(options, name, {test for *there, test in ended if there == [name, stream]})
    ]
    minutes: dict[str, float] = {}

    def run(name: str, stream: str, tests: list[str]) -> list[dict[str, Any]]:
        start = time.monotonic()
        found = [{"battery": name, **row} for row in judged(chosen[name], stream, tests)]
        label = f"{name}, {stream}"
        minutes[label] = round(minutes.get(label, 0.0) + (time.monotonic() - start) / 60, 2)
        return found

    with ThreadPoolExecutor(options.jobs) as pool:
        for found in pool.map(run, *zip(*tasks, strict=True)) if tasks else ():
            rows += found
            for row in found:
                print(*row.values(), sep=" | ", flush=True)
            figures = {"processor_seconds": processor_seconds(), "minutes": minutes}
            write(options.output, versions, **figures, before=before, results=rows)  # so far


if __name__ == "__main__":
    main()
