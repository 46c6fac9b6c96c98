"""Forked children: they have none of their parent's threads, and PyTorch's operations would wait for them."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

_NOTHING = nullcontext()
FORKED: list[int] = []  # this process, if it is such a child

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: FORKED.append(os.getpid()))


class _OneThread(AbstractContextManager[None]):
    def __enter__(self) -> None:
        self._number = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._number)


def on_this_thread() -> AbstractContextManager[None]:
    """Return a context in which PyTorch's operations wait for no other thread, if this is a forked child.

    The engine's own fills need none: they know by themselves.
    """
    return _OneThread() if FORKED else _NOTHING
