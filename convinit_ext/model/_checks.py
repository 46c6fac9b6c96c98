"""Whether a model's parameters can be filled where they are, or read; said before anything is written."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from convinit_ext._engine import UnsupportedTensorError, check_dtype, check_tensor, in_fake_mode, is_plain
from convinit_ext.model._named_tensors import NamedModule, NamedTensor
from convinit_ext.sharding import FsdpState, fsdp_state, is_dtensor, local_of, parts


def check_parameters(held: Iterable[NamedTensor], reading: bool) -> None:
    """Check that every parameter is a plain floating-point tensor on a device that can be filled, or read.

    Raises:
        UnsupportedTensorError, RuntimeError, TypeError: one that is not; it is named.
    """
    for each in held:
        if is_plain(each.tensor) and each.tensor.is_contiguous():
            continue
        try:
            _check(each.tensor, reading)
        except (RuntimeError, TypeError) as error:  # of which UnsupportedTensorError is both
            raise type(error)(f"parameter {each.path!r}: {error}") from error


def _check(tensor: Tensor, reading: bool) -> None:
    if is_dtensor(tensor):
        parts(tensor)  # raises what is wrong with its placements
        tensor = local_of(tensor)
    if reading:
        if tensor.is_meta or isinstance(tensor, FakeTensor):  # a file may have the values
            check_dtype(tensor.dtype, "verify")
        else:
            check_tensor(tensor, "verify")
        return
    check_tensor(tensor)
    if tensor.is_neg():
        raise UnsupportedTensorError(
            "cannot fill a view that shows its memory negated (is_neg()); accepted is its resolve_neg()"
        )
    if isinstance(tensor, FakeTensor) and tensor.fake_mode not in _get_current_dispatch_mode_stack():
        raise UnsupportedTensorError("cannot fill a fake tensor outside its FakeTensorMode")


def check_not_faked(held: Iterable[NamedTensor]) -> None:
    """Inside FakeTensorMode a fill of memory does nothing, and new memory is fake.

    Raises:
        UnsupportedTensorError: a tensor there that is not fake; it is named.
    """
    if not in_fake_mode():
        return
    for each in held:
        if not isinstance(local_of(each.tensor), FakeTensor):
            raise UnsupportedTensorError(
                f"{each.path!r}: cannot fill it inside FakeTensorMode; accepted there are fake tensors alone"
            )


def check_modules(nodes: Iterable[NamedModule], dtype: torch.dtype | None) -> None:
    """FSDP2 would put its own values back into parameters that are gathered, or of another dtype.

    Raises:
        ValueError: a module with such parameters; it is named.
    """
    for node in nodes:
        state = fsdp_state(node.module)
        if state is FsdpState.GATHERED:
            raise ValueError(
                f"module {node.path!r} holds gathered parameters, as after a forward pass, and FSDP2 would "
                "drop what is filled; call its reshard() first"
            )
        if state is FsdpState.RUN and dtype is not None:
            raise ValueError(
                f"module {node.path!r} has run under FSDP2, which keeps its dtypes; pass dtype= before the "
                "first forward pass"
            )
