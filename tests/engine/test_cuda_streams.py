"""On a GPU fills run on the current stream of each device, wait for nothing, and can be captured."""

import warnings

import pytest
import torch
from filling import assert_same_bits
from gpu import (
    LONG,
    MANY,
    NEEDS_A_GPU,
    arguments,
    assert_equal_to_cpu,
    captured,
    launches,
    network,
    several_gpus,
    small_rows,
)
from layouts import SENTINEL
from states import assert_same_state

from convinit_ext import Key, init, init_model_
from convinit_ext._engine import _ops as ops

pytestmark = NEEDS_A_GPU


@pytest.fixture
def never_waits():
    """Any wait for the GPU that PyTorch knows of is an error."""
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode")  # that it is a prototype
        torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


# Streams and devices


@pytest.mark.parametrize("num_tensors", [1, MANY])
def test_fills_run_on_the_current_stream(num_tensors):
    """A stream held up by a long kernel holds up the fill; another stream, or the host, is not held up."""
    chosen = [((64, 64), "float32", "normal")] * num_tensors
    tensors, keys, kinds = arguments("cuda", chosen)
    stream, done = torch.cuda.Stream(), torch.cuda.Event()
    for wait in (0, LONG):  # the first time loads kernels and allocates
        for tensor in tensors:
            tensor.zero_()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(wait)
            ops.fill_(tensors, keys, kinds)
            done.record()
        held_up = not done.query()
        sums = [tensor.abs().sum() for tensor in tensors[:3]]  # on the default stream
        torch.cuda.default_stream().synchronize()
    assert held_up and not done.query()
    assert not any(each.item() for each in sums)
    stream.synchronize()
    assert_equal_to_cpu(tensors, chosen)


def test_lists_are_not_overwritten_while_a_stream_lags_behind():
    """The lists of many calls are on their way at once."""
    chosen = [((9, 9), "float32", "normal")] * MANY
    calls = [arguments("cuda", chosen) for _ in range(20)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LONG)
        for number, (tensors, keys, kinds) in enumerate(calls):
            keys[:, 1] += number
            ops.fill_(tensors, keys, kinds)
    stream.synchronize()
    for tensors, keys, kinds in calls:
        expected = [torch.empty(9, 9) for _ in chosen]
        ops.fill_(expected, keys, kinds)
        for tensor, on_cpu in zip(tensors, expected, strict=True):
            assert_same_bits(tensor, on_cpu)


@pytest.mark.parametrize("num_tensors", [1, 10, MANY])
def test_nothing_waits_for_the_gpu(never_waits, num_tensors):
    tensors, keys, kinds = arguments("cuda", [((33, 5), "float32", "uniform")] * num_tensors)
    ops.fill_(tensors, keys, kinds)
    init.kaiming_normal_(tensors[0])
    init.trunc_normal_(tensors[0], key=Key(0, "w"))
    init.sparse_(tensors[0], 0.5)
    init.uniform_(tensors[0], generator=torch.Generator("cuda").manual_seed(1))


@pytest.mark.usefixtures("never_waits")
def test_init_model_does_not_wait_for_the_gpu():
    with torch.device("meta"):
        model = network()
    init_model_(model, device="cuda")
    init_model_(model)


@pytest.mark.parametrize(
    "devices",
    [
        ("cpu", "cuda"),
        pytest.param(("cuda:1",), marks=several_gpus),
        pytest.param(("cpu", "cuda:0", "cuda:1"), marks=several_gpus),
    ],
)
@pytest.mark.parametrize("num_tensors", [3, MANY])
def test_a_list_on_several_devices_is_a_launch_each(devices, num_tensors):
    """And the current device stays."""
    torch.cuda.set_device(0)
    chosen = [((33, number % 50 + 1), "float32", "normal") for number in range(num_tensors)]
    tensors, keys, kinds = arguments("cpu", chosen)
    tensors = [tensor.to(devices[number % len(devices)]) for number, tensor in enumerate(tensors)]
    assert launches(lambda: ops.fill_(tensors, keys, kinds)) == sum(name != "cpu" for name in devices)
    assert torch.cuda.current_device() == 0
    assert_equal_to_cpu(tensors, chosen)
    boxes = [ops.Box(5, (1000, 3)) for _ in tensors]
    ops.fill_(tensors, keys, kinds, boxes)
    expected = [torch.empty_like(tensor, device="cpu") for tensor in tensors]
    ops.fill_(expected, keys, kinds, boxes)
    for tensor, on_cpu in zip(tensors, expected, strict=True):
        assert_same_bits(tensor, on_cpu)


# Graphs


@pytest.mark.parametrize("num_tensors", [1, 10, 2000])
def test_a_graph_writes_the_same_values_at_every_replay(num_tensors):
    chosen = small_rows(num_tensors)
    tensors, keys, kinds = arguments("cuda", chosen)
    graph = captured(lambda: ops.fill_(tensors, keys, kinds))
    churn = [torch.randint(0, 255, (1 << 20,), dtype=torch.uint8, device="cuda") for _ in range(20)]
    for _ in range(5):
        for tensor in tensors:
            tensor.fill_(SENTINEL)
        churn.append(torch.ones(1 << 16).pin_memory().cuda(non_blocking=True))
        graph.replay()
        assert_equal_to_cpu(tensors, chosen)


def test_a_graph_of_many_fills_and_other_work():
    """The memory of one list is used again by what follows it in the graph."""
    chosen = [((9, 9), "float32", "normal")] * MANY
    first, second = arguments("cuda", chosen), arguments("cuda", chosen)
    sums: list[torch.Tensor] = []

    def work() -> None:
        ops.fill_(*first)
        scratch = [torch.full((4096,), float(number), device="cuda") for number in range(10)]
        sums.append(torch.stack(scratch).sum())
        ops.fill_(*second)

    graph = captured(work)
    for _ in range(3):
        for tensor in (*first[0], *second[0]):
            tensor.fill_(SENTINEL)
        graph.replay()
        assert_equal_to_cpu(first[0], chosen)
        assert_equal_to_cpu(second[0], chosen)
        assert sums[0].item() == 4096 * 45


def test_a_keyed_drop_in_call_and_a_model_are_captured():
    model, expected, tensor = network().cuda(), network(), torch.empty(64, 64, device="cuda")

    def work() -> None:
        init.kaiming_normal_(tensor, key=Key(0, "conv.weight"))
        init_model_(model, 4)

    graph = captured(work)
    for each in (tensor, *model.parameters()):
        each.data.zero_()
    graph.replay()
    init_model_(expected, 4)
    assert_same_state(model, expected.state_dict())
    assert_same_bits(tensor, init.kaiming_normal_(torch.empty(64, 64), key=Key(0, "conv.weight")))


@pytest.mark.parametrize("source", ["default", "cpu", "cuda"])
def test_a_fill_without_a_key_is_refused_under_capture(source):
    tensor = torch.zeros(64, 64, device="cuda")
    generator = None if source == "default" else torch.Generator(source).manual_seed(1)
    before = (generator or torch.default_generator).get_state()

    def fill() -> None:
        torch.zeros(3, device="cuda")  # else there is nothing in the graph, which is a warning
        for function in (init.normal_, init.kaiming_uniform_, init.sparse_, init.orthogonal_):
            given = {"sparsity": 0.5} if function is init.sparse_ else {}
            with pytest.raises(RuntimeError, match=r"key=convinit_ext\.Key|cannot be captured"):
                function(tensor, generator=generator, **given)

    captured(fill)
    assert torch.equal((generator or torch.default_generator).get_state(), before)
    assert not tensor.any()
    init.normal_(tensor, generator=generator)
    assert tensor.any()
