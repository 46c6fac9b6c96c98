"""Fills against other libraries' generators, and against fill_ and memset, the limits of memory.

    pip install jax mkl randomgen
    python benchmarks/bench_peers.py [--output benchmarks/results/peers.json] [--repeats 9]

Alternatives run in turns, a small one several times in each; medians. All fill one buffer, but for
JAX, whose arrays are new ones. A peer that is not installed is left out. NumPy, randomgen, MKL and PyTorch's
random fills use one thread; JAX takes all cores. Then writes the table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import command, environment, in_turns
from table import PERFORMANCE, time_text

from convinit_ext import Key, init

BEGIN, END = "<!-- peers: begin (made by benchmarks/bench_peers.py) -->", "<!-- peers: end -->"
RESULTS = Path(__file__).parent / "results" / "peers.json"
KINDS = ("uniform", "normal")
DTYPES = ("float32", "float64")
LIMITS = ("fill_", "memset")
SETTLE = "settle"
IN_CACHE, IN_MEMORY, MANY = 2**20, 9 * 2**22, 2**22  # elements
MKL_ARS5, MKL_PHILOX, MKL_BOX_MULLER = 15 << 20, 16 << 20, 1
Runs = dict[str, Callable[[], object]]
Array = np.ndarray[Any, np.dtype[Any]]


def numpy_runs(kind: str, out: Array) -> Runs:
    sources: dict[str, Any] = {"NumPy SFC64": np.random.SFC64(0), "NumPy Philox": np.random.Philox(0)}
    with suppress(ImportError):
        sources["randomgen AESCounter"] = importlib.import_module("randomgen").AESCounter(0)
    generators = {name: np.random.Generator(source) for name, source in sources.items()}
    return {
        name: lambda fill=each.random if kind == "uniform" else each.standard_normal: fill(
            dtype=out.dtype, out=out
        )
        for name, each in generators.items()
    }


def mkl_library() -> ctypes.CDLL | None:
    for name in (f"{sys.prefix}/lib/libmkl_rt.so.3", f"{sys.prefix}/lib/libmkl_rt.so.2", "libmkl_rt.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def mkl_runs(kind: str, out: Array) -> Runs:
    library = mkl_library()
    if library is None:
        return {}
    letter, real = ("s", ctypes.c_float) if out.dtype == np.float32 else ("d", ctypes.c_double)
    fill = getattr(library, f"v{letter}Rng{'Uniform' if kind == 'uniform' else 'Gaussian'}")
    method = 0 if kind == "uniform" else MKL_BOX_MULLER
    runs: Runs = {}
    for name, code in (("MKL ARS5", MKL_ARS5), ("MKL Philox", MKL_PHILOX)):
        stream = ctypes.c_void_p()
        if library.vslNewStream(ctypes.byref(stream), code, ctypes.c_uint(1)):
            continue
        place = out.ctypes.data_as(ctypes.c_void_p)
        runs[name] = partial(fill, method, stream, out.size, place, real(0), real(1))
    return runs


def jax_runs(kind: str, out: Array) -> Runs:
    try:
        jax = importlib.import_module("jax")
    except ImportError:
        return {}
    jax.config.update("jax_enable_x64", True)
    draw = jax.random.uniform if kind == "uniform" else jax.random.normal
    made = jax.jit(lambda key: draw(key, out.shape, out.dtype))
    key = jax.random.key(0)
    return {"JAX": lambda: made(key).block_until_ready()}


def runs_of(kind: str, dtype: str, elements: int) -> Runs:
    out = np.zeros(elements, dtype)
    tensor = torch.from_numpy(out)
    key = Key(0, "weight")
    fill = init.uniform_ if kind == "uniform" else init.normal_
    return {
        "convinit_ext": lambda: fill(tensor, key=key),
        "PyTorch": tensor.uniform_ if kind == "uniform" else tensor.normal_,
        **numpy_runs(kind, out),
        **mkl_runs(kind, out),
        **(jax | {SETTLE: lambda: settle(tensor)} if (jax := jax_runs(kind, out)) else {}),
        "fill_": lambda: tensor.fill_(0.5),
        "memset": lambda: ctypes.memset(out.ctypes.data, 0, out.nbytes),
    }


def settle(tensor: torch.Tensor) -> None:
    """Wait until JAX's threads have given its memory back, and wake PyTorch's."""
    time.sleep(0.2)
    tensor.fill_(0.25)


def rows(repeats: int, sizes: list[int]) -> list[dict[str, Any]]:
    """Return a row for each kind, dtype and size, on one thread and on all."""
    num_threads, found = torch.get_num_threads(), []
    for threads in sorted({1, num_threads}):
        torch.set_num_threads(threads)
        for elements in sizes:
            for dtype in DTYPES:
                for kind in KINDS:
                    calls = max(1, min(16, MANY // elements))
                    taken = in_turns(runs_of(kind, dtype, elements), repeats, calls)
                    taken.pop(SETTLE, None)
                    row = {"case": f"{kind} {dtype}", "elements": elements, "threads": threads}
                    found.append(row | {"seconds": taken})
                    print(table_line(found[-1]), flush=True)
    torch.set_num_threads(num_threads)
    return found


def table_line(row: dict[str, Any]) -> str:
    taken = row["seconds"]
    ours = taken["convinit_ext"]
    peers = {name: value for name, value in taken.items() if name not in (*LIMITS, "convinit_ext")}
    best = min(peers, key=lambda name: peers[name])
    cells = [row["case"], f"{row['elements']:,}", str(row["threads"]), time_text(ours)]
    cells += [f"{peers['PyTorch'] / ours:.1f}x", f"{peers[best] / ours:.2f}x ({best})"]
    cells.append(f"{taken['memset'] / ours:.2f}")
    return f"| {' | '.join(cells)} |"


def with_table(text: str, record: dict[str, Any]) -> str:
    """Return the page's text with the record's table in its place."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    where = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in record["peers"].items())
    lines = [
        BEGIN,
        "| | elements | threads | time | to PyTorch | to the best peer | of memset |",
        "|---|---|---|---|---|---|---|",
        *map(table_line, record["results"]),
        "",
        f"{where['processor']}, {where['instruction_set']}; torch {where['torch']}, {versions}; medians of "
        f"runs in turns; `{record['command']}`.",
        END,
    ]
    return before + "\n".join(lines) + after


def versions() -> dict[str, str]:
    """Return the versions of the peers that are there."""
    found = {"NumPy": np.__version__}
    for name, package in (("randomgen", "randomgen"), ("JAX", "jax"), ("MKL", "mkl")):
        try:
            found[name] = importlib.import_module("importlib.metadata").version(package)
        except ImportError:  # PackageNotFoundError is one
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--elements", type=int, nargs="+", default=[IN_CACHE, IN_MEMORY])
    options = parser.parse_args()
    found = rows(options.repeats, options.elements)
    around = environment() | {"load_average": f"{os.getloadavg()[1]:.1f}"}  # of what else ran meanwhile
    record = {
        "command": command(),
        "environment": around,
        "peers": versions(),
        "results": found,
    }
    options.output.write_text(json.dumps(record, indent=2) + "\n")
    if options.output == RESULTS:
        PERFORMANCE.write_text(with_table(PERFORMANCE.read_text(), record))


if __name__ == "__main__":
    main()
