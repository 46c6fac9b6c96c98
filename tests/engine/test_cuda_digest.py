"""Digests on a GPU: the CPU's, from one launch a device."""

import functools

import pytest
import torch
from filling import KEY, key_tensor
from gpu import LONG, MANY, NEEDS_A_GPU, captured, launches, several_gpus
from layouts import LARGE, LARGE_LAYOUTS, LARGE_SHAPE, LAYOUTS

from convinit_ext import Uniform
from convinit_ext._engine import _ops as ops

pytestmark = NEEDS_A_GPU
BYTES = (torch.bool, torch.uint8, torch.bfloat16, torch.float32, torch.int64, torch.complex128)


def words_on(device: str, shape, dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.bool:
        return (torch.arange(torch.Size(shape).numel()) * 7 % 3 == 0).view(shape).to(device)
    size = torch.Size(shape).numel() * dtype.itemsize
    words = torch.empty(size // 4 + 1, dtype=torch.float32)
    ops.fill_([words], key_tensor(KEY), [Uniform()])
    return words.view(torch.uint8)[:size].view(dtype).view(shape).to(device)


def assert_same_digests(given, boxes=None) -> None:
    keys = key_tensor(*[(number, 2**63 + number) for number in range(len(given))])
    expected = ops.digest([each.cpu() for each in given], keys, boxes)
    assert torch.equal(ops.digest(given, keys, boxes), expected)


@pytest.mark.parametrize("dtype", BYTES, ids=str)
def test_digests_of_layouts_equal_the_cpus(dtype):
    for shape, view in LAYOUTS.values():
        assert_same_digests([view(words_on("cuda", shape, dtype))])


@pytest.mark.parametrize("dtype", BYTES, ids=str)
def test_digests_of_large_tensors_equal_the_cpus(dtype):
    """Whole, cut anywhere, and at any place in memory."""
    tensor = words_on("cuda", (LARGE,), dtype)
    flat = tensor.view(torch.uint8)
    assert_same_digests(
        [tensor, *(tensor[cut : LARGE - cut] for cut in range(1, 9)), flat, flat[1:], flat[6:]]
    )
    boxes = [ops.Box(start, (1,)) for start in (0, 1, 2, 3, 1023, 2**34 - 501)]
    assert_same_digests([tensor] * len(boxes), boxes)


@pytest.mark.parametrize("dtype", BYTES, ids=str)
def test_digests_of_large_layouts_equal_the_cpus(dtype):
    tensor = words_on("cuda", LARGE_SHAPE, dtype)
    for view in (*LARGE_LAYOUTS.values(), lambda m: m[:1].expand(9, 80, 17, 23)):
        assert_same_digests([view(tensor)])


@pytest.mark.parametrize("num_tensors", [1, 10, MANY, 2000])
def test_digests_of_lists_are_one_launch(num_tensors):
    given = [words_on("cuda", (number % 97, 3), BYTES[number % len(BYTES)]) for number in range(num_tensors)]
    assert launches(lambda: ops.digest(given, torch.zeros(num_tensors, 2, dtype=torch.int64))) <= 1
    assert_same_digests(given)


@pytest.mark.parametrize(
    "devices", [("cpu", "cuda"), pytest.param(("cuda:1", "cpu", "cuda:0"), marks=several_gpus)]
)
def test_digests_of_a_list_on_several_devices(devices):
    where = [devices[number % len(devices)] for number in range(MANY)]
    given = [words_on(name, (number % 97 + 1, 3), torch.float32) for number, name in enumerate(where)]
    torch.cuda.set_device(0)
    digest = functools.partial(ops.digest, given, torch.zeros(MANY, 2, dtype=torch.int64))
    assert launches(digest) == len(devices) - 1
    assert torch.cuda.current_device() == 0
    assert_same_digests(given)
    assert_same_digests(given, [ops.Box(number, (1000, 3)) for number in range(MANY)])


@pytest.mark.parametrize("num_tensors", [1, MANY])
def test_digests_run_on_the_current_stream(num_tensors):
    given = [torch.zeros(33, 5, device="cuda") for _ in range(num_tensors)]
    keys = key_tensor(*[(number, 5) for number in range(num_tensors)])
    ops.digest(given, keys)  # loads the kernel
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LONG)
        for tensor in given:
            tensor.fill_(3.5)
        found = ops.digest(given, keys)
    assert torch.equal(found, ops.digest([tensor.cpu() for tensor in given], keys))


@pytest.mark.parametrize("num_tensors", [1, 10, MANY])
def test_a_captured_digest_reads_anew_at_every_replay(num_tensors):
    given = [torch.zeros(number % 97 + 1, 3, device="cuda") for number in range(num_tensors)]
    keys = key_tensor(*[(number, 5) for number in range(num_tensors)])
    sums: list[torch.Tensor] = []
    graph = captured(lambda: sums.append(ops._digest_op(given, keys, [], [])))
    for value in (1.0, 2.0):
        for tensor in given:
            tensor.fill_(value)
        graph.replay()
        assert torch.equal(sums[0].cpu(), ops.digest([tensor.cpu() for tensor in given], keys))


@pytest.mark.slow
def test_digests_of_more_than_2_32_elements():
    size = 2**32 + 10_007
    if torch.cuda.mem_get_info()[0] < 1.1 * size:
        pytest.skip("needs more free memory on the GPU")
    given = torch.zeros(size, dtype=torch.uint8, device="cuda")
    ends = given[-5000:], given[:5000]
    for each in ends:
        each.copy_(words_on("cuda", (5000,), torch.uint8))
    parts = [(ends[0], ops.Box(size - 5000, (1,))), (ends[1], ops.Box(0, (1,)))]
    keys = key_tensor(KEY)
    by_parts = sum(ops.digest([part.cpu()], keys, [box]) for part, box in parts)
    assert torch.equal(ops.digest([given], keys), by_parts)
