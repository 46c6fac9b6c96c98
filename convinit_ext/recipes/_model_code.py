"""What a model's own init code makes of one parameter, asked on a copy so that the model stays as it is.

transformers' models have `_init_weights(module)`, timm's modules and many others `reset_parameters()` or
`init_weights()`, torchtitan's a dict `_param_init`. Then comes what a constructor makes. No other package is
imported.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _len_torch_dispatch_stack as _dispatch_modes
from torch.utils._python_dispatch import TorchDispatchMode

from convinit_ext._engine import share_memory
from convinit_ext.distributions import Constant, Distribution
from convinit_ext.recipes._constructor import constructed_start
from convinit_ext.recipes._derived import Preset, Redrawn
from convinit_ext.recipes._foreign_code import (
    WhereMeta,
    cuts,
    drawing,
    filling,
    others_kept,
    seeded,
    written_by,
)
from convinit_ext.recipes._known import OWN_BIAS
from convinit_ext.recipes._rules import Rule
from convinit_ext.recipes._target import Target

_MOST = 1 << 24  # elements that are made to look at their values
_SMALL = 1 << 16  # elements of another parameter of the module
_METHODS = ("reset_parameters", "init_weights")  # of the module itself, without arguments
_DEVICE = tuple(getattr(Tensor, name).__get__ for name in ("device", "is_cpu", "is_cuda"))

_Code = Callable[[Any, Any], object]


def shown_copy(module: nn.Module) -> nn.Module:
    """Return a copy that can be written without harm: parameters on the meta device, buffers on the CPU."""
    shown = object.__new__(type(module))
    shown.__dict__.update(module.__dict__)
    shown.__dict__.update(  # by no attribute: those of a compiled module are its original's
        _parameters={
            leaf: None if each is None else nn.Parameter(_like(each, "meta"), each.requires_grad)
            for leaf, each in module._parameters.items()
        },
        _buffers={
            leaf: None if each is None else _like(each, "cpu") for leaf, each in module._buffers.items()
        },
        _modules={leaf: None if each is None else shown_copy(each) for leaf, each in module._modules.items()},
        _non_persistent_buffers_set={*module._non_persistent_buffers_set},
    )
    return shown


def _like(tensor: Tensor, device: str, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device=device)


def by_model_code(target: Target) -> Distribution | Preset | Redrawn | None:
    """Return what the model's own code starts a parameter from; None where it says nothing.

    That is a distribution where the code ends with an in-place function of torch's, the values where it
    computes the same ones twice, and otherwise how to draw them again. Where it says nothing, the model's
    constructor is asked.
    """
    if target.plain is not None or _dispatch_modes():
        return None
    if not target.tensor.numel():
        return Constant(0.0)
    found: Distribution | Preset | Redrawn | None = _by_outer_reset(target) or _first(target, _asked)
    return constructed_start(target) if found is None else found


def _by_outer_reset(target: Target) -> Distribution | Preset | None:
    """Return what reset_parameters() of the module around leaves, containers aside: it is called last.

    Not of a model that says so by `_init_weights` or `_param_init`.
    """
    chain: list[Any] = [target.module]  # from the inside
    for each in reversed(target.parents):
        chain.append(each)
        if not _is_torchs(type(each)):
            break
    outer = chain[-1]
    function = getattr(type(outer), "reset_parameters", None)
    is_known = "_param_init" in vars(target.module) or any(
        hasattr(each, "_init_weights") for each in (target.module, *target.parents)
    )
    if outer is target.module or is_known or not callable(function) or _is_torchs(function):
        return None

    def code(shown: Any, _: object) -> None:
        copied = around = shown_copy(outer)
        for holder, child in itertools.pairwise(reversed(chain)):
            name = next(name for name, each in holder._modules.items() if each is child)
            if child is target.module:
                around._modules[name] = shown
            else:
                around = around._modules[name]  # type: ignore[assignment]  # a copy of what is there
        copied.reset_parameters()  # type: ignore[operator]  # asked above

    try:
        found = _asked(target, code)
    except Exception:  # foreign code
        return None
    return None if isinstance(found, Redrawn) else found


def _is_torchs(code: Any) -> bool:
    return bool(code.__module__.startswith("torch."))


def computed_table(target: Target) -> Preset | None:
    """Return a parameter's values if the model's own code computes them; None of drawn and constant ones.

    Nothing is drawn to find out, however large the parameter.
    """

    def asked(target: Target, code: _Code) -> Preset | None:
        with drawing():
            writes, _ = _written(target, code, "meta")
        found = _values(target, code) if writes and writes[-1] is None else None
        return found if isinstance(found, Preset) else None

    found: Preset | None = None if target.plain is not None or _dispatch_modes() else _first(target, asked)
    return found


def _first(target: Target, ask: Callable[[Target, _Code], Any]) -> Any:
    """Return the first answer of a model's own code. What fails says nothing: it is foreign code."""
    for code in _codes(target):
        for each in (code, _in_float32(code)) if _is_narrow(target.tensor) else (code,):
            with suppress(Exception):
                found = ask(target, each)
                if found is not None:
                    return found
                break
    return None


def _is_narrow(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.itemsize < 4


def _in_float32(code: _Code) -> _Code:
    """Return code that sees the module's other narrow parameters in float32: PyTorch has no narrow QR."""

    def call(shown: nn.Module, parent: nn.Module | None) -> None:
        for leaf, each in shown._parameters.items():
            if each is not None and _is_narrow(each):
                wide = _like(each, each.device.type, torch.float32)
                shown._parameters[leaf] = nn.Parameter(wide, each.requires_grad)
        code(shown, parent)

    return call


def _codes(target: Target) -> Iterator[_Code]:
    """Yield the ways to ask: functions of a copy of the module, and of one of the module around it."""
    module, leaf = target.module, target.parameter
    table = module.__dict__.get("_param_init")
    if isinstance(table, dict) and leaf in table:
        yield lambda shown, _: table[leaf](shown._parameters[leaf])
    around = (module, *reversed(target.parents))
    model: Any = next((each for each in around if callable(getattr(each, "_init_weights", None))), None)

    def by_model(shown: nn.Module, parent: nn.Module | None) -> None:
        around = () if parent is None or model is module else (parent,)
        for each in (shown, *around):  # Whisper's encoder writes its embed_positions
            for inner in each.children():
                _mark_initialised(inner)
            model._init_weights(each)

    if model is not None:
        yield by_model
    for name in _METHODS:
        function = getattr(type(module), name, None)  # torch.nn's own do not know what a derived type adds
        if callable(function) and not _is_torchs(function):
            yield lambda shown, _, name=name: getattr(shown, name)()  # type: ignore[misc]  # a default is no part of its type


def _mark_initialised(module: nn.Module) -> None:
    """Say that a module has been initialised, as transformers does of those inside before those around."""
    for each in module.modules():
        each._is_hf_initialized = True  # type: ignore[assignment]  # no tensor


def _asked(target: Target, code: _Code) -> Distribution | Preset | Redrawn | None:
    with drawing():
        for device in ("meta", "cpu"):  # on the meta device it costs nothing, and trunc_normal_ does nothing
            if device == "cpu" and target.tensor.numel() > _MOST:
                return None
            writes, _ = _written(target, code, device)
            if writes and writes[-1] is not None:
                return writes[-1]
    return _values(target, code) if writes else None


def _values(target: Target, code: _Code) -> Preset | Redrawn | None:
    """Return what code computes, or how to draw it again if the seed of the global generators decides it."""
    if target.tensor.numel() > _MOST:
        return None

    def make() -> Tensor:
        return _written(target, code, "cpu")[1]

    first, second = seeded(0, make), seeded(1, make)
    if first.shape != target.tensor.shape or not first.isfinite().all():  # NaN is what nothing is written to
        return None
    if torch.equal(first, second):
        return Preset(first)
    return Redrawn(type(target.module).__qualname__, make) if torch.equal(first, seeded(0, make)) else None


def _written(target: Target, code: _Code, device: str) -> tuple[list[Distribution | None], Tensor]:
    """Return what code writes into a parameter of a copy, call by call, and what is there then.

    Each is the distribution of the whole parameter, None where it is none or of a part only.
    """
    leaf, given = target.parameter, target.tensor
    shown, parent = _shown_pair(target)
    memory = _like(given, device, torch.float32 if _is_narrow(given) else None)  # which it is the rounding of
    if device == "cpu":
        _make_small_ones(shown)
        memory.fill_(torch.nan if memory.is_floating_point() else 0)
    shown._parameters[leaf] = nn.Parameter(memory, given.requires_grad)
    with others_kept(parent or shown, never=given):
        with _Watching(memory) as watching, WhereMeta(watching.forget, _DEVICE):
            code(shown, parent)
        left = shown._parameters[leaf]
        if left is not None and not _is_view_of(left, memory):  # another tensor in its place, or as its .data
            return [None], left.detach().clone()
    return watching.writes, memory


def _is_view_of(tensor: Tensor, memory: Tensor) -> bool:
    """Whether a tensor sees all of the memory just as another one does."""
    places = [(each.storage_offset(), each.shape, each.stride()) for each in (tensor, memory)]
    return share_memory(tensor, memory) and places[0] == places[1]


def _make_small_ones(shown: nn.Module) -> None:
    """Put a copy's small parameters on the CPU: code may ask one for its device, and make tensors there."""
    for leaf, each in shown._parameters.items():
        if each is not None and each.numel() <= _SMALL:
            shown._parameters[leaf] = nn.Parameter(_like(each, "cpu"), each.requires_grad)


def _shown_pair(target: Target) -> tuple[Any, nn.Module | None]:
    """Return copies of a parameter's module and, which holds it, of the module around it, if any."""
    parent: Any = target.parents[-1] if target.parents else None
    for name, each in parent._modules.items() if parent is not None else ():
        if each is target.module:
            shown = shown_copy(parent)
            return shown._modules[name], shown
    return shown_copy(target.module), None


class _Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's
    """Sees what is written into one tensor's memory."""

    def __init__(self, memory: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's
        self._memory = memory
        self.writes: list[Distribution | None] = []

    def forget(self, tensor: Tensor) -> None:
        """Forget what was written if code asks whether this is on the meta device: it may stop there."""
        if tensor.is_meta and share_memory(tensor, self._memory):
            self.writes.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        written = [each for each in written_by(func, args, kwargs) if self._is_of_it(each)]
        for each in written:  # also by out=, or one of a list
            is_whole = each.numel() == self._memory.numel()
            self.writes.append(filling(func, args[1:]) if is_whole else None)
        is_read = self.writes and args and not written and self._is_of_it(args[0])
        if is_read and cuts(func, args[1:], self.writes[-1]):
            self.writes.append(None)
        return func(*args, **kwargs)

    def _is_of_it(self, given: Any) -> bool:
        return isinstance(given, Tensor) and share_memory(given, self._memory)


# For what no other rule of a ready-made recipe knows, or what one marks as unknown.
MODEL_CODE = Rule(
    by_model_code,  # type: ignore[arg-type]  # something, where `where` holds
    where=lambda target: by_model_code(target) is not None,
    label="the model's own init code",
    allow_unused=True,
)

# Of every ready-made recipe, and after all rules of a list that holds one.
LAST: tuple[Rule, ...] = (MODEL_CODE, OWN_BIAS)
