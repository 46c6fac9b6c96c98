"""Lists to fill on a GPU, how many launches that takes, and what the CPU makes of them; for test_cuda*.py."""

import pytest
import torch
from filling import DTYPES, SHIFTED, WHY_NO_GPU, assert_same_bits, key_tensor, shifted
from layouts import LARGE
from reference import layer_key
from torch import nn

from convinit_ext import _C
from convinit_ext._engine import _ops as ops

NEEDS_A_GPU = [pytest.mark.gpu, pytest.mark.skipif(bool(WHY_NO_GPU), reason=WHY_NO_GPU or "there is a GPU")]
several_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
MANY = 300  # tensors: more than a kernel parameter can describe
LONG = 1_000_000_000  # clock ticks: about half a second
RANDOM = ("uniform", "normal", "truncated_normal")


def rows() -> list[tuple[tuple[int, ...], str, str]]:
    """(shape, dtype, distribution): every dtype and distribution, small tensors and a large one."""
    shapes = ((0,), (1,), (9,), (3, 3), (1031,), (65, 3, 3, 3))
    found = [(shape, dtype, name) for shape in shapes for dtype in DTYPES for name in SHIFTED]
    return [*found[:7], ((LARGE,), "float32", "normal"), *found[7:], ((LARGE,), "bfloat16", "uniform")]


def arguments(device: str, chosen=None):
    """Tensors, keys and distributions of one call."""
    chosen = rows() if chosen is None else chosen
    tensors = [torch.empty(shape, dtype=DTYPES[dtype], device=device) for shape, dtype, _ in chosen]
    keys = key_tensor(*[layer_key(3, f"layer{number}.weight") for number in range(len(chosen))])
    return tensors, keys, [shifted(name) for *_, name in chosen]


def assert_equal_to_cpu(tensors, chosen=None) -> None:
    expected = arguments("cpu", chosen)
    ops.fill_(*expected)
    for tensor, on_cpu in zip(tensors, expected[0], strict=True):
        assert_same_bits(tensor, on_cpu)


def launches(function) -> int:
    before = _C.num_cuda_launches()
    function()
    return _C.num_cuda_launches() - before


def small_rows(num_tensors: int) -> list[tuple[tuple[int, ...], str, str]]:
    return [((number % 97 + 1, 3), "float32", RANDOM[number % 3]) for number in range(num_tensors)]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.Embedding(20, 8, padding_idx=3),
        nn.LSTM(8, 8, 2),
        nn.Linear(5, 7),
    )


def captured(function) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph
