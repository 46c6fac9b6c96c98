"""Tensors that a module holds in plain attributes, which nothing moves and no rule is for.

From the meta device they come as the constructor of the model makes them, where it can be called again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convinit_ext.model._named_tensors import NamedModule, NamedTensor, join
from convinit_ext.recipes import constructed

# Recurrent modules keep a second list of their weights, which they read anew before each call.
_NOT_ASKED = frozenset((*vars(nn.Module()), "_flat_weights"))
# Ends of names beside a weight that a hook computes: of weight_norm, spectral_norm and pruning.
_RECOMPUTED = ("_g", "_orig")


def attributes_from_meta(
    nodes: Sequence[NamedModule], chooses: Callable[[NamedTensor], bool], device: torch.device
) -> tuple[list[tuple[NamedTensor, Tensor]], list[str]]:
    """Return the meta tensors in plain attributes with their values, and those that nobody knows."""
    found, lost = [], []
    for held in _plain_tensors(nodes):
        if held.tensor.is_meta and chooses(held):
            # A parameter that is none of the model's was one before to_empty(); nobody knows which.
            values = None if isinstance(held.tensor, nn.Parameter) else _constructed_value(held)
            if values is None:
                lost.append(f"{held.described}, a plain attribute")
            else:
                found.append((held, values.to(device)))
    return found, lost


def _plain_tensors(nodes: Sequence[NamedModule]) -> Iterator[NamedTensor]:
    """Yield every tensor in a plain attribute of a module, or in a container there, once with all places.

    Those that are parameters or buffers too are left out, and weights that a hook computes before each call.
    """
    seen = {
        id(tensor)
        for node in nodes
        for named in (node.module._parameters, node.module._buffers)
        for _, tensor in named.items()
    }
    found: dict[int, NamedTensor] = {}
    for node in nodes:
        attributes = vars(node.module)
        for name in node.module._parameters:
            for suffix in _RECOMPUTED:
                seen.add(id(attributes.get(name.removesuffix(suffix))))
        for leaf, tensor in _held_by(node.module):
            if id(tensor) not in seen:
                first = NamedTensor(tensor, join(node.path, leaf), join(node.canonical, leaf), node)
                found.setdefault(id(tensor), first).places.append((node.module, leaf))
    yield from found.values()


def _constructed_value(held: NamedTensor) -> Tensor | None:
    """Return what the constructor of a model around it makes of a plain attribute; None of what it draws."""
    (_, leaf), tensor = held.places[0], held.tensor
    if not all(_can_put(tensor, *place) for place in held.places):
        return None
    made = constructed(held.node.module, held.node.parents) or ()
    one, two = (dict(_held_by(each)).get(leaf) for each in made) if made else (None, None)
    if one is None or two is None or one.is_meta or two.is_meta or not torch.equal(one, two):
        return None
    if one.is_floating_point() and one.isnan().any():  # memory that nothing was written to
        return None
    return one.detach() if (one.shape, one.dtype) == (tensor.shape, tensor.dtype) else None


def _can_put(tensor: Tensor, module: nn.Module, leaf: str) -> bool:
    name = leaf.partition("[")[0]
    value = vars(module).get(name)
    inside = _directly_in(value)
    return value is tensor or any(each is tensor and leaf == f"{name}[{key!r}]" for key, each in inside)


def put(held: NamedTensor, fresh: Tensor) -> None:
    """Put a tensor in all places of a plain attribute."""
    before, held.tensor = held.tensor, fresh
    for module, leaf in held.places:
        name = leaf.partition("[")[0]
        value = vars(module)[name]
        if value is before:
            vars(module)[name] = fresh
        elif type(value) is tuple:
            vars(module)[name] = tuple(fresh if each is before else each for each in value)
        else:
            for key, each in _directly_in(value):
                if each is before:
                    value[key] = fresh


def _directly_in(value: Any) -> list[tuple[Any, Any]]:
    """Return what a list, tuple or dict holds, each after its place there."""
    if type(value) is dict:
        return list(value.items())
    return list(enumerate(value)) if type(value) in (list, tuple) else []


def _held_by(module: nn.Module) -> list[tuple[str, Tensor]]:
    attributes = vars(module)
    names = attributes.keys() - _NOT_ASKED
    return sorted(
        (pair for name in names for pair in _tensors_in(name, attributes[name])), key=lambda pair: pair[0]
    )


def _tensors_in(name: str, value: Any, within: tuple[int, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor in a value with what leads there, whatever containers and modules are around it."""
    if isinstance(value, Tensor):
        yield name, value
        return
    inside: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        inside = ((f"{name}[{key!r}]", each) for key, each in value.items())
    elif isinstance(value, list | tuple | set | frozenset | deque):
        inside = ((f"{name}[{at}]", each) for at, each in enumerate(value))
    elif isinstance(value, nn.Module):  # in a list it is no part of the model
        held = (*value.named_parameters(), *value.named_buffers())
        inside = ((f"{name}.{leaf}", each) for leaf, each in held)
    elif is_dataclass(value) and not isinstance(value, type):
        inside = ((f"{name}.{each.name}", getattr(value, each.name, None)) for each in fields(value))
    if id(value) not in within:
        for leaf, each in inside:
            yield from _tensors_in(leaf, each, (*within, id(value)))
