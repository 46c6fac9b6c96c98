"""Fills past PyTorch's dispatcher, which takes several times as long as a small fill.

Only for plain, not empty CPU tensors of a supported dtype and at most SMALL elements, and only where no mode,
transform or compiler watches; the caller knows. One thread, and the GIL is held.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch._C import _increment_version

from convinit_ext._engine._checks import NO_MEMORY, SUPPORTED_DTYPES
from convinit_ext._engine._linear_index import Box
from convinit_ext._engine._load import _C

SMALL = 32768  # elements: PyTorch's own limit below which it uses one thread
_fill_small = _C.fill_small
_fill_small_part = _C.fill_small_part


def fill_small_(
    tensor: Tensor, key_address: int, kind: int, params: Sequence[float], start: int = 0, data: int = 0
) -> None:
    """`fill_one_` for a small contiguous tensor.

    Args:
        tensor, kind, params: as for `fill_one_`
        key_address: where the key's two words are
        start: index of its first element in the logical tensor that it is a run of
        data: its address, if the caller has asked for it
    """
    p0, p1, p2, p3 = params
    dtype = SUPPORTED_DTYPES[tensor.dtype]
    _fill_small(data or _address(tensor), tensor.numel(), dtype, key_address, kind, p0, p1, p2, p3, start)
    _increment_version((tensor,))


def fill_small_part_(tensor: Tensor, key_address: int, kind: int, params: Sequence[float], box: Box) -> None:
    """`fill_part_` likewise; the tensor may have any strides."""
    shape, strides = tensor.shape, tensor.stride()
    if strides == box.strides and tensor.is_contiguous():  # a run of the logical tensor's elements
        fill_small_(tensor, key_address, kind, params, box.start)
        return
    p0, p1, p2, p3 = params
    dtype = SUPPORTED_DTYPES[tensor.dtype]
    _fill_small_part(_address(tensor), dtype, key_address, kind, p0, p1, p2, p3, shape, strides, *box)
    _increment_version((tensor,))


def _address(tensor: Tensor) -> int:
    data = tensor.data_ptr()
    if not data:
        raise RuntimeError(NO_MEMORY)
    return data
