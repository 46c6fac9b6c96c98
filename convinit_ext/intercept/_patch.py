"""The functions of torch.nn.init, answered by the innermost open block of the task that calls them.

Only some of them call a TorchFunctionMode; others draw into temporaries, or from randperm. So while a block
is open anywhere they have other code, which asks the block of its own task and thread, and runs the original
where that declines. The function objects stay the same: references taken earlier are answered too.

An interrupt may come between any two steps of an entry or an exit. So what is open is not counted: it is the
handlers that are alive, each held by its block alone, and every step here sets the functions by that anew.
"""

from __future__ import annotations

import inspect
import threading
from types import CodeType, FunctionType
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.compiler import is_compiling

from convinit_ext._engine import BLOCKS, on_this_thread
from convinit_ext.intercept._signatures import FIXED_FUNCTIONS, INIT_FUNCTIONS, MATRIX_FUNCTIONS


class Handler:
    """Fills for the functions of torch.nn.init, from `push` until `pop` or until nothing holds it."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.is_open = False

    def answer(self, name: str, args: tuple[Any, ...]) -> Tensor | None:
        """Fill for a function of this name with all these arguments; return None to decline."""
        raise NotImplementedError  # of each kind of block its own


def _patched_code(function: FunctionType) -> CodeType:
    """Return code with the function's parameters that calls `answer`. It says that it is at the function's
    place in the source, where inspect and TorchScript look for it.
    """
    parameters = ", ".join(inspect.signature(function).parameters)
    text = (
        f"def patched({parameters}): from convinit_ext.intercept._patch import answer; "
        f"return answer({function.__name__!r}, {parameters})"
    )
    made: dict[str, Any] = {}
    exec(compile(text, "<convinit_ext.intercept>", "exec"), made)
    code, place = made["patched"].__code__, function.__code__
    patched: CodeType = code.replace(
        co_name=place.co_name, co_filename=place.co_filename, co_firstlineno=place.co_firstlineno
    )
    return patched


_functions: dict[str, FunctionType] = {
    name: getattr(torch.nn.init, name) for name in (*INIT_FUNCTIONS, *MATRIX_FUNCTIONS, *FIXED_FUNCTIONS)
}
_patched_codes = {name: _patched_code(function) for name, function in _functions.items()}
originals = {
    name: FunctionType(function.__code__, function.__globals__, name, function.__defaults__)
    for name, function in _functions.items()
}
_lock = threading.RLock()  # a handler may end, and a signal come, while it is held
_open: set[ref[Handler]] = set()  # in all threads


def push(handler: Handler) -> None:
    """Have this handler asked first, in this thread and task, until `pop`."""
    handler.is_open = True
    reference = ref(handler, _forget)
    _open.add(reference)
    _set_codes()
    BLOCKS.set((*(each for each in BLOCKS.get() if _is_open(each)), reference))


def pop(handler: Handler) -> None:
    """Forget a handler, whichever others were pushed since, and however far its `push` came."""
    handler.is_open = False
    _forget(*(each for each in _open.copy() if each() is handler))
    BLOCKS.set(tuple(each for each in BLOCKS.get() if _is_open(each)))


def handlers() -> list[Handler]:
    """Return the open handlers of this thread and task, the innermost one last."""
    here = threading.get_ident()
    found = [reference() for reference in BLOCKS.get()]
    return [each for each in found if each is not None and each.is_open and each.thread == here]


def innermost() -> Handler | None:
    """Return the last of `handlers`, if there are any."""
    for reference in reversed(BLOCKS.get()):
        handler: Handler | None = reference()
        if handler is not None and handler.is_open and handler.thread == threading.get_ident():
            return handler
    return None


def _is_open(reference: ref[Handler]) -> bool:
    handler = reference()
    return handler is not None and handler.is_open


def _forget(*references: ref[Handler]) -> None:
    _open.difference_update(references)
    _set_codes()


def _set_codes() -> None:
    """Give the functions the code that they have to have now."""
    with _lock:
        for name, function in _functions.items():  # each by itself: the set may change in between
            function.__code__ = _patched_codes[name] if _open else originals[name].__code__


def answer(name: str, *args: Any) -> Tensor:
    """Do what a function of torch.nn.init was called to do."""
    if not is_compiling():
        handler = innermost()
        filled = None if handler is None else handler.answer(name, args)
        if filled is not None:
            return filled
        if not _open:  # an interrupt kept the functions from getting their own code
            _set_codes()
    with on_this_thread():
        result: Tensor = originals[name](*args)
    return result
