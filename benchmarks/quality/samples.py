"""Tests finished samples: distribution, moments and tails of each dtype and kind, float32 at every word.

python benchmarks/quality/samples.py [--samples NUMBER] [--kinds KIND ...] [--dtypes DTYPE ...] [--step STEP]
python benchmarks/quality/samples.py --go-on --kinds    # float32 at every word alone: the other rows stay

Kolmogorov-Smirnov, Anderson-Darling and chi-square are computed from counts in cells, against the exact
probabilities of the cells; a weak p-value is looked at again with fresh seeds. Needs scipy, and a compiler.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import os
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from common import FRESH_SEEDS, RESULTS, ROOT, is_weak, write
from scipy import special, stats

from convinit_ext import Key, Shard, init

CHUNK = 1 << 16  # elements at a time: they stay in the cache
CELLS = 1 << 16  # of float32 and float64
EDGE = 8.0  # normals' cells lie between minus and plus this
NEAR_ZERO = 2.0**-10  # normals below it are one cell: 2^-25 of the float32 are exactly zero
LEAST_EXPECTED = 25.0  # neighbouring cells are joined until they have as many
FINE = 1000  # with fewer cells the distribution of Kolmogorov and Smirnov is not theirs
CUT = 2.0  # truncated normals are cut at minus and plus this
ZEROS = 2.0**-25 + 2.0**-31  # of float32 normals: a radius of 0, and a sine of 0
SIGMAS = (3.0, 4.0, 5.0, 6.0)
WIDE = torch.float32, torch.float64
DTYPES = {
    name: getattr(torch, name)
    for name in ("float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
}
KINDS = ("uniform", "normal", "truncated_normal")
Array = np.ndarray[Any, np.dtype[Any]]


def cdf(kind: str, x: Array) -> Array:
    """The exact distribution function of the standard kinds."""
    if kind == "uniform":
        return np.clip(x, 0.0, 1.0)
    if kind == "normal":
        return special.ndtr(x)
    below = special.ndtr(-CUT)
    return np.clip((special.ndtr(x) - below) / (1.0 - 2.0 * below), 0.0, 1.0)


def fill_(tensor: torch.Tensor, kind: str, seed: int, start: int, whole: int) -> None:
    """Fill with the elements from `start` on of a tensor of `whole` elements."""
    where = {"key": Key(seed, f"{kind}.{tensor.dtype}"), "shard": Shard.flat((whole,), start, len(tensor))}
    if kind == "uniform":
        init.uniform_(tensor, **where)
    elif kind == "normal":
        init.normal_(tensor, **where)
    else:
        init.trunc_normal_(tensor, 0.0, 1.0, -CUT, CUT, **where)


@dataclass
class Cells:
    """Cells of the line in order: how probable each is, and how to count samples in them.

    `value` and `order` are of narrow dtypes, which have a cell for each value: the values in order, and the
    bits of each.
    """

    probability: Array
    value: Array | None = None
    order: Array | None = None

    @classmethod
    @functools.cache
    def of(cls, kind: str, dtype: torch.dtype) -> Cells:
        if dtype in WIDE:
            edges = np.linspace(*((0.0, 1.0) if kind == "uniform" else (-EDGE, EDGE)), CELLS + 1)
            return cls(np.diff(cdf(kind, edges)))
        bits = torch.arange(1 << 8 * dtype.itemsize).to(torch.uint8 if dtype.itemsize == 1 else torch.int16)
        value = bits.view(dtype).double().numpy()
        order = np.flatnonzero(np.isfinite(value))
        order = order[np.argsort(value[order], kind="stable")]
        value = value[order]
        if kind == "uniform":  # all 2^24 values of a float32 are known, and PyTorch rounds them
            u = (torch.arange(1 << 24) * 2.0**-24).to(dtype)
            return cls(counted(u)[order] / 2**24, value, order)
        ties = np.concatenate([[-np.inf], (value[:-1] + value[1:]) / 2, [np.inf]])
        return cls(np.diff(cdf(kind, ties)), value, order)

    def count(self, samples: torch.Tensor, kind: str) -> Array:
        if self.order is not None:
            return counted(samples)[self.order]
        low, width = (0.0, 1.0) if kind == "uniform" else (-EDGE, 2 * EDGE)
        at = ((samples - low) * (CELLS / width)).to(torch.int64).clamp_(0, CELLS - 1)
        return np.bincount(at.numpy(), minlength=CELLS)


def counted(samples: torch.Tensor) -> Array:
    """How often each pattern of bits of a narrow dtype occurs."""
    size = 1 << 8 * samples.itemsize
    bits = samples.view(torch.uint8 if size == 256 else torch.int16).numpy()
    return np.bincount(bits.view(np.uint8 if size == 256 else np.uint16), minlength=size)


@dataclass
class Sample:
    """What is kept of many samples: counts in cells, sums of powers about the mean, tails, zeros."""

    count: Array
    powers: Array
    tails: Array
    zeros: int

    @classmethod
    def drawn(cls, kind: str, dtype: torch.dtype, seed: int, num: int) -> Sample:
        cells = Cells.of(kind, dtype)
        total = cls(
            np.zeros(len(cells.probability), np.int64), np.zeros(4), np.zeros((2, len(SIGMAS)), int), 0
        )
        for start in range(0, num, CHUNK):
            samples = torch.empty(min(CHUNK, num - start), dtype=dtype)
            fill_(samples, kind, seed, start, num)
            total.count += cells.count(samples, kind)
            if dtype in WIDE:
                total.see(samples, centre(kind), with_tails=kind == "normal")
        if cells.value is not None:
            centred = cells.value - centre(kind)
            total.powers[:] = [(total.count * centred**k).sum() for k in (1, 2, 3, 4)]
        return total

    def see(self, samples: torch.Tensor, mean: float, with_tails: bool) -> None:
        x = samples.double().numpy() - mean
        square = x * x
        sums = x.sum(), square.sum(), np.einsum("i,i", square, x), np.einsum("i,i", square, square)
        self.powers += sums  # np.dot's threads would wait for each other
        if with_tails:
            self.zeros += int(np.count_nonzero(x == 0.0))
            far = x[square >= SIGMAS[0] ** 2]
            self.tails += [[np.count_nonzero(side > each) for each in SIGMAS] for side in (-far, far)]


def centre(kind: str) -> float:
    return 0.5 if kind == "uniform" else 0.0


def joined(cells: Cells, kind: str, count: Array, num: int) -> tuple[Array, Array]:
    """Counts and probabilities of cells that are joined until each is wide enough."""
    probability = cells.probability
    ends, expected = [], 0.0
    for i, each in enumerate(probability.tolist()):
        expected += each * num
        inside = cells.value is not None and kind != "uniform" and abs(cells.value[i]) < NEAR_ZERO
        if expected >= LEAST_EXPECTED and not inside:
            ends.append(i + 1)
            expected = 0.0
    ends[-1] = len(probability)  # what is left joins the last one
    begins = [0, *ends[:-1]]
    return np.add.reduceat(count, begins), np.add.reduceat(probability, begins)


def exact_moments(cells: Cells, kind: str) -> list[float]:
    """Central moments 1 to 8; of a narrow dtype, those of its rounded values."""
    if cells.value is not None:
        centred = cells.value - centre(kind)
        return [float((cells.probability * centred**k).sum()) for k in range(1, 9)]
    exact = {
        "uniform": stats.uniform(),
        "normal": stats.norm(),
        "truncated_normal": stats.truncnorm(-CUT, CUT),
    }[kind]
    mean = centre(kind)
    return [0.0 if k % 2 else float(exact.expect(lambda x, k=k: (x - mean) ** k)) for k in range(1, 9)]


def anderson_darling_p(z: float) -> float:
    """The chance of a larger statistic (Marsaglia and Marsaglia 2004, J. of Statistical Software 9(2))."""
    if z < 2.0:
        inner = np.polyval([0.00168691, -0.011672, 0.0347962, -0.0649821, 0.247105, 2.00012], z)
        return 1.0 - float(np.exp(-1.2337141 / z) / np.sqrt(z) * inner)
    inner = np.polyval([-0.0003146, 0.008056, -0.082433, 0.43424, -2.30695, 1.0776], z)
    return -float(np.expm1(-np.exp(inner)))


def middle_p(count: int, num: int, probability: float) -> float:
    """The chance of fewer, and half of that of as many."""
    exact = stats.binom(num, probability)
    return float(exact.cdf(count) - exact.pmf(count) / 2)


def p_values(sample: Sample, kind: str, dtype: torch.dtype, num: int) -> dict[str, float]:
    cells = Cells.of(kind, dtype)
    count, probability = joined(cells, kind, sample.count, num)
    expected = probability * num
    found = {"chi-square": special.chdtrc(len(count) - 1, float(((count - expected) ** 2 / expected).sum()))}
    below = np.cumsum(probability)[:-1]
    off = np.cumsum(count)[:-1] / num - below
    if len(count) >= FINE:
        found["Kolmogorov-Smirnov"] = special.kolmogorov(np.sqrt(num) * np.abs(off).max())
    if dtype in WIDE:  # for values that are far apart in a tail its distribution is another one
        weight = (probability[1:] + probability[:-1]) / 2  # Choulakian, Lockhart and Stephens 1994
        squares = off**2 / (below * (1 - below)) * weight
        found["Anderson-Darling"] = anderson_darling_p(float(num * squares.sum()))
    moment = [1.0, *exact_moments(cells, kind)]
    for k, power in enumerate((sample.powers / num).tolist(), 1):
        scale = np.sqrt((moment[2 * k] - moment[k] ** 2) / num)
        found[f"moment {k}"] = special.ndtr((power - moment[k]) / scale)
    if kind == "normal" and dtype in WIDE:
        for sign, tails in zip("-+", sample.tails.tolist(), strict=True):
            for sigma, number in zip(SIGMAS, tails, strict=True):
                found[f"beyond {sign}{sigma:g} sigma"] = middle_p(number, num, special.ndtr(-sigma))
    return {name: float(p) for name, p in found.items()}


def judged(kind: str, dtype_name: str, num: int) -> dict[str, Any]:
    """Return what was found on seed 0, and on fresh seeds where a p-value is weak."""
    dtype = DTYPES[dtype_name]
    sample = Sample.drawn(kind, dtype, 0, num)
    row = {"dtype": dtype_name, "kind": kind, "samples": num, "p": p_values(sample, kind, dtype, num)}
    weak = [name for name, p in row["p"].items() if is_weak(p)]
    if weak:
        fresh = {s: p_values(Sample.drawn(kind, dtype, s, num), kind, dtype, num) for s in FRESH_SEEDS}
        row["fresh"] = {name: {str(seed): p[name] for seed, p in fresh.items()} for name in weak}
    if kind == "normal" and dtype in WIDE:
        row["tails"] = tails(sample, num)
        row["zeros"] = {"found": sample.zeros, "expected": num * (ZEROS if dtype == torch.float32 else 0.0)}
    return row


def tails(sample: Sample, num: int) -> list[dict[str, float]]:
    """How many lie beyond each bound, both sides together, and how many should."""
    both = sample.tails.sum(0).tolist()
    return [
        {"sigma": sigma, "found": found, "expected": 2 * num * float(special.ndtr(-sigma))}
        for sigma, found in zip(SIGMAS, both, strict=True)
    ]


def tail_of_the_words(sigma: float) -> float:
    """The probability that float32's formula gives more than this, over all words, to the exact one.

    A radius r leads there with the angles whose cosine is more than sigma / r. The smallest words have the
    largest radii.
    """
    num_words, total = int(2.0**32 * np.exp(-(sigma**2) / 2)) + 1, 0.0
    for first in range(0, num_words, CHUNK):
        word = np.arange(first, min(first + CHUNK, num_words)).astype(np.float32).astype(np.float64)
        v = (word * 2.0**-32 + 2.0**-33).astype(np.float32).astype(np.float64)
        total += float(np.arccos(np.minimum(sigma / np.sqrt(-2.0 * np.log(v)), 1.0)).sum())
    return total / np.pi * 2.0**-32 / float(special.ndtr(-sigma))


def every_word(step: int) -> dict[str, Any]:
    """Return what every_word.cpp prints: the words, of the normal's formulas, and the quantiles."""
    source = Path(__file__).with_suffix("").with_name("every_word.cpp")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "every_word"
        flags = ["-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-pthread", f"-I{ROOT / 'csrc'}"]
        subprocess.run([os.environ.get("CXX", "c++"), *flags, str(source), "-o", str(program)], check=True)
        printed = subprocess.run([str(program), str(step)], check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(printed)
    return found


def kept(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the output's file has, and under "before" the runs that made it."""
    if not (options.go_on and options.output.exists()):
        return {"results": []}
    record: dict[str, Any] = json.loads(options.output.read_text())
    run = {key: record.pop(key) for key in ("command", "environment")}
    return record | {"before": [*record.get("before", []), run]}


def made(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the rows that are asked for; those of several jobs as they come."""
    asked = itertools.product(options.kinds, options.dtypes)
    if options.jobs == 1:
        yield from (judged(kind, dtype, options.samples) for kind, dtype in asked)
        return
    one_thread = torch.set_num_threads, (1,)  # a second one of each would mostly wait
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"), *one_thread) as pool:
        found = [pool.submit(judged, kind, dtype, options.samples) for kind, dtype in asked]
        yield from map(Future.result, as_completed(found))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--samples", type=int, default=10**9, help="of each kind and dtype")
    parser.add_argument("--jobs", type=int, default=1, help="rows made side by side")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--dtypes", nargs="*", choices=DTYPES, default=list(DTYPES))
    parser.add_argument(
        "--step", type=int, default=1, help="between float32's words: 1 for all 2^32, 0 for none"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "quality_samples.json")
    parser.add_argument(
        "--go-on", action="store_true", help="keep what the output's file has and is not made anew"
    )
    options = parser.parse_args(arguments)
    record = kept(options)
    rows = {(row["kind"], row["dtype"]): row for row in record["results"]}

    def save() -> None:
        record["results"] = [rows[each] for each in itertools.product(KINDS, DTYPES) if each in rows]
        write(options.output, {"scipy": scipy.__version__}, **record)

    for row in made(options):
        rows[row["kind"], row["dtype"]] = row
        print(json.dumps(row), flush=True)
        save()
    if options.step:
        record["tails"] = {f"{sigma:g}": tail_of_the_words(sigma) for sigma in SIGMAS}
        record |= every_word(options.step)
        save()


if __name__ == "__main__":
    main()
