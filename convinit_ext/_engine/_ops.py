"""The one place that calls the compiled ops: a list of tensors is filled, or looked at, in one call.

Knows dtypes, layouts and devices; knows nothing of names, seeds or models.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch._C import _increment_version
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._VF import _unpack_dual
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version as increment_version
from torch.compiler import is_compiling

from convinit_ext._engine._checks import check_constant, check_inference, check_kind
from convinit_ext._engine._load import _C

NUM_SUMS = 4  # of a tensor, docs/fingerprint.md section 4
SMALL_BYTES = 256 * 1024  # kSmallestPiece of csrc/cpu/work_queue.h: up to it the engine takes one thread
_CONSTANT = 0  # Constant.kind

# None needs torch.no_grad(): no autograd kernel is registered for them, so nothing is recorded.
_fill_op = torch.ops.convinit_ext.fill_.default
_fill_one_op = torch.ops.convinit_ext.fill_one_.default
_fill_part_op = torch.ops.convinit_ext.fill_part_.default
_digest_op = torch.ops.convinit_ext.digest.default
_compare_op = torch.ops.convinit_ext.compare.default
_make_orthogonal_op = torch.ops.convinit_ext.make_orthogonal_.default
_fill_small = _C.fill_small  # past PyTorch's dispatcher


class Box(NamedTuple):
    """Which part of a larger logical tensor a tensor is.

    Local element ``j`` has the row-major linear index ``start + sum(j[d] * strides[d])`` in the logical one.
    """

    start: int
    strides: tuple[int, ...]


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the step in the linear index of each dimension of a tensor of this shape.

    >>> row_major((2, 3, 4))
    (12, 4, 1)
    """
    step, steps = 1, []
    for size in reversed(shape):
        steps.append(step)
        step *= size
    return tuple(reversed(steps))


class Encoded(Protocol):
    """What the engine needs of a distribution."""

    @property
    def kind(self) -> int:
        """Code of the distribution: 0 constant, 1 uniform, 2 normal, 3 truncated normal."""

    @property
    def params(self) -> tuple[float, float, float, float]:
        """Its parameters, padded with zeros."""


def fill_(
    tensors: Sequence[Tensor],
    keys: Tensor,
    distributions: Sequence[Encoded],
    boxes: Sequence[Box | None] | None = None,
) -> None:
    """Fill every tensor in place with values of its distribution, in one call. All checks come first.

    CUDA tensors are filled on their device's current stream, all of a device by one launch; nothing waits for
    it.

    Args:
        tensors: dense, of any strides, on the CPU and on any CUDA devices, or all on the meta device (nothing
            happens)
        keys: int64 CPU tensor of shape (len(tensors), 2): key and stream of each
        boxes: for each tensor its part of a logical tensor, None where it is the whole of it

    Raises:
        UnsupportedTensorError: for a dtype, layout or device that cannot be filled
        RuntimeError: for a tensor whose elements overlap in memory, bounds or a constant its dtype cannot
            hold, meta tensors among others, or an inference tensor outside inference mode
    """
    places = _encode_boxes(tensors, boxes)
    for tensor, distribution in zip(tensors, distributions, strict=False):  # the op counts them
        if distribution.kind == _CONSTANT:
            check_constant(tensor.dtype, distribution.params[0])
    fill_encoded_(list(tensors), keys, *encoded(distributions), *places)


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
    num_meta = [tensor.is_meta for tensor in tensors].count(True)
    if 0 < num_meta < len(tensors):
        raise RuntimeError(
            f"{num_meta} of {len(tensors)} tensors are on the meta device; accepted are all or none"
        )
    _forget_tangents(tensors)
    try:
        _fill_op(tensors, keys, kinds, params, starts, strides)
    except RuntimeError:
        for tensor in tensors:
            check_kind(tensor)
        raise
    _has_written(tensors)


def fill_one_(
    tensor: Tensor, key: Tensor, kind: int, params: Sequence[float], box: Box | None = None
) -> None:
    """`fill_` for one tensor: no lists to pass.

    Args:
        key: int64 CPU tensor of two elements, key and stream
        params: of a distribution of this kind
    """
    check_inference(tensor)
    _forget_tangents([tensor])
    try:
        if box is None:
            _fill_one_op(tensor, key, kind, *params)
        else:
            _fill_part_op(tensor, key, kind, *params, *box)
    except RuntimeError:
        check_kind(tensor)
        raise
    _has_written([tensor])


def fill_small_(
    tensor: Tensor,
    words: int | tuple[int, int],
    kind: int,
    params: tuple[float, float, float, float],
    box: Box | None = None,
) -> None:
    """`fill_one_` past PyTorch's dispatcher, which takes several times as long as a small fill.

    One thread, and the GIL is held.

    Args:
        tensor: on the CPU, `is_plain`, of at most SMALL_BYTES; without a box contiguous
        words: of the key, as signed numbers, or the address where they are
    """
    if box is None:
        _fill_small(tensor, words, kind, params, 0, None)
    else:
        run = tensor.stride() == box.strides and tensor.is_contiguous()  # of the logical tensor's elements
        _fill_small(tensor, words, kind, params, box.start, None if run else box.strides)
    (_increment_version if forward_ad._current_level < 0 else _has_written)((tensor,))


def _forget_tangents(tensors: Sequence[Tensor]) -> None:
    """Say to torch.func.jvp that what will be written depends on nothing, or raise what PyTorch raises of a
    tensor that is not jvp's own. It keeps its values."""
    if forward_ad._current_level >= 0:
        with torch.no_grad():
            for tensor in filter(is_functorch_wrapped_tensor, tensors):
                tensor.copy_(tensor.detach().clone())


def _has_written(tensors: Sequence[Tensor]) -> None:
    """Count a write, and say to forward derivatives, as PyTorch does, that it depends on nothing."""
    _increment_version(tensors)
    if forward_ad._current_level >= 0:
        with torch.no_grad():
            for tensor in itertools.filterfalse(is_functorch_wrapped_tensor, tensors):
                _, tangent = _unpack_dual(tensor, level=forward_ad._current_level)
                if tangent is not None:
                    tangent.zero_()


def digest(tensors: Sequence[Tensor], keys: Tensor, boxes: Sequence[Box | None] | None = None) -> Tensor:
    """Return the four sums of docs/fingerprint.md, section 4, of every tensor. One call; nothing is copied.

    CUDA tensors are read on their device's current stream, all of a device by one launch, and the GPUs work
    side by side; then the call waits for their sums.

    Args:
        tensors, keys, boxes: as for `fill_`, but of any dtype whose elements are whole bytes

    Returns:
        int64 CPU tensor of shape (len(tensors), 4), to be read as unsigned numbers

    Raises:
        UnsupportedTensorError: for a layout or device that cannot be digested
        ValueError: for a meta tensor
    """
    return _looked_at("digest", _digest_op, tensors, keys, None, boxes)


def differences(
    tensors: Sequence[Tensor],
    keys: Tensor,
    distributions: Sequence[Encoded],
    boxes: Sequence[Box | None] | None = None,
) -> Tensor:
    """Hold every tensor against what `fill_` would write there, bit for bit, in one call, where it is.

    Returns:
        int64 CPU tensor of shape (len(tensors), 2): how many elements differ, and the row-major index in the
        logical tensor of the first that does, -1 where there is none

    Raises:
        UnsupportedTensorError: for a dtype or device that cannot be read
        ValueError: for a meta tensor
    """
    return _looked_at("verify", _compare_op, tensors, keys, distributions, boxes)


def make_orthogonal_(matrices: Tensor, gain: float) -> None:
    """Make matrices orthogonal in place, times a gain, as docs/value-contract.md, section 8, has it.

    They are [matrices, rows, columns], contiguous, float32 or float64, on the CPU.
    """
    _make_orthogonal_op(matrices, gain)


def _looked_at(
    do: str,
    op: Callable[..., Tensor],
    tensors: Sequence[Tensor],
    keys: Tensor,
    distributions: Sequence[Encoded] | None,
    boxes: Sequence[Box | None] | None,
) -> Tensor:
    """Return what an op finds in the tensors, one row each: an op a device, the CPU's last, beside which the
    GPUs work."""
    given = list(tensors)
    _check_number(boxes, given)
    rows: dict[torch.device, list[int]] = {}
    for row, tensor in enumerate(given):
        if not tensor.is_cpu:
            check_kind(tensor, do)
        rows.setdefault(tensor.device, []).append(row)
    by_device = [rows[device] for device in sorted(rows, key=lambda device: device.type == "cpu")]
    try:
        if len(by_device) <= 1:
            return _on_one_device(op, given, keys, distributions, boxes).cpu()
        keys = keys.view(len(given), 2)
        found = [
            _on_one_device(op, _at(some, given), keys[some], _at(some, distributions), _at(some, boxes))
            for some in by_device
        ]
    except RuntimeError:
        for tensor in given:
            check_kind(tensor, do)
        raise
    together = torch.empty(len(given), found[0].shape[1], dtype=torch.int64, device="cpu")
    for some, own in zip(by_device, found, strict=True):
        together[some] = own.cpu()
    return together


def _on_one_device(
    op: Callable[..., Tensor],
    tensors: Sequence[Tensor],
    keys: Tensor,
    distributions: Sequence[Encoded] | None,
    boxes: Sequence[Box | None] | None,
) -> Tensor:
    drawn = () if distributions is None else encoded(distributions)
    return op(tensors, keys, *drawn, *_encode_boxes(tensors, boxes))


def _at(rows: list[int], items: Any) -> Any:
    return None if items is None else [items[row] for row in rows]


def _encode_boxes(
    tensors: Sequence[Tensor], boxes: Sequence[Box | None] | None
) -> tuple[list[int], list[int]]:
    """Return the starts and strides of all boxes, as the ops take them: none where all tensors are whole."""
    _check_number(boxes, tensors)
    starts: list[int] = []
    strides: list[int] = []
    for tensor, box in zip(tensors, boxes, strict=True) if boxes is not None and any(boxes) else ():
        given = box or Box(0, row_major(tensor.shape))
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
