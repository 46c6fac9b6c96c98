"""A model's parameters and buffers by canonical name, each with every place it is held in; tied ones found.

It reads names, types and memory layouts, and changes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

from convinit_ext.keys import canonical_name

Place: TypeAlias = tuple[nn.Module, str]

_WRAPPERS = (DistributedDataParallel, DataParallel)


@dataclass(slots=True, eq=False)
class Node:
    """A module of the model: its path as PyTorch spells it, its canonical one, and the modules around it."""

    module: nn.Module
    path: str
    canonical: str
    parents: tuple[nn.Module, ...]


@dataclass(slots=True, eq=False)
class Held:
    """A parameter or buffer: the tensor, its first path and its name, and all the places that hold it."""

    tensor: Tensor
    path: str
    name: str
    node: Node
    places: list[Place] = field(default_factory=list)


def modules(model: nn.Module) -> Iterator[Node]:
    """Every module once, in the order of named_modules(); `module` of DDP or DataParallel adds no segment."""
    seen: set[int] = set()
    pending = [Node(model, "", "", ())]
    while pending:
        node = pending.pop()
        if id(node.module) in seen:
            continue
        seen.add(id(node.module))
        yield node
        parents = (*node.parents, node.module)
        wrapper = isinstance(node.module, _WRAPPERS)
        for child, module in reversed(node.module._modules.items()):
            if module is not None:
                canonical = node.canonical if wrapper and child == "module" else _join(node.canonical, child)
                pending.append(Node(module, _join(node.path, child), canonical, parents))


def parameters(model: nn.Module) -> list[Held]:
    """Every parameter object once, under the first name that named_parameters() gives it.

    Raises:
        ValueError: parameters that are not there yet (lazy modules), or two that share a canonical name.
    """
    held = _held((node, node.module._parameters) for node in modules(model))
    lazy = [each.path for each in held if is_lazy(each.tensor)]
    if lazy:
        raise ValueError(
            f"parameters without a shape yet: {', '.join(lazy)}; run their lazy modules on an input first"
        )
    _check_names(held)
    return held


def buffers(model: nn.Module) -> list[Held]:
    """Every buffer object once, under its first path."""
    return _held((node, node.module._buffers) for node in modules(model))


def _held(tensors: Iterable[tuple[Node, Mapping[str, Tensor | None]]]) -> list[Held]:
    found: dict[int, Held] = {}
    for node, named in tensors:
        for leaf, tensor in named.items():
            if tensor is None:
                continue
            if id(tensor) not in found:
                path = _join(node.path, leaf)
                found[id(tensor)] = Held(tensor, path, _join(node.canonical, leaf), node)
            found[id(tensor)].places.append((node.module, leaf))
    return list(found.values())


def _check_names(held: list[Held]) -> None:
    first: dict[str, Held] = {}
    for each in held:
        try:
            each.name = canonical_name(each.name)
        except ValueError as error:
            raise ValueError(f"parameter {each.path!r}: {error}") from error
        if each.name in first:
            raise ValueError(
                f"parameters {first[each.name].path!r} and {each.path!r} are both named {each.name!r} once "
                "wrappers are removed, and would get the same values; rename one"
            )
        first[each.name] = each


def tied(held: list[Held]) -> list[list[Held]]:
    """Groups of parameters that are the same memory seen the same way; the first of each is the one to fill.

    Raises:
        ValueError: two parameters that share a part of their memory, or see it in different ways.
    """
    groups: dict[object, list[Held]] = {}
    for each in held:
        groups.setdefault(_memory(each.tensor), []).append(each)
    by_storage: dict[int, list[Held]] = {}
    for group in groups.values():
        tensor = group[0].tensor
        if tensor.numel():
            by_storage.setdefault(tensor.untyped_storage()._cdata, []).append(group[0])
    for sharing in by_storage.values():
        _check_apart(sharing)
    return list(groups.values())


def _memory(tensor: Tensor) -> object:
    if tensor.numel() == 0:
        return id(tensor)  # no element, so nothing to share
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _check_apart(held: list[Held]) -> None:
    """That views of one storage follow each other; views that interleave without meeting are refused too."""
    ordered = sorted((*_span(each.tensor), each.path) for each in held)
    for (_, end, path), (start, _, other) in itertools.pairwise(ordered):
        if start < end:
            raise ValueError(
                f"parameters {path!r} and {other!r} overlap in memory, and only one of them can be filled; "
                "tie them fully (the same shape and strides) or give each its own memory"
            )


def _span(tensor: Tensor) -> tuple[int, int]:
    """First byte and the byte after the last, from the start of the storage."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = int(tensor.storage_offset())
    return start * tensor.element_size(), (start + last + 1) * tensor.element_size()


def _join(prefix: str, segment: str) -> str:
    return f"{prefix}.{segment}" if prefix else segment
