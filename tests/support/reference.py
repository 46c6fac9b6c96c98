"""The value contract, version 1, in plain numpy: the value of every element, from its key and its index.

Written from the contract alone. It knows nothing of the kernels, of PyTorch or of convinit_ext, and is slow
on purpose. The numbers in brackets are the sections of the contract.

A distribution is a tuple: ("constant", value), ("uniform", low, high), ("normal", mean, std) or
("truncated_normal", mean, std, a, b). A dtype is PyTorch's name for it.
"""

import functools
import hashlib
import math
import struct
from fractions import Fraction

import numpy as np
import pytest

LOW_32 = np.uint64(0xFFFFFFFF)
PHILOX_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
PHILOX_WEYL = 0x9E3779B9, 0xBB67AE85
PHILOX_ROUNDS = 10
# Beyond this many standard deviations a double cannot tell the truncated normal from its nearer bound.
FARTHEST = 1e18


# [1] Layer key


def layer_key(seed: int, name: str) -> tuple[int, int]:
    """(key, stream) of the parameter `name`, two unsigned 64-bit integers."""
    message = struct.pack("<Q", seed % 2**64) + name.encode("utf-8")
    return struct.unpack("<QQ", hashlib.blake2b(message, digest_size=16, person=b"convinit-v1").digest())


# [2] Words


def philox(counter, key):
    """Philox4x32-10 (Salmon et al. 2011): four arrays of words from four counter words, two key words."""
    c0, c1, c2, c3 = (np.asarray(word, dtype=np.uint64) for word in counter)
    k0, k1 = (int(word) for word in key)
    for _ in range(PHILOX_ROUNDS):
        first, second = PHILOX_MULTIPLIERS[0] * c0, PHILOX_MULTIPLIERS[1] * c2
        c0, c1 = (second >> 32) ^ c1 ^ np.uint64(k0), second & LOW_32
        c2, c3 = (first >> 32) ^ c3 ^ np.uint64(k1), first & LOW_32
        k0, k1 = (k0 + PHILOX_WEYL[0]) % 2**32, (k1 + PHILOX_WEYL[1]) % 2**32
    return c0, c1, c2, c3


def words(block, key: int, stream: int):
    """The four words of each block, shape (len(block), 4), in uint64 so that arithmetic on them has room."""
    counter = block & LOW_32, block >> 32, np.uint64(stream % 2**32), np.uint64(stream >> 32)
    return np.stack(np.broadcast_arrays(*philox(counter, (key % 2**32, key >> 32))), axis=-1)


def element_index(shape, start=0, strides=None, indices=None):
    """Row-major index in the logical tensor of each element: start + sum(local index * stride)."""
    if indices is not None:
        return np.asarray(indices, dtype=np.uint64).reshape(shape)
    if strides is None:
        strides = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
    index = np.full(shape, start, dtype=np.int64)
    for dim, stride in enumerate(strides):
        along = np.arange(shape[dim], dtype=np.int64) * stride
        index += along.reshape([-1 if d == dim else 1 for d in range(len(shape))])
    return index.astype(np.uint64)


def select(rows, column):
    return np.take_along_axis(rows, column.astype(np.int64)[:, None], axis=1)[:, 0]


def element_words_32(index, key, stream):
    """One word for each element (uniform and truncated normal)."""
    return select(words(index // 4, key, stream), index % 4)


def element_pairs_32(index, key, stream):
    """The even and the odd word of each element's pair (normal)."""
    block = words(index // 4, key, stream)
    pair = index % 4 // 2
    return select(block, 2 * pair), select(block, 2 * pair + 1)


def joined(block, half):
    """64 bits from words 2 half (low) and 2 half + 1 (high)."""
    return select(block, 2 * half) | select(block, 2 * half + 1) << 32


def element_words_64(index, key, stream):
    return joined(words(index // 2, key, stream), index % 2)


def element_pairs_64(index, key, stream):
    block = words(index // 2, key, stream)
    return joined(block, 0 * index), joined(block, 0 * index + 1)


# [3] [4] Standard samples, in double


def uniform_sample(index, key, stream, bits):
    if bits == 32:
        return (element_words_32(index, key, stream) >> 8).astype(np.float64) * 2.0**-24
    return (element_words_64(index, key, stream) >> 11).astype(np.float64) * 2.0**-53


def radius_uniform(word, bits):
    """v in (0, 1], rounded where the contract rounds it: to float32, or to float64."""
    if bits == 32:
        return fma32(word.astype(np.float32), np.float32(2.0**-32), np.float32(2.0**-33)).astype(np.float64)
    return ((word >> 11).astype(np.float64) + 0.5) * 2.0**-53


def cos_sin(word, bits):
    """cos t and sin t for t = pi/2 (quadrant + x), x in [-1/2, 1/2): two bits of the word, then the rest."""
    scale = bits - 2
    quadrant = (word >> scale).astype(np.int64)
    x = ((word % np.uint64(2**scale)).astype(np.int64) - 2 ** (scale - 1)).astype(np.float64) * 2.0**-scale
    cos, sin = np.cos(np.pi / 2 * x), np.sin(np.pi / 2 * x)
    quarter_turns = [quadrant == 0, quadrant == 1, quadrant == 2, quadrant == 3]
    return np.select(quarter_turns, [cos, -sin, -cos, sin]), np.select(quarter_turns, [sin, cos, -sin, -cos])


def normal_sample(index, key, stream, bits):
    element_pairs = element_pairs_32 if bits == 32 else element_pairs_64
    radius_word, angle_word = element_pairs(index, key, stream)
    radius = np.sqrt(-2.0 * np.log(radius_uniform(radius_word, bits)))
    cos, sin = cos_sin(angle_word, bits)
    return radius * np.where(index % 2 == 0, cos, sin)


def truncated_normal_sample(index, key, stream, bits, alpha, beta):
    if bits == 32:
        return truncated_sample_of_words(element_words_32(index, key, stream), 32, alpha, beta)
    return truncated_sample_of_words(element_words_64(index, key, stream) >> 11, 53, alpha, beta)


def truncated_sample_of_words(word, bits, alpha, beta):
    """From whole numbers of that many bits. u and 1 - u are each exact to the last bit or better, so that
    neither tail is the poor one; around the median P - 1/2 comes from the distance to the median's word."""
    below, above = word.astype(np.float64), (np.uint64(2**bits - 1) - word).astype(np.float64)
    z = truncated_quantile((below + 0.5) * 2.0**-bits, (above + 0.5) * 2.0**-bits, alpha, beta)
    if alpha > 0.5 or beta < -0.5:
        return z
    center, mass, at_center = median_word(float(alpha), float(beta), bits)
    distance = (word.astype(np.int64) - np.int64(center)).astype(np.float64)
    past = mass * 2.0**-bits * distance + at_center
    near = np.abs(past) < 0.25
    erfinv = pytest.importorskip("scipy.special").erfinv
    return np.where(near, math.sqrt(2.0) * erfinv(2.0 * np.where(near, past, 0.0)), z)


@functools.lru_cache
def median_word(alpha, beta, bits):
    """The word nearest to the median, Phi(beta) - Phi(alpha), and P - 1/2 at that word: in 50 digits, since
    words of 53 bits and their distances need more than a double has."""
    mp = pytest.importorskip("mpmath")
    with mp.workdps(50):
        to_alpha, to_beta = (mp.erf(mp.mpf(each) / mp.sqrt(2)) / 2 for each in (alpha, beta))
        mass = to_beta - to_alpha
        if mass == 0:
            return 0, 0.0, float(to_alpha)
        center = min(max(int(mp.nint(-to_alpha / mass * 2**bits - mp.mpf(0.5))), 0), 2**bits - 1)
        return center, float(mass), float(to_alpha + (center + mp.mpf(0.5)) / mp.mpf(2) ** bits * mass)


def truncated_quantile(u, rest, alpha, beta):
    """Phi^-1(Phi(alpha) + u (Phi(beta) - Phi(alpha))) rest = 1 - u, accurate wherever the interval lies."""
    special = pytest.importorskip("scipy.special")  # here: most tests do without
    if alpha > 0:  # 1 - Phi loses every digit there: use the mirror image
        return -truncated_quantile(rest, u, -beta, -alpha)
    if beta < 0:  # Phi underflows below -38: divide by Phi(beta) and keep logarithms
        low, high = special.log_ndtr(alpha), special.log_ndtr(beta)
        return special.ndtri_exp(high + np.log(u + rest * np.exp(low - high)))
    ndtr, ndtri = special.ndtr, special.ndtri
    mass = ndtr(beta) - ndtr(alpha)
    lower, upper = ndtr(alpha) + u * mass, ndtr(-beta) + rest * mass
    return np.where(lower < upper, ndtri(np.minimum(lower, 0.5)), -ndtri(np.minimum(upper, 0.5)))


# [5] Exact fma and rounding


def two_sum(x, y):
    """x + y exactly: the rounded sum, and what was rounded off (Knuth)."""
    total = x + y
    virtual = total - x
    return total, (x - (total - virtual)) + (y - virtual)


def rounded_to_odd(x, y):
    """x + y, rounded to the neighbour whose last bit is 1 where it is not exact."""
    total, rest = two_sum(x, y)
    bits = total.view(np.int64)
    is_between = (rest != 0) & (bits % 2 == 0)
    return (bits + is_between * np.where((rest > 0) == (total > 0), 1, -1)).view(np.float64)


def fma32(x, y, z):
    """x y + z rounded once. The product has 48 bits, exact in double. The sum does not, and rounding it to 53
    bits and then to 24 would round twice; rounded to odd at 53 bits, the second rounding is right (Boldo and
    Melquiond 2008: 53 >= 24 + 2)."""
    x, y, z = (np.asarray(each, np.float32).astype(np.float64) for each in (x, y, z))
    return rounded_to_odd(np.asarray(x * y), z).astype(np.float32)


def fma64(x, y, z):
    """x y + z in rational numbers; Python rounds a fraction to a float correctly."""
    exact_y, exact_z = Fraction(float(y)), Fraction(float(z))
    exact = (Fraction(each) * exact_y + exact_z for each in x.ravel().tolist())
    return np.fromiter((float(each) for each in exact), np.float64, count=x.size).reshape(x.shape)


def round_bfloat16(values):
    """float32 to the nearest bfloat16, ties to even, as a float32 whose low half is zero. Not for NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    to_nearest_even = np.uint32(0x7FFF) + (bits >> 16 & np.uint32(1))
    return (bits + to_nearest_even & np.uint32(0xFFFF0000)).view(np.float32)


def round_float8(values, mantissa, smallest_exponent, largest, beyond):
    """float32 to the nearest float8, ties to even, as float32: multiples of a power of two."""
    exact = np.asarray(values, np.float64)
    exponent = np.maximum(np.frexp(exact)[1] - 1, smallest_exponent)
    rounded = np.ldexp(np.rint(np.ldexp(exact, mantissa - exponent)), exponent - mantissa)
    return np.where(np.abs(rounded) > largest, np.copysign(beyond, exact), rounded).astype(np.float32)


def round_to(values, dtype):
    """float32 values as the smaller types hold them; other values are left as they are."""
    if dtype == "float8_e4m3fn":
        return round_float8(values, 3, -6, 448.0, 448.0)
    if dtype == "float8_e5m2":
        return round_float8(values, 2, -14, 57344.0, np.inf)
    if dtype == "float16":
        with np.errstate(over="ignore"):  # beyond 65520 is infinity, as IEEE 754 says
            return values.astype(np.float16)
    return round_bfloat16(values) if dtype == "bfloat16" else values


# [3] [4] Values


def bounded_uniform(values, low, high):
    """[low, high): a value that reaches high is the float just below it, but none is below low."""
    below_high = np.where(values >= high, np.nextafter(high, -np.inf, dtype=high.dtype), values)
    return np.maximum(below_high, low)


def in_standard_deviations(mean, std, a, b):
    """alpha and beta, infinite where the quotient is too large for a double."""
    with np.errstate(over="ignore"):
        return (np.float64(a) - mean) / std, (np.float64(b) - mean) / std


def values_of(distribution, index, key, stream, bits):
    real = np.float32 if bits == 32 else np.float64
    fma = fma32 if bits == 32 else fma64
    name, *params = distribution
    if name == "constant":
        return np.full(index.shape, params[0], dtype=real)
    if name == "uniform":
        low, high = params
        span = real(high - low)  # the difference is taken in double
        sample = uniform_sample(index, key, stream, bits)
        return bounded_uniform(fma(sample, span, real(low)), real(low), real(high))
    mean, std = params[:2]
    if name == "normal":
        z = normal_sample(index, key, stream, bits)
        return fma(z.astype(real), real(std), real(mean))
    a, b = params[2:]
    if std == 0.0:
        return np.full(index.shape, np.clip(real(mean), real(a), real(b)))
    alpha, beta = in_standard_deviations(mean, std, a, b)
    if alpha > FARTHEST or beta < -FARTHEST:
        return np.full(index.shape, real(a if alpha > 0 else b))
    z = truncated_normal_sample(index, key, stream, bits, alpha, beta)
    return np.clip(fma(z.astype(real), real(std), real(mean)), real(a), real(b))


def standard_sample(distribution, index, key, stream, bits):
    """z of a normal or truncated normal, unrounded: what the contract's tolerances are about."""
    name, *params = distribution
    if name == "normal":
        return normal_sample(index, key, stream, bits)
    return truncated_normal_sample(index, key, stream, bits, *in_standard_deviations(*params))


@functools.lru_cache(maxsize=512)
def run(key, stream, distribution, dtype, start, length):
    """Values of the elements start ... start + length - 1, remembered: tests ask for the same runs often."""
    index = element_index((length,), start)
    return round_to(values_of(distribution, index, key, stream, 64 if dtype == "float64" else 32), dtype)


def reference(shape, key, stream, distribution, dtype, *, start=0, strides=None, indices=None):
    """The tensor's values: numpy float32, float64 or float16; bfloat16 and float8 as float32."""
    index = element_index(shape, start, strides, indices)
    bits = 64 if dtype == "float64" else 32
    return round_to(values_of(distribution, index.ravel(), key, stream, bits), dtype).reshape(shape)
