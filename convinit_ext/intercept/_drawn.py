"""Memory that holds what PyTorch drew, as long as it lives: a new parameter may be made of it, unseen."""

from __future__ import annotations

from torch import Tensor
from torch._C import _has_storage
from torch.multiprocessing.reductions import StorageWeakRef

from convinit_ext._engine import storage_of

IS_DRAWN = (
    "gets values of torch.rand, torch.normal, Tensor.exponential_ or others that intercept leaves to "
    "PyTorch: they follow its generator, not seed=. Draw by Tensor.uniform_ or Tensor.normal_ on the "
    "parameter, or call torch.manual_seed"
)


class DrawnMemory:
    """Knows tensors by their memory.

    >>> import torch
    >>> drawn, values = DrawnMemory(), torch.rand(3)
    >>> drawn.add(values)
    >>> drawn.holds(torch.nn.Parameter(values)), drawn.holds(torch.rand(3))
    (True, False)
    """

    def __init__(self) -> None:
        self._known: dict[int, StorageWeakRef] = {}  # which keep an address from being another's

    def __bool__(self) -> bool:
        return bool(self._known)

    def add(self, tensor: Tensor) -> None:
        if _has_storage(tensor):
            self._known[storage_of(tensor)] = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]  # PyTorch's

    def forget(self, tensor: Tensor) -> None:
        """Forget memory all of which has other values now."""
        if self._known and _has_storage(tensor) and tensor.nbytes == tensor.untyped_storage().nbytes():
            self._known.pop(storage_of(tensor), None)

    def holds(self, tensor: Tensor) -> bool:
        known = self._known.get(storage_of(tensor))
        return known is not None and not known.expired()  # type: ignore[no-untyped-call]  # PyTorch's
