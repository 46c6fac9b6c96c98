"""Values of words that no sample would ever show: all zeros, all ones, centres and edges of every range.

Philox is a bijection for a given key, so the block and the stream that give any four words can be solved for.
"""

import functools
import itertools
import random

import numpy as np
import pytest
import reference as ref
from filling import Backend, assert_same_bits, values
from solved_words import BEFORE, PER_BLOCK, solve
from tolerances import allowed_error

EDGES_32 = [
    *(0, 1, 2, 127, 128, 129, 255, 256, 257),
    *(2**29 - 1, 2**29, 2**29 + 1, 2**30 - 1, 2**30, 2**31 - 1, 2**31, 2**31 + 1),
    *(3 * 2**30 - 1, 3 * 2**30, 2**32 - 257, 2**32 - 256, 2**32 - 129, 2**32 - 128, 2**32 - 1),
]
EDGES_64 = [
    *(0, 1, 2**10, 2**11 - 1, 2**11, 2**12, 2**61 - 1, 2**61, 2**61 + 1, 2**62 - 1, 2**62),
    *(2**63 - 1, 2**63, 2**63 + 2**11, 3 * 2**62, 2**64 - 2**12, 2**64 - 2**11, 2**64 - 1),
]
INF = float("inf")


@functools.cache
def solved(dtype: str) -> list[tuple[tuple[int, ...], tuple[int, int, int]]]:
    """Every pair of edges as the four words of a block, and the key, stream and block that give them."""
    if dtype == "float32":
        words = [(e, q, q, e) for e, q in itertools.product(EDGES_32, EDGES_32)]
    else:
        pairs = itertools.product(EDGES_64, EDGES_64)
        words = [(low % 2**32, low >> 32, high % 2**32, high >> 32) for low, high in pairs]
    return [(each, solve(each)) for each in words]


@pytest.mark.parametrize("dtype", PER_BLOCK)
def test_solved_words_are_those_words(dtype):
    for expected, (key, stream, block) in solved(dtype):
        assert tuple(ref.words(np.array([block], np.uint64), key, stream)[0]) == expected


def extreme_fill(backend: Backend, distribution, dtype) -> np.ndarray:
    """The values of all solved blocks."""
    found, size = [], PER_BLOCK[dtype]
    for _, (key, stream, block) in solved(dtype):
        start = block * size - BEFORE
        filled = backend.fill((2 * BEFORE,), distribution, dtype, (key, stream), start=start)
        found.append(values(filled)[BEFORE : BEFORE + size])
    return np.stack(found)


@functools.cache
def of_extreme_words(compute, distribution, dtype: str) -> np.ndarray:
    """What the reference's values_of or standard_sample gives for all solved blocks."""
    size, bits = PER_BLOCK[dtype], 32 if dtype == "float32" else 64
    places = [
        (ref.element_index((size,), block * size), key, stream) for _, (key, stream, block) in solved(dtype)
    ]
    return np.stack([compute(distribution, *place, bits) for place in places])


@pytest.mark.parametrize("dtype", PER_BLOCK)
def test_uniform_of_extreme_words(backend: Backend, dtype):
    for bounds in [(0.0, 1.0), (-0.0361, 0.0417), (1.0, 1.0 + 2.0**-22), (-3.0, -1e-3)]:
        expected = of_extreme_words(ref.values_of, ("uniform", *bounds), dtype)
        assert_same_bits(extreme_fill(backend, ("uniform", *bounds), dtype), expected)


def partner(m: int) -> int | None:
    """n < 2^24 with m n = 2^30 K + 1, K mod 4 = 1: then 1 + m n 2^-54 lies so little above a midpoint of two
    floats that a product and sum in double, rounded to float32 afterwards, falls on the wrong side."""
    if m % 2 == 0:
        return None
    n = pow(m, -1, 2**30)
    return n if n < 2**24 and (m * n >> 30) % 4 == 1 else None


def test_uniform_is_rounded_once(backend: Backend):
    generator = random.Random(0)
    pairs = ((m, partner(m)) for m in iter(lambda: generator.randrange(2**23, 2**24), None))
    for m, n in itertools.islice(((m, n) for m, n in pairs if n), 40):
        key, stream, block = solve((m << 8, m << 8, m << 8, m << 8))
        distribution = ("uniform", 1.0, 1.0 + n * 2.0**-30)
        filled = backend.fill((40,), distribution, "float32", (key, stream), start=4 * block - BEFORE)
        (above,) = set(values(filled)[BEFORE : BEFORE + 4].tolist())
        assert above == 1.0 + ((m * n >> 30) + 1) * 2.0**-24
        assert above != np.float32(1.0 + m * 2.0**-24 * n * 2.0**-30)


def test_normal_is_rounded_once(backend: Backend):
    """As above, with std made for each z that the kernel gave."""
    z = values(backend.fill((20_000,), ("normal", 0.0, 1.0), "float32"))
    mantissa, exponent = np.frexp(z)
    found = [(i, partner(int(abs(mantissa[i]) * 2**24)), int(exponent[i])) for i in range(len(z))]
    found = [each for each in found if each[1]]
    assert len(found) > 20
    for i, n, scale in found:
        sign, std = float(np.sign(z[i])), float(n) * 2.0 ** (-30 - scale)
        filled = values(backend.fill((20_000,), ("normal", sign, std), "float32"))
        assert filled[i] == ref.fma32(z[i : i + 1], np.float32(std), np.float32(sign))[0]
        assert filled[i] != np.float32(np.float64(z[i]) * std + sign)


TWO_SIDED = [(-2.0, 2.0), (-INF, INF), (-9.0, 0.5), (100.0, 101.0)]
ONE_SIDED = [(-INF, 1.0), (-1.0, INF), (5.0, INF), (-INF, -38.0)]


@pytest.mark.parametrize("dtype", PER_BLOCK)
def test_normals_of_extreme_words(backend: Backend, dtype):
    """Truncated ones, where there are bounds."""
    for bounds in [None, *TWO_SIDED, *ONE_SIDED]:
        distribution = ("normal", 0.0, 1.0) if bounds is None else ("truncated_normal", 0.0, 1.0, *bounds)
        z = of_extreme_words(ref.standard_sample, distribution, dtype)
        filled = extreme_fill(backend, distribution, dtype)
        np.testing.assert_array_less(np.abs(filled - z), allowed_error(distribution[0], dtype, z))
        low, high = bounds or (-INF, INF)
        assert np.isfinite(filled).all() and np.all((filled >= low) & (filled <= high))


@pytest.mark.parametrize(
    ("dtype", "words", "expected"),
    [
        ("float32", (0, 2**29, 0, 0), 6.7637),  # the smallest radius word, at an angle of 0
        ("float32", (2**32 - 129, 2**29, 0, 0), 2**-11.5),
        ("float32", (2**32 - 128, 2**29, 0, 0), 0.0),  # 128 of 2^32: a zero in 2^25
        ("float64", (0, 0, 0, 2**29), 8.652),
        ("float64", (2**32 - 1, 2**32 - 1, 0, 2**29), 0.0),  # 2^11 of 2^64: a zero in 2^53
        ("float64", (2**32 - 2**11 - 1, 2**32 - 1, 0, 2**29), 2**-25.5),
    ],
)
def test_normals_end_and_are_zero_where_the_promises_say(backend: Backend, dtype, words, expected):
    key, stream, block = solve(words)
    start = block * PER_BLOCK[dtype] - BEFORE
    filled = backend.fill((2 * BEFORE,), ("normal", 0.0, 1.0), dtype, (key, stream), start=start)
    assert values(filled)[BEFORE] == pytest.approx(expected, rel=1e-4)
