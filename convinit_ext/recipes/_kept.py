"""Keeps what foreign code holds beside the copy that it is given: lists of the model's parameters, caches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from convinit_ext._engine import storage_of
from convinit_ext.recipes._drawn import written_by

_set_data: Any = Tensor.data
_SET_DATA = _set_data.__set__


@contextmanager
def others_kept(*copies: nn.Module | Tensor, never: Tensor | None = None) -> Iterator[None]:
    """Put back at the end what the block writes to memory that was there before and is none of the copies'.

    RuntimeError, at the write, says that it is that of `never`, or that another tensor is given other memory:
    what the code means to do to the copy, it does to the model itself.
    """
    kept = _Kept(copies, never)
    try:
        with kept, _Data(kept):
            yield
    finally:
        kept.put_back()


class _Kept(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's
    """Sees which memory is new, and keeps a copy of other memory before it is written to."""

    def __init__(self, copies: tuple[nn.Module | Tensor, ...], never: Tensor | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's
        self._never = 0 if never is None else storage_of(never)
        self._own = {0}  # of tensors without memory
        self._before: list[tuple[Any, Any]] = []
        for each in copies:
            tensors = (each,) if isinstance(each, Tensor) else (*each.parameters(), *each.buffers())
            self._own.update(map(storage_of, tensors))

    def is_own(self, tensor: Tensor) -> bool:
        return storage_of(tensor) in self._own

    def put_back(self) -> None:
        for storage, before in self._before:
            storage.copy_(before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for each in written_by(func, args, kwargs):
            if not self.is_own(each):
                self._keep(each)
        made = func(*args, **kwargs)
        returns = func._schema.returns
        if func._schema.name == "aten::lift_fresh" or all(each.alias_info is None for each in returns):
            several = made if isinstance(made, list | tuple) else (made,)
            self._own.update(storage_of(each) for each in several if isinstance(each, Tensor))
        return made

    def _keep(self, tensor: Tensor) -> None:
        memory = storage_of(tensor)
        if memory == self._never:
            raise RuntimeError("it writes to the model's own parameter, not to that of the copy")
        self._own.add(memory)
        if not tensor.is_meta:
            storage: Any = tensor.untyped_storage()  # of whose methods PyTorch's types know nothing
            self._before.append((storage, storage.clone()))


class _Data(TorchFunctionMode):
    """Keeps tensors that are no copy's from other memory, which the dispatcher does not see."""

    def __init__(self, kept: _Kept) -> None:
        super().__init__()
        self._kept = kept

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == _SET_DATA and not self._kept.is_own(args[0]):
            raise RuntimeError("it gives other memory to a tensor of the model")
        return func(*args, **(kwargs or {}))
