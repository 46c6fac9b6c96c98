"""Whether a tensor can be written: it has memory, and each element a place of its own there."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active
from torch.compiler import is_compiling
from torch.nn import Parameter

from convinit_ext._engine._supported import NO_MEMORY, SUPPORTED_DTYPES, check_inference, check_supported

PLAIN = (Tensor, Parameter)
STRIDED = torch.strided


def is_surely_writable(tensor: Tensor) -> bool:
    """A quick yes for the tensors of most models: `check_writable` would raise nothing."""
    return (
        type(tensor) in PLAIN
        and tensor.dtype in SUPPORTED_DTYPES
        and tensor.layout is STRIDED
        and tensor.is_cpu
        and tensor.is_contiguous()
        and not (tensor.is_neg() or tensor.is_nested or tensor.is_inference() or is_compiling())
        and tensor.data_ptr() != 0
    )


def check_writable(tensor: Tensor) -> None:
    """For functions that write with PyTorch's own operations: what the engine would refuse, first.

    Raises:
        UnsupportedTensorError, RuntimeError: as ops.fill_.
    """
    if is_compiling():  # there is no memory to look at
        return
    check_supported([tensor])
    check_places(tensor)


def check_places(tensor: Tensor) -> None:
    """The same but for the dtype, for buffers.

    Raises:
        RuntimeError: an inference tensor outside inference mode, no memory, elements that overlap.
    """
    check_inference(tensor)
    if tensor.numel() and not tensor.untyped_storage().size():
        raise RuntimeError(NO_MEMORY)
    if _overlaps_itself(tensor):
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a single memory "
            "location. Please clone() the tensor before performing the operation."
        )


def has_places(tensor: Tensor) -> bool:
    """Whether `check_places` would raise nothing."""
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        return False
    is_plain = type(tensor) in PLAIN and not _are_functorch_transforms_active()  # others may have no storage
    if is_plain and not tensor.untyped_storage().size():
        return False
    return tensor.is_contiguous() or not _overlaps_itself(tensor)


def _overlaps_itself(tensor: Tensor) -> bool:
    known = torch._debug_has_internal_overlap(tensor)  # 1: surely, 0: surely not, 2: nobody knows
    if known < 2:
        return bool(known)
    extent = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride < extent:
            return _places_overlap(tensor)
        extent += (size - 1) * stride
    return False


def _places_overlap(tensor: Tensor) -> bool:
    places = torch.zeros(tensor.shape, dtype=torch.int64, device="cpu")
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        along = [1] * tensor.dim()
        along[dim] = size
        places += (torch.arange(size, device="cpu") * stride).view(along)
    ordered = places.flatten().sort().values
    return bool((ordered[1:] == ordered[:-1]).any())
