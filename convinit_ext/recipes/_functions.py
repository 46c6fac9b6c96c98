"""A user's functions of a Target: asked while a model is planned, and kept from changing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch._C import DisableTorchFunction
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from convinit_ext._engine import listed, share_memory
from convinit_ext.recipes._foreign_code import written_by
from convinit_ext.recipes._target import Target

_OWN = __name__.partition(".")[0] + "."  # begins the names of this package's modules
_PARTS = ("_parameters", "_buffers", "_modules")  # of a module's attributes
_EXPORTS = frozenset(("numpy", "__array__", "__dlpack__"))
_STORAGES = frozenset(("untyped_storage", "storage"))
# Of tensors; the dispatcher sees none of them.
_SETTERS = frozenset(("__set__", "requires_grad_", "rename_", "apply_", "map_", "map2_", "share_memory_"))


def is_function(value: object) -> bool:
    """Return whether a value is there to be called with a name or a Target: no type, and no module.

    >>> is_function(str.upper), is_function(str), is_function(nn.Identity())
    (True, False, False)
    """
    return callable(value) and not isinstance(value, type | nn.Module)


def is_own(function: Callable[..., Any]) -> bool:
    """Return whether a function is this package's, which writes to no tensor."""
    module = getattr(function, "__module__", None)
    return module is not None and module.startswith(_OWN)


def call(function: Callable[[Target], Any], target: Target) -> Any:
    """Return what a rule's function says of a parameter or buffer.

    One that is not this package's sees a tensor on the meta device, of the same shape, dtype and attributes,
    in the target and in its module: planning changes nothing, whatever the function writes.

    Raises:
        ValueError: it says a tensor on the meta device.
        RuntimeError: it writes to another tensor of the model, which stays; what else it changes `unchanged`
            undoes.
    """
    if is_own(function):
        return function(target)
    leaf, shown = target.parameter, _shown(target.tensor)
    holders = (target.module._parameters, target.module._buffers)
    model: nn.Module = (*target.parents, target.module)[0]
    known = _models.get()
    if known is not None and id(model) not in known:
        known[id(model)] = _Held(model)
    held = [each for each in holders if isinstance(each, dict) and each.get(leaf) is target.tensor]
    for each in held:
        each[leaf] = shown
    try:
        plain = None if target.plain is None else replace(target.plain, tensor=shown)
        with _Accesses(model), _Writes(model):
            found = function(replace(target, tensor=shown, plain=plain))
    finally:
        for each in held:
            each[leaf] = target.tensor
    if isinstance(found, Tensor) and found.is_meta:
        raise ValueError(
            "its tensor is on the meta device, as target.tensor is while a model is planned, and has no "
            "values; accepted are distributions, and tensors made elsewhere: torch.zeros(target.tensor.shape)"
        )
    return found


def named(error: Exception, about: str) -> Exception:
    """Return the error of a user's function with what it was asked about before its text.

    A TypeError, AttributeError, LookupError or RuntimeError stays one, and any other becomes a ValueError:
    these take a text alone, which an error of the user's own need not.
    """
    kinds = (TypeError, AttributeError, RuntimeError, ValueError, LookupError)
    kind = next((each for each in kinds if isinstance(error, each)), None)
    says_little = kind in (None, LookupError) or not str(error)
    return (kind or ValueError)(f"{about}: {repr(error) if says_little else error}")


def _shown(tensor: Tensor) -> Tensor:
    meta = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    if isinstance(tensor, nn.Parameter):
        meta = nn.Parameter(meta, tensor.requires_grad)
    meta.__dict__.update(tensor.__dict__)
    return meta


class _Writes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's has no types
    """Keeps a function from writing to the memory of a model's parameters and buffers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self._model = model

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for each in written_by(func, args, kwargs):
            if not each.is_meta:
                _check_not_of(self._model, each)
        return func(*args, **kwargs)


class _Accesses(TorchFunctionMode):
    """Keeps a function from giving a model's parameters and buffers other memory, as by bias.data = ..., and
    shows a copy of theirs to what PyTorch does not see, as NumPy."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._copies: dict[tuple[str, int], Any] = {}  # of storages: tensors that share one share its copy

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _SETTERS:
            _check_not_of(self._model, args[0])
        if name in _EXPORTS and _name_in(self._model, args[0]) is not None:
            args = (args[0].clone(), *args[1:])
        found = func(*args, **(kwargs or {}))
        if name in _STORAGES and _name_in(self._model, args[0]) is not None:
            found = self._copies.setdefault((name, found._cdata), found.clone())
        return found


def _check_not_of(model: nn.Module, tensor: Tensor) -> None:
    name = _name_in(model, tensor)
    if name is not None:
        raise RuntimeError(
            f"it writes to {name!r} while the model is planned; accepted are functions that return what "
            "target.tensor is to hold"
        )


def _name_in(model: nn.Module, tensor: Tensor) -> str | None:
    """Return the name of the parameter or buffer whose memory a tensor shares."""
    with DisableTorchFunction():
        held = (*model.named_parameters(), *model.named_buffers())
        return next((name for name, own in held if _share_memory(tensor, own)), None)


def _share_memory(a: Tensor, b: Tensor) -> bool:
    a, b = (getattr(each, "_local_tensor", each) for each in (a, b))  # of a DTensor
    return a is b or share_memory(a, b)


_models: ContextVar[dict[int, _Held] | None] = ContextVar("_models", default=None)


@contextmanager
def unchanged() -> Iterator[None]:
    """Put back, at the end of the block, what rules' functions changed inside of their models' modules.

    RuntimeError says that it was a parameter, buffer, module or hook, or a module's type. Of other
    attributes, which may be caches, nothing is said.
    """
    models: dict[int, _Held] = {}
    token = _models.set(models)
    changed: list[str] = []
    try:
        yield
    finally:
        _models.reset(token)
        changed = [path for held in models.values() for path in held.put_back()]
    if changed:
        raise RuntimeError(
            f"functions of rules changed {listed(map(repr, changed))} while the model was planned, which is "
            "undone; accepted are functions that return what target.tensor is to hold"
        )


@contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """Put back, at the end of the block, what it changed inside of a model's modules."""
    held = _Held(model)
    try:
        yield
    finally:
        held.put_back()


class _Held:
    """What a model's modules hold, and the attributes of its tensors."""

    def __init__(self, model: nn.Module) -> None:
        self._types = [(path, each, type(each)) for path, each in model.named_modules()]
        self._facts: list[tuple[str, str, dict[Any, Any], dict[Any, Any]]] = []
        self._lists: list[tuple[list[Any], list[Any]]] = []
        for path, module, _ in self._types:
            facts = vars(module)
            self._facts.append((path, "", facts, {**facts}))
            self._lists += [(each, [*each]) for each in facts.values() if isinstance(each, list)]
            for name, each in facts.items():
                if isinstance(each, dict) and (name in _PARTS or name.endswith("_hooks")):
                    self._facts.append((path, name, each, {**each}))
        tensors = (*model.named_parameters(), *model.named_buffers())
        self._facts += [(path, "", vars(each), {**vars(each)}) for path, each in tensors]
        self._refs = [ref(each) for _, each in tensors]  # for which torch.utils.swap_tensors refuses them

    def put_back(self) -> list[str]:
        """Make all as it was; return what had changed of the model, but for plain attributes."""
        changed = []
        self._refs.clear()
        for path, module, kind in self._types:
            if type(module) is not kind:
                module.__class__ = kind
                changed.append(f"{path}.__class__")
        for path, attribute, facts, before in self._facts:
            names = [
                name for name in {**before, **facts} if facts.get(name, self) is not before.get(name, self)
            ]
            if names or list(facts) != list(before):
                facts.clear()
                facts.update(before)
            if attribute:
                leaves = names if attribute in _PARTS else [attribute] * bool(names)
                changed += [f"{path}.{leaf}" for leaf in leaves]
        for items, before_items in self._lists:  # recurrent modules keep a second list of their parameters
            items[:] = before_items
        return [each.removeprefix(".") for each in changed]
