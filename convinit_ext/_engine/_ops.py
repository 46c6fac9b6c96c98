"""The one place that calls the compiled ops: a list of tensors is filled, or looked at, in one call.

Knows dtypes, layouts and devices; knows nothing of names, seeds or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.compiler import is_compiling

from convinit_ext._engine import _fake_kernels as fake_kernels
from convinit_ext._engine._checks import (
    HAS_CUDA,
    SUPPORTED_DTYPES,
    UnsupportedTensorError,
    check_constant,
    check_inference,
    check_kind,
)
from convinit_ext._engine._fake_kernels import NUM_SUMS
from convinit_ext._engine._linear_index import Box, row_major
from convinit_ext._engine._small_fills import SMALL, fill_small_, fill_small_part_

__all__ = [
    "HAS_CUDA",
    "NUM_SUMS",
    "SMALL",
    "SUPPORTED_DTYPES",
    "Box",
    "Encoded",
    "UnsupportedTensorError",
    "differences",
    "digest",
    "encoded",
    "fill_",
    "fill_encoded_",
    "fill_one_",
    "fill_part_",
    "fill_small_",
    "fill_small_part_",
    "increment_version",
    "row_major",
]

# None needs torch.no_grad(): no autograd kernel is registered for them, so nothing is recorded.
_fill_op = torch.ops.convinit_ext.fill_.default
_fill_one_op = torch.ops.convinit_ext.fill_one_.default
_fill_part_op = torch.ops.convinit_ext.fill_part_.default
_digest_op = torch.ops.convinit_ext.digest.default
_compare_op = torch.ops.convinit_ext.compare.default
_CONSTANT = 0  # Constant.kind
_Item = TypeVar("_Item")
fake_kernels.register()


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
            check_constant(tensor.dtype, distribution.params[0])
    fill_encoded_(list(tensors), keys, *encoded(distributions), starts, strides)


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
    try:
        _fill_op(tensors, keys, kinds, params, starts, strides)
    except RuntimeError:
        for tensor in tensors:
            check_kind(tensor)
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
        check_kind(tensor)
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
        check_kind(tensor)
        raise
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
        UnsupportedTensorError: for a layout or device that cannot be digested
        ValueError: for a meta tensor

    CUDA tensors are read on their device's current stream, all of a device by one launch, and the GPUs work
    side by side; then the call waits for their sums.
    """
    given = list(tensors)
    _check_number(boxes, given)
    is_on_cpu = all(tensor.is_cpu for tensor in given)
    for tensor in given:
        if not tensor.is_cpu:
            check_kind(tensor, "digest")
    try:
        return (_digest_on_one_device if is_on_cpu else _digest_by_device)(given, keys, boxes)
    except RuntimeError:
        for tensor in given:
            check_kind(tensor, "digest")
        raise


def _digest_by_device(tensors: list[Tensor], keys: Tensor, boxes: Sequence[Box | None] | None) -> Tensor:
    by_device = _rows_by_device(tensors)
    if len(by_device) == 1:
        return _digest_on_one_device(tensors, keys, boxes).cpu()
    keys = keys.view(len(tensors), 2)
    sums = [
        _digest_on_one_device(_at(rows, tensors), keys[rows], None if boxes is None else _at(rows, boxes))
        for rows in by_device
    ]
    return _in_order(by_device, sums)


def _rows_by_device(tensors: list[Tensor]) -> list[list[int]]:
    """Numbers of the tensors, device by device: the CPU comes last, beside which the GPUs work."""
    rows: dict[torch.device, list[int]] = {}
    for row, tensor in enumerate(tensors):
        rows.setdefault(tensor.device, []).append(row)
    return [rows[device] for device in sorted(rows, key=lambda device: device.type == "cpu")]


def _at(rows: list[int], items: Sequence[_Item]) -> list[_Item]:
    return [items[row] for row in rows]


def _in_order(by_device: list[list[int]], found: list[Tensor]) -> Tensor:
    """What was found on each device, put together on the CPU."""
    together = torch.empty(sum(map(len, by_device)), found[0].shape[1], dtype=found[0].dtype, device="cpu")
    for rows, own in zip(by_device, found, strict=True):
        together[rows] = own.cpu()
    return together


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
        tensors: dense tensors of a supported dtype, of any strides, on the CPU and on any CUDA devices
        keys: as for `fill_`, like the rest
        distributions: one for each tensor
        boxes: for each tensor its part of a logical tensor, None where it is the whole of it

    Returns:
        int64 CPU tensor of shape (len(tensors), 2): how many elements differ, and the row-major index in the
        logical tensor of the first that does, -1 where there is none

    Raises:
        UnsupportedTensorError: for a dtype or device that cannot be read
        ValueError: for a meta tensor

    CUDA tensors are read where they are, as by `digest`.
    """
    given = list(tensors)
    _check_number(boxes, given)
    for tensor in given:
        if not tensor.is_cpu:
            check_kind(tensor, "verify")
    by_device = _rows_by_device(given)
    if len(by_device) <= 1:
        return _compare_on_one_device(given, keys, distributions, boxes).cpu()
    found = [
        _compare_on_one_device(
            _at(rows, given),
            keys[rows],
            _at(rows, distributions),
            None if boxes is None else _at(rows, boxes),
        )
        for rows in by_device
    ]
    return _in_order(by_device, found)


def _compare_on_one_device(
    tensors: list[Tensor],
    keys: Tensor,
    distributions: Sequence[Encoded],
    boxes: Sequence[Box | None] | None,
) -> Tensor:
    starts, strides = ([], []) if boxes is None else _encode_boxes(tensors, boxes)
    found: Tensor = _compare_op(tensors, keys, *encoded(distributions), starts, strides)
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
