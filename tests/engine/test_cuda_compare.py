"""Comparisons on a GPU: they find what the CPU's find, by one launch a device, and nothing is copied."""

import pytest
import torch
from filling import DTYPES, KEY, SHIFTED, key_tensor, shifted
from gpu import (
    LONG,
    MANY,
    NEEDS_A_GPU,
    RANDOM,
    arguments,
    captured,
    launches,
    network,
    several_gpus,
    small_rows,
)
from layouts import LARGE, LAYOUTS
from torch import nn

from convinit_ext import init_model_, verify
from convinit_ext._engine import _ops as ops

pytestmark = NEEDS_A_GPU
EQUAL = [0, -1]


def assert_same_differences(tensors, keys, kinds, boxes=None) -> list[list[int]]:
    found = ops.differences(tensors, keys, kinds, boxes)
    expected = ops.differences([tensor.cpu() for tensor in tensors], keys, kinds, boxes)
    assert found.tolist() == expected.tolist()
    return found.tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHIFTED)
def test_large_tensors(dtype, name):
    tensor = torch.empty(LARGE, dtype=DTYPES[dtype], device="cuda")
    for start in (0, 3, 2**34 - 501):
        given = [tensor], key_tensor(KEY), [shifted(name)], [ops.Box(start, (1,))]
        ops.fill_(*given)
        assert ops.differences(*given).tolist() == [EQUAL]
        for place in (LARGE - 1, LARGE // 2, 5):  # ever earlier ones
            tensor[place] = 100.0
            assert_same_differences(*given)
        tensor.fill_(100.0)
        assert assert_same_differences(*given) == [[LARGE, start]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(dtype):
    for shape, view in LAYOUTS.values():
        for name in SHIFTED:
            tensor = view(torch.zeros(shape, dtype=DTYPES[dtype], device="cuda"))
            given = [tensor], key_tensor(KEY), [shifted(name)]
            ops.fill_(*given)
            assert ops.differences(*given).tolist() == [EQUAL]
            if tensor.numel():
                tensor[(-1,) * tensor.dim()] = 100.0
                assert assert_same_differences(*given)[0][0] == 1


@pytest.mark.parametrize("num_tensors", [1, 10, MANY, 2000])
def test_lists_are_one_launch(num_tensors):
    given = arguments("cuda", small_rows(num_tensors))
    ops.fill_(*given)
    for tensor in given[0][::5]:
        tensor.view(-1)[-2:] = 100.0
    assert launches(lambda: ops.differences(*given)) == 1
    assert sum(count for count, _ in assert_same_differences(*given)) > 0


@pytest.mark.parametrize(
    "devices", [("cpu", "cuda"), pytest.param(("cuda:1", "cpu", "cuda:0"), marks=several_gpus)]
)
def test_a_list_on_several_devices(devices):
    given = [torch.empty(33, number % 50 + 1) for number in range(MANY)]
    given = [tensor.to(devices[number % len(devices)]) for number, tensor in enumerate(given)]
    keys = key_tensor(*[(number, 5) for number in range(MANY)])
    kinds = [shifted(RANDOM[number % 3]) for number in range(MANY)]
    boxes = [ops.Box(number, (1000, 3)) for number in range(MANY)]
    ops.fill_(given, keys, kinds, boxes)
    for tensor in given[::7]:
        tensor[1:, 0] = 100.0
    found = assert_same_differences(given, keys, kinds, boxes)
    assert [count for count, _ in found[::7]] == [32] * len(found[::7])
    assert launches(lambda: ops.differences(given, keys, kinds, boxes)) == len(devices) - 1


@pytest.mark.parametrize("num_tensors", [1, MANY])
def test_comparisons_run_on_the_current_stream(num_tensors):
    given = arguments("cuda", [((64, 64), "float32", "normal")] * num_tensors)
    ops.differences(*given)  # loads the kernel
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LONG)
        ops.fill_(*given)
        assert ops.differences(*given).tolist() == [EQUAL] * num_tensors


@pytest.mark.parametrize("num_tensors", [1, 10, MANY])
def test_a_captured_comparison_looks_anew_at_every_replay(num_tensors):
    tensors, keys, kinds = arguments("cuda", [((33, 5), "float32", "normal")] * num_tensors)
    found: list[torch.Tensor] = []
    graph = captured(lambda: found.append(ops._compare_op(tensors, keys, *ops.encoded(kinds), [], [])))
    ops.fill_(tensors, keys, kinds)
    for wanted in (EQUAL, [1, 7]):
        graph.replay()
        assert found[0].tolist() == [wanted] * num_tensors
        for tensor in tensors:
            tensor[1, 2] = 100.0


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_models_are_verified_where_they_are(dtype):
    model = network().cuda()
    init_model_(model, 11, "he", dtype=dtype)
    assert verify(model, 11, "he")
    with torch.no_grad():
        model[4].weight[3, 2] += 1
    found = verify(model, 11, "he")
    assert found.different == ("4.weight",) and found.num_different == 1
    assert {row.first_index for row in found.rows if not row.equal} == {(3, 2)}


def test_a_large_model_is_verified_without_a_second_copy():
    model = nn.Linear(8192, 4096, device="cuda")
    init_model_(model, 3)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    assert verify(model, 3)
    assert torch.cuda.max_memory_allocated() - before < 1 << 20
