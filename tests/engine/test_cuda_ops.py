"""The CUDA ops without a GPU: tests/cuda/fake_gpu.cpp stands in for the devices; the kernel's body runs here.

Which device, stream and memory a list goes to, in what order, and what remains after an error. The sums of
digests are held against the contract in numpy.
"""

import ctypes
import itertools
import struct

import numpy as np
import pytest
import reference_fingerprint
import torch
from fake_gpu import BYTES, NEEDED, ON_CUDA, Given, Gpus, by_value, bytes_of, from_memory, loaded_library
from filling import DTYPES, SHIFTED, as_integers, assert_same_bits, key_tensor, shifted
from layouts import LAYOUTS

from convinit_ext._engine import _checks as checks
from convinit_ext._engine import _ops as ops

pytestmark = NEEDED
MANY = 50  # tensors: more than a kernel parameter describes
OPS = ("fill", "digest", "compare")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return loaded_library(tmp_path_factory.mktemp("fake_gpu"))


@pytest.fixture
def gpus(library: ctypes.CDLL) -> Gpus:
    return Gpus(library)


def arguments(op: str, number: int, boxes=None) -> Given:
    """Of one call: what is compared is as it should be, or has another element, or has none."""
    names = ("normal", "uniform", "truncated_normal", "constant")
    keys = key_tensor(*[(each, each + 1) for each in range(number)])
    kinds = [shifted(names[each % 4]) for each in range(number)]
    if op == "digest":
        shapes = ((1500,), (7, 33), (2, 3, 5), (0, 3), ())
        if boxes is not None:
            shapes = ((7, 33), (41, 7))
        dtypes = [BYTES[each // 5 % 5] for each in range(number)]
        return [bytes_of(shapes[each % len(shapes)], dtypes[each]) for each in range(number)], keys, kinds
    tensors = [torch.zeros(each % 7 + 1, 5) for each in range(number)]
    if number > 3:
        tensors[3] = torch.zeros(0, 5)
    if op == "compare":
        ops.fill_(tensors, keys, kinds, boxes)
        for tensor in tensors[::4]:
            tensor[-1, ::2] += 1
    return tensors, keys, kinds


def on_cpu(op: str, tensors, keys, kinds, boxes=None) -> torch.Tensor | list[torch.Tensor]:
    """What the CPU's op gives, or fills."""
    if op == "fill":
        tensors = [torch.empty_like(tensor) for tensor in tensors]
        ops.fill_(tensors, keys, kinds, boxes)
        return tensors
    return (
        ops.digest(tensors, keys, boxes) if op == "digest" else ops.differences(tensors, keys, kinds, boxes)
    )


def assert_equal(op: str, found: torch.Tensor | None, tensors, expected) -> None:
    for number, (one, other) in enumerate(zip(tensors if op == "fill" else [found], expected, strict=True)):
        assert_same_bits(one, other, number)


# Values


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_one_tensor_and_a_part_of_one(gpus, dtype):
    key, box = key_tensor((3, 4)), ops.Box(2**33, (3, 40))
    for name in SHIFTED:
        tensor, memory, drawn = (
            gpus.put(torch.zeros(1031, dtype=dtype), 1),
            torch.zeros(9, 7, dtype=dtype),
            shifted(name),
        )
        ops._fill_one_op.redispatch(ON_CUDA, tensor, key, drawn.kind, *drawn.params)
        assert_same_bits(tensor, on_cpu("fill", [tensor], key, [drawn])[0])
        part = gpus.put(memory, 1)[2:, ::2]
        ops._fill_part_op.redispatch(ON_CUDA, part, key, drawn.kind, *drawn.params, *box)
        assert_same_bits(part, on_cpu("fill", [part], key, [drawn], [box])[0])
        assert not (memory[:2].any() or memory[:, 1::2].any())
    assert gpus.log() == [line.format(1) for line in by_value("fill")] * 2 * len(SHIFTED)
    assert gpus.library.fake_current_device() == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(gpus, layout):
    """They are filled as on the CPU, and nothing beside them; then all is found equal, or what is spoiled."""
    (shape, view), key = LAYOUTS[layout], key_tensor((3, 4))
    for dtype, name in itertools.product(DTYPES.values(), SHIFTED):
        gpus.library.fake_reset()
        memory, expected = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
        ops.fill_([view(expected)], key, [shifted(name)])
        tensor = view(memory)
        gpus.put_all([memory], 1)
        gpus.run("fill", [tensor], key, [shifted(name)])
        assert_same_bits(memory, expected, (dtype, name))
        assert gpus.run("compare", [tensor], key, [shifted(name)]).tolist() == [[0, -1]]
        if size := tensor.numel():
            wanted = spoiled(tensor, *{size // 3, size // 2, size - 1})
            assert gpus.run("compare", [tensor], key, [shifted(name)]).tolist() == [wanted]
        compared = [line.format(1) for line in by_value("compare")]
        assert gpus.log()[-2:] == compared
    assert gpus.library.fake_current_device() == 0


def spoiled(tensor: torch.Tensor, *places: int) -> list[int]:
    """A bit of these elements is flipped: what a comparison should find of a whole tensor."""
    bits = as_integers(tensor)
    for place in places:
        at = np.unravel_index(place, tensor.shape)
        bits[at] = bits[at] ^ 4
    return [len(places), min(places, default=-1)]


def digest_key(head: bytes) -> torch.Tensor:
    return key_tensor(struct.unpack("<QQ", reference_fingerprint.blake(b"convinit-fp1-key", head)))


def assert_digest(found: torch.Tensor, tensor: torch.Tensor) -> None:
    """Of the contract, for the key of b"w"."""
    assert found.dtype == torch.int64
    expected = reference_fingerprint.sums(b"w", reference_fingerprint.words(tensor))
    assert found.numpy().view(np.uint64).tolist() == [expected]


@pytest.mark.parametrize("dtype", BYTES, ids=str)
def test_digests_of_layouts(gpus, dtype):
    for layout in [*LAYOUTS, "one place"]:
        gpus.library.fake_reset()
        shape, view = LAYOUTS.get(layout) or ((3, 1), lambda m: m.expand(3, 700))
        memory = bytes_of(shape, dtype)
        gpus.put_all([memory], 1)
        assert_digest(gpus.run("digest", [view(memory)], digest_key(b"w")), view(memory))
        assert gpus.log() == [line.format(1) for line in by_value("digest")]
        assert gpus.library.fake_current_device() == 0


@pytest.mark.parametrize("dtype", BYTES, ids=str)
def test_digests_of_parts_add_up(gpus, dtype):
    """Rows cut inside words, columns, and every third column."""
    whole = gpus.put(bytes_of((41, 67), dtype), 0)
    rows = [(whole[:5], ops.Box(0, (67, 1))), (whole[5:], ops.Box(5 * 67, (67, 1)))]
    columns = [(whole[:, :9], ops.Box(0, (67, 1))), (whole[:, 9:], ops.Box(9, (67, 1)))]
    thirds = [(whole[:, first::3], ops.Box(first, (67, 3))) for first in range(3)]
    for parts in (rows, columns, thirds):
        tensors, boxes = (list(each) for each in zip(*parts, strict=True))
        keys = digest_key(b"w").expand(len(parts), 2).contiguous()
        found = gpus.run("digest", tensors, keys, boxes=boxes)
        assert_digest(found.sum(dim=0, keepdim=True), whole)


# Lists


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize(("number", "lines"), [(5, by_value), (3 * MANY, from_memory)])
def test_lists_go_as_a_parameter_or_through_memory(gpus, op, number, lines, boxed):
    boxes = [ops.Box(each, (1000, 3)) for each in range(number)] if boxed else None
    given = arguments(op, number, boxes)
    expected = on_cpu(op, *given, boxes)
    gpus.put_all(given[0], 2)
    found = gpus.run(op, *given, boxes)
    assert gpus.log() == [line.format(2) for line in lines(op)]
    assert_equal(op, found, given[0], expected if op == "fill" else [expected])
    if op == "compare":
        assert given[0][1].equal(on_cpu("fill", *given, boxes)[1])  # still: nothing is written


@pytest.mark.parametrize("op", OPS)
def test_under_capture_no_host_memory_is_left_to_the_graph(gpus, op):
    given = arguments(op, 3 * MANY)
    expected = on_cpu(op, *given)
    gpus.put_all(given[0], 0)
    gpus.library.fake_capture()
    found = gpus.run(op, *given)
    *memory, _, _, launch = (line.format(0) for line in from_memory(op))
    assert gpus.log() == [*memory, "upload by value, stream of 0", launch]
    assert_equal(op, found, given[0], expected if op == "fill" else [expected])


@pytest.mark.parametrize("boxed", [False, True])
def test_each_device_gets_its_own_list_and_the_cpu_comes_last(gpus, boxed):
    """All memory is there before the first launch."""
    given = arguments("fill", 4 * MANY)
    gpus.put_all(given[0], None, 1, 2, 3)
    boxes = [ops.Box(number, (1000, 3)) for number in range(4 * MANY)] if boxed else None
    gpus.run("fill", *given, boxes)
    lines = from_memory("fill")
    memory = [line.format(device) for device in (1, 2, 3) for line in lines[:2]]
    launches = [line.format(device) for device in (1, 2, 3) for line in lines[2:]]
    assert gpus.log() == [*memory, *launches, "cpu"]
    assert gpus.library.fake_current_device() == 0
    assert_equal("fill", None, given[0], on_cpu("fill", *given, boxes))


def test_empty_tensors_are_no_work(gpus):
    tensors, keys = [torch.zeros(0, 3), torch.zeros(3, 0)], key_tensor((1, 2), (3, 4))
    gpus.run("fill", tensors, keys, [shifted("normal")] * 2)
    gpus.run("fill", [], keys[:0], [])
    assert gpus.log() == []
    gpus.put_all(tensors, 0)
    assert not gpus.run("digest", tensors, keys).any()


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
    given = arguments("fill", 3 * MANY)
    gpus.put_all(given[0], None, 1, 2)
    if last is None:
        gpus.library.fake_no_memory_on(2)
    else:
        given[0][-1] = last(gpus)
    with pytest.raises(RuntimeError, match=said) as raised:
        gpus.run("fill", *given)
    assert ".cpp" not in str(raised.value) and ".h" not in str(raised.value)
    assert not [line for line in gpus.log() if "launch" in line or line == "cpu"]
    assert not any(tensor.any() for tensor in given[0])
    assert gpus.library.fake_current_device() == 0


@pytest.mark.parametrize(("op", "noun"), [("fill", "fill"), ("digest", "digest"), ("compare", "comparison")])
@pytest.mark.parametrize("number", [1, 3 * MANY])
def test_what_fails_says_why(gpus, op, noun, number):
    given = arguments(op, number)
    gpus.put_all(given[0], 1)
    gpus.library.fake_launches_fail()
    with pytest.raises(RuntimeError, match=f"CUDA could not launch the {noun}: this GPU only pretends"):
        gpus.run(op, *given)
    if op != "fill":
        gpus.library.fake_no_memory_on(1)
        with pytest.raises(RuntimeError, match=f"{op}: out of memory on the GPU, for the results"):
            gpus.run(op, *given)
    if op != "digest":
        with pytest.raises(RuntimeError, match="one kind and four params for each"):
            gpus.run(op, *given[:2], given[2][1:])


@pytest.mark.parametrize("op", ["digest", "compare"])
@pytest.mark.parametrize("devices", [(1, 2), (1, None)], ids=["two GPUs", "GPU and CPU"])
def test_what_reads_refuses_several_devices_and_tensors_without_memory(gpus, op, devices):
    tensors, keys, kinds = arguments(op, 3)
    gpus.put_all(tensors, *devices)
    with pytest.raises(RuntimeError, match=f"{op}: the tensors of one call are on one CUDA device"):
        gpus.run(op, tensors, keys, kinds)
    tensors[1] = torch.zeros(5)
    tensors[1].untyped_storage().resize_(0)
    gpus.library.fake_reset()
    gpus.put_all([tensors[0], tensors[2]], 1)
    with pytest.raises(RuntimeError, match="holds no memory"):
        gpus.run(op, tensors, keys, kinds)
    assert gpus.log() == []
    assert gpus.library.fake_current_device() == 0


class Placed:
    """A tensor that says it is on another device."""

    __torch_dispatch__ = torch.Tensor.__torch_dispatch__

    def __init__(self, tensor: torch.Tensor, device: str) -> None:
        self.tensor, self.device = tensor, torch.device(device)
        self.layout, self.dtype, self.is_nested, self.is_quantized = torch.strided, tensor.dtype, False, False
        self.is_cpu, self.is_cuda, self.is_meta = (self.device.type == n for n in ("cpu", "cuda", "meta"))


def on_several_devices(monkeypatch) -> list[set[str]]:
    """The devices of the tensors that each call of an op gets, as tensors that are not there."""
    calls: list[set[str]] = []
    inner = ops._on_one_device

    def on_one_device(op, placed, *others):
        calls.append({str(each.device) for each in placed})
        return inner(op, [each.tensor for each in placed], *others)

    monkeypatch.setattr(checks, "HAS_CUDA", True)
    monkeypatch.setattr(ops, "_on_one_device", on_one_device)
    return calls


DEVICES = ("cpu", "cuda:1", "cuda:0", "cuda:1")


@pytest.mark.parametrize("name", ["digest", "differences"])
@pytest.mark.parametrize("boxed", [False, True])
def test_a_list_on_several_devices_is_an_op_each_in_the_order_given(monkeypatch, name, boxed):
    tensors, keys, kinds = arguments("compare", 12)
    boxes = [None if number % 3 else ops.Box(number, (1000, 3)) for number in range(12)]
    others = (keys,) if name == "digest" else (keys, kinds)
    read = getattr(ops, name)
    expected = read(tensors, *others, boxes if boxed else None)
    calls = on_several_devices(monkeypatch)
    placed = [Placed(tensor, DEVICES[number % 4]) for number, tensor in enumerate(tensors)]
    assert torch.equal(read(placed, *others, boxes if boxed else None), expected)
    assert calls == [{"cuda:1"}, {"cuda:0"}, {"cpu"}]
    with pytest.raises(ValueError, match="3 boxes for 12 tensors"):
        read(placed, *others, boxes[:3])
    with pytest.raises(RuntimeError, match="invalid"):
        ops.digest(placed, keys[:5])
    with pytest.raises(ValueError, match="cannot verify a tensor on the meta device"):
        ops.differences([placed[0], Placed(tensors[1], "meta")], keys[:2], kinds[:2])
