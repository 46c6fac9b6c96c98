"""The compiled ops as PyTorch sees them: schema, fakes, autograd, versions, threads; and what they refuse."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable

import pytest
import torch
from filling import DTYPES, assert_same_bits, forced_isa, key_tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from convinit_ext import _C, Constant, Normal, TruncatedNormal, Uniform, init
from convinit_ext._engine import _ops as ops

KEYS = key_tensor((1, 2))
PARAMS = [0.0, 1.0, 0.0, 0.0]
FILL = torch.ops.convinit_ext.fill_.default
FILL_ONE = torch.ops.convinit_ext.fill_one_.default
FILL_PART = torch.ops.convinit_ext.fill_part_.default
MAKE_ORTHOGONAL = torch.ops.convinit_ext.make_orthogonal_.default


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


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("kind", [Constant(0.5), Uniform(-1, 1), Normal(), TruncatedNormal()], ids=str)
def test_the_way_past_the_dispatcher_gives_the_same(kind: ops.Encoded, dtype: torch.dtype) -> None:
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


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize(("view", "box"), PARTS.values(), ids=PARTS)
def test_one_part_equals_the_list_s(view, box: ops.Box, dtype: torch.dtype) -> None:
    distribution = TruncatedNormal(0.5)
    expected, by_op, short = (torch.zeros(4, 5, 7, dtype=dtype) for _ in range(3))
    kind, params = distribution.kind, distribution.params
    ops.fill_([view(expected)], KEYS, [distribution], [box])
    ops.fill_one_(view(by_op), KEYS, kind, params, box)
    ops.fill_small_(view(short), KEYS.data_ptr(), kind, params, box)
    assert_same_bits(by_op, expected)
    assert_same_bits(short, expected)
    assert by_op._version == short._version == 1


def each_way(tensor: torch.Tensor, box: ops.Box) -> list[Callable[[], object]]:
    """A tensor filled by each op, and past the dispatcher, whole and as a part."""
    pointer = KEYS.data_ptr()
    contiguous = (
        [lambda: ops.fill_small_(tensor, pointer, 2, tuple(PARAMS))] if tensor.is_contiguous() else []
    )
    return [
        *contiguous,
        lambda: ops.fill_([tensor], KEYS, [Normal()]),
        lambda: ops.fill_one_(tensor, KEYS, 2, PARAMS),
        lambda: ops.fill_one_(tensor, KEYS, 2, PARAMS, box),
        lambda: ops.fill_small_(tensor, pointer, 2, tuple(PARAMS), box),
        lambda: init.normal_(tensor),
    ]


def test_tensors_that_overlap_or_hold_no_memory_are_refused_by_every_way() -> None:
    memory, released = torch.zeros(1, 4), torch.empty(100)
    released.untyped_storage().resize_(0)
    for tensor, box, said in (
        (memory.expand(4, 4), ops.Box(0, (4, 1)), "single memory location"),
        (released, ops.Box(0, (1,)), "holds no memory"),
    ):
        for fill in each_way(tensor, box):
            with pytest.raises(RuntimeError, match=said) as raised:
                fill()
            assert "csrc" not in str(raised.value) and ".cpp" not in str(raised.value)
    assert not memory.any()


def test_a_part_that_cannot_be_filled_is_refused() -> None:
    tensor = torch.zeros(4, 4)
    for box in (ops.Box(0, (4,)), ops.Box(-1, (4, 1)), ops.Box(0, (4, -1))):
        with pytest.raises(RuntimeError, match="a box has a start and one stride for each dimension"):
            ops.fill_one_(tensor, KEYS, 2, PARAMS, box)
    with pytest.raises(ops.UnsupportedTensorError, match="int64"):
        ops.fill_one_(torch.zeros(4, dtype=torch.int64), KEYS, 2, PARAMS, ops.Box(0, (1,)))
    for box in (ops.Box(2**63 - 1, (4, 1)), ops.Box(0, (2**62, 1)), ops.Box(2**63 - 2**34 - 15, (4, 1))):
        with pytest.raises(RuntimeError, match=f"accepted are less than {2**63 - 2**34}"):
            ops.fill_one_(tensor, KEYS, 2, PARAMS, box)
    assert not tensor.any()
    ops.fill_one_(tensor, KEYS, 2, PARAMS, ops.Box(2**63 - 2**34 - 16, (4, 1)))
    assert tensor.all()


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_forked_child_fills_alike(num_threads: int) -> None:
    """OpenMP's threads are not in the child, and it would wait for them."""
    script = f"""
import os, sys, time, torch
from convinit_ext import Key, init
torch.set_num_threads({num_threads})
expected = init.normal_(torch.empty(600_000), key=Key(0, "w"))
child = os.fork()
if child == 0:
    found = init.normal_(torch.empty(600_000), key=Key(0, "w")).numpy()
    os._exit(found.tobytes() != expected.numpy().tobytes())
for _ in range(3000):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        sys.exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.02)
os.kill(child, 9)
sys.exit("the child's fill did not end")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


MANY_DIMS = torch.empty(2, 3, *[1] * 10, 2, 2, 2).permute(*reversed(range(15)))


def test_a_list_equals_the_tensors_one_by_one(num_threads: int) -> None:
    def tensors() -> list[torch.Tensor]:
        return [
            torch.empty(9),
            torch.empty(70_001),
            torch.empty(3, 5, 7, dtype=torch.bfloat16).transpose(0, 2),
            torch.empty(64, 32, 3, 3).to(memory_format=torch.channels_last),
            torch.empty(0),
            torch.empty(100_003, dtype=torch.float64)[3:],
            torch.empty_like(MANY_DIMS),
        ]

    kinds = [Normal(), Uniform(-1, 1), TruncatedNormal(), Normal(0, 0.02), Normal(), Uniform(), Constant(2.5)]
    keys = key_tensor(*[(n, n + 1) for n in range(len(kinds))])
    together = tensors()
    ops.fill_(together, keys, kinds)
    ops.fill_([], keys[:0], [])
    for number, (expected, kind) in enumerate(zip(tensors(), kinds, strict=True)):
        ops.fill_([expected], keys[number : number + 1], [kind])
        assert_same_bits(together[number], expected, number)


@pytest.mark.parametrize("value", [0.1, -0.0, 1e-8, 65504.0, 65520.0, 3.4e38])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_a_constant_is_the_rounded_value(value: float, dtype: torch.dtype) -> None:
    tensor = torch.empty(37, dtype=dtype)
    fits = value <= torch.finfo(dtype).max  # what does not is refused as a constant, and rounded as a mean
    ops.fill_([tensor], KEYS, [Constant(value) if fits else Normal(value, 0.0)])
    precise = torch.full((37,), value, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    rounded = precise.to(dtype)
    if dtype == torch.float8_e4m3fn and value > 448:  # before 2.13 PyTorch's CPU made NaN of it
        rounded = torch.full_like(precise, 448).to(dtype)
    assert_same_bits(tensor, rounded)


REFUSED = {
    "integer": (lambda: torch.zeros(3, dtype=torch.int64), TypeError, "torch.int64.*accepted are float32"),
    "bool": (lambda: torch.zeros(3, dtype=torch.bool), NotImplementedError, "torch.bool"),
    "complex": (lambda: torch.zeros(3, dtype=torch.complex64), TypeError, "torch.complex64"),
    "float8": (lambda: torch.zeros(3).to(torch.float8_e4m3fnuz), TypeError, "torch.float8_e4m3fnuz"),
    "sparse": (lambda: torch.eye(3).to_sparse(), TypeError, "torch.sparse_coo.*torch.strided"),
    "csr": (lambda: torch.eye(3).to_sparse_csr(), TypeError, "torch.sparse_csr"),
    "expanded": (lambda: torch.zeros(1, 3).expand(3, 3), RuntimeError, "single memory location"),
    "overlapping": (
        lambda: torch.zeros(8).as_strided((3, 3), (1, 1)),
        RuntimeError,
        "single memory location",
    ),
    "meta": (lambda: torch.zeros(4, device="meta"), RuntimeError, "1 of 2 tensors are on the meta device"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize(("make", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_tensors_are_named_and_nothing_is_written(make, error, message) -> None:
    innocent, tensor = torch.zeros(100), make()
    before = tensor if tensor.is_meta else tensor.to_dense().clone()
    with pytest.raises(error, match=message):
        ops.fill_([innocent, tensor], key_tensor((1, 2), (3, 4)), [Normal(), Normal()])
    assert tensor.is_meta or torch.equal(before, tensor.to_dense())
    assert not innocent.any()
    assert innocent._version == 0


def test_strides_that_do_not_nest_but_do_not_overlap() -> None:
    base = torch.zeros(8)
    view = base.as_strided((2, 3), (3, 2))  # places 0 2 4 and 3 5 7
    ops.fill_([view], KEYS, [Normal()])
    assert_same_bits(view.contiguous(), filled(2, 3))
    assert base[1] == base[6] == 0


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (torch.float32, -3e38, 3e38),
        (torch.float16, 0, 1e5),
        (torch.float32, 0, 1e39),
        (torch.float64, -1.7e308, 1e308),
    ],
)
def test_bounds_the_dtype_cannot_hold(dtype: torch.dtype, low: float, high: float) -> None:
    tensor = torch.zeros(5, dtype=dtype)
    for fill, keys in ((ops.fill_one_, KEYS), (ops.fill_small_, KEYS.data_ptr())):
        with pytest.raises(RuntimeError, match="uniform_ expects"):
            fill(tensor, keys, 1, (low, high, 0.0, 0.0))
    assert not tensor.any()


@pytest.mark.parametrize(
    "arguments",
    [
        ((1,), 2, (0.0, 1.0, 0.0, 0.0), 0, None),
        ((1, 2**64), 2, (0.0, 1.0, 0.0, 0.0), 0, None),
        ((1, 2), 2, (0.0, 1.0), 0, None),
        ((1, 2), 2, (0.0, "1", 0.0, 0.0), 0, None),
        ((1, 2), 9, (0.0, 1.0, 0.0, 0.0), 0, None),
        ((1, 2), 2, (0.0, 1.0, 0.0, 0.0), 0, (1, 1)),
        ((1, 2), 2, (0.0, 1.0, 0.0, 0.0), 0, 5),
        ("12", 2, (0.0, 1.0, 0.0, 0.0), 0, None),
    ],
)
def test_malformed_arguments_past_the_dispatcher_are_refused(arguments: tuple[object, ...]) -> None:
    tensor = torch.zeros(4)
    with pytest.raises((TypeError, OverflowError, RuntimeError)):
        _C.fill_small(tensor, *arguments)
    with pytest.raises((TypeError, AttributeError)):
        _C.fill_small(None, (1, 2), 2, (0.0, 1.0, 0.0, 0.0), 0, None)
    assert not tensor.any()


def test_malformed_arguments_are_refused() -> None:
    tensor = torch.zeros(4)
    for arguments, message in [
        (([tensor], torch.zeros(1), [2], PARAMS, [], []), "keys is a contiguous int64"),
        (([tensor], key_tensor((1, 2), (3, 4)), [2], PARAMS, [], []), "keys is a contiguous int64"),
        (([tensor], KEYS, [2, 2], PARAMS, [], []), "one kind and four params"),
        (([tensor], KEYS, [2], PARAMS[:3], [], []), "one kind and four params"),
        (([tensor], KEYS, [9], PARAMS, [], []), "unknown kind"),
        (([tensor], KEYS, [2], PARAMS, [0], []), "boxes"),
        (([tensor], KEYS, [2], PARAMS, [-1], [1]), "negative"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            FILL(*arguments)
    assert not tensor.any()
    with pytest.raises(ValueError, match="2 boxes for 1 tensors"):
        ops.fill_([tensor], KEYS, [Normal()], [None, None])
    with pytest.raises(ValueError, match="2 strides for a tensor of 1 dim"):
        ops.fill_([tensor], KEYS, [Normal()], [ops.Box(0, (1, 1))])


def test_what_cannot_be_made_orthogonal_is_refused() -> None:
    cut, released = torch.zeros(2, 3, 4), torch.zeros(1, 2, 3)
    cut.untyped_storage().resize_(23 * 4)
    released.untyped_storage().resize_(0)
    for matrices, said in (
        (torch.zeros(2, 3, 4, dtype=torch.bfloat16), "accepted are float32 and float64"),
        (torch.zeros(3, 4), r"contiguous tensors \[matrices, rows, columns\]"),
        (torch.zeros(2, 4, 3).mT, r"contiguous tensors \[matrices, rows, columns\]"),
        (torch.zeros(1, 1, 1).expand(5, 3, 4), r"contiguous tensors \[matrices, rows, columns\]"),
        (cut, "storage of 92 bytes ends before the tensor does"),
        (released, "holds no memory"),
    ):
        with pytest.raises(RuntimeError, match=said):
            MAKE_ORTHOGONAL(matrices, 1.0)
    for shape in ((0, 3, 4), (3, 0, 4), (3, 4, 0)):
        MAKE_ORTHOGONAL(torch.zeros(shape), 1.0)


MEMORY_SCRIPT = """
import resource, torch
from convinit_ext import Normal
from convinit_ext._engine import ops
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
keys = torch.tensor([[1, 2]])
tensors = [torch.zeros(64, 1024, 1024), torch.zeros(4096, 2048, 3, 3).to(memory_format=torch.channels_last)]
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


def test_an_inference_tensor_outside_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        tensors = [torch.zeros(4), torch.zeros(100_000)]
    for tensor in tensors:
        with pytest.raises(RuntimeError, match="inference tensor outside InferenceMode"):
            init.normal_(tensor)
        with pytest.raises(RuntimeError, match="inference tensor outside InferenceMode"):
            ops.fill_([tensor], KEYS, [Normal()])
        assert not tensor.any()


@pytest.mark.parametrize("function", [init.orthogonal_, init.delta_orthogonal_, init.identity_, init.normal_])
def test_functions_refuse_overlapping_memory_and_leave_it(function) -> None:
    tensor = torch.zeros(20).as_strided((4, 3, 3), (2, 3, 1))
    with pytest.raises(RuntimeError, match="single memory location"):
        function(tensor)
    assert not tensor.any()


def test_nested_tensors_are_refused() -> None:
    with warnings.catch_warnings():  # that it is a prototype, said once a process
        warnings.simplefilter("ignore")
        nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(3, 3)])
    with pytest.raises(TypeError, match="nested"):
        init.normal_(nested)
