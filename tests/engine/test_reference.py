"""The reference against published known answers, exact rational arithmetic and the rounding of PyTorch."""

import math
from fractions import Fraction

import numpy as np
import pytest
import reference as ref
from solved_words import PHILOX_KNOWN_ANSWERS

special = pytest.importorskip("scipy.special")
log_ndtr, ndtr = special.log_ndtr, special.ndtr
INF = math.inf


def nearest_float32(exact: Fraction) -> np.float32:
    """Round a fraction once, ties to even, by trying the neighbours of a float that is close."""
    guess = np.float32(float(exact))
    near = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    return min(near, key=lambda each: (abs(Fraction(float(each)) - exact), int(each.view(np.uint32)) & 1))


# [1] Keys


def test_layer_key_separates_seed_and_name():
    keys = {ref.layer_key(seed, name) for seed in (0, 1, 2**63, 2**64 - 1) for name in ("a", "b", "a.b", "é")}
    assert len(keys) == 16
    assert all(0 <= half < 2**64 for key in keys for half in key)
    for seed in (-1, -(2**63)):
        assert ref.layer_key(seed, "weight") == ref.layer_key(seed + 2**64, "weight")


# [2] Words and indices


@pytest.mark.parametrize(("counter", "key", "expected"), PHILOX_KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, expected):
    assert tuple(int(word) for word in ref.philox(counter, key)) == expected


def test_words_put_the_block_low_and_the_stream_high():
    key, stream, block = 0x299F31D0A4093822, 0x0370734413198A2E, 0x85A308D3243F6A88
    assert tuple(ref.words(np.array([block], dtype=np.uint64), key, stream)[0]) == PHILOX_KNOWN_ANSWERS[2][2]


def test_words_of_elements():
    index = np.arange(10, dtype=np.uint64)
    words = ref.words(np.arange(5, dtype=np.uint64), 3, 4).ravel()
    joined = words[::2] + (words[1::2] << 32)
    for own, single, pairs in (
        (words, ref.element_words_32, ref.element_pairs_32),
        (joined, ref.element_words_64, ref.element_pairs_64),
    ):
        assert np.array_equal(single(index, 3, 4), own[:10])
        even, odd = pairs(index, 3, 4)
        assert np.array_equal(even, own[index // 2 * 2]) and np.array_equal(odd, own[index // 2 * 2 + 1])


def test_element_index_of_a_part():
    whole = np.arange(2**40, 2**40 + 5 * 7 * 11).reshape(5, 7, 11)
    part = ref.element_index((2, 3, 4), 2**40 + whole[1, 2, 3] - 2**40, (77, 2 * 11, 1))
    assert np.array_equal(part, whole[1:3, 2:8:2, 3:7])
    assert np.array_equal(ref.element_index((5, 7, 11), 2**40), whole)


# [3] [4] Samples


def test_radius_uniform_is_rounded_to_its_own_precision():
    words = np.array([0, 1, 2**24 + 1, 2**31 + 129, 2**32 - 1], dtype=np.uint64)
    assert ref.radius_uniform(words[:1], 32)[0] == 2.0**-33
    assert ref.radius_uniform(words[1:2], 32)[0] == 1.5 * 2.0**-32
    assert ref.radius_uniform(words[4:], 32)[0] == 1.0  # (0, 1], never 0
    assert all(ref.radius_uniform(words, 32).astype(np.float32) == ref.radius_uniform(words, 32))
    assert ref.radius_uniform(np.array([0, 2**64 - 1], dtype=np.uint64), 64).tolist() == [2.0**-54, 1.0]


@pytest.mark.parametrize("bits", [32, 64])
def test_angles(bits):
    quarter = 2 ** (bits - 2)
    centres = np.array([quarter // 2 + k * quarter for k in range(4)], dtype=np.uint64)
    assert np.array_equal(ref.cos_sin(centres, bits), [[1, 0, -1, 0], [0, 1, 0, -1]])
    corners = np.array([k * quarter for k in range(4)], dtype=np.uint64)  # t = pi/2 (k - 1/2)
    signs = np.array([[1, 1, -1, -1], [-1, 1, 1, -1]])
    np.testing.assert_allclose(ref.cos_sin(corners, bits), signs * math.sqrt(0.5), rtol=3e-16)


# mpmath at 60 digits: u -> quantile of the standard normal within [alpha, beta], u = (word + 0.5) / 2^32.
TRUNCATED_QUANTILES = [
    (0, -INF, INF, -6.33795775455379),
    (2**32 - 1, -INF, INF, 6.33795775455379),
    (12345, -2.0, 2.0, -1.99994918622443),
    (12345, 5.0, INF, 5.00000055421045),
    (2**32 - 1, 5.0, INF, 8.35266228948243),
    (3 * 10**9, 10.0, 11.0, 10.1180419661265),
    (3 * 10**9, -11.0, -10.0, -10.035471808854),
    (2**31, 38.0, INF, 38.0182237455924),
    (2**31, 38.0, 38.001, 38.0004952502237),
    (2**31, 100.0, 101.0, 100.006930538755),
    (2**31, 1000.0, INF, 1000.00069314625),
    (12345, -0.1, 0.1, -0.0999994231977626),
]


@pytest.mark.parametrize(("word", "alpha", "beta", "expected"), TRUNCATED_QUANTILES)
def test_truncated_quantile(word, alpha, beta, expected):
    u, rest = (np.array([(each + 0.5) * 2.0**-32]) for each in (word, 2**32 - 1 - word))
    (z,) = ref.truncated_quantile(u, rest, alpha, beta)
    assert z == pytest.approx(expected, rel=2e-12, abs=1e-14)


@pytest.mark.parametrize(("alpha", "beta"), [(-2.0, 2.0), (-9.0, 1.0), (-INF, -3.0), (-60.0, -50.0)])
def test_truncated_quantile_inverts_the_truncated_distribution(alpha, beta):
    u = (np.arange(2000) + 0.5) / 2000
    z = ref.truncated_quantile(u, 1 - u, alpha, beta)
    if beta < 0:
        reached = np.exp(log_ndtr(z) - log_ndtr(beta))
        expected = u + (1 - u) * np.exp(log_ndtr(alpha) - log_ndtr(beta))
    else:
        reached, expected = ndtr(z), ndtr(alpha) + u * (ndtr(beta) - ndtr(alpha))
    np.testing.assert_allclose(reached, expected, rtol=1e-9)
    np.testing.assert_allclose(ref.truncated_quantile(1 - u, u, -beta, -alpha), -z, rtol=1e-13, atol=1e-15)


# [5] Exact arithmetic


def test_fma32_is_rounded_once():
    generator = np.random.default_rng(0)
    x, y, z = generator.standard_normal((3, 3000)).astype(np.float32)
    z[::2] *= np.float32(2.0) ** generator.integers(-60, 60, 1500).astype(np.float32)
    z[1::4] = -(x * y)[1::4]  # cancellation: only the rounding error of the product is left
    expected = [
        nearest_float32(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)))
        for a, b, c in zip(x, y, z, strict=True)
    ]
    assert ref.fma32(x, y, z).tolist() == [float(each) for each in expected]


def test_fma32_where_rounding_twice_is_wrong():
    """8384513 * 8392705 = 2^46 + 1: 1 + 2^-24 (1 + 2^-46) lies above the midpoint of two floats, and so does
    8388609 * 8388607 = 2^46 - 1 below one. Rounded to double first, both fall onto it."""
    for m, n, z, expected in [
        (8384513, 8392705, 1.0, 1 + 2.0**-23),
        (8388609, 8388607, 1 + 2.0**-23, 1 + 2.0**-23),
    ]:
        x, y = np.array([m * 2.0**-23], np.float32), np.float32(n * 2.0**-47)
        assert nearest_float32(Fraction(m * n, 2**70) + Fraction(z)) == np.float32(expected)
        assert np.float32(x.astype(np.float64) * np.float64(y) + z) != np.float32(expected)
        assert ref.fma32(x, y, np.float32(z)) == np.float32(expected)
        assert ref.fma32(-x, y, np.float32(-z)) == np.float32(-expected)


def test_fma64_is_rounded_once():
    x = np.array([1 + 2.0**-30, 1 / 3])
    assert ref.fma64(x, 1 + 2.0**-30, -1.0)[0] == 2.0**-29 + 2.0**-60
    assert ref.fma64(x, 3.0, -1.0)[1] == -(2.0**-54)
