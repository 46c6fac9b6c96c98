"""Functions that torch.compile leaves as they are: their work is on names, files and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function, around which torch.compile breaks its graph; with fullgraph=True that is PyTorch's error.

    >>> @uncompiled
    ... def double(number: int) -> int:
    ...     return 2 * number
    >>> double(4)
    8
    """
    name = f"convinit_ext.{function.__qualname__}"
    reason = f"{name} runs between graphs: call it outside of code that is compiled with fullgraph=True"
    disable: Callable[..., Callable[P, R]] = torch.compiler.disable
    return disable(function, reason=reason)
