"""From what distribution foreign code draws a tensor: seen while it runs, on the meta device at no cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch._C import _has_storage
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from convinit_ext._engine import storage_of
from convinit_ext.distributions import Constant, Distribution, Normal, Uniform

_NEW: dict[str, Distribution] = {
    "randn": Normal(),
    "randn_like": Normal(),
    "rand": Uniform(),
    "rand_like": Uniform(),
}
_EMPTY = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
_FAR = 6.0  # standard deviations, beyond which a bound cuts nothing
_IS_META = Tensor.is_meta.__get__  # type: ignore[attr-defined]  # a property, of which PyTorch's types say bool


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

    What goes into a Python function such as this package's trunc_normal_ is told too: it asks unseen.

    Args:
        tell: what each is passed to.
        questions: other attributes that count, by their getters.
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
