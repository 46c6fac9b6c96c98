"""Foreign code, such as a model's own: run with generators of its own, watched for what it draws and writes.

What a tensor is drawn from is seen on the meta device, at no cost. What the code holds beside the copy that
it is given, lists of the model's parameters and caches, is kept.
"""

from __future__ import annotations

import pickle
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch._C import _has_storage
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from convinit_ext._engine import storage_of
from convinit_ext.distributions import Constant, Distribution, Normal, Uniform

_T = TypeVar("_T")
_LOW = (1 << 32) - 1
_generator_in_use = threading.RLock()  # PyTorch's default one, which all threads share
_NEW: dict[str, Distribution] = {
    "randn": Normal(),
    "randn_like": Normal(),
    "rand": Uniform(),
    "rand_like": Uniform(),
}
_EMPTY = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
_FAR = 6.0  # standard deviations, beyond which a bound cuts nothing
_IS_META = Tensor.is_meta.__get__  # type: ignore[attr-defined]  # a property, of which PyTorch's types say bool
_set_data: Any = Tensor.data
_SET_DATA = _set_data.__set__


@contextmanager
def drawing() -> Iterator[None]:
    """Let foreign code make and draw tensors on the CPU, and keep all global generators as they are."""
    with _generator_in_use, torch.no_grad(), torch.device("cpu"), generators_kept():
        yield


@contextmanager
def generators_kept(devices: Iterable[int] = ()) -> Iterator[None]:
    """Put the states of all global generators back at the end, and of those of these CUDA devices."""
    by_python, by_numpy = random.getstate(), np.random.get_state(legacy=False)
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(by_python)
        np.random.set_state(by_numpy)


def seeded(seed: int, make: Callable[[], _T]) -> _T:
    """Return what foreign code makes once all global generators are seeded."""
    with drawing():
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed((seed & _LOW, seed >> 32))
        return make()


def generators() -> object:
    """Return the states of all global generators, which are equal if nothing was drawn."""
    return torch.get_rng_state().tolist(), other_generators()


def other_generators() -> dict[str, object]:
    """Return those of Python's and NumPy's, by these names."""
    return {"Python": random.getstate(), "NumPy": pickle.dumps(np.random.get_state(legacy=False))}


class Drawings(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's
    """Follows what is drawn through copies, and through sums and products with numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's
        self._known: dict[int, tuple[Tensor, Distribution]] = {}  # by memory, which the tensor keeps alive

    def of(self, tensor: Tensor) -> Distribution | None:
        """Return the distribution of all elements of a tensor's memory; None where it is not known."""
        _, known = self._known.get(storage_of(tensor), (None, None))
        return known if known is not None and _is_whole(tensor) else None

    def forget(self, tensor: Tensor) -> None:
        self._known.pop(storage_of(tensor), None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = self._found(func, args, kwargs)
        made = func(*args, **kwargs)
        if _name(func) in _EMPTY and made.is_floating_point():  # what is not written to stays no number
            made.fill_(torch.nan)
        for each in written_by(func, args, kwargs) if func._schema.is_mutable else (made,):
            if func._schema.is_mutable:
                self.forget(each)
            if found is not None and each.is_floating_point() and _is_whole(each):
                self._known[storage_of(each)] = each, found
        return made

    def _found(self, func: Any, args: Any, kwargs: Any) -> Distribution | None:
        """Return the distribution of what a call makes or writes; None where there is none."""
        name = _name(func)
        if name in _NEW:
            return _NEW[name]
        if not args or not isinstance(args[0], Tensor):
            return None
        if name == "copy_":
            return self.of(args[1]) if args[1].shape == args[0].shape else None
        known = self.of(args[0])
        if name in ("clone", "_to_copy"):
            return known
        if cuts(func, args[1:], known):
            self.forget(args[0])
        return filling(func, args[1:]) or (
            None if kwargs else _moved(name.removesuffix("_"), args[1:], known)
        )


class WhereMeta(TorchFunctionMode):
    """Tells of every tensor that code asks whether it is on the meta device: trunc_normal_ writes none there.

    What goes into a Python function such as this package's trunc_normal_ is told too: it asks unseen. The
    `questions` are getters of other attributes that count likewise.
    """

    def __init__(self, tell: Callable[[Tensor], None], questions: Sequence[Any] = ()) -> None:
        super().__init__()
        self._tell = tell
        self._questions = [_IS_META, *questions]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._questions or _fills_in_place(func):
            for each in (*args, *kwargs.values()):
                if isinstance(each, Tensor):
                    self._tell(each)
        return func(*args, **kwargs)


def _fills_in_place(func: Any) -> bool:
    """Whether it is a Python function that is called like trunc_normal_."""
    return isinstance(func, FunctionType) and func.__name__.endswith("_") and func.__name__[-2] != "_"


def written_by(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """Yield the tensors that a call of an op writes to."""
    for at, argument in enumerate(func._schema.arguments if func._schema.is_mutable else ()):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[at] if at < len(args) else kwargs.get(argument.name)
            several = given if isinstance(given, list | tuple) else (given,)
            yield from (each for each in several if isinstance(each, Tensor))


def filling(func: Any, arguments: Any) -> Distribution | None:
    """Return the distribution that an in-place op fills a tensor with, given what follows the tensor."""
    name = _name(func)
    numbers = [float(each) for each in arguments if isinstance(each, int | float)]
    if name == "zero_":
        return Constant(0.0)
    if name == "fill_" and len(numbers) == 1:
        return Constant(numbers[0])
    if name == "normal_":
        return Normal(*numbers)
    return Uniform(*numbers) if name == "uniform_" else None


def cuts(func: Any, arguments: Any, known: Distribution | None) -> bool:
    """Whether an op compares normal values with a near bound, as trunc_normal_ does to draw some anew."""
    if _name(func) not in ("lt", "gt") or not isinstance(known, Normal):
        return False
    bounds = (each for each in arguments if isinstance(each, int | float))
    return any(abs(each - known.mean) < _FAR * known.std for each in bounds)


def _moved(name: str, arguments: Any, known: Distribution | None) -> Distribution | None:
    """Return the distribution of a sum or product of what is drawn and a number."""
    numbers = (-1.0,) if name == "neg" else tuple(arguments)
    if len(numbers) != 1 or not isinstance(numbers[0], int | float):
        return None
    (number,) = numbers
    match name:
        case "mul" | "neg":
            factor, shift = number, 0.0
        case "div" if number:
            factor, shift = 1 / number, 0.0
        case "add":
            factor, shift = 1.0, number
        case "sub":
            factor, shift = 1.0, -number
        case "rsub":
            factor, shift = -1.0, number
        case _:
            return None
    if isinstance(known, Normal):
        return Normal(known.mean * factor + shift, known.std * abs(factor))
    if isinstance(known, Uniform):
        return Uniform(*sorted((known.low * factor + shift, known.high * factor + shift)))
    return None


def _name(func: Any) -> str:
    return str(func._schema.name.removeprefix("aten::"))


def _is_whole(tensor: Tensor) -> bool:
    size = tensor.numel() * tensor.element_size()
    return _has_storage(tensor) and size == tensor.untyped_storage().nbytes()


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
