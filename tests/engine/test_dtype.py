"""Rounding to the small types: the core's and the reference's are PyTorch's, for every kind of float32."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import reference as ref
import torch
from compiling import compiled, compiled_library
from filling import DTYPES, Backend, assert_same_bits, values

from convinit_ext import _C

FLOAT8 = ["float8_e4m3fn", "float8_e5m2"]
SMALL_TYPES = ["float16", "bfloat16", *FLOAT8]
# The vectors' own rounding, compiled alone.
LANES_FLAGS = {
    "sse2": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mf16c"],
    "neon": [],
}
ARM_CXX = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64")
EMULATED = ["neon, emulated"] if ARM_CXX and EMULATOR else []
Rounding = Callable[[np.ndarray, str], np.ndarray]
# Ties, and their neighbours on both sides.
LOW_HALVES = [0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF]


def all_high_halves(low: int) -> np.ndarray:
    """Every sign, exponent and upper mantissa, with these lower 16 bits."""
    return (np.arange(2**16, dtype=np.uint32) << 16 | np.uint32(low)).view(np.float32)


def dense_sweep(offset: int) -> np.ndarray:
    """One float32 in 256, 2^24 in all."""
    return (np.arange(2**24, dtype=np.uint32) << 8 | np.uint32(offset)).view(np.float32)


def rounded_by_torch(floats: np.ndarray, dtype: str) -> np.ndarray:
    """Its bits. Before 2.13, its CPU made NaN of what overflows float8_e4m3fn; now it saturates, as we do."""
    rounded = torch.from_numpy(floats).to(DTYPES[dtype])
    bits = rounded.view(torch.uint8 if dtype in FLOAT8 else torch.int16).numpy().copy()
    if dtype == "float8_e4m3fn":
        overflows = (np.abs(floats) > 448) & (bits & 0x7F == 0x7F)
        bits[overflows] -= 1
    return bits


def called(folder: Path, source: str, *flags: str) -> Rounding:
    """What a source rounds to, here."""
    library = compiled_library(folder, source, *flags)

    def rounded(floats: np.ndarray, dtype: str) -> np.ndarray:
        bits = np.empty(floats.shape, np.uint8 if dtype in FLOAT8 else np.int16)
        ends = (ctypes.c_void_p(each.ctypes.data) for each in (floats, bits))
        getattr(library, f"round_{dtype}")(next(ends), ctypes.c_int64(floats.size), next(ends))
        return bits

    return rounded


def emulated(folder: Path, source: str, *flags: str) -> Rounding:
    """Likewise on another processor, which is emulated."""
    program = compiled(ARM_CXX, folder, source, "-static", *flags)

    def rounded(floats: np.ndarray, dtype: str) -> np.ndarray:
        command = [str(EMULATOR), str(program), dtype]
        output = subprocess.run(command, input=floats.tobytes(), capture_output=True, check=True).stdout
        return np.frombuffer(output, np.uint8 if dtype in FLOAT8 else np.int16)

    return rounded


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Rounding:
    return called(tmp_path_factory.mktemp("core"), "round_floats.cpp")


@pytest.fixture(scope="module", params=[isa for isa in LANES_FLAGS if isa in _C.available_isas()] + EMULATED)
def lanes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rounding:
    """The vectors of an instruction set."""
    isa = request.param.partition(",")[0]
    flags = f"-DCONVINIT_LANES={isa}", f'-DLANES_FILE="cpu/lanes_{isa}.inl"', *LANES_FLAGS[isa]
    if request.param in EMULATED:
        return emulated(tmp_path_factory.mktemp(isa), "round_stdin.cpp", *flags)
    return called(tmp_path_factory.mktemp(isa), "round_vectors.cpp", *flags)


def assert_equal_but_for_nans(ours: np.ndarray, theirs: np.ndarray, floats: np.ndarray, dtype: str) -> None:
    """A float8's NaN is one pattern; the others' have room for more, which PyTorch fills in its own way."""
    compared = np.ones(floats.shape, bool) if dtype in FLOAT8 else ~np.isnan(floats)
    wrong = np.flatnonzero((ours != theirs) & compared)
    assert wrong.size == 0, [(floats[i].hex(), hex(ours[i]), hex(theirs[i])) for i in wrong[:5]]


BOUNDARIES = np.concatenate([all_high_halves(low) for low in LOW_HALVES])


@pytest.mark.parametrize("dtype", SMALL_TYPES)
def test_the_core_rounds_as_pytorch(core: Rounding, dtype: str):
    for floats in (BOUNDARIES, *map(dense_sweep, (0x00, 0x80, 0xFF))):
        assert_equal_but_for_nans(core(floats, dtype), rounded_by_torch(floats, dtype), floats, dtype)


@pytest.mark.parametrize("dtype", SMALL_TYPES)
def test_vectors_round_as_the_core(lanes: Rounding, core: Rounding, dtype: str):
    mixed = np.random.default_rng(0).permutation(BOUNDARIES)  # an element in another's place is seen
    for floats in (mixed, dense_sweep(0x00), dense_sweep(0x80)):
        assert_equal_but_for_nans(lanes(floats, dtype), core(floats, dtype), floats, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FLOAT8)
def test_vectors_round_every_float_as_the_core(lanes: Rounding, core: Rounding, dtype: str):
    for floats in map(dense_sweep, range(256)):
        assert_equal_but_for_nans(lanes(floats, dtype), core(floats, dtype), floats, dtype)


@pytest.mark.parametrize("dtype", SMALL_TYPES)
def test_the_reference_rounds_as_pytorch(dtype: str):
    floats = np.concatenate([BOUNDARIES, dense_sweep(0x00)[::16]])
    floats = floats[~np.isnan(floats)]
    bits = rounded_by_torch(floats, dtype)
    assert_same_bits(ref.round_to(floats, dtype), torch.from_numpy(bits).view(DTYPES[dtype]))


# Intervals about the ends of each type's range, normal and denormal numbers, and far beyond it.
MAGNITUDES = [1e-9, 2.0**-16, 2.0**-14, 2.0**-9, 2.0**-6, 1.0, 400.0, 3e4, 1e30]


@pytest.mark.parametrize("dtype", FLOAT8)
def test_fills_are_the_rounding_of_float32(backend: Backend, dtype: str):
    """Of numbers of every size about this one: a normal distribution's."""
    for magnitude in MAGNITUDES:
        distribution = ("normal", 0.0, magnitude)
        single = backend.fill((100_003,), distribution, "float32")
        assert_same_bits(backend.fill((100_003,), distribution, dtype), ref.round_to(values(single), dtype))
