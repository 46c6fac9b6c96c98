"""The checks' former names, for the rooms that are rewritten; each says what to call instead."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from convinit_ext._engine._checks import check_kind, check_tensor, is_plain


def check_supported(tensors: Sequence[Tensor]) -> None:
    """check_tensor(tensor)"""
    for tensor in tensors:
        check_kind(tensor)


def check_readable(tensor: Tensor, do: str = "verify") -> None:
    """check_tensor(tensor, "verify")"""
    check_kind(tensor, do)


def check_writable(tensor: Tensor) -> None:
    """check_tensor(tensor)"""
    check_tensor(tensor)


def check_places(tensor: Tensor) -> None:
    """check_tensor(tensor, "write")"""
    check_tensor(tensor, "write")


def is_surely_writable(tensor: Tensor) -> bool:
    """is_plain(tensor) and tensor.is_contiguous()"""
    return is_plain(tensor) and tensor.is_contiguous()
