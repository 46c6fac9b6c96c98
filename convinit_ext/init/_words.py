"""Whose words a fill of one tensor takes: a key's, or the next of a generator. None is drawn in vain."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.compiler import is_compiling

from convinit_ext._engine import HAS_CUDA, STRIDED, SUPPORTED_DTYPES, has_places
from convinit_ext.keys import DRAW_UNDER_CAPTURE, Key, check_not_capturing, draw


def words_for(
    tensor: Tensor, generator: torch.Generator | None, key: Key | None, drawn_anyway: bool = False
) -> Tensor:
    """The key's words, or the next of the generator if there is anything to fill.

    Args:
        tensor: to be filled.
        generator, key: as for uniform_.
        drawn_anyway: whether the generator moves on where there is nothing to fill too.

    Returns:
        int64 [1, 2] on the CPU; zeros where nothing is filled.

    Raises:
        TypeError, ValueError, RuntimeError: not a key, not a generator, both; a generator of another device.
    """
    if key is not None:
        check_key(generator, key)
        return key.tensor()
    if generator is not None:
        _check_generator(tensor, generator)
    if drawn_anyway or _takes_words(tensor):
        if not is_compiling():
            check_not_capturing(tensor.device, DRAW_UNDER_CAPTURE)
        return draw(generator, tensor)
    return no_words()


def no_words() -> Tensor:
    return torch.zeros(1, 2, dtype=torch.int64, device="cpu")


def check_key(generator: torch.Generator | None, key: Key) -> None:
    if not isinstance(key, Key):
        raise TypeError(f"key must be a convinit_ext.Key, not {type(key).__name__}")
    if generator is not None:
        raise ValueError("key= and generator= each say where the values come from; pass only one of them")


def _check_generator(tensor: Tensor, generator: torch.Generator) -> None:
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, not {type(generator).__name__}")
    if generator.device.type not in ("cpu", tensor.device.type):
        raise RuntimeError(
            f"Expected a '{tensor.device.type}' device type for generator but found '{generator.device.type}'"
        )


def _takes_words(tensor: Tensor) -> bool:
    """Whether the fill will write. If it will not, or will raise, the generator stays as it is."""
    return (
        tensor.dtype in SUPPORTED_DTYPES
        and tensor.numel() > 0
        and (tensor.is_cpu or (HAS_CUDA and tensor.is_cuda))
        and tensor.layout is STRIDED
        and not tensor.is_nested
        and (is_compiling() or has_places(tensor))
    )
