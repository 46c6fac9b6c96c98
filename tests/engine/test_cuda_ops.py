"""The CUDA ops without a GPU: tests/cuda/fake_gpu.cpp stands in for the devices; the kernel's body runs here.

Which device, stream and memory a list goes to, in what order, and what remains after an error. The sums of
digests are held against the contract in numpy.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import reference_fingerprint
import torch
from filling import DISTRIBUTIONS, DTYPES, assert_same_bits, key_tensor
from test_layers import CSRC, CXX
from test_layouts import LAYOUTS
from test_values import SHIFTED

from convinit_ext._engine import _checks as checks
from convinit_ext._engine import _ops as ops

pytestmark = [
    pytest.mark.skipif(ops.HAS_CUDA, reason="this build has the ops already"),
    pytest.mark.skipif(CXX is None, reason="no compiler"),
]
HERE = Path(__file__).parent.parent
TORCH = Path(torch.__file__).parent
ON_CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
MANY = 50  # tensors: more than a kernel parameter describes
BY_VALUE = "launch fill by value on {0}, stream of {0}"
FROM_MEMORY = [
    "device memory on {0}",
    "pinned memory on {0}",
    "aten::copy_",
    "launch fill from memory on {0}, stream of {0}",
]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("fake_gpu") / "fake_gpu.so"
    sources = [
        HERE / "cuda" / "fake_gpu.cpp",
        *(CSRC / "torch" / f"{name}.cpp" for name in ("ops_cuda", "tasks", "arguments")),
    ]
    command = [CXX, "-std=c++17", "-O0", "-ffp-contract=off", "-fPIC", "-shared", "-Wl,-Bsymbolic"]
    command += ["-fvisibility=hidden", f"-I{CSRC}", f"-isystem{TORCH / 'include'}", *map(str, sources)]
    command += [f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-ltorch", "-lc10", "-ldl", "-o", str(path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    torch.ops.load_library(path)
    loaded = ctypes.CDLL(str(path))
    loaded.fake_put.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int32]
    loaded.fake_log.restype = ctypes.c_char_p
    return loaded


Given = tuple[list[torch.Tensor], torch.Tensor, list[ops.Encoded]]


def encoded_boxes(tensors, boxes) -> tuple[list[int], list[int]]:
    return ([], []) if boxes is None else ops._encode_boxes(tensors, boxes)


class Gpus:
    """Puts tensors on devices, and fills lists with the CUDA ops."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        library.fake_reset()

    def put(self, tensor: torch.Tensor, device: int) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self.library.fake_put(storage.data_ptr(), storage.nbytes(), device)
        return tensor

    def arguments(self, number: int, *devices: int | None) -> Given:
        """Of one call: tensors on these devices in turn, of which None is the CPU; the first one if none."""
        given = arguments(number)
        for each, tensor in enumerate(given[0]):
            if (device := (devices or (0,))[each % len(devices or (0,))]) is not None:
                self.put(tensor, device)
        return given

    def put_empty(self, device: int) -> None:
        """Tensors without elements, which have no address."""
        self.library.fake_put(0, 1, device)

    def fill_(self, tensors, keys, kinds, boxes=None) -> None:
        encoded = *ops.encoded(kinds), *encoded_boxes(tensors, boxes)
        ops._fill_op.redispatch(ON_CUDA, tensors, keys, *encoded)

    def digest(self, tensors, keys, boxes=None) -> torch.Tensor:
        return ops._digest_op.redispatch(ON_CUDA, tensors, keys, *encoded_boxes(tensors, boxes))

    def compare(self, tensors, keys, kinds, boxes=None) -> list[list[int]]:
        encoded = *ops.encoded(kinds), *encoded_boxes(tensors, boxes)
        found = ops._compare_op.redispatch(ON_CUDA, tensors, keys, *encoded)
        assert found.dtype == torch.int64 and found.shape == (len(tensors), 2)
        return found.tolist()

    def log(self) -> list[str]:
        return self.library.fake_log().decode().splitlines()


@pytest.fixture
def gpus(library) -> Gpus:
    return Gpus(library)


def kind(name: str) -> ops.Encoded:
    return DISTRIBUTIONS[name](*SHIFTED[name][1:])


def arguments(number: int) -> Given:
    names = ("normal", "uniform", "truncated_normal", "constant")
    tensors = [torch.zeros(each % 7 + 1, 5) for each in range(number)]
    keys = key_tensor(*[(each, each + 1) for each in range(number)])
    return tensors, keys, [kind(names[each % 4]) for each in range(number)]


def assert_filled(tensors, keys, kinds, boxes=None) -> None:
    expected = [torch.empty_like(tensor) for tensor in tensors]
    ops.fill_(expected, keys, kinds, boxes)
    for number, (tensor, wanted) in enumerate(zip(tensors, expected, strict=True)):
        assert_same_bits(tensor, wanted, number)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_one_tensor(gpus, dtype):
    for name in SHIFTED:
        tensor = gpus.put(torch.zeros(1031, dtype=dtype), 1)
        ops._fill_one_op.redispatch(ON_CUDA, tensor, key_tensor((3, 4)), kind(name).kind, *kind(name).params)
        assert_filled([tensor], key_tensor((3, 4)), [kind(name)])
    assert gpus.log() == [BY_VALUE.format(1)] * len(SHIFTED)
    assert gpus.library.fake_current_device() == 0


def test_a_part_of_one_tensor(gpus):
    memory, drawn, box = gpus.put(torch.zeros(9, 7), 1), kind("normal"), ops.Box(2**33, (3, 40))
    tensor, key = memory[2:, ::2], key_tensor((3, 4))
    ops._fill_part_op.redispatch(ON_CUDA, tensor, key, drawn.kind, *drawn.params, *box)
    assert_filled([tensor], key, [drawn], [box])
    assert not (memory[:2].any() or memory[:, 1::2].any())
    assert gpus.log() == [BY_VALUE.format(1)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(gpus, layout):
    shape, view = LAYOUTS[layout]
    for dtype in DTYPES.values():
        for name in SHIFTED:
            memory, expected = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
            gpus.put(memory, 0)
            gpus.fill_([view(memory)], key_tensor((3, 4)), [kind(name)])
            ops.fill_([view(expected)], key_tensor((3, 4)), [kind(name)])
            assert_same_bits(memory, expected, (dtype, name))


@pytest.mark.parametrize(("number", "how"), [(5, [BY_VALUE]), (MANY, FROM_MEMORY)])
def test_lists_go_as_a_parameter_or_through_memory(gpus, number, how):
    given = gpus.arguments(number, 1)
    gpus.fill_(*given)
    assert gpus.log() == [line.format(1) for line in how]
    assert_filled(*given)


def test_under_capture_no_host_memory_is_left_to_the_graph(gpus):
    given = gpus.arguments(MANY)
    gpus.library.fake_capture()
    gpus.fill_(*given)
    memory, _, _, launch = (line.format(0) for line in FROM_MEMORY)
    assert gpus.log() == [memory, "upload by value, stream of 0", launch]
    assert_filled(*given)


@pytest.mark.parametrize("boxed", [False, True])
def test_each_device_gets_its_own_list_and_the_cpu_comes_last(gpus, boxed):
    """All memory is there before the first launch."""
    given = gpus.arguments(4 * MANY, None, 1, 2, 3)
    boxes = [ops.Box(number, (1000, 3)) for number in range(4 * MANY)] if boxed else None
    gpus.fill_(*given, boxes)
    memory = [line.format(device) for device in (1, 2, 3) for line in FROM_MEMORY[:2]]
    launches = [line.format(device) for device in (1, 2, 3) for line in FROM_MEMORY[2:]]
    assert gpus.log() == [*memory, *launches, "cpu"]
    assert gpus.library.fake_current_device() == 0
    assert_filled(*given, boxes)


def test_empty_tensors_are_no_work(gpus):
    tensor = torch.zeros(0, 3)
    gpus.fill_([tensor, torch.zeros(3, 0)], key_tensor((1, 2), (3, 4)), [kind("normal")] * 2)
    gpus.fill_([], torch.zeros(0, 2, dtype=torch.int64), [])
    assert gpus.log() == []


# Errors: nothing has been written


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (None, "out of memory on the GPU, for the list of what to fill"),
        (lambda gpus: gpus.put(torch.zeros(1, 3), 2).expand(3, 3), "single memory location"),
        (lambda gpus: gpus.put(torch.zeros(3, dtype=torch.int32), 2), "unsupported dtype"),
    ],
    ids=["too little memory on a device", "overlapping", "integer"],
)
def test_nothing_is_written_where_one_device_or_tensor_is_at_fault(gpus, last, said):
    given = gpus.arguments(3 * MANY, None, 1, 2)
    if last is None:
        gpus.library.fake_no_memory_on(2)
    else:
        given[0][-1] = last(gpus)
    with pytest.raises(RuntimeError, match=said) as raised:
        gpus.fill_(*given)
    assert ".cpp" not in str(raised.value) and ".h" not in str(raised.value)
    assert not [line for line in gpus.log() if "launch" in line or line == "cpu"]
    assert not any(tensor.any() for tensor in given[0])
    assert gpus.library.fake_current_device() == 0


def test_a_launch_that_fails_says_why(gpus):
    for number in (1, MANY):
        given = gpus.arguments(number)
        gpus.library.fake_launches_fail()
        with pytest.raises(RuntimeError, match="CUDA could not launch the fill: this GPU only pretends"):
            gpus.fill_(*given)


# Digests

BYTES = (torch.uint8, torch.bfloat16, torch.float32, torch.int64, torch.complex128)
DIGEST_FROM_MEMORY = [*FROM_MEMORY[:3], FROM_MEMORY[3].replace("fill", "digest")]
DIGEST_BY_VALUE = BY_VALUE.replace("fill", "digest")
RESULT = FROM_MEMORY[0]


def bytes_of(shape, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator).view(dtype).view(shape)


def digest_keys(heads: list[bytes]) -> torch.Tensor:
    digests = (reference_fingerprint.blake(b"convinit-fp1-key", head) for head in heads)
    return key_tensor(*(struct.unpack("<QQ", digest) for digest in digests))


def assert_digests(found: torch.Tensor, heads: list[bytes], tensors) -> None:
    assert found.dtype == torch.int64 and found.shape == (len(tensors), 4)
    for row, head, tensor in zip(found.numpy().view(np.uint64).tolist(), heads, tensors, strict=True):
        assert row == reference_fingerprint.sums(head, reference_fingerprint.words(tensor)), head


def digested(number: int, devices: tuple[int, ...], gpus: Gpus):
    """Heads and tensors on devices in turn, of every size of element."""
    shapes = ((1500,), (7, 33), (), (0, 3), (2, 3, 5))
    tensors = [bytes_of(shapes[each % 5], BYTES[each // 5 % 5]) for each in range(number)]
    for each, tensor in enumerate(tensors):
        gpus.put(tensor, devices[each % len(devices)])
    gpus.put_empty(devices[0])
    return [b"%d" % each for each in range(number)], tensors


@pytest.mark.parametrize("dtype", BYTES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_digests_of_layouts(gpus, layout, dtype):
    shape, view = LAYOUTS[layout]
    gpus.put_empty(1)
    tensor = view(gpus.put(bytes_of(shape, dtype), 1))
    assert_digests(gpus.digest([tensor], digest_keys([b"w"])), [b"w"], [tensor])
    assert gpus.log() == [RESULT.format(1), DIGEST_BY_VALUE.format(1)]
    assert gpus.library.fake_current_device() == 0


@pytest.mark.parametrize(("number", "how"), [(15, [DIGEST_BY_VALUE]), (3 * MANY, DIGEST_FROM_MEMORY)])
def test_digests_of_lists(gpus, number, how):
    heads, tensors = digested(number, (2,), gpus)
    assert_digests(gpus.digest(tensors, digest_keys(heads)), heads, tensors)
    assert gpus.log() == [line.format(2) for line in (RESULT, *how)]


def test_digests_under_capture(gpus):
    heads, tensors = digested(3 * MANY, (0,), gpus)
    gpus.library.fake_capture()
    assert_digests(gpus.digest(tensors, digest_keys(heads)), heads, tensors)
    memory, _, _, launch = (line.format(0) for line in DIGEST_FROM_MEMORY)
    assert gpus.log() == [RESULT.format(0), memory, "upload by value, stream of 0", launch]


@pytest.mark.parametrize("dtype", BYTES, ids=str)
def test_digests_of_parts_add_up(gpus, dtype):
    """Rows cut inside words, columns, and every third column."""
    whole = gpus.put(bytes_of((41, 67), dtype), 0)
    rows = [(whole[:5], ops.Box(0, (67, 1))), (whole[5:], ops.Box(5 * 67, (67, 1)))]
    columns = [(whole[:, :9], ops.Box(0, (67, 1))), (whole[:, 9:], ops.Box(9, (67, 1)))]
    thirds = [(whole[:, first::3], ops.Box(first, (67, 3))) for first in range(3)]
    for parts in (rows, columns, thirds):
        tensors, boxes = (list(each) for each in zip(*parts, strict=True))
        found = gpus.digest(tensors, digest_keys([b"w"] * len(parts)), boxes)
        assert_digests(found.sum(dim=0, keepdim=True), [b"w"], [whole])


def test_a_tensor_whose_elements_are_one_place_is_digested(gpus):
    tensor = gpus.put(bytes_of((3, 1), torch.int64), 0).expand(3, 700)
    assert_digests(gpus.digest([tensor], digest_keys([b"w"])), [b"w"], [tensor])


def test_digests_of_nothing_are_zeros(gpus):
    gpus.put_empty(0)
    tensors = [torch.zeros(0, 3)] * 3
    assert not gpus.digest(tensors, digest_keys([b"w"] * 3)).any()


@pytest.mark.parametrize("devices", [(1, 2), (1, -1)], ids=["two GPUs", "GPU and CPU"])
def test_a_digest_of_tensors_on_several_devices_is_refused(gpus, devices):
    heads, tensors = digested(4, devices, gpus)
    with pytest.raises(RuntimeError, match="digest: the tensors of one call are on one CUDA device"):
        gpus.digest(tensors, digest_keys(heads))
    assert gpus.log() == []


def test_a_digest_that_fails_says_why(gpus):
    heads, tensors = digested(3 * MANY, (1,), gpus)
    gpus.library.fake_launches_fail()
    with pytest.raises(RuntimeError, match="digest: CUDA could not launch the digest: this GPU only pre"):
        gpus.digest(tensors, digest_keys(heads))
    gpus.library.fake_no_memory_on(1)
    with pytest.raises(RuntimeError, match="digest: out of memory on the GPU, for the results"):
        gpus.digest(tensors, digest_keys(heads))


def test_a_tensor_without_memory_is_not_digested(gpus):
    heads, tensors = digested(1, (1,), gpus)
    hollow = torch.zeros(5)
    hollow.untyped_storage().resize_(0)
    gpus.put_empty(1)
    with pytest.raises(RuntimeError, match="holds no memory"):
        gpus.digest([*tensors, hollow], digest_keys([*heads, b"w"]))
    assert gpus.log() == []
    assert gpus.library.fake_current_device() == 0


# Comparisons

COMPARE_FROM_MEMORY = [*FROM_MEMORY[:3], FROM_MEMORY[3].replace("fill", "compare")]
COMPARE_BY_VALUE = BY_VALUE.replace("fill", "compare")


def spoiled(tensor: torch.Tensor, *places: int) -> list[int]:
    """A bit of these elements is flipped: what a comparison should find of a whole tensor."""
    bits = tensor.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize])
    for place in places:
        at = np.unravel_index(place, tensor.shape)
        bits[at] = bits[at] ^ 4
    return [len(places), min(places, default=-1)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_comparisons_of_layouts(gpus, layout):
    shape, view = LAYOUTS[layout]
    key = key_tensor((3, 4))
    for dtype in DTYPES.values():
        for name in SHIFTED:
            gpus.library.fake_reset()
            gpus.put_empty(1)
            tensor = view(gpus.put(torch.zeros(shape, dtype=dtype), 1))
            ops.fill_([tensor], key, [kind(name)])
            assert gpus.compare([tensor], key, [kind(name)]) == [[0, -1]]
            if size := tensor.numel():
                wanted = spoiled(tensor, *{size // 3, size // 2, size - 1})
                assert gpus.compare([tensor], key, [kind(name)]) == [wanted]
            assert gpus.log()[:2] == [RESULT.format(1), COMPARE_BY_VALUE.format(1)]
    assert gpus.library.fake_current_device() == 0


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize(("number", "how"), [(5, [COMPARE_BY_VALUE]), (3 * MANY, COMPARE_FROM_MEMORY)])
def test_comparisons_of_lists(gpus, number, how, boxed):
    """Some tensors are as they should be, some have no elements, of some all differ."""
    tensors, keys, kinds = arguments(number)
    tensors[3] = torch.zeros(0, 5)
    boxes = [ops.Box(each, (1000, 3)) for each in range(number)] if boxed else None
    ops.fill_(tensors, keys, kinds, boxes)
    wanted = [[0, -1]] * number
    for each in range(0, number, 4):
        wanted[each] = spoiled(tensors[each], *range(each % 2, tensors[each].numel()))
    for tensor in tensors:
        gpus.put(tensor, 2)
    gpus.put_empty(2)
    if boxes:  # the first that differs has the box's index
        wanted = [[count, each if first == 0 else first] for each, (count, first) in enumerate(wanted)]
    assert gpus.compare(tensors, keys, kinds, boxes) == wanted
    assert gpus.log() == [line.format(2) for line in (RESULT, *how)]


def test_a_comparison_writes_no_tensor(gpus):
    given = gpus.arguments(MANY, 1)
    gpus.compare(*given)
    assert not any(tensor.any() for tensor in given[0])


def test_a_comparison_of_tensors_on_several_devices_is_refused(gpus):
    with pytest.raises(RuntimeError, match="compare: the tensors of one call are on one CUDA device"):
        gpus.compare(*gpus.arguments(4, 1, None, None, None))
    assert gpus.log() == []


def test_a_comparison_that_fails_says_why(gpus):
    given = gpus.arguments(MANY, 1)
    gpus.library.fake_launches_fail()
    with pytest.raises(RuntimeError, match="could not launch the comparison: this GPU only pretends"):
        gpus.compare(*given)
    gpus.library.fake_no_memory_on(1)
    with pytest.raises(RuntimeError, match="compare: out of memory on the GPU, for the results"):
        gpus.compare(*given)
    with pytest.raises(RuntimeError, match="one kind and four params for each"):
        gpus.compare(given[0], given[1], given[2][1:])


class Placed:
    """A tensor that says it is on another device."""

    def __init__(self, tensor: torch.Tensor, device: str) -> None:
        self.tensor, self.device = tensor, torch.device(device)
        self.layout, self.is_nested = torch.strided, False
        self.is_cpu, self.is_cuda = (self.device.type == name for name in ("cpu", "cuda"))


def on_several_devices(monkeypatch, name: str) -> list[set[str]]:
    """The devices of the tensors that each call of a function of ops gets, as tensors that are not there."""
    calls: list[set[str]] = []
    inner = getattr(ops, name)

    def on_one_device(placed, *others):
        calls.append({str(each.device) for each in placed})
        return inner([each.tensor for each in placed], *others)

    monkeypatch.setattr(checks, "HAS_CUDA", True)
    monkeypatch.setattr(ops, name, on_one_device)
    return calls


DEVICES = ("cpu", "cuda:1", "cuda:0", "cuda:1")


@pytest.mark.parametrize("name", ["_digest_on_one_device", "_compare_on_one_device"])
@pytest.mark.parametrize("boxed", [False, True])
def test_a_list_on_several_devices_is_an_op_each_in_the_order_given(monkeypatch, name, boxed):
    tensors, keys, kinds = arguments(12)
    ops.fill_(tensors[::2], keys[::2].contiguous(), kinds[::2])
    boxes = [None if number % 3 else ops.Box(number, (1000, 3)) for number in range(12)]
    others = (keys,) if "digest" in name else (keys, kinds)
    read = ops.digest if "digest" in name else ops.differences
    expected = read(tensors, *others, boxes if boxed else None)
    calls = on_several_devices(monkeypatch, name)
    placed = [Placed(tensor, DEVICES[number % 4]) for number, tensor in enumerate(tensors)]
    assert torch.equal(read(placed, *others, boxes if boxed else None), expected)
    assert calls == [{"cuda:1"}, {"cuda:0"}, {"cpu"}]
    with pytest.raises(ValueError, match="3 boxes for 12 tensors"):
        read(placed, *others, boxes[:3])
    with pytest.raises(RuntimeError, match="invalid"):
        ops.digest(placed, keys[:5])
    with pytest.raises(checks.UnsupportedTensorError, match="cannot compare a tensor on meta"):
        ops.differences([placed[0], Placed(tensors[1], "meta")], keys[:2], kinds[:2])
