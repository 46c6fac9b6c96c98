"""Tensors that a module holds in plain attributes, which nothing moves and no rule is for.

From the meta device they come as the constructor of the model makes them, where it can be called again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from convinit_ext.model._named_tensors import NamedModule, NamedTensor, join
from convinit_ext.recipes import constructed_twice

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
# Ends of names beside a weight that a hook computes: of weight_norm, spectral_norm and pruning.
_RECOMPUTED = ("_g", "_orig")


def plain_tensors(nodes: Iterable[NamedModule]) -> Iterator[NamedTensor]:
    """Every tensor in a plain attribute of a module, or in a list, tuple or dict there, once with all places.

    Those that are parameters or buffers too are left out, and weights that a hook computes before each call.
    """
    nodes = list(nodes)
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


def constructed_value(held: NamedTensor) -> Tensor | None:
    """Return what the constructor of a model around it makes of a plain attribute; None of what it draws."""
    (_, leaf), tensor = held.places[0], held.tensor
    made = constructed_twice(held.node.module, held.node.parents)
    one, two = (dict(_held_by(each)).get(leaf) for each in made) if made is not None else (None, None)
    if one is None or two is None or one.is_meta or two.is_meta or not torch.equal(one, two):
        return None
    if one.is_floating_point() and one.isnan().any():  # memory that nothing was written to
        return None
    return one.detach() if (one.shape, one.dtype) == (tensor.shape, tensor.dtype) else None


def put(held: NamedTensor, fresh: Tensor) -> None:
    """Put a tensor in all places of a plain attribute."""
    before, held.tensor = held.tensor, fresh
    for module, leaf in held.places:
        name = leaf.partition("[")[0]
        value = vars(module)[name]
        if type(value) is list:
            value[:] = [fresh if each is before else each for each in value]
        elif type(value) is tuple:
            vars(module)[name] = tuple(fresh if each is before else each for each in value)
        elif type(value) is dict:
            value.update({key: fresh for key, each in value.items() if each is before})
        elif value is before:
            vars(module)[name] = fresh


def _held_by(module: nn.Module) -> list[tuple[str, Tensor]]:
    attributes = vars(module)
    names = attributes.keys() - _OF_EVERY_MODULE
    return sorted(
        (pair for name in names for pair in _tensors_in(name, attributes[name])), key=lambda pair: pair[0]
    )


def _tensors_in(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif type(value) in (list, tuple):
        yield from ((f"{name}[{at}]", each) for at, each in enumerate(value) if isinstance(each, Tensor))
    elif type(value) is dict:
        yield from ((f"{name}[{key!r}]", each) for key, each in value.items() if isinstance(each, Tensor))
