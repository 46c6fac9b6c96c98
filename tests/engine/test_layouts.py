"""The same bits whatever the instruction set, the threads, the memory layout and the cut into boxes."""

import functools
import itertools
import pathlib

import numpy as np
import pytest
import torch
from filling import (
    DTYPES,
    KEY,
    SHIFTED,
    STANDARD,
    Backend,
    assert_same_bits,
    forced_isa,
    key_tensor,
    shifted,
    values,
)
from layouts import LARGE, LAYOUTS, SENTINEL
from reference import layer_key, reference

from convinit_ext import _C
from convinit_ext._engine import _ops as ops


@pytest.mark.parametrize("dtype", DTYPES)
def test_layout_does_not_change_values_and_only_the_view_changes(backend: Backend, dtype):
    for layout, (shape, view) in LAYOUTS.items():
        for distribution in SHIFTED.values():
            memory = backend.empty(shape, dtype).fill_(SENTINEL)
            viewed = torch.zeros(shape, dtype=torch.bool, device=backend.device)
            view(viewed).fill_(True)
            backend.fill_(view(memory), distribution)
            plain = backend.fill(view(memory).shape, distribution, dtype)
            assert_same_bits(view(memory), plain, (layout, distribution))
            assert bool(torch.all(memory[~viewed] == SENTINEL)), layout


@pytest.mark.parametrize("shape", [(1040, 70), (256, 256)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_tiles_of_transposed_memory(backend: Backend, dtype, shape):
    """Several tiles and what is left at their ends, with a line between their rows and without one."""
    memory, fill = backend.empty(shape, dtype), SHIFTED["uniform"]
    transposed, keys = backend.fill_(memory.t(), fill), key_tensor(KEY)
    whole = backend.fill(shape[::-1], fill, dtype)
    assert_same_bits(transposed, whole)
    assert ops.differences([transposed], keys, [shifted("uniform")]).tolist() == [[0, -1]]
    assert ops.digest([transposed], keys).equal(ops.digest([whole], keys))


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("shape", [(64, 48, 3, 3), (33, 17, 5, 2), (130, 1, 3, 3), (1, 300, 1, 1)], ids=str)
def test_memory_formats(backend: Backend, memory_format, shape):
    for dtype, distribution in (("float32", SHIFTED["normal"]), ("bfloat16", SHIFTED["uniform"])):
        tensor = backend.empty(shape, dtype).to(memory_format=memory_format)
        backend.fill_(tensor, distribution)
        assert tensor.is_contiguous(memory_format=memory_format)
        assert_same_bits(tensor, backend.fill(shape, distribution, dtype))


# Boxes: parts of a larger logical tensor


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STANDARD)
def test_boxes(backend: Backend, dtype, name):
    """Rows, columns, and every third row with every second column in memory of another order again."""
    whole, fill = values(backend.fill((29, 37), SHIFTED[name], dtype)), SHIFTED[name]
    for cut in (0, 1, 2, 3, 17, 28, 29):
        assert_same_bits(backend.fill((cut, 37), fill, dtype, start=0), whole[:cut], cut)
        assert_same_bits(backend.fill((29 - cut, 37), fill, dtype, start=37 * cut), whole[cut:], cut)
        left = backend.fill((29, cut), fill, dtype, start=0, strides=(37, 1))
        right = backend.fill((29, 37 - cut), fill, dtype, start=cut, strides=(37, 1))
        assert_same_bits(torch.cat([left, right], dim=1), whole, ("columns", cut))
    assert_same_bits(backend.fill((37, 29), fill, dtype, start=0, strides=(1, 37)), whole.T)
    whole = values(backend.fill((30, 41, 6), fill, dtype))
    for row, column in [(0, 0), (1, 1), (2, 0)]:
        part = backend.empty((6, 10, 20), dtype).permute(1, 2, 0)
        backend.fill_(part, fill, start=row * 246 + column * 6, strides=(3 * 246, 12, 1))
        assert_same_bits(part, whole[row::3, column : column + 39 : 2], (row, column))


def test_boxes_far_into_a_huge_tensor(backend: Backend):
    """Rows of a 2^21 x 2^21 logical tensor, straddling the 2^32, 2^33 and 2^34 element marks."""
    for mark, dtype in itertools.product((2**32, 2**33, 2**34, 2**41), ("float32", "float64")):
        where = {"start": mark - 2**22 - 5, "strides": (2**21, 1)}
        filled = backend.fill((4, 11), STANDARD["uniform"], dtype, **where)
        assert_same_bits(filled, reference((4, 11), *KEY, STANDARD["uniform"], dtype, **where), (mark, dtype))


# Instruction sets and threads


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STANDARD)
def test_instruction_sets_agree(dtype, name):
    for shape, start in (((LARGE,), 0), ((1031,), 2**34 - 501)):
        results = []
        for backend in (Backend("cpu", isa) for isa in _C.available_isas()):
            with backend.forced():
                results.append(backend.fill(shape, SHIFTED[name], dtype, start=start))
            assert_same_bits(results[-1], results[0], backend)


@functools.cache
def portable(name: str, dtype: str) -> torch.Tensor:
    with forced_isa("portable"):
        return Backend("cpu", "portable").fill((20_011,), SHIFTED[name], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_values(cpu: Backend, num_threads, dtype):
    assert torch.get_num_threads() == num_threads
    for name in ("uniform", "normal", "truncated_normal"):
        filled, cut = cpu.fill((LARGE,), SHIFTED[name], dtype), 700_001
        assert_same_bits(filled[:20_011], portable(name, dtype), name)
        assert_same_bits(filled[:cut], cpu.fill((cut,), SHIFTED[name], dtype, start=0), name)
        assert_same_bits(filled[cut:], cpu.fill((LARGE - cut,), SHIFTED[name], dtype, start=cut), name)
        strided = cpu.fill_(torch.empty(13, LARGE // 13, dtype=DTYPES[dtype]).t(), SHIFTED[name])
        assert_same_bits(strided.reshape(-1), filled[: strided.numel()], name)


def test_threads_share_a_list_of_tensors(cpu: Backend, num_threads):
    """One large tensor among many small ones, of every dtype and distribution, some strided, in one call."""
    shapes = ((0,), (1,), (3, 3), (2, 2, 2, *[1] * 10, 3, 2), (65, 3, 3, 3))
    rows = list(itertools.product(shapes, DTYPES, STANDARD))
    rows.insert(7, ((LARGE,), "float32", "normal"))
    keys = [layer_key(3, f"layer{i}.weight") for i in range(len(rows))]
    tensors = [cpu.empty(shape, dtype) for shape, dtype, _ in rows]
    tensors[1::2] = [
        cpu.empty(each.shape[::-1], str(each.dtype)[6:]).permute(*range(each.ndim)[::-1])
        for each in tensors[1::2]
    ]
    kinds = [shifted(name) for *_, name in rows]
    ops.fill_(tensors, key_tensor(*keys), kinds)
    ops.fill_([], key_tensor(), [])
    for tensor, key, (shape, dtype, name) in zip(tensors, keys, rows, strict=True):
        assert_same_bits(tensor, cpu.fill(shape, SHIFTED[name], dtype, key), (shape, dtype, name))


# More than 2^32 elements


def memory_available() -> int:
    meminfo = pathlib.Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uniform", "normal", "truncated_normal"])
def test_more_than_2_32_elements(cpu: Backend, name):
    if memory_available() < 12 * 2**30:
        pytest.skip("needs 12 GiB of available memory: the tensor takes 8.6")
    size = 2**32 + 10_007
    huge = cpu.fill((size,), SHIFTED[name], "bfloat16")
    marks = [0, 2**31 - 2048, 2**32 - 2048, size - 4096]
    for start in marks + np.random.default_rng(0).integers(0, size - 4096, 50).tolist():
        expected = cpu.fill((4096,), SHIFTED[name], "bfloat16", start=start)
        assert_same_bits(huge[start : start + 4096], expected, start)
    if name == "uniform":
        expected = reference((4096,), *KEY, SHIFTED[name], "bfloat16", start=2**32 - 2048)
        assert_same_bits(huge[2**32 - 2048 : 2**32 + 2048], expected)
