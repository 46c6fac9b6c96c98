"""Which tensors the engine can reach, and which numbers their dtypes can hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.compiler import is_compiling
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack, is_traceable_wrapper_subclass

from convinit_ext._engine._load import _C

# Their numbers are those of DType in csrc/core/task.h.
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
NO_MEMORY = "the tensor's storage holds no memory (it was resized to nothing)"
_FLOAT_NAMES = "float32, float64, float16, bfloat16, float8_e4m3fn or float8_e5m2"


class UnsupportedTensorError(NotImplementedError, TypeError):
    """A tensor of a dtype, layout or device that cannot be filled, or digested.

    Both a TypeError and the NotImplementedError that PyTorch raises for it.
    """


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
    check_dense(tensor, do)
    check_dtype(tensor.dtype, do)
    if not tensor.is_meta:
        check_device(tensor, do)


def check_dense(tensor: Tensor, do: str) -> None:
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


def check_device(tensor: Tensor, do: str) -> None:
    """That it is on a device whose memory the engine reaches."""
    if tensor.device.type in (("cpu", "cuda") if HAS_CUDA else ("cpu",)):
        return
    accepted = (
        "this build has no CUDA; build it with: CONVINIT_CUDA=1 pip install --no-build-isolation ."
        if tensor.is_cuda
        else "accepted are CPU and CUDA tensors"
    )
    raise UnsupportedTensorError(f"cannot {do} a tensor on {tensor.device}; {accepted}")


def check_dtype(dtype: torch.dtype, do: str = "fill") -> None:
    if dtype not in SUPPORTED_DTYPES:
        raise UnsupportedTensorError(f"cannot {do} a tensor of dtype {dtype}; accepted are {_FLOAT_NAMES}")


def check_inference(tensor: Tensor) -> None:
    if is_compiling():  # a compiler knows no is_inference
        return
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Inplace update to inference tensor outside InferenceMode is not allowed. "
            "You can make a clone to get a normal tensor before filling it."
        )


def in_fake_mode() -> bool:
    """Whether operations only pretend, those on tensors with memory too."""
    return any(isinstance(mode, FakeTensorMode) for mode in _get_current_dispatch_mode_stack())


def check_not_in_fake_mode(do: str) -> None:
    """
    Raises:
        RuntimeError: inside a FakeTensorMode.
    """
    if in_fake_mode():
        raise RuntimeError(f"cannot {do} inside FakeTensorMode, where operations have no values")


def check_constant(tensor: Tensor, value: float) -> None:
    """As torch.Tensor.fill_. (The engine rounds it: to infinity.)"""
    largest = LARGEST.get(tensor.dtype, math.inf)
    if abs(value) > largest:
        raise RuntimeError(
            f"a tensor of dtype {tensor.dtype} cannot hold the constant {value:.6g}; its largest number is "
            f"{largest:.6g}"
        )


def bounds_fit(low: float, high: float, dtype: torch.dtype) -> bool:
    """Whether the dtype holds a uniform's bounds and, of PyTorch's own types, their difference."""
    if dtype not in LARGEST:
        return True
    largest = LARGEST[dtype]
    return -low <= largest and high <= largest and (high - low <= largest or dtype.itemsize == 1)
