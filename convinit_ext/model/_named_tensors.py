"""A model's parameters and buffers by canonical name, each with every place it is held in; tied ones found.

It reads names, types and memory layouts, and changes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch._C import _has_storage
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from convinit_ext._engine import PLAIN, listed, share_memory, span, storage_of
from convinit_ext.keys import WRAPPERS, canonical_name
from convinit_ext.sharding import local_of, logical_shape

Place: TypeAlias = tuple[nn.Module, str]

# Modules that hold a model under a word that could be anyone's: by type, the word. Of packages that may be
# missing, by the package and the type's name.
_WRAPPERS = ((DistributedDataParallel, "module"), (DataParallel, "module"), (AveragedModel, "module"))
_NAMED_WRAPPERS = {
    ("peft", "PeftModel"): "base_model",
    ("peft", "PeftMixedModel"): "base_model",
    ("peft", "BaseTuner"): "model",
    ("peft", "BaseTunerLayer"): "base_layer",
    ("peft", "AuxiliaryTrainingWrapper"): "original_module",
    ("peft", "ModulesToSaveWrapper"): "original_module",
    ("lightning", "_FabricModule"): "_original_module",
    ("lightning_fabric", "_FabricModule"): "_original_module",
    ("torch", "FunctionalModule"): "stateless_model",
    ("torch", "FunctionalModuleWithBuffers"): "stateless_model",
    ("torch", "AOTModule"): "orig_module",
    ("deepspeed", "DeepSpeedEngine"): "module",
    ("megatron", "Float16Module"): "module",
    ("megatron", "_BaseDataParallel"): "module",
}


@lru_cache(maxsize=1024)
def wrapped_child(kind: type) -> str | None:
    """Return the child of a module type that is the model inside a wrapper, and adds no segment to names."""
    for wrapper, child in _WRAPPERS:
        if issubclass(kind, wrapper):
            return child
    known = (_NAMED_WRAPPERS.get((each.__module__.partition(".")[0], each.__name__)) for each in kind.__mro__)
    return next(filter(None, known), None)


def with_state(model: nn.Module) -> nn.Module:
    """Return the module whose state_dict() has all that the model holds.

    That of Fabric's wrapper leaves out what a strategy wraps the model in, and what that gathers.
    """
    own_type: Any = type(model)
    outer: Any = model
    return outer._forward_module if wrapped_child(own_type) == "_original_module" else model


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside DDP, FSDP, torch.compile and activation checkpointing."""
    names = ("module",) if isinstance(model, DistributedDataParallel | DataParallel) else WRAPPERS
    inner = next((model._modules[name] for name in names if name in model._modules), None)
    return model if inner is None else unwrapped(inner)


@dataclass(slots=True, eq=False)
class NamedModule:
    """A module of the model: its path as PyTorch spells it, its canonical one, and the modules around it."""

    module: nn.Module
    path: str
    canonical: str
    parents: tuple[nn.Module, ...]


@dataclass(slots=True, eq=False)
class NamedTensor:
    """A parameter or buffer: the tensor, its first path and its name, and all the places that hold it.

    It `is_apart` where it should be tied to another one, and is not. It `is_plain` where check_parameters has
    found it whole, contiguous and in memory that the engine may go straight to, as in most models.
    """

    tensor: Tensor
    path: str
    name: str
    node: NamedModule
    places: list[Place] = field(default_factory=list)
    is_apart: bool = False
    is_plain: bool = False

    @property
    def described(self) -> str:
        """Return what errors that list several say of each: "fc.weight [4, 8] of Linear"."""
        return f"{self.path} {list(logical_shape(self.tensor))} of {type(self.node.module).__name__}"

    @property
    def persistent(self) -> bool:
        """Of a buffer: whether a state dict has it."""
        return any(leaf not in module._non_persistent_buffers_set for module, leaf in self.places)


Group: TypeAlias = tuple[NamedTensor, ...]  # that are tied: first the one to fill


def modules(model: nn.Module, again: bool = False) -> Iterator[NamedModule]:
    """Yield every module in the order of named_modules(), or with `again` for every place that holds it.

    What leads into a wrapped model adds no segment.
    """
    seen: set[int] = set()
    pending = [NamedModule(model, "", "", ())]
    while pending:
        node = pending.pop()
        if any(each is node.module for each in node.parents) if again else id(node.module) in seen:
            continue
        seen.add(id(node.module))
        yield node
        children = node.module._modules
        if not children:
            continue
        parents = (*node.parents, node.module)
        own_type: Any = type(node.module)
        wrapped = wrapped_child(own_type)
        same = node.path == node.canonical
        for child, module in reversed(children.items()):
            if module is None:
                continue
            path = join(node.path, child)
            inside = path if same else join(node.canonical, child)
            canonical = node.canonical if child == wrapped else inside
            pending.append(NamedModule(module, path, canonical, parents))


def parameters(nodes: Iterable[NamedModule], lazy: bool = False) -> list[NamedTensor]:
    """Return every parameter once, under the first name that named_parameters() gives it.

    ValueError says that two share a canonical name or, unless `lazy` leaves them out, are not there yet.
    """
    nodes = list(nodes)
    held = _held(nodes, "_parameters")
    if lazy:
        held = [each for each in held if not is_lazy(each.tensor)]
    else:
        _check_shapes(nodes)
    _check_names(held)
    return held


def buffers(nodes: Iterable[NamedModule]) -> list[NamedTensor]:
    """Every buffer object once, under its first path."""
    return _held(nodes, "_buffers")


def _held(nodes: Iterable[NamedModule], kind: str) -> list[NamedTensor]:
    found: dict[int, NamedTensor] = {}
    for node in nodes:
        for leaf, tensor in getattr(node.module, kind).items():
            if tensor is None:
                continue
            held = found.get(id(tensor))
            if held is None:
                path = join(node.path, leaf)
                name = path if node.path == node.canonical else join(node.canonical, leaf)
                found[id(tensor)] = NamedTensor(tensor, path, name, node, [(node.module, leaf)])
            else:
                held.places.append((node.module, leaf))
    return list(found.values())


def _check_shapes(nodes: Sequence[NamedModule]) -> None:
    absent = [
        join(node.path, leaf)
        for kind in ("_parameters", "_buffers")
        for node in nodes
        for leaf, tensor in getattr(node.module, kind).items()
        if type(tensor) not in PLAIN and tensor is not None and is_lazy(tensor)
    ]
    if absent:
        raise ValueError(
            f"parameters or buffers without a shape yet: {listed(absent)}; "
            "run their lazy modules on an input first"
        )


def _check_names(held: list[NamedTensor]) -> None:
    first: dict[str, NamedTensor] = {}
    for each in held:
        try:
            each.name = canonical_name(each.name)
        except ValueError as error:
            raise ValueError(f"parameter {each.path!r}: {error}") from error
        other = first.setdefault(each.name, each)
        if other is not each:
            raise ValueError(
                f"parameters {other.path!r} and {each.path!r} are both named {each.name!r} once "
                "wrappers are removed, and would get the same values; rename one"
            )


def every_place(model: nn.Module) -> dict[int, list[tuple[NamedModule, str]]]:
    """Return all places that hold each parameter and buffer, by the id of the tensor; many if it is tied.

    Also those that it has because its module is held in more than one place.
    """
    found: dict[int, list[tuple[NamedModule, str]]] = {}
    for node in modules(model, again=True):
        for leaf, tensor in (*node.module._parameters.items(), *node.module._buffers.items()):
            if tensor is not None:
                found.setdefault(id(tensor), []).append((node, leaf))
    return found


def every_name(model: nn.Module) -> dict[int, list[str]]:
    """Return the canonical names of all places, and those that a state dict has for them."""
    return {
        key: [
            canonical(join(path, leaf))
            for node, leaf in places
            for path in dict.fromkeys((node.canonical, node.path))
        ]
        for key, places in every_place(model).items()
    }


def canonical(name: str) -> str:
    """canonical_name, but where that leaves nothing the name as it is: a buffer may be called `module`."""
    try:
        return canonical_name(name)
    except ValueError:
        return name


def is_extra_state(key: str) -> bool:
    """Whether a state dict's key is what modules keep there beside tensors, by get_extra_state()."""
    return key.rpartition(".")[2] == "_extra_state"


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor is a view of one piece of memory, so that tied() can look at it."""
    local = local_of(tensor)
    is_dense = _has_storage(local) and local.layout is torch.strided
    return is_dense and not (local.is_nested or is_traceable_wrapper_subclass(local))


def memory_of(tensor: Tensor) -> int:
    """Return what tells a tensor's memory from others'; 0 of one without any, or without elements."""
    local = local_of(tensor)
    return storage_of(local) if local.numel() and has_memory(local) else 0


def tied(held: Sequence[NamedTensor]) -> list[Group]:
    """Return groups of parameters that are one memory seen the same way.

    Raises ValueError for two that share a part of their memory, or see it in different ways.
    """
    storages = [storage_of(each.tensor) if each.is_plain else _own_memory(each.tensor) for each in held]
    if len(set(storages)) == len(held):  # as in most models
        return [(each,) for each in held]
    by_storage: dict[int, list[NamedTensor]] = {}
    groups: dict[object, list[NamedTensor]] = {}
    for storage, each in zip(storages, held, strict=True):
        by_storage.setdefault(storage, []).append(each)
        groups.setdefault(view(each.tensor), []).append(each)
    for sharing in by_storage.values():
        if len(sharing) > 1:
            _check_apart({view(each.tensor): each for each in reversed(sharing)}.values())
    return list(map(tuple, groups.values()))


def _own_memory(tensor: Tensor) -> int:
    return memory_of(tensor) or id(tensor)  # of those without elements none is another


def view(tensor: Tensor) -> object:
    """Equal for tensors that are the same memory seen the same way; a conjugate view is another one."""
    return _own_memory(tensor), _seen(tensor)


def overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors with elements lie in the same bytes of one memory, as views may."""
    one, other = local_of(one), local_of(other)
    if not share_memory(one, other):
        return False
    (start, end), (first, last) = span(one), span(other)
    return start < last and first < end


def _seen(tensor: Tensor) -> object:
    """How a tensor sees its memory."""
    local = local_of(tensor)
    place = local.storage_offset(), local.shape, local.stride()
    return place, local.dtype, local.is_conj(), local.is_neg()


class Distinct:
    """Tells whether a tensor is the same memory, seen the same way, as one that was asked about before.

    They may be `detached`, new ones for the same memory as in a state dict; then that tells also which ones
    without elements are the same.

    >>> distinct, weight = Distinct(), torch.zeros(2)
    >>> distinct.is_new(weight), distinct.is_new(weight.detach()), distinct.is_new(weight[:1])
    (True, False, True)
    """

    def __init__(self, detached: bool = False) -> None:
        self._by_storage: dict[int, list[Tensor]] = {}
        self._is_detached = detached

    def is_new(self, tensor: Tensor) -> bool:
        storage = storage_of(local_of(tensor)) if self._is_detached else _own_memory(tensor)
        others = self._by_storage.setdefault(storage, [])
        seen = _seen(tensor) if others else None  # few tensors share their memory
        if any(seen == _seen(other) for other in others):
            return False
        others.append(tensor)
        return True


def _check_apart(held: Iterable[NamedTensor]) -> None:
    """That views of one storage follow each other; views that interleave without meeting are refused too."""
    ordered = sorted((*span(local_of(each.tensor)), each.path) for each in held)
    for (_, end, path), (start, _, other) in itertools.pairwise(ordered):
        if start < end:
            raise ValueError(
                f"parameters {path!r} and {other!r} overlap in memory, and only one of them can be filled; "
                "tie them fully (the same shape and strides) or give each its own memory"
            )


def join(prefix: str, segment: str) -> str:
    return f"{prefix}.{segment}" if prefix else segment
