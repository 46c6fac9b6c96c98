"""Filled values against the contract: every instruction set, dtype, distribution, odd length and offset."""

import functools
import math

import numpy as np
import pytest
import reference as ref
import torch
from filling import DTYPES, KEY, SHIFTED, STANDARD, Backend, assert_same_bits, values
from tolerances import REALS, allowed_error, of_reals

INF = math.inf
LENGTHS = [*range(71), 127, 128, 129, 999, 1000, 1001, 1023, 1025, 4099]
LONGEST = max(LENGTHS)
# Odd indices, and runs across element 2^32 and block 2^32 (element 2^33 of float64, 2^34 of the others).
STARTS = [0, 1, 2, 3, 5, 7, 2**32 - 13, 2**33 - 9, 2**34 - 11, 2**40 + 1, 2**62 + 3]
SMALL = [dtype for dtype in DTYPES if dtype not in REALS]


@functools.cache
def tolerated(distribution, dtype: str, start: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The elements from `start` on as the contract has them, and how far from each a value may lie."""
    expected = ref.run(*KEY, distribution, dtype, start, length)
    bits, index = 64 if dtype == "float64" else 32, ref.element_index((length,), start)
    z = ref.standard_sample(distribution, index, *KEY, bits)
    sample_error = allowed_error(distribution[0], dtype, z) * distribution[2]
    return expected, sample_error + 2 * np.spacing(np.abs(expected)).astype(np.float64)


def assert_as_contract_says(actual: np.ndarray, distribution, dtype: str, start: int) -> None:
    """`actual` holds the elements from `start` on. Bit for bit where the contract is exact."""
    length = max(LONGEST, actual.size)
    if distribution[0] in ("constant", "uniform"):
        expected = ref.run(*KEY, distribution, dtype, start, length)[: actual.size]
        return assert_same_bits(actual, expected, (start, actual.size))
    expected, most = (each[: actual.size] for each in tolerated(distribution, dtype, start, length))
    wrong = np.flatnonzero(np.abs(actual.astype(np.float64) - expected) > most)
    assert not wrong.size, (start, actual.size, wrong[0], actual[wrong[0]], expected[wrong[0]])


# Lengths and offsets


@pytest.mark.parametrize("parameters", [STANDARD, SHIFTED], ids=["standard", "shifted"])
@pytest.mark.parametrize("name", STANDARD)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_length_and_offset(backend: Backend, dtype, name, parameters):
    """Of the small types: the rounding of float32."""
    for start in STARTS:
        if dtype in SMALL:
            single = values(backend.fill((LONGEST,), parameters[name], "float32", start=start))
            rounded = ref.round_to(single, dtype)
        for length in LENGTHS:
            filled = values(backend.fill((length,), parameters[name], dtype, start=start))
            if dtype in SMALL:
                assert_same_bits(filled, rounded[:length], (start, length))
            else:
                assert_as_contract_says(filled, parameters[name], dtype, start)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STANDARD)
def test_unaligned_memory(backend: Backend, dtype, name):
    """Any element may be the first: vectors need not start at a boundary; nothing beside them changes."""
    whole = values(backend.fill((300,), SHIFTED[name], dtype))
    for offset in range(18):
        for length in (1, 2, 3, 15, 16, 17, 33, 100, 257):
            memory = backend.empty((length + 36,), dtype).fill_(-80.0)
            backend.fill_(memory[offset : offset + length], SHIFTED[name])
            written = values(memory)
            assert_same_bits(written[offset : offset + length], whole[:length], (offset, length))
            assert np.all(written[:offset] == -80)
            assert np.all(written[offset + length :] == -80)


CONSTANTS = [0.0, -0.0, 1.0, 0.1, 1 / 3, -65504.0, 1e-7, 5.960464477539063e-08, 1.00048828125 + 1e-9]
CONSTANTS += [1e-8, 65504.0, 65520.0, 3.0e38, 3.4e38]


@pytest.mark.parametrize("dtype", DTYPES)
def test_constant_is_rounded_as_pytorch_fills(backend: Backend, dtype):
    for value in CONSTANTS:
        if abs(value) <= torch.finfo(DTYPES[dtype]).max:
            kind, expected = ("constant", value), torch.full((37,), value, dtype=DTYPES[dtype])
        else:  # torch.full and a constant refuse it; as a mean it is rounded
            kind, expected = ("normal", value, 0.0), ref.round_to(np.full(37, value, np.float32), dtype)
        assert_same_bits(backend.fill((37,), kind, dtype), expected, value)


# Edges of the uniform distribution


UNIFORM_BOUNDS = [
    *[(0.0, 0.0), (2.5, 2.5), (-1.0, 1.0), (0.1, 0.3), (1e-3, 1e6), (-5.0, -4.999999)],
    *[(1.0, 1.0 + 2.0**-23), (1.0, 1.0 + 1e-12), (1.0, 1.0 + 2.0**-52), (16777215.0, 16777217.0)],
    *[(-1e30, 1e30), (-1e38, 2e38), (0.0, 1e-40), (-1e-44, 1e-44)],
]


@of_reals
def test_uniform_bounds(backend: Backend, dtype):
    for bounds in UNIFORM_BOUNDS:
        low, high = (REALS[dtype](bound) for bound in bounds)
        filled = values(backend.fill((LONGEST,), ("uniform", *bounds), dtype))
        assert_as_contract_says(filled, ("uniform", *bounds), dtype, 0)
        assert np.all(filled >= low)
        assert np.all(filled < high) if high > low else np.all(filled == low)


def test_uniform_reaching_high_becomes_the_float_below(backend: Backend):
    """Near 1 to 1 + 2^-22 half of the samples round up to high: they must not stay there."""
    filled = values(backend.fill((LONGEST,), ("uniform", 1.0, 1.0 + 2.0**-22), "float32"))
    assert set(filled.tolist()) == {1.0, 1.0 + 2.0**-23}


# The affine map, bit for bit on the kernel's own standard sample


@of_reals
@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        *[("normal", *each) for each in ((0.1, 0.02), (-3.0, 1e-3), (1e4, 1 / 3), (0.5, 0.0), (0.0, 1e-30))],
        # Bounds for these give alpha = -2 and beta = 2 without rounding.
        *[("truncated_normal", *each) for each in ((1.0, 2.0), (-0.5, 0.25), (0.0, 2.0**-20))],
    ],
)
def test_a_value_is_one_fma_of_the_standard_one(backend: Backend, dtype, name, mean, std):
    real, fma = REALS[dtype], ref.fma32 if dtype == "float32" else ref.fma64
    expected = fma(values(backend.fill((LONGEST,), STANDARD[name], dtype, start=3)), real(std), real(mean))
    bounds = (mean - 2 * std, mean + 2 * std) if name == "truncated_normal" else ()
    filled = backend.fill((LONGEST,), (name, mean, std, *bounds), dtype, start=3)
    assert_same_bits(filled, np.clip(expected, *map(real, bounds)) if bounds else expected)


# Truncated normal: mean, std, a, b


TRUNCATIONS = [
    *[(0.0, 1.0, near, INF) for near in (0.0, -0.5, 5.0, 10.0, 38.0, 100.0, 1000.0)],
    *[(0.0, 1.0, -INF, -near) for near in (0.0, -2.0, 5.0, 10.0, 38.0, 100.0, 1000.0)],
    *[(0.0, 1.0, near, near + 1.0) for near in (5.0, 10.0, 38.0, 100.0, 1000.0)],
    *[(0.0, 1.0, -near - 1e-3, -near) for near in (5.0, 10.0, 38.0, 100.0)],
    *[(0.0, 1.0, -INF, INF), (0.0, 1.0, -0.01, 0.02), (0.0, 1.0, 0.999, 1.001)],
    *[(0.0, 1.0, -40.0, 3.0), (0.0, 1.0, -3.0, 40.0), (0.0, 1.0, 0.25, 0.25), (0.0, 1.0, 3.0, 3.0)],
    *[(mean, std, -2.0, 2.0) for mean, std in ((0.0, 1e-3), (0.0, 0.02), (5.0, 1e-3), (0.0, 0.0))],
    *[(mean, std, -2.0, 2.0) for mean, std in ((7.0, 0.0), (100.0, 3.0), (0.0, 100.0))],
    (0.0, 1e-8, 1.0, 2.0),
]


@of_reals
def test_truncated_normal_in_both_tails(backend: Backend, dtype):
    for parameters in TRUNCATIONS:
        filled = values(backend.fill((LONGEST,), ("truncated_normal", *parameters), dtype, start=1))
        mean, std, a, b = (REALS[dtype](each) for each in parameters)
        assert np.all(np.isfinite(filled)) and filled.min() >= a and filled.max() <= b
        if std == 0.0:
            assert np.all(filled == np.clip(mean, a, b))
        else:
            assert_as_contract_says(filled, ("truncated_normal", *parameters), dtype, 1)


@of_reals
def test_truncated_normal_of_next_to_no_spread(backend: Backend, dtype):
    """Bounds 1e30 and more standard deviations away: the value is the mean, or the bound next to it."""
    for parameters in [(0.0, 1e-30, 1.0, 2.0), (0.0, 1e-300, -2.0, 2.0), (3.0, 1e-320, 5.0, 6.0)]:
        mean, _, a, b = parameters
        filled = values(backend.fill((99,), ("truncated_normal", *parameters), dtype))
        np.testing.assert_allclose(filled, np.clip(mean, a, b), rtol=1e-6, atol=1e-25)
        assert np.all((filled >= a) & (filled <= b))


def test_truncated_normal_has_no_outliers(backend: Backend):
    """4 million elements: none lies beyond the quantile of the first and the last word."""
    filled = values(backend.fill((2**22,), ("truncated_normal", 0.0, 1.0, -INF, INF), "float32"))
    assert np.isfinite(filled).all()
    assert 4.5 < np.abs(filled).max() < 6.3381  # Phi^-1(2^-33) = -6.33796


@of_reals
@pytest.mark.parametrize(
    ("std", "a", "b"),
    [
        *[(1e3, -2, 2), (1e4, -2, 2), (1e6, -2, 2), (1e39, -2, 2)],
        *[(1.0, 0.0, 0.019), (1.0, 0.0, 0.021), (1.0, -0.009, 0.01)],
    ],
)
def test_truncated_normal_fills_a_narrow_interval(cpu, std: float, a: float, b: float, dtype: str) -> None:
    """Many places, not the few that a probability near one half can tell apart; and evenly."""
    filled = cpu.fill((200_000,), ("truncated_normal", 0.0, std, a, b), dtype)
    x = (values(filled).astype(np.float64) - a) / (b - a)
    assert len(np.unique(x)) > 100_000 * (0.5 if (b - a) / std > 0.02 else 1.9)
    assert 0 <= x.min() < 1e-4
    assert 1 - 1e-4 < x.max() <= 1
    assert pytest.importorskip("scipy.stats").kstest(x, "uniform").pvalue > 1e-4
