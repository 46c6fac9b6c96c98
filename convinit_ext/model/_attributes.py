"""Tensors that a module holds in plain attributes, which nothing moves and no rule is for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from convinit_ext.model._named_tensors import NamedModule, NamedTensor, join

# Recurrent modules keep a second list of their weights, which they read anew before each call.
_NOT_ASKED = frozenset((*vars(nn.Module()), "_flat_weights"))
# Ends of names beside a weight that a hook computes: of weight_norm, spectral_norm and pruning.
_RECOMPUTED = ("_g", "_orig")


def plain_tensors(nodes: Iterable[NamedModule]) -> Iterator[NamedTensor]:
    """Every tensor in a plain attribute of a module, or in a container there, once.

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
            pair for name in attributes.keys() - _NOT_ASKED for pair in _tensors_in(name, attributes[name])
        )
        for leaf, tensor in sorted(held, key=lambda pair: pair[0]):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found = NamedTensor(tensor, join(node.path, leaf), join(node.canonical, leaf), node)
                found.places.append((node.module, leaf))
                yield found


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
