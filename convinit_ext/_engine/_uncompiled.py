"""Functions that torch.compile leaves as they are: their work is on names, files and memory."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function, around which torch.compile breaks its graph; with fullgraph=True that is PyTorch's error.

    That is torch.compiler.disable, but for when: it imports the compiler, which takes longer than torch, and
    is called once somebody else has. Until then a mark on the function says what it would.

    >>> @uncompiled
    ... def double(number: int) -> int:
    ...     return 2 * number
    >>> double(4)
    8
    """
    name = f"convinit_ext.{function.__qualname__}"
    reason = f"{name} runs between graphs: call it outside of code that is compiled with fullgraph=True"

    disable: Callable[..., Callable[P, R]] = torch.compiler.disable
    disabled: list[Callable[P, R]] = []

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if not disabled:
            made = disable(function, reason=reason)  # a line of its own: torch 2.11 breaks its graph here
            disabled.append(made)
        return disabled[0](*args, **kwargs)

    marks: Any = call
    marks._torchdynamo_disable = True
    marks._torchdynamo_disable_msg = reason
    return call
