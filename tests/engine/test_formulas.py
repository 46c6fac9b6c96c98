"""Lanes that make their own fused multiply-add: its bits, and the formulas', are those of the processor's."""

import ctypes
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from compiling import compiled_library

from convinit_ext import _C

pytestmark = pytest.mark.skipif("sse2" not in _C.available_isas(), reason="not an x86-64 processor")
Formula = Callable[[str, np.ndarray], np.ndarray]
FORMULAS = ["neg2log", "neglog4", "cosine", "sine", "quantile_ratio"]
UNSIGNED = {"float32": np.uint32, "float64": np.uint64}
# The bits of floats: 2^-40, 100, -2^-40 and -2^-16 are the last four.
SQRT_HALF, THREE_QUARTERS = 0x3F3504F3, 0x3F400000
TINY, HUNDRED, MINUS_TINY, MINUS_SMALL = 0x2B800000, 0x42C80000, 0xAB800000, 0xB7800000
# Where a sum in double lies so near the middle of two that an approximate one ends on the other side.
HARD = [
    float.fromhex(f"0x1.{x}")
    for x in ("6aa8f574607d9p-1", "bb0bebfe84a7ap-1", "54fb6b09adaf4p0", "5dee487468c55p0")
]


def formulas_of(library: ctypes.CDLL) -> Formula:
    def called(name: str, arguments: np.ndarray) -> np.ndarray:
        dtype = name.rpartition("_")[2]
        results = np.empty(arguments.shape[-1], dtype)
        ends = (ctypes.c_void_p(each.ctypes.data) for each in (arguments, results))
        getattr(library, name)(next(ends), ctypes.c_int64(results.size), next(ends))
        return results.view(UNSIGNED[dtype])

    return called


@pytest.fixture(scope="module")
def one_at_a_time(tmp_path_factory: pytest.TempPathFactory) -> Formula:
    flags = ["-mfma"] if "avx2" in _C.available_isas() else []
    return formulas_of(compiled_library(tmp_path_factory.mktemp("scalar"), "formulas.cpp", *flags))


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Formula:
    flags = "-DCONVINIT_LANES=sse2", '-DLANES_FILE="cpu/lanes_sse2.inl"'
    return formulas_of(compiled_library(tmp_path_factory.mktemp("sse2"), "formulas.cpp", *flags))


def triples(dtype: str, count: int = 2**20) -> Iterator[list[np.ndarray]]:
    """Numbers a, b, c for a b + c: of any bits; of like size; that cancel; of few digits; and c, normal and
    denormal, with a product that is half of its step, or too little less than that for a double to tell.
    """
    random = np.random.default_rng(0)
    unsigned, eps = UNSIGNED[dtype], np.finfo(dtype).eps
    yield list(random.integers(0, np.iinfo(unsigned).max, (3, count), unsigned, endpoint=True).view(dtype))
    a, b, c = (random.standard_normal((3, count)) * 2.0 ** random.integers(-30, 30, (3, count))).astype(dtype)
    yield [a, b, c]
    yield [a, b, -a * b]
    yield [random.integers(-9, 9, count).astype(dtype), b, random.integers(-9, 9, count) * b / 8]
    for step, least in (eps, 1 / eps), (np.finfo(dtype).smallest_subnormal, 1 / eps / 4):
        off = random.integers(0, 9, count) * 8 * eps
        a = random.choice([-1.0, 1.0], count) * 2.0**-100 * (1 + off)
        yield [a, step * 2.0**99 * (1 - off), step * random.integers(int(least), int(2 * least), count)]


@pytest.mark.parametrize("dtype", UNSIGNED)
@np.errstate(all="ignore")
def test_a_fused_multiply_add_rounds_once(one_at_a_time: Formula, lanes: Formula, dtype: str) -> None:
    for abc in triples(dtype):
        given = np.stack(abc).astype(dtype)
        expected, actual = (each(f"fma_{dtype}", given) for each in (one_at_a_time, lanes))
        wrong = np.flatnonzero((expected != actual) & ~np.isnan(expected.view(dtype)))
        assert wrong.size == 0, [[float(x).hex() for x in given[:, i]] for i in wrong[:5]]


def arguments(name: str, dtype: str) -> np.ndarray:
    random = np.random.default_rng(0)
    if name in ("cosine", "sine"):
        return random.integers(0, np.iinfo(UNSIGNED[dtype]).max, 2**22, UNSIGNED[dtype], endpoint=True)
    if name == "quantile_ratio":
        return random.uniform(-1e-6, 50, 2**22).astype(dtype)
    numbers = random.uniform(0, 1, 2**22) ** random.integers(1, 9, 2**22) + 1e-30
    numbers[: len(HARD)] = HARD
    return numbers.astype(dtype)


def assert_same(one_at_a_time: Formula, lanes: Formula, name: str, arguments: np.ndarray) -> None:
    wrong = np.flatnonzero(one_at_a_time(name, arguments) != lanes(name, arguments))
    assert wrong.size == 0, (name, arguments[wrong[:5]])


@pytest.mark.parametrize("dtype", UNSIGNED)
@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_have_the_same_bits(one_at_a_time: Formula, lanes: Formula, name: str, dtype: str) -> None:
    assert_same(one_at_a_time, lanes, f"{name}_{dtype}", arguments(name, dtype))


# A power of two more or less does not change what a logarithm's polynomial gets.
ALL: dict[str, list[tuple[int, int]]] = {
    "neg2log": [(SQRT_HALF, SQRT_HALF + 2**23)],
    "neglog4": [(THREE_QUARTERS, THREE_QUARTERS + 2**23)],
    "cosine": [(0, 2**30)],
    "sine": [(0, 2**30)],
    # A smaller number's product is below a quarter of a step of what it is added to, and changes nothing.
    "quantile_ratio": [(TINY, HUNDRED), (MINUS_TINY, MINUS_SMALL)],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMULAS)
def test_float32_formulas_have_the_same_bits_for_all_arguments(
    one_at_a_time: Formula, lanes: Formula, name: str
) -> None:
    """This proves that the steps of their polynomials may be rounded to double first."""
    given = np.uint32 if name in ("cosine", "sine") else np.float32
    for first, last in ALL[name]:
        for start in range(first, last, 2**20):
            bits = np.arange(start, start + 2**20, dtype=np.uint32)
            assert_same(one_at_a_time, lanes, f"{name}_float32", bits.view(given))
