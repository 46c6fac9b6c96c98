"""Tensors that a module holds in plain attributes, which nothing moves and no rule is for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from convinit_ext.model._named_tensors import NamedModule, NamedTensor, join

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
# Ends of names beside a weight that a hook computes: of weight_norm, spectral_norm and pruning.
_RECOMPUTED = ("_g", "_orig")


def plain_tensors(nodes: Iterable[NamedModule]) -> Iterator[NamedTensor]:
    """Every tensor in a plain attribute of a module, or in a list, tuple or dict there, once.

    Those that are parameters or buffers too are left out, and weights that a hook computes before each call.
    """
    nodes = list(nodes)
    seen = {
        id(tensor)
        for node in nodes
        for named in (node.module._parameters, node.module._buffers)
        for _, tensor in named.items()
    }
    for node in nodes:
        attributes = vars(node.module)
        for name in node.module._parameters:
            for suffix in _RECOMPUTED:
                seen.add(id(attributes.get(name.removesuffix(suffix))))
        held = (
            pair
            for name in attributes.keys() - _OF_EVERY_MODULE
            for pair in _tensors_in(name, attributes[name])
        )
        for leaf, tensor in sorted(held, key=lambda pair: pair[0]):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found = NamedTensor(tensor, join(node.path, leaf), join(node.canonical, leaf), node)
                found.places.append((node.module, leaf))
                yield found


def _tensors_in(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif type(value) in (list, tuple):
        yield from ((f"{name}[{at}]", each) for at, each in enumerate(value) if isinstance(each, Tensor))
    elif type(value) is dict:
        yield from ((f"{name}[{key!r}]", each) for key, each in value.items() if isinstance(each, Tensor))
