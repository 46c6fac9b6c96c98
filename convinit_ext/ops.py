"""The one place that calls the compiled ops: a list of tensors is filled, or looked at, in one call.

Knows dtypes, layouts and devices; knows nothing of names, seeds or models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from convinit_ext._extension import _C

# Their numbers are those of DType in csrc/core/fill_task.h.
SUPPORTED_DTYPES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
    torch.float8_e4m3fn: 4,
    torch.float8_e5m2: 5,
}
LARGEST = {dtype: torch.finfo(dtype).max for dtype in SUPPORTED_DTYPES}
HAS_CUDA = _C.build_info()["cuda"] != "not built"
_DEVICES = ("cpu", "meta", "cuda") if HAS_CUDA else ("cpu", "meta")
_WITH_VALUES = tuple(device for device in _DEVICES if device != "meta")
_FLOAT_NAMES = "float32, float64, float16, bfloat16, float8_e4m3fn or float8_e5m2"

# None needs torch.no_grad(): no autograd kernel is registered for them, so nothing is recorded.
_fill_op = torch.ops.convinit_ext.fill_.default
_fill_one_op = torch.ops.convinit_ext.fill_one_.default
_fill_part_op = torch.ops.convinit_ext.fill_part_.default
_digest_op = torch.ops.convinit_ext.digest.default
_compare_op = torch.ops.convinit_ext.compare.default
_fill_small = _C.fill_small
_fill_small_part = _C.fill_small_part
_CONSTANT = 0  # Constant.kind
NUM_SUMS = 4  # of a tensor, docs/fingerprint.md section 4
SMALL = 32768  # elements: PyTorch's own limit below which it uses one thread
increment_version = torch.autograd.graph.increment_version


class UnsupportedTensorError(NotImplementedError, TypeError):
    """A tensor of a dtype, layout or device that cannot be filled, or digested.

    Both a TypeError and the NotImplementedError that PyTorch raises for it.
    """


class Encoded(Protocol):
    """What the engine needs of a distribution."""

    @property
    def kind(self) -> int:
        """Code of the distribution: 0 constant, 1 uniform, 2 normal, 3 truncated normal."""

    @property
    def params(self) -> tuple[float, float, float, float]:
        """Its parameters, padded with zeros."""


class Box(NamedTuple):
    """Which part of a larger logical tensor a tensor is.

    Local element ``j`` has the row-major linear index ``start + sum(j[d] * strides[d])`` in the logical one.
    """

    start: int
    strides: tuple[int, ...]


def _fill_fake(
    tensors: Sequence[Tensor],
    keys: Tensor,
    kinds: Sequence[int],
    params: Sequence[float],
    box_starts: Sequence[int],
    box_strides: Sequence[int],
) -> None:
    check_supported(tensors)


def _fill_one_fake(
    tensor: Tensor, key: Tensor, kind: int, p0: float, p1: float, p2: float, p3: float
) -> None:
    check_supported([tensor])


def _fill_part_fake(
    tensor: Tensor,
    key: Tensor,
    kind: int,
    p0: float,
    p1: float,
    p2: float,
    p3: float,
    start: int,
    strides: Sequence[int],
) -> None:
    check_supported([tensor])


def _digest_fake(
    tensors: Sequence[Tensor], keys: Tensor, box_starts: Sequence[int], box_strides: Sequence[int]
) -> Tensor:
    return (tensors[0] if tensors else keys).new_empty((len(tensors), NUM_SUMS), dtype=torch.int64)


def _compare_fake(
    tensors: Sequence[Tensor],
    keys: Tensor,
    kinds: Sequence[int],
    params: Sequence[float],
    box_starts: Sequence[int],
    box_strides: Sequence[int],
) -> Tensor:
    return keys.new_empty(len(tensors), 2)


torch.library.register_fake("convinit_ext::fill_", _fill_fake)
torch.library.register_fake("convinit_ext::fill_one_", _fill_one_fake)
torch.library.register_fake("convinit_ext::fill_part_", _fill_part_fake)
torch.library.register_fake("convinit_ext::digest", _digest_fake)
torch.library.register_fake("convinit_ext::compare", _compare_fake)


def check_supported(tensors: Sequence[Tensor]) -> None:
    """Raise UnsupportedTensorError for the first tensor that cannot be filled: what it is, what can be."""
    for tensor in tensors:
        check_inference(tensor)
        check_readable(tensor)


def check_readable(tensor: Tensor, do: str = "fill") -> None:
    """Raise UnsupportedTensorError for a tensor whose elements the engine cannot reach, to write or to read.

    Args:
        tensor: whose dtype, layout and device are looked at.
        do: the error's word for what is not possible.
    """
    _check_dense(tensor, do)
    check_dtype(tensor.dtype, do)
    _check_device(tensor, do, _DEVICES)


def _check_dense(tensor: Tensor, do: str) -> None:
    if is_traceable_wrapper_subclass(tensor):
        raise UnsupportedTensorError(
            f"cannot {do} a {type(tensor).__name__}; accepted is a plain tensor, such as its local part"
        )
    if tensor.layout != torch.strided:
        raise UnsupportedTensorError(
            f"cannot {do} a tensor of layout {tensor.layout}; accepted is torch.strided (a dense tensor)"
        )
    if tensor.is_nested:
        raise UnsupportedTensorError(f"cannot {do} a nested tensor; accepted is a dense tensor")


def _check_device(tensor: Tensor, do: str, accepted: Sequence[str]) -> None:
    if tensor.device.type not in accepted:
        raise UnsupportedTensorError(f"cannot {do} a tensor on {tensor.device}; {_accepted_devices(tensor)}")


def check_dtype(dtype: torch.dtype, do: str = "fill") -> None:
    if dtype not in SUPPORTED_DTYPES:
        raise UnsupportedTensorError(f"cannot {do} a tensor of dtype {dtype}; accepted are {_FLOAT_NAMES}")


def _accepted_devices(tensor: Tensor) -> str:
    if tensor.is_cuda:
        return "this build has no CUDA; build it with: CONVINIT_CUDA=1 pip install --no-build-isolation ."
    return "accepted are CPU and CUDA tensors"


def check_inference(tensor: Tensor) -> None:
    if is_compiling():  # a compiler knows no is_inference
        return
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Inplace update to inference tensor outside InferenceMode is not allowed. "
            "You can make a clone to get a normal tensor before filling it."
        )


def fill_(
    tensors: Sequence[Tensor],
    keys: Tensor,
    distributions: Sequence[Encoded],
    boxes: Sequence[Box | None] | None = None,
) -> None:
    """Fill every tensor in place with values of its distribution, in one call.

    Args:
        tensors: dense tensors of any strides, on the CPU and on any CUDA devices, or all meta tensors (then
            nothing happens)
        keys: int64 CPU tensor of shape (len(tensors), 2): key and stream of each
        distributions: one for each tensor
        boxes: for each tensor its part of a logical tensor, None where it is the whole of it

    Raises:
        UnsupportedTensorError: for a dtype, layout or device that cannot be filled
        RuntimeError: for a tensor whose elements overlap in memory, bounds or a constant its dtype cannot
            hold, meta tensors among others, or an inference tensor outside inference mode

    All checks come before the first write. CUDA tensors are filled on their device's current stream, all of
    a device by one launch, and nothing waits for it.
    """
    starts, strides = ([], []) if boxes is None else _encode_boxes(tensors, boxes)
    for tensor, distribution in zip(tensors, distributions, strict=False):  # the op counts them
        if distribution.kind == _CONSTANT:
            _check_constant(tensor, distribution.params[0])
    fill_encoded_(list(tensors), keys, *encoded(distributions), starts, strides)


def _check_constant(tensor: Tensor, value: float) -> None:
    """As torch.Tensor.fill_. (The engine rounds it: to infinity.)"""
    largest = LARGEST.get(tensor.dtype, math.inf)
    if abs(value) > largest:
        raise RuntimeError(
            f"a tensor of dtype {tensor.dtype} cannot hold the constant {value:.6g}; its largest number is "
            f"{largest:.6g}"
        )


def encoded(distributions: Sequence[Encoded]) -> tuple[list[int], list[float]]:
    """Their kinds, and the four parameters of each, one after the other."""
    kinds = [distribution.kind for distribution in distributions]
    return kinds, [value for distribution in distributions for value in distribution.params]


def fill_encoded_(
    tensors: list[Tensor],
    keys: Tensor,
    kinds: list[int],
    params: list[float],
    starts: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> None:
    """`fill_` with the distributions as `encoded` gives them, and boxes as the op takes them."""
    if not (is_compiling() or torch.is_inference_mode_enabled()):  # a compiler knows no is_inference
        for tensor in tensors:
            if tensor.is_inference():
                check_inference(tensor)
    num_meta = sum(tensor.is_meta for tensor in tensors)
    if 0 < num_meta < len(tensors):
        raise RuntimeError(
            f"{num_meta} of {len(tensors)} tensors are on the meta device; accepted are all or none"
        )
    try:
        _fill_op(tensors, keys, kinds, params, starts, strides)
    except RuntimeError:
        check_supported(tensors)
        raise
    increment_version(tensors)


def fill_one_(tensor: Tensor, key: Tensor, kind: int, params: Sequence[float]) -> None:
    """`fill_` for one whole tensor: no lists to pass.

    Args:
        tensor: as for `fill_`
        key: int64 CPU tensor of two elements, key and stream
        kind: code of the distribution
        params: its four parameters
    """
    check_inference(tensor)
    try:
        _fill_one_op(tensor, key, kind, *params)
    except RuntimeError:
        check_supported([tensor])
        raise
    increment_version(tensor)


def fill_part_(tensor: Tensor, key: Tensor, kind: int, params: Sequence[float], box: Box) -> None:
    """`fill_one_` for a part of a logical tensor.

    Args:
        tensor, key, kind, params: as for `fill_one_`
        box: which part the tensor is
    """
    check_inference(tensor)
    try:
        _fill_part_op(tensor, key, kind, *params, box.start, box.strides)
    except RuntimeError:
        check_supported([tensor])
        raise
    increment_version(tensor)


def fill_small_(
    tensor: Tensor, key_address: int, kind: int, params: Sequence[float], start: int = 0, data: int = 0
) -> None:
    """`fill_one_` past PyTorch's dispatcher, which takes several times as long as a small fill.

    Only for a plain, contiguous, not empty CPU tensor of a supported dtype and at most SMALL elements, and
    only where no mode, transform or compiler watches; the caller knows. One thread, and the GIL is held.

    Args:
        tensor, key_address, kind, params: as for `fill_one_`, the key by its words' address
        start: index of its first element in the logical tensor that it is a run of
        data: its address, if the caller has asked for it
    """
    data = data or tensor.data_ptr()
    if not data:
        raise RuntimeError("the tensor's storage holds no memory (it was resized to nothing)")
    p0, p1, p2, p3 = params
    dtype = SUPPORTED_DTYPES[tensor.dtype]
    _fill_small(data, tensor.numel(), dtype, key_address, kind, p0, p1, p2, p3, start)
    increment_version(tensor)


def fill_small_part_(tensor: Tensor, key_address: int, kind: int, params: Sequence[float], box: Box) -> None:
    """`fill_part_` past PyTorch's dispatcher: as `fill_small_`, and the tensor may have any strides."""
    shape, strides = tensor.shape, tensor.stride()
    if strides == box.strides and tensor.is_contiguous():  # a run of the logical tensor's elements
        fill_small_(tensor, key_address, kind, params, box.start)
        return
    data = tensor.data_ptr()
    if not data:
        raise RuntimeError("the tensor's storage holds no memory (it was resized to nothing)")
    p0, p1, p2, p3 = params
    dtype = SUPPORTED_DTYPES[tensor.dtype]
    _fill_small_part(data, dtype, key_address, kind, p0, p1, p2, p3, shape, strides, *box)
    increment_version(tensor)


def digest(tensors: Sequence[Tensor], keys: Tensor, boxes: Sequence[Box | None] | None = None) -> Tensor:
    """The four sums of docs/fingerprint.md, section 4, of every tensor, in one call. Nothing is copied.

    Args:
        tensors: dense tensors of any dtype whose elements are whole bytes, of any strides, on the CPU and on
            any CUDA devices
        keys: int64 CPU tensor of shape (len(tensors), 2): key and stream of each
        boxes: for each tensor its part of a logical tensor, None where it is the whole of it

    Returns:
        int64 CPU tensor of shape (len(tensors), 4), to be read as unsigned numbers

    Raises:
        UnsupportedTensorError: for a layout or device that cannot be digested, such as a meta tensor's

    CUDA tensors are read on their device's current stream, all of a device by one launch, and the GPUs work
    side by side; then the call waits for their sums.
    """
    given = list(tensors)
    _check_number(boxes, given)
    is_on_cpu = all(tensor.is_cpu for tensor in given)
    if not is_on_cpu:
        for tensor in given:
            _check_device(tensor, "digest", _WITH_VALUES)
    try:
        return (_digest_on_one_device if is_on_cpu else _digest_by_device)(given, keys, boxes)
    except RuntimeError:
        for tensor in given:
            _check_dense(tensor, "digest")
        raise


def _digest_by_device(tensors: list[Tensor], keys: Tensor, boxes: Sequence[Box | None] | None) -> Tensor:
    rows: dict[torch.device, list[int]] = {}
    for row, tensor in enumerate(tensors):
        rows.setdefault(tensor.device, []).append(row)
    if len(rows) == 1:
        return _digest_on_one_device(tensors, keys, boxes).cpu()
    parts: list[tuple[list[int], Tensor]] = []
    for device in sorted(rows, key=lambda device: device.type == "cpu"):  # beside which the GPUs work
        own = rows[device]
        own_boxes = None if boxes is None else [boxes[row] for row in own]
        sums = _digest_on_one_device(
            [tensors[row] for row in own], keys.view(len(tensors), 2)[own], own_boxes
        )
        parts.append((own, sums))
    found = keys.new_empty(len(tensors), NUM_SUMS)
    for own, sums in parts:
        found[own] = sums.cpu()
    return found


def _digest_on_one_device(tensors: list[Tensor], keys: Tensor, boxes: Sequence[Box | None] | None) -> Tensor:
    starts, strides = ([], []) if boxes is None else _encode_boxes(tensors, boxes)
    sums: Tensor = _digest_op(tensors, keys, starts, strides)
    return sums


def differences(
    tensors: Sequence[Tensor],
    keys: Tensor,
    distributions: Sequence[Encoded],
    boxes: Sequence[Box | None] | None = None,
) -> Tensor:
    """Hold every tensor against what `fill_` would write there, bit for bit, in one call. Nothing is copied.

    Args:
        tensors: dense CPU tensors of a supported dtype, of any strides
        keys: as for `fill_`, like the rest
        distributions: one for each tensor
        boxes: for each tensor its part of a logical tensor, None where it is the whole of it

    Returns:
        int64 CPU tensor of shape (len(tensors), 2): how many elements differ, and the row-major index in the
        logical tensor of the first that does, -1 where there is none
    """
    starts, strides = ([], []) if boxes is None else _encode_boxes(tensors, boxes)
    found: Tensor = _compare_op(list(tensors), keys, *encoded(distributions), starts, strides)
    return found


def _encode_boxes(tensors: Sequence[Tensor], boxes: Sequence[Box | None]) -> tuple[list[int], list[int]]:
    _check_number(boxes, tensors)
    starts: list[int] = []
    strides: list[int] = []
    for tensor, box in zip(tensors, boxes, strict=True):
        given = box if box is not None else Box(0, row_major(tensor.shape))
        if len(given.strides) != tensor.dim():
            raise ValueError(
                f"a box with {len(given.strides)} strides for a tensor of {tensor.dim()} dimensions"
            )
        starts.append(given.start)
        strides.extend(given.strides)
    return starts, strides


def _check_number(boxes: Sequence[Box | None] | None, tensors: Sequence[Tensor]) -> None:
    if boxes is not None and len(boxes) != len(tensors):
        raise ValueError(f"{len(boxes)} boxes for {len(tensors)} tensors")


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The step in the linear index of each dimension of a tensor of this shape."""
    step, steps = 1, []
    for size in reversed(shape):
        steps.append(step)
        step *= size
    return tuple(reversed(steps))
