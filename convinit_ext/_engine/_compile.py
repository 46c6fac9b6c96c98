"""What torch.compile knows of this library: functions that it leaves as they are, and the ops on tensors that
have no values. Blocks of intercept leave the same functions alone."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar, copy_context
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from convinit_ext._engine._checks import check_kind
from convinit_ext._engine._fork import on_this_thread
from convinit_ext._engine._ops import NUM_SUMS

P = ParamSpec("P")
R = TypeVar("R")

BLOCKS: ContextVar[tuple[Any, ...]] = ContextVar("convinit_ext.intercept", default=())  # that are open


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function, around which torch.compile breaks its graph; with fullgraph=True that is PyTorch's error.

    No block of intercept around it is open inside: what it asks of a model's own code is the same everywhere.

    The first is torch.compiler.disable, but for when: it imports the compiler, which takes longer than torch,
    and is called once somebody else has. Until then a mark on the function says what it would.

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
        with on_this_thread():
            if BLOCKS.get():
                outside = copy_context()
                outside.run(BLOCKS.set, ())
                return outside.run(call, *args, **kwargs)
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


def _fake_fill(tensors: Sequence[Tensor], *_: object) -> None:
    for tensor in tensors:
        check_kind(tensor)


def _fake_fill_one(tensor: Tensor, *_: object) -> None:
    check_kind(tensor)


def _fake_rows(num_columns: int) -> Callable[..., Tensor]:
    def found(tensors: Sequence[Tensor], keys: Tensor, *_: object) -> Tensor:
        return (tensors[0] if tensors else keys).new_empty((len(tensors), num_columns), dtype=torch.int64)

    return found


torch.library.register_fake("convinit_ext::fill_", _fake_fill)
torch.library.register_fake("convinit_ext::fill_one_", _fake_fill_one)
torch.library.register_fake("convinit_ext::fill_part_", _fake_fill_one)
torch.library.register_fake("convinit_ext::digest", _fake_rows(NUM_SUMS))
torch.library.register_fake("convinit_ext::compare", _fake_rows(2))
torch.library.register_fake("convinit_ext::make_orthogonal_", lambda matrices, gain: None)
