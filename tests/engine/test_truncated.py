"""Truncated normals around their median: its words against 50 digits, and how often each value comes."""

import functools
import math

import numpy as np
import pytest
import reference as ref
import torch
from filling import DTYPES, KEY, Backend, values
from solved_words import BEFORE, PER_BLOCK, solve
from tolerances import REALS, allowed_error, of_reals

mp = pytest.importorskip("mpmath")
special = pytest.importorskip("scipy.special")

INF = math.inf
WORD_BITS = {"float32": 32, "float64": 53}
# The median among the words, at their edge and beyond; wide intervals and narrow ones.
INTERVALS = [
    *[(-2.0, 2.0), (-INF, INF), (-0.5, 3.0), (-3.0, 0.5), (-1.0, 1.7), (-9.0, 0.5), (-3.7, 5.5)],
    *[(0.0, INF), (-INF, 0.0), (0.0, 1.0), (-1e-7, 2.0), (-2.0, 1e-7), (-INF, 3.0), (-1e-2, 3.0)],
    *[(1e-6, 0.3), (-0.3, -1e-6), (1e-3, 1.0), (2.1e-5, 2.5e-5), (-4.0, -0.2), (0.2, 4.0)],
    *[(-0.01, 0.0101), (-0.011, 0.01), (-3e-4, 3e-4), (-1e-4, 4e-4), (-2e-4, 2e-4), (0.0, 3e-4)],
    *[(-1e-6, 1.1e-6), (-1e-6, 0.9e-6), (-3e-6, 1e-6), (0.16, 0.18), (-0.18, -0.16), (0.3, 0.32)],
    *[(0.999, 1.001), (3.9, 4.2), (-4.2, -3.9), (6.0, 6.5), (-6.5, -6.0)],
]
DISTANCES = [*range(6), 30, 1000, 10**5, *(2**power + 1 for power in range(20, 52, 3))]


def mass_to(z: float) -> mp.mpf:
    return mp.erf(mp.mpf(z) / mp.sqrt(2)) / 2


@functools.cache
def words_around(alpha: float, beta: float, bits: int) -> list[int]:
    """Around the median's word, or the edge that is nearest to it; at both edges; and some others."""
    with mp.workdps(50):
        place = -mass_to(alpha) / (mass_to(beta) - mass_to(alpha)) * 2**bits
        nearest = min(max(int(mp.floor(place)), 0), 2**bits - 1)
    words = {nearest + sign * each for each in DISTANCES for sign in (1, -1)}
    words |= {each for edge in (0, 2**bits - 8) for each in range(edge, edge + 8)}
    words |= {2**bits * each // 61 for each in range(61)}
    found = sorted(each for each in words if 0 <= each < 2**bits)
    return found + found[: -len(found) % 4]


def exact_quantile(word: int, alpha: float, beta: float, bits: int) -> mp.mpf:
    """By Newton's steps on P - 1/2, none of them long."""
    u = (mp.mpf(word) + mp.mpf(0.5)) / mp.mpf(2) ** bits
    past = mass_to(alpha) + u * (mass_to(beta) - mass_to(alpha))
    z = past * mp.sqrt(2 * mp.pi)
    if abs(past) > 0.25:
        z = mp.mpf(float(np.clip(special.ndtri(float(past + mp.mpf(0.5))), -9.0, 9.0)))
    for _ in range(200):
        step = (mass_to(z) - past) * mp.sqrt(2 * mp.pi) * mp.exp(z * z / 2)
        z -= max(min(step, mp.mpf(0.5)), mp.mpf(-0.5))
        if abs(step) <= abs(z) * mp.mpf(10) ** -25:
            return z
    raise AssertionError((word, alpha, beta))


@functools.cache
def exact_quantiles(alpha: float, beta: float, bits: int) -> list[mp.mpf]:
    with mp.workdps(60):
        return [exact_quantile(word, alpha, beta, bits) for word in words_around(alpha, beta, bits)]


@functools.cache
def blocks_of(words: tuple[int, ...], dtype: str) -> list[tuple[int, int, int]]:
    """Key, stream and block that give these words to neighbouring elements."""
    per_block = PER_BLOCK[dtype]
    if dtype == "float32":
        return [solve(words[at : at + per_block]) for at in range(0, len(words), per_block)]
    lower_bits = 0x2A5  # of 64, 11 are not used
    joined = [word << 11 | lower_bits for word in words]
    halves = [(each % 2**32, each >> 32) for each in joined]
    return [solve(halves[at] + halves[at + 1]) for at in range(0, len(halves), per_block)]


def of_words(backend: Backend, distribution, dtype: str, words: list[int]) -> np.ndarray:
    """Their values, in float64; they lie in the vectorised part of a fill."""
    size, found = PER_BLOCK[dtype], []
    for key, stream, block in blocks_of(tuple(words), dtype):
        start = block * size - BEFORE
        filled = backend.fill((2 * BEFORE,), distribution, dtype, (key, stream), start=start)
        found.append(values(filled)[BEFORE : BEFORE + size])
    return np.concatenate(found).astype(np.float64)


@of_reals
def test_words_around_the_median(backend: Backend, dtype):
    for interval in INTERVALS:
        words = words_around(*interval, WORD_BITS[dtype])
        filled = of_words(backend, ("truncated_normal", 0.0, 1.0, *interval), dtype, words)
        exact = exact_quantiles(*interval, WORD_BITS[dtype])
        error = np.array([float(abs(mp.mpf(each) - z)) for each, z in zip(filled, exact, strict=True)])
        z = np.array([float(each) for each in exact])
        ratio = error / allowed_error("truncated_normal", dtype, z)
        worst = int(ratio.argmax())
        assert ratio[worst] < 1, (words[worst], filled[worst], z[worst], ratio[worst])


@of_reals
def test_another_mean_and_std(backend: Backend, dtype):
    """Values around a mean that is not 0 are rounded as numbers of its size."""
    for mean, std in [(3.0, 0.5), (-20.0, 4.0), (0.0, 1e-6), (1e3, 1e4)]:
        for interval in [(-2.0, 2.0), (-0.5, 3.0), (-1e-2, 3.0)]:
            bounds = tuple(mean + each * std for each in interval)
            alpha, beta = ((each - mean) / std for each in bounds)
            words = words_around(alpha, beta, WORD_BITS[dtype])
            filled = of_words(backend, ("truncated_normal", mean, std, *bounds), dtype, words)
            z = np.array([float(each) for each in exact_quantiles(alpha, beta, WORD_BITS[dtype])])
            real = REALS[dtype]
            expected = mean + z * float(real(std))
            rounding = np.spacing(np.abs(expected).astype(real)).astype(np.float64)
            allowed = allowed_error("truncated_normal", dtype, z) * std + rounding
            np.testing.assert_array_less(np.abs(filled - expected), allowed)


@of_reals
def test_reference_around_the_median(dtype):
    for interval in INTERVALS:
        bits = WORD_BITS[dtype]
        words = words_around(*interval, bits)
        z = ref.truncated_sample_of_words(np.array(words, np.uint64), bits, *interval)
        exact = exact_quantiles(*interval, bits)
        error = np.array([float(abs(mp.mpf(float(each)) - to)) for each, to in zip(z, exact, strict=True)])
        allowed = allowed_error("truncated_normal", dtype, z)
        np.testing.assert_array_less(error, 0.05 * allowed)


@of_reals
def test_neighbouring_words_at_the_median_have_values_of_their_own(backend: Backend, dtype):
    for interval in [(-2.0, 2.0), (-0.5, 3.0), (-3.0, 0.5), (-INF, INF), (-0.01, 0.0101)]:
        bits = WORD_BITS[dtype]
        words = words_around(*interval, bits)
        middle = ref.median_word(*interval, bits)[0]
        words = list(range(middle - 64, middle + 64))
        filled = of_words(backend, ("truncated_normal", 0.0, 1.0, *interval), dtype, words)
        assert np.all(np.diff(filled) > 0)
        assert filled[0] < 0 < filled[-1]


@of_reals
@pytest.mark.parametrize(
    "interval", [(-2.0, 2.0), (-0.5, 3.0), (-INF, 0.5), (1e-3, 1.0), (0.16, 0.18), (5.0, INF)]
)
def test_larger_words_have_larger_values(backend: Backend, dtype, interval):
    """But for rounding."""
    count = 300_001
    filled = values(backend.fill((count,), ("truncated_normal", 0.0, 1.0, *interval), dtype))
    index = ref.element_index((count,))
    word = (ref.element_words_32 if dtype == "float32" else ref.element_words_64)(index, *KEY)
    in_order = filled[np.argsort(word)].astype(np.float64)
    steps = np.diff(in_order)
    rounding = {"float32": 4e-7, "float64": 1e-15}[dtype]
    assert np.all(steps > -rounding * np.maximum(1.0, np.abs(in_order[1:])))
    near = np.abs(in_order[1:]) < 0.1
    assert np.all(steps[near] >= -rounding * np.abs(in_order[1:][near]))


# How often each value comes


NUM_SAMPLES, CHUNK = 2**28, 2**24
LEAST_EXPECTED = 12.0


def counts_of_values(cpu: Backend, distribution, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Every finite number of the dtype in order, and how many of the samples are it."""
    counts, key = torch.zeros(2**16, dtype=torch.int64), ref.layer_key(7, "median.weight")
    for start in range(0, NUM_SAMPLES, CHUNK):
        filled = cpu.fill((CHUNK,), distribution, dtype, key, start=start)
        counts += torch.bincount(filled.view(torch.int16).to(torch.int32) & 0xFFFF, minlength=2**16)
    number = torch.arange(2**16).to(torch.int16).view(DTYPES[dtype]).double().numpy()
    finite = np.isfinite(number)
    order = np.argsort(number[finite], kind="stable")
    return number[finite][order], counts.numpy()[finite][order]


@pytest.mark.slow
@pytest.mark.parametrize("interval", [(-2.0, 2.0), (-0.5, 3.0), (-INF, 0.01)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_value_comes_as_often_as_it_should(cpu: Backend, dtype, interval):
    """Chi-square over all numbers of a half-precision dtype; rare ones together with their neighbours."""
    number, count = counts_of_values(cpu, ("truncated_normal", 0.0, 1.0, *interval), dtype)
    assert count.sum() == NUM_SAMPLES
    ties = np.clip((number[:-1] + number[1:]) / 2, *interval)
    edges = special.erf(np.r_[interval[0], ties, interval[1]] / math.sqrt(2.0))
    expected = np.diff(edges) / (edges[-1] - edges[0]) * NUM_SAMPLES
    possible = expected > 0
    assert not count[~possible].any()
    expected, count = expected[possible], count[possible]
    group = np.floor(np.cumsum(expected) / LEAST_EXPECTED).astype(np.int64)
    group = np.unique(group, return_inverse=True)[1]
    expected, count = np.bincount(group, expected), np.bincount(group, count)
    statistic = ((count - expected) ** 2 / expected).sum()
    freedom = len(expected) - 1
    assert freedom > 10_000 if dtype == "float16" else freedom > 2_000
    assert special.chdtrc(freedom, statistic) > 1e-4, (statistic, freedom)
