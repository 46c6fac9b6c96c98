"""What PyTorch drew, and what is made of it: a new parameter may be made of its memory, unseen."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch._C import _has_storage
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakIdKeyDictionary

from convinit_ext._engine import storage_of

IS_DRAWN = (
    "gets values of torch.rand, torch.normal, Tensor.exponential_ or others that intercept leaves to "
    "PyTorch: they follow its generator, not seed=. Draw by Tensor.uniform_ or Tensor.normal_ on the "
    "parameter, or call torch.manual_seed"
)


class Drawn:
    """Knows tensors by themselves, and by their memory.

    >>> import torch
    >>> drawn, values = Drawn(), torch.rand(3)
    >>> drawn.add(values)
    >>> drawn.holds(values[:2]), drawn.is_in(torch.nn.Parameter(values)), drawn.holds(torch.rand(3))
    (True, True, False)
    """

    def __init__(self) -> None:
        self._tensors = WeakIdKeyDictionary()
        self._memory: dict[int, StorageWeakRef] = {}  # which keep an address from being another's

    def __bool__(self) -> bool:
        return bool(self._tensors or self._memory)

    def add(self, tensor: Tensor) -> None:
        self._tensors[tensor] = None
        if _has_storage(tensor):
            self._memory[storage_of(tensor)] = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]  # PyTorch's

    def forget(self, tensor: Tensor) -> None:
        """Forget a tensor, and memory, all of which has other values now."""
        if tensor in self._tensors:
            del self._tensors[tensor]
        if self._memory and _has_storage(tensor) and tensor.nbytes == tensor.untyped_storage().nbytes():
            self._memory.pop(storage_of(tensor), None)

    def holds(self, tensor: Tensor) -> bool:
        return tensor in self._tensors or self.is_in(tensor)

    def is_in(self, tensor: Tensor) -> bool:
        """Return whether a tensor has memory of one that was drawn."""
        known = self._memory.get(storage_of(tensor))
        return known is not None and not known.expired()  # type: ignore[no-untyped-call]  # PyTorch's


def tensors_in(*values: Any) -> Iterator[Tensor]:
    """Yield the tensors among what these have, and in lists and tuples there."""
    for each in itertools.chain(*values):
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, list | tuple):
            yield from tensors_in(each)


def other_generators() -> dict[str, object]:
    """Return the states of Python's and NumPy's global generators."""
    from convinit_ext import recipes  # drop-in functions do without

    return recipes.other_generators()


def warn_of_others(before: dict[str, object]) -> None:
    """Warn of global generators that have other states than before."""
    now = other_generators() if before else {}
    used = [f"{name}'s" for name, state in before.items() if state != now[name]]
    if used:
        warnings.warn(
            f"{' and '.join(used)} global generator was drawn from inside intercept: what is made of such "
            "numbers follows that generator, not seed=. Draw by PyTorch, or seed it",
            stacklevel=4,
        )
