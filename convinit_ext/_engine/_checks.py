"""Can this tensor be filled, or read, and how fast: the one place that answers.

`check_tensor` raises what is wrong. `is_plain` is the quick yes for the tensors of most models.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch._C import (
    _are_functorch_transforms_active,
    _get_tracing_state,
    _has_storage,
    _len_torch_dispatch_stack,
)
from torch._C._functorch import (
    get_unwrapped,
    is_batchedtensor,
    is_functionaltensor,
    is_functorch_wrapped_tensor,
)
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.compiler import is_compiling
from torch.nn import Parameter
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
HAS_CUDA = _C.build_info()["cuda"] != "not built"
PLAIN = (Tensor, Parameter)
_PLAIN = torch.empty(1, device="cpu")
_FLOAT_NAMES = "float32, float64, float16, bfloat16, float8_e4m3fn or float8_e5m2"
# Attributes that say more of a tensor than its shape and memory do: rooms that know such tensors add theirs.
MARKS: set[str] = set()
_READS = ("verify", "digest")
_DRAWN = ("fill", "verify")  # which needs a dtype that a distribution has


class UnsupportedTensorError(NotImplementedError, TypeError):
    """A tensor of a dtype, layout or device that cannot be filled, or read.

    Both a TypeError and the NotImplementedError that PyTorch raises for it.
    """


def is_plain(tensor: Tensor, any_dtype: bool = False, any_strides: bool = False) -> bool:
    """Return whether the engine may go straight to a tensor's memory: a quick yes, where a no says little.

    After a yes `check_tensor` raises nothing, whatever it is to do; there are elements, in their order and
    without gaps; nothing marks the tensor as a part of another (MARKS); autograd has not recorded how it came
    about; and no mode, transform, trace or compiler is active that would have to see what PyTorch's
    dispatcher sees. Of any dtype that goes for "write" alone; of any strides, elements may overlap.
    """
    return (
        not is_compiling()
        and not _len_torch_dispatch_stack()
        and not _are_functorch_transforms_active()
        and _get_tracing_state() is None
        and _C.is_plain(tensor, any_dtype, any_strides, MARKS)
    )


def are_plain(tensors: Iterable[Tensor]) -> list[bool]:
    """Return `is_plain` of each, in half the time."""
    unwatched = is_plain(_PLAIN)
    return [unwatched and _C.is_plain(tensor, False, False, MARKS) for tensor in tensors]


def check_tensor(tensor: Tensor, do: str = "fill") -> None:
    """Raise what keeps a tensor from being filled or read; in compiled code, without memory, only its dtype.

    Args:
        tensor: of any kind; of a DTensor the local part.
        do: what is to be done, which the error repeats:
            "fill", write a distribution's values: accepted are the supported dtypes, on the CPU, on CUDA, and
            on the meta device, where there is nothing to do;
            "write", write any values by PyTorch's own operations: any dtype on any device;
            "verify", compare with a distribution's values: as "fill", but on the meta device;
            "digest", read the bytes: any dtype of whole bytes on the CPU and on CUDA.

    Raises:
        UnsupportedTensorError: a wrapper of other tensors, a layout, dtype or device that is not accepted.
        RuntimeError: no memory, or not enough; where it is written, an inference tensor outside inference
            mode, or elements that overlap.
        ValueError: where it is read, a meta or fake tensor, which has no values.
    """
    if is_compiling():
        if do in _DRAWN:
            check_dtype(tensor.dtype, do)
        return
    if do in _READS:
        check_not_transformed(tensor, do)
    else:
        check_not_batched(tensor, do)
        check_inference(tensor)
    check_kind(tensor, do)
    if tensor.is_meta:
        return
    if do in _READS and isinstance(tensor, FakeTensor):
        raise ValueError(f"cannot {do} a fake tensor: it has no values")
    check_memory(tensor)
    if do not in _READS and not tensor.is_contiguous() and _overlaps_itself(tensor):
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a single memory "
            "location. Please clone() the tensor before performing the operation."
        )


def check_memory(tensor: Tensor) -> None:
    """Raise RuntimeError where a tensor's storage was resized, and ends before its elements do."""
    if isinstance(tensor, FakeTensor) or not _has_storage(tensor) or not tensor.numel():
        return
    held = tensor.untyped_storage().nbytes()
    if not held:
        raise RuntimeError("the tensor's storage holds no memory (it was resized to nothing)")
    if span(tensor)[1] > held:
        raise RuntimeError(
            f"the tensor's storage of {held} bytes ends before the tensor does (it was resized)"
        )


def span(tensor: Tensor) -> tuple[int, int]:
    """Return the first byte and the byte after the last, from the start of the storage."""
    item, start = tensor.element_size(), int(tensor.storage_offset())
    size = tensor.numel() if tensor.is_contiguous() else extent(tensor.shape, tensor.stride())
    return start * item, (start + size) * item


def storage_of(tensor: Tensor) -> int:
    """Return what tells one piece of memory from another, as long as it lives; 0 of a tensor without any."""
    return tensor.untyped_storage()._cdata if _has_storage(tensor) else 0


def share_memory(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are of one piece of memory."""
    return 0 != storage_of(a) == storage_of(b)


def extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return the elements from the first to the last in memory, of a tensor that is not empty."""
    size: int = 1 + sum(map(operator.mul, shape, strides)) - sum(strides)
    return size


def check_not_batched(tensor: Tensor, do: str = "fill") -> None:
    """Raise RuntimeError for what torch.vmap shows of a tensor, one member of a batch, or functionalize."""
    if is_compiling():
        return
    while is_functorch_wrapped_tensor(tensor):
        if is_batchedtensor(tensor):
            raise RuntimeError(
                f"cannot {do} a tensor that torch.vmap has batched: a key has the values of a whole tensor. "
                "Call init outside of vmap, once for each member with a key of its own or once for all "
                "stacked, and pass the result in; for equal values in all members fill a new tensor inside"
            )
        if do == "fill" and is_functionaltensor(tensor):
            raise RuntimeError(
                "cannot fill a tensor inside torch.func.functionalize, which knows no operations that write "
                "but PyTorch's; fill it outside, and pass it in"
            )
        tensor = get_unwrapped(tensor)


def check_not_transformed(tensor: Tensor, do: str = "fill") -> None:
    """Raise RuntimeError for what a transform of torch.func shows of a tensor, whose memory nobody sees."""
    check_not_batched(tensor, do)
    if is_functorch_wrapped_tensor(tensor):
        raise RuntimeError(
            f"cannot {do} a tensor inside a transform of torch.func, such as grad; do it outside, and pass "
            "the parameters in (torch.func.functional_call)"
        )


def check_kind(tensor: Tensor, do: str = "fill") -> None:
    """Raise what `check_tensor` raises of a tensor's kind; looks at no memory: a compiler may call it."""
    if is_traceable_wrapper_subclass(tensor):
        raise UnsupportedTensorError(
            f"cannot {do} a {type(tensor).__name__}; accepted is a plain tensor, such as its local part"
        )
    if do in _READS:
        check_own_operations(tensor, do)
    if tensor.layout is not torch.strided:
        raise UnsupportedTensorError(
            f"cannot {do} a tensor of layout {tensor.layout}; accepted is torch.strided (a dense tensor)"
        )
    if tensor.is_nested:
        raise UnsupportedTensorError(f"cannot {do} a nested tensor; accepted is a dense tensor")
    if do in _DRAWN:
        check_dtype(tensor.dtype, do)
    elif do == "digest" and tensor.is_quantized:
        raise UnsupportedTensorError(
            f"cannot digest a tensor of dtype {tensor.dtype}; accepted are dtypes of whole bytes"
        )
    if tensor.is_meta:
        if do in _READS:
            raise ValueError(f"cannot {do} a tensor on the meta device: it has no values")
    elif do != "write":
        _check_device(tensor, do)


def has_own_operations(tensor: Tensor) -> bool:
    """Return whether a subclass, as quantised weights have, may make the values of others: no fake tensor."""
    own: object = type(tensor).__torch_dispatch__
    return own is not Tensor.__torch_dispatch__ and not isinstance(tensor, FakeTensor)


def check_own_operations(tensor: Tensor, do: str) -> None:
    """Raise UnsupportedTensorError for a tensor that `has_own_operations`: a fill would be lost."""
    if has_own_operations(tensor):
        raise UnsupportedTensorError(
            f"cannot {do} a {type(tensor).__name__}, whose operations are its own (__torch_dispatch__); "
            "accepted is a plain tensor: initialise the model before its weights are converted"
        )


def check_dtype(dtype: torch.dtype, do: str = "fill") -> None:
    """Raise UnsupportedTensorError for a dtype that no distribution's values are made in."""
    if dtype not in SUPPORTED_DTYPES:
        raise UnsupportedTensorError(f"cannot {do} a tensor of dtype {dtype}; accepted are {_FLOAT_NAMES}")


def _check_device(tensor: Tensor, do: str) -> None:
    if tensor.device.type in (("cpu", "cuda") if HAS_CUDA else ("cpu",)):
        return
    accepted = (
        "this build has no CUDA; build it with: CONVINIT_CUDA=1 pip install --no-build-isolation ."
        if tensor.is_cuda
        else "accepted are CPU and CUDA tensors"
    )
    raise UnsupportedTensorError(f"cannot {do} a tensor on {tensor.device}; {accepted}")


def check_inference(tensor: Tensor) -> None:
    """Raise PyTorch's RuntimeError for a write to an inference tensor outside inference mode."""
    if is_compiling():  # a compiler knows no is_inference
        return
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Inplace update to inference tensor outside InferenceMode is not allowed. "
            "You can make a clone to get a normal tensor before filling it."
        )


def _overlaps_itself(tensor: Tensor) -> bool:
    known = torch._debug_has_internal_overlap(tensor)  # 1: surely, 0: surely not, 2: nobody knows
    if known < 2:
        return bool(known)
    extent, nested = 1, True
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        nested = nested and (size == 1 or stride >= extent)
        extent += (size - 1) * stride
    return not nested and _places_overlap(tensor, extent)


def _places_overlap(tensor: Tensor, extent: int) -> bool:
    """Return whether two elements have one of the places that there are, by marking those of all elements.

    A tensor lies inside its storage, so there are no more places than that has memory for.
    """
    if tensor.numel() > extent:
        return True
    taken = torch.zeros(extent, dtype=torch.bool, device="cpu")
    taken.as_strided(tensor.shape, tensor.stride()).fill_(True)
    return int(taken.count_nonzero()) < tensor.numel()


def in_fake_mode() -> bool:
    """Return whether operations only pretend, those on tensors with memory too."""
    return any(isinstance(mode, FakeTensorMode) for mode in _get_current_dispatch_mode_stack())


def check_not_in_fake_mode(do: str) -> None:
    """Raise RuntimeError inside a FakeTensorMode."""
    if in_fake_mode():
        raise RuntimeError(f"cannot {do} inside FakeTensorMode, where operations have no values")


def largest_of(dtype: torch.dtype) -> float:
    """Return the largest number of any dtype."""
    if dtype.is_floating_point or dtype.is_complex:
        return torch.finfo(dtype).max
    return 1 if dtype == torch.bool else torch.iinfo(dtype).max


_LARGEST = {dtype: largest_of(dtype) for dtype in SUPPORTED_DTYPES}  # of others a fill is refused anyway


def check_constant(dtype: torch.dtype, value: float) -> None:
    """Raise a RuntimeError for a constant beyond a dtype, as Tensor.fill_ does. (The engine rounds it.)"""
    largest = _LARGEST.get(dtype, math.inf)
    if abs(value) > largest:
        raise RuntimeError(
            f"a tensor of dtype {dtype} cannot hold the constant {value:.6g}; its largest number is "
            f"{largest:.6g}"
        )


def bounds_fit(low: float, high: float, dtype: torch.dtype) -> bool:
    """Return whether a dtype holds a uniform's bounds and, of PyTorch's own types, their difference."""
    largest = _LARGEST.get(dtype, math.inf)
    return -low <= largest and high <= largest and (high - low <= largest or dtype.itemsize == 1)
