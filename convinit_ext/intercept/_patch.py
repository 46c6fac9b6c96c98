"""Makes functions of torch.nn.init ask who wants to answer them, in the thread that asked for it.

Only some hand themselves to a TorchFunctionMode; others draw into temporaries, or again and again, or from
randperm. So while anybody listens, these functions have another code object, which asks the listener of its
thread and else runs the original. The function objects stay the same: references taken earlier are answered.
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

# Answers a function, given by name, or says None: then the original runs.
Listener: TypeAlias = Callable[[str, tuple[Any, ...]], "Tensor | None"]

NAMES = (
    "uniform_",
    "normal_",
    "trunc_normal_",
    "xavier_uniform_",
    "xavier_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "orthogonal_",
    "sparse_",
    "eye_",
    "dirac_",
)
# The code runs as torch.nn.init's, with the defaults of the function that it stands in for. It says that it
# is at that function's place, so that inspect and TorchScript find the source there; one line, its first.
_TEMPLATE = (
    "def {name}({parameters}): "
    "from convinit_ext.intercept._patch import answer; return answer({name!r}, {parameters})"
)


def _asking_code(function: FunctionType) -> CodeType:
    parameters = ", ".join(inspect.signature(function).parameters)
    made: dict[str, Any] = {}
    text = _TEMPLATE.format(name=function.__name__, parameters=parameters)
    exec(compile(text, "<convinit_ext.intercept>", "exec"), made)
    code: CodeType = made[function.__name__].__code__
    place = function.__code__
    return code.replace(co_filename=place.co_filename, co_firstlineno=place.co_firstlineno)


_functions: dict[str, FunctionType] = {name: getattr(torch.nn.init, name) for name in NAMES}
_asking = {name: _asking_code(function) for name, function in _functions.items()}
_originals = {
    name: FunctionType(function.__code__, function.__globals__, name, function.__defaults__)
    for name, function in _functions.items()
}


class _Listeners(threading.local):
    def __init__(self) -> None:
        self.stack: list[Listener] = []


_listeners = _Listeners()
_lock = threading.Lock()
_num_listeners = 0  # of all threads


def listen(listener: Listener) -> None:
    """Ask this listener first, in this thread, until `stop`."""
    global _num_listeners
    with _lock:
        _num_listeners += 1
        if _num_listeners == 1:
            for name, function in _functions.items():
                function.__code__ = _asking[name]
    _listeners.stack.append(listener)


def stop() -> None:
    """Forget this thread's last listener. With the last of all threads the functions are as before."""
    global _num_listeners
    _listeners.stack.pop()
    with _lock:
        _num_listeners -= 1
        if _num_listeners == 0:
            for name, function in _functions.items():
                function.__code__ = _originals[name].__code__


def answer(name: str, *args: Any) -> Tensor:
    """What the functions call."""
    if not is_compiling() and _listeners.stack:
        answered = _listeners.stack[-1](name, args)
        if answered is not None:
            return answered
    result: Tensor = _originals[name](*args)
    return result
