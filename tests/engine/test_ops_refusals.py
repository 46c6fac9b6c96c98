"""What the compiled ops refuse, by every way that leads to them: it is named, and nothing is written."""

import warnings
from collections.abc import Callable

import pytest
import torch
from compiled_ops import FILL, KEYS, MAKE_ORTHOGONAL, PARAMS
from filling import freed, key_tensor

from convinit_ext import _C, Normal, init
from convinit_ext._engine import UnsupportedTensorError
from convinit_ext._engine import _ops as ops


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
    memory = torch.zeros(1, 4)
    for tensor, box, said in (
        (memory.expand(4, 4), ops.Box(0, (4, 1)), "single memory location"),
        (freed(100), ops.Box(0, (1,)), "holds no memory"),
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
    with pytest.raises(UnsupportedTensorError, match="int64"):
        ops.fill_one_(torch.zeros(4, dtype=torch.int64), KEYS, 2, PARAMS, ops.Box(0, (1,)))
    for box in (ops.Box(2**63 - 1, (4, 1)), ops.Box(0, (2**62, 1)), ops.Box(2**63 - 2**34 - 15, (4, 1))):
        with pytest.raises(RuntimeError, match=f"accepted are less than {2**63 - 2**34}"):
            ops.fill_one_(tensor, KEYS, 2, PARAMS, box)
    assert not tensor.any()
    ops.fill_one_(tensor, KEYS, 2, PARAMS, ops.Box(2**63 - 2**34 - 16, (4, 1)))
    assert tensor.all()


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
    "inference": (
        torch.inference_mode()(lambda: torch.zeros(4)),
        RuntimeError,
        "inference tensor outside InferenceMode",
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
    cut = torch.zeros(2, 3, 4)
    cut.untyped_storage().resize_(23 * 4)
    for matrices, said in (
        (torch.zeros(2, 3, 4, dtype=torch.bfloat16), "accepted are float32 and float64"),
        (torch.zeros(3, 4), r"contiguous tensors \[matrices, rows, columns\]"),
        (torch.zeros(2, 4, 3).mT, r"contiguous tensors \[matrices, rows, columns\]"),
        (torch.zeros(1, 1, 1).expand(5, 3, 4), r"contiguous tensors \[matrices, rows, columns\]"),
        (cut, "storage of 92 bytes ends before the tensor does"),
        (freed(1, 2, 3), "holds no memory"),
    ):
        with pytest.raises(RuntimeError, match=said):
            MAKE_ORTHOGONAL(matrices, 1.0)
    for shape in ((0, 3, 4), (3, 0, 4), (3, 4, 0)):
        MAKE_ORTHOGONAL(torch.zeros(shape), 1.0)


def test_nested_tensors_are_refused() -> None:
    with warnings.catch_warnings():  # that it is a prototype, said once a process
        warnings.simplefilter("ignore")
        nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(3, 3)])
    with pytest.raises(TypeError, match="nested"):
        init.normal_(nested)
