"""Fills of single tensors by dtype, distribution and size, each beside PyTorch's: `make bench`."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from convinit_ext import init

SIDES = {"torch": torch.nn.init, "convinit": init}
FUNCTIONS = ("uniform_", "normal_", "trunc_normal_")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIZES = (2**10, 2**16, 2**20, 2**24)


@pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fill(benchmark, dtype: torch.dtype, function: str, size: int, side: ModuleType) -> None:
    benchmark.group = f"{function} {dtype} {size}"
    benchmark.extra_info["elements"] = size
    benchmark(getattr(side, function), torch.empty(size, dtype=dtype))


@pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_layout(benchmark, layout: str, side: ModuleType) -> None:
    weight = torch.empty(512, 512, 3, 3)
    if layout == "channels_last":
        weight = weight.to(memory_format=torch.channels_last)
    if layout == "transposed":
        weight = weight.transpose(0, 1)
    benchmark.group = f"kaiming_normal_ {layout}"
    benchmark(side.kaiming_normal_, weight)


@pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)
@pytest.mark.parametrize("shape", [(16, 3, 3, 3), (64, 64, 3, 3), (9,)], ids=str)
def test_small(benchmark, shape: tuple[int, ...], side: ModuleType) -> None:
    benchmark.group = f"normal_ {shape}"
    benchmark(side.normal_, torch.empty(shape))


@pytest.mark.parametrize("number", [1, 2, 4, 8])
def test_threads(benchmark, number: int) -> None:
    benchmark.group = "threads"
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        benchmark(init.normal_, torch.empty(2**24))
    finally:
        torch.set_num_threads(before)
