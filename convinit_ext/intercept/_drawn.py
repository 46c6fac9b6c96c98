"""What PyTorch drew, and what is made of it: a new parameter may be made of its memory, unseen."""

from __future__ import annotations

import gc
import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from torch import Tensor, nn
from torch._C import _has_storage
from torch._subclasses.fake_tensor import FakeTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakIdKeyDictionary

from convinit_ext._engine import storage_of
from convinit_ext.intercept._signatures import DRAWS, OVERWRITES, SHAPED, WRITES, is_foreach_in_place
from convinit_ext.intercept._tracker import Tracker

_IS_DRAWN = (
    "gets values of torch.rand, torch.normal, Tensor.exponential_ or others that intercept leaves to "
    "PyTorch: they follow its generator, not seed=. Draw by Tensor.uniform_ or Tensor.normal_ on the "
    "parameter, of a complex one on torch.view_as_real(parameter), or call torch.manual_seed"
)


class Drawn:
    """Knows tensors by themselves, and by their memory; warns once of each parameter that gets their values.

    Args:
        tracker: of the block's model, if it has one; the modules that there are when it ends, otherwise.
        is_seeded: whether the block's fills follow a seed of its own.
    """

    def __init__(self, tracker: Tracker | None, is_seeded: bool) -> None:
        self._tracker = tracker
        self._is_seeded = is_seeded
        self._generators = _other_generators() if is_seeded else {}
        self._tensors = WeakIdKeyDictionary()
        self._memory: dict[int, StorageWeakRef] = {}  # which keep an address from being another's
        self._warned: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._tensors or self._memory)

    def follow(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any, result: object) -> None:
        """Say once for each parameter that it gets what PyTorch draws, which are not the key's values."""
        given = list(_tensors_in(args, kwargs.values()))
        sources = given[1:] if func in OVERWRITES else given
        is_drawn = func in DRAWS or (func not in SHAPED and any(map(self._holds, sources)))
        if not is_drawn and func in OVERWRITES and given:
            self.forget(given[0])
        if is_drawn:
            writes = func in WRITES or is_foreach_in_place(func)
            for target in _tensors_in(args[:1] if writes else (result,)):
                self.note(target, func in DRAWS or writes or any(target is each for each in given))

    def note(self, tensor: Tensor, is_written: bool = True, stacklevel: int = 5) -> None:
        """Say that PyTorch draws a parameter's values, or remember another tensor that has such ones."""
        if not self._is_seeded or tensor.is_meta or isinstance(tensor, FakeTensor):
            return
        view = None
        with suppress(RuntimeError):  # a view that is no slice
            view = None if self._tracker is None else self._tracker.view(tensor)
        if view is not None:
            if is_written:
                self._warn(view.parameter.name, stacklevel)
            return
        self._tensors[tensor] = None
        if _has_storage(tensor):
            self._memory[storage_of(tensor)] = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]  # PyTorch's

    def forget(self, tensor: Tensor) -> None:
        """Forget a tensor, and memory, all of which has other values now."""
        if tensor in self._tensors:
            del self._tensors[tensor]
        if self._memory and _has_storage(tensor) and tensor.nbytes == tensor.untyped_storage().nbytes():
            self._memory.pop(storage_of(tensor), None)

    def finish(self) -> None:
        """Say the same of what was made of what PyTorch drew, which no call says; and what others drew."""
        if self:
            tensors = _tensors_of_modules() if self._tracker is None else self._tracker.tensors()
            for name in [name for name, tensor in tensors if self._is_in(tensor)]:
                self._warn(name, stacklevel=4)
        now = _other_generators() if self._generators else {}
        used = [f"{name}'s" for name, state in self._generators.items() if state != now[name]]
        if used:
            warnings.warn(
                f"{' and '.join(used)} global generator was drawn from inside intercept: what is made of "
                "such numbers follows that generator, not seed=. Draw by PyTorch, or seed it",
                stacklevel=3,
            )

    def _warn(self, name: str, stacklevel: int) -> None:
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(f"{name!r} {_IS_DRAWN}", stacklevel=stacklevel)

    def _holds(self, tensor: Tensor) -> bool:
        return tensor in self._tensors or self._is_in(tensor)

    def _is_in(self, tensor: Tensor) -> bool:
        """Return whether a tensor has memory of one that was drawn."""
        known = self._memory.get(storage_of(tensor))
        return known is not None and not known.expired()  # type: ignore[no-untyped-call]  # PyTorch's


def _tensors_in(*values: Any) -> Iterator[Tensor]:
    """Yield the tensors among what these have, and in lists and tuples there."""
    for each in itertools.chain(*values):
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, list | tuple):
            yield from _tensors_in(each)


def _tensors_of_modules() -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and buffers of all modules that there are, by their names there."""
    for module in gc.get_objects():
        if issubclass(type(module), nn.Module):  # isinstance would ask a proxy for its object
            held = (vars(module).get(each, {}) for each in ("_parameters", "_buffers"))
            for name, tensor in itertools.chain(*(each.items() for each in held)):
                if isinstance(tensor, Tensor):
                    yield f"{type(module).__name__}.{name}", tensor


def _other_generators() -> dict[str, object]:
    """Return the states of Python's and NumPy's global generators."""
    from convinit_ext import recipes  # drop-in functions do without

    return recipes.other_generators()
