"""The compiled ops as PyTorch sees them: schema, fakes, autograd, versions, threads, lists and parts."""

import subprocess
import sys
import threading
import time

import pytest
import torch
from compiled_ops import FILL, FILL_ONE, FILL_PART, KEYS, MAKE_ORTHOGONAL, PARAMS
from filling import DTYPES, assert_same_bits, forced_isa, key_tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from convinit_ext import _C, Constant, Normal, TruncatedNormal, Uniform
from convinit_ext._engine import _ops as ops


def filled(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    tensor = torch.empty(*shape, dtype=dtype)
    ops.fill_([tensor], KEYS, [Normal()])
    return tensor


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(requires_grad: bool) -> None:
    keys = key_tensor((1, 2), (3, 4))
    tensors = [torch.empty(5, 7), torch.empty(3, dtype=torch.float64)]
    tests = ["test_schema", "test_faketensor", "test_aot_dispatch_dynamic"]
    torch.library.opcheck(FILL, (tensors, keys, [1, 2], PARAMS * 2, [], []), test_utils=tests)
    tensor = torch.empty(5, 7).requires_grad_(requires_grad)
    with torch.no_grad():
        torch.library.opcheck(FILL_ONE, (tensor, KEYS, 2, *PARAMS), test_utils=tests)
        torch.library.opcheck(FILL_PART, (tensor, KEYS, 2, *PARAMS, 3, [20, 2]), test_utils=tests)
        matrices = torch.randn(2, 3, 4).requires_grad_(requires_grad)
        torch.library.opcheck(MAKE_ORTHOGONAL, (matrices, 2.0), test_utils=tests)


def test_versions_and_gradients() -> None:
    tensors = [torch.zeros(4), torch.nn.Parameter(torch.empty(4))]
    ops.fill_(tensors, key_tensor((1, 2), (3, 4)), [Normal(), Normal()])
    assert [tensor._version for tensor in tensors] == [1, 1]
    ops.fill_one_(tensors[0], KEYS, 2, PARAMS)
    assert tensors[0]._version == 2
    weight = tensors[1]
    assert weight.is_leaf and weight.requires_grad and weight.grad_fn is None
    (weight * weight).sum().backward()
    assert weight.grad is not None
    out = (weight * weight).sum()
    ops.fill_([weight], KEYS, [Normal()])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def test_inference_mode() -> None:
    with torch.inference_mode():
        assert_same_bits(filled(33), filled(33))
    assert_same_bits(filled(33), filled(33).clone())


def test_meta_and_fake_tensors_are_left_alone() -> None:
    meta = torch.empty(4, 4, device="meta")
    ops.fill_([meta], KEYS, [Normal()])
    with FakeTensorMode():
        fake = torch.empty(4, 4)
        ops.fill_([fake], torch.empty(1, 2, dtype=torch.int64), [Normal()])
        assert fake.shape == (4, 4)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")  # inside inductor
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compile_without_a_graph_break(backend: str) -> None:
    def build(tensor: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        ops.fill_([tensor], keys, [Normal()])
        ops.fill_one_(tensor[2:4], keys, 1, PARAMS)
        return tensor * 2

    expected = build(torch.zeros(7, 5), KEYS)
    compiled = torch.compile(build, fullgraph=True, backend=backend)
    assert_same_bits(compiled(torch.zeros(7, 5), KEYS), expected)


def test_the_gil_is_released() -> None:
    tensor, ticks = torch.empty(1 << 26), 0
    with forced_isa("portable"):
        worker = threading.Thread(target=ops.fill_, args=([tensor], KEYS, [TruncatedNormal()]))
        worker.start()
        while worker.is_alive() and ticks < 20:
            time.sleep(0.001)
            ticks += 1
        still_running = worker.is_alive()
        worker.join()
    assert ticks == 20 and still_running


def test_flush_to_zero_does_not_change_a_bit() -> None:
    tiny = Uniform(0.0, 1e-40)
    expected, actual = torch.empty(100_000), torch.empty(100_000)
    ops.fill_([expected], KEYS, [tiny])
    assert torch.count_nonzero(expected) > 50_000
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot flush denormals")
    try:
        ops.fill_([actual], KEYS, [tiny])
    finally:
        torch.set_flush_denormal(False)
    assert_same_bits(actual, expected)


@pytest.mark.parametrize("kind", [Constant(0.5), Uniform(-1, 1), Normal(), TruncatedNormal()], ids=str)
def test_the_way_past_the_dispatcher_gives_the_same(kind: ops.Encoded) -> None:
    for dtype in DTYPES.values():
        usual, short = torch.empty(1003, dtype=dtype), torch.empty(1003, dtype=dtype)
        ops.fill_one_(usual, KEYS, kind.kind, kind.params)
        ops.fill_small_(short, KEYS.data_ptr(), kind.kind, kind.params)
        assert_same_bits(short, usual)
        assert short._version == usual._version == 1
        ops.fill_small_(short.zero_(), tuple(KEYS.view(-1).tolist()), kind.kind, kind.params)
        assert_same_bits(short, usual)


PARTS = {
    "rows": (lambda w: w[2:], ops.Box(11, (77, 7, 1))),
    "every other column": (lambda w: w[:, :, ::2], ops.Box(0, (140, 7, 3))),
    "transposed": (lambda w: w.permute(2, 0, 1), ops.Box(2**40, (1, 40, 8))),
    "one of a dimension": (lambda w: w[1:2, 3], ops.Box(5, (2**33, 4))),
    "one element": (lambda w: w[0, 0, 0], ops.Box(3, ())),
    "all": (lambda w: w, ops.Box(0, (35, 7, 1))),
}


@pytest.mark.parametrize(("view", "box"), PARTS.values(), ids=PARTS)
def test_one_part_equals_the_list_s(view, box: ops.Box) -> None:
    for dtype in DTYPES.values():
        distribution = TruncatedNormal(0.5)
        expected, by_op, short = (torch.zeros(4, 5, 7, dtype=dtype) for _ in range(3))
        kind, params = distribution.kind, distribution.params
        ops.fill_([view(expected)], KEYS, [distribution], [box])
        ops.fill_one_(view(by_op), KEYS, kind, params, box)
        ops.fill_small_(view(short), KEYS.data_ptr(), kind, params, box)
        assert_same_bits(by_op, expected)
        assert_same_bits(short, expected)
        assert by_op._version == short._version == 1


MEMORY_SCRIPT = """
import resource, torch
from convinit_ext import Normal
from convinit_ext._engine import ops
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
keys = torch.tensor([[1, 2]])
tensors = [torch.zeros(16, 1024, 1024), torch.zeros(2048, 1024, 3, 3).to(memory_format=torch.channels_last)]
ops.fill_([torch.zeros(100_000)], keys, [Normal()])
before = peak()
for tensor in tensors:
    ops.fill_([tensor], keys, [Normal()])
    ops.fill_([tensor.transpose(0, 1)], keys, [Normal()])
print(peak() - before)
"""


def test_extra_memory_while_filling_is_small() -> None:
    run = subprocess.run([sys.executable, "-c", MEMORY_SCRIPT], check=True, capture_output=True, text=True)
    assert float(run.stdout) < 16  # MiB


def test_isa_names() -> None:
    assert _C.available_isas()[0] == "portable"
    assert _C.isa() in _C.available_isas()
    with pytest.raises(ValueError, match='unknown instruction set "sse9"; available here: portable'):
        _C.force_isa("sse9")
