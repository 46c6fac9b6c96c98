"""What the compiled ops do to tensors without values: fake ones, those of a compiler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convinit_ext._engine._checks import check_kind

NUM_SUMS = 4  # of a tensor, docs/fingerprint.md section 4


def register() -> None:
    """Tells PyTorch of them; once, when the ops are there."""
    torch.library.register_fake("convinit_ext::fill_", _fill)
    torch.library.register_fake("convinit_ext::fill_one_", _fill_one)
    torch.library.register_fake("convinit_ext::fill_part_", _fill_part)
    torch.library.register_fake("convinit_ext::digest", _digest)
    torch.library.register_fake("convinit_ext::compare", _compare)


def _fill(
    tensors: Sequence[Tensor],
    keys: Tensor,
    kinds: Sequence[int],
    params: Sequence[float],
    box_starts: Sequence[int],
    box_strides: Sequence[int],
) -> None:
    for tensor in tensors:
        check_kind(tensor)


def _fill_one(tensor: Tensor, key: Tensor, kind: int, p0: float, p1: float, p2: float, p3: float) -> None:
    check_kind(tensor)


def _fill_part(
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
    check_kind(tensor)


def _digest(
    tensors: Sequence[Tensor], keys: Tensor, box_starts: Sequence[int], box_strides: Sequence[int]
) -> Tensor:
    return (tensors[0] if tensors else keys).new_empty((len(tensors), NUM_SUMS), dtype=torch.int64)


def _compare(
    tensors: Sequence[Tensor],
    keys: Tensor,
    kinds: Sequence[int],
    params: Sequence[float],
    box_starts: Sequence[int],
    box_strides: Sequence[int],
) -> Tensor:
    return (tensors[0] if tensors else keys).new_empty((len(tensors), 2), dtype=torch.int64)
