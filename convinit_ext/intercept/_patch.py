"""The functions of torch.nn.init, answered by the open block of the thread that calls them.

Only some of them call a TorchFunctionMode; others draw into temporaries, or from randperm. So while a block
is open in any thread they have other code, which asks its thread's innermost block, and runs the original
where that declines. The function objects stay the same: references taken earlier are answered too.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.compiler import is_compiling

from convinit_ext.intercept._signatures import DIAGONAL_FUNCTIONS, INIT_FUNCTIONS, MATRIX_FUNCTIONS

# Fills for a function of this name with all these arguments; returns None to decline.
Handler: TypeAlias = Callable[[str, tuple[Any, ...]], Tensor | None]


class _Handlers(threading.local):
    stack: tuple[Handler, ...] = ()  # the innermost block's last


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
    name: getattr(torch.nn.init, name) for name in (*INIT_FUNCTIONS, *MATRIX_FUNCTIONS, *DIAGONAL_FUNCTIONS)
}
_patched_codes = {name: _patched_code(function) for name, function in _functions.items()}
originals = {
    name: FunctionType(function.__code__, function.__globals__, name, function.__defaults__)
    for name, function in _functions.items()
}
handlers = _Handlers()
_lock = threading.Lock()
_num_open = 0  # in all threads


def push(handler: Handler) -> None:
    """Have this handler asked first, in this thread, until `pop`."""
    global _num_open
    with _lock:
        _num_open += 1
        if _num_open == 1:
            for name, function in _functions.items():
                function.__code__ = _patched_codes[name]
    handlers.stack += (handler,)


def pop() -> None:
    """Forget this thread's last handler. After the last of all threads the functions are as they were."""
    global _num_open
    handlers.stack = handlers.stack[:-1]
    with _lock:
        _num_open -= 1
        if _num_open == 0:
            for name, function in _functions.items():
                function.__code__ = originals[name].__code__


def answer(name: str, *args: Any) -> Tensor:
    """Do what a function of torch.nn.init was called to do."""
    if not is_compiling() and handlers.stack:
        filled = handlers.stack[-1](name, args)
        if filled is not None:
            return filled
    result: Tensor = originals[name](*args)
    return result
