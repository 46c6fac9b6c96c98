"""What other names and modules count in place of a model's own: names= for the keys, like= for a model that
lost its types, as a traced pipeline stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from torch import nn

from convinit_ext._engine import listed
from convinit_ext.keys import canonical_name
from convinit_ext.model import _named_tensors as walk
from convinit_ext.model._named_tensors import NamedTensor
from convinit_ext.model._selection import lineage
from convinit_ext.recipes import is_function, named

Names: TypeAlias = Mapping[str, str] | Callable[[str], str]


def take_modules(held: Iterable[NamedTensor], like: nn.Module | None, buffers: bool = False) -> None:
    """Give parameters or buffers the modules, and the first name, that `like` has for them.

    A tied parameter of the whole model has one key, under whatever name a part of the model holds it. Raises
    TypeError for no module, ValueError for a parameter that `like` has not, or has in another shape.
    """
    if like is None:
        return
    if not isinstance(like, nn.Module):
        raise TypeError(f"like must be a torch.nn.Module, not {type(like).__name__}")
    nodes = list(walk.modules(like))
    names = walk.every_name(like)
    theirs = {
        name: each
        for each in (walk.buffers(nodes) if buffers else walk.parameters(nodes))
        for name in names[id(each.tensor)]
    }
    lost = []
    for each in held:
        found = theirs.get(walk.canonical(each.name))
        if found is not None and found.tensor.shape == each.tensor.shape:
            each.node, each.name = found.node, found.name
        elif found is not None:
            raise ValueError(
                f"{each.path!r} has shape {list(each.tensor.shape)}, and in the model of like= "
                f"{list(found.tensor.shape)}"
            )
        else:
            lost.append(each.path)
    if lost and not buffers:
        raise ValueError(f"the model of like= has no parameters called {listed(lost)}")


def key_names(names: Iterable[str], mapping: Names, buffers: Iterable[str] = ()) -> dict[str, str]:
    """Return the name that makes the key of each of these parameters and buffers, by canonical name.

    Few buffers need a key, so a function may raise LookupError for them. A dict has names and prefixes
    ("layers.0" is one of "layers.0.weight", "" of every name; the longest counts), and what stands there
    instead.

    Raises:
        TypeError: neither, or something in it that is not a string.
        ValueError: two parameters that would get one key, an entry that fits no name.

    >>> key_names(["layers.0.weight", "layers.1.weight", "head.weight"], {"layers.0": "layers.8"})
    {'layers.0.weight': 'layers.8.weight', 'layers.1.weight': 'layers.1.weight', 'head.weight': 'head.weight'}
    """
    names, buffers = list(names), list(buffers)
    if isinstance(mapping, Mapping):
        mapped = _by_prefix((*names, *buffers), mapping)
    elif is_function(mapping):
        mapped = _by_function(names, buffers, mapping)
    else:
        raise TypeError(f"names must be a dict or a function of a name, not {type(mapping).__name__}")
    return _checked(mapped)


def _by_function(names: list[str], buffers: list[str], function: Callable[[str], str]) -> dict[str, str]:
    mapped: dict[str, str] = {}
    for name in (*names, *buffers):
        try:
            mapped[name] = function(name)
        except LookupError as error:
            if name in buffers:
                continue
            raise ValueError(f"names: the function knows no name for {name!r}: {error!r}") from error
        except Exception as error:  # the user's
            raise named(error, f"names: the function, called with {name!r}") from error
    return mapped | {name: name for name in buffers if name not in mapped}


def _canonical_prefix(prefix: str) -> str:
    try:
        return canonical_name(prefix.removesuffix("."))
    except ValueError:  # nothing but wrappers: every name
        return ""


def _by_prefix(names: Iterable[str], mapping: Mapping[str, str]) -> dict[str, str]:
    prefixes: dict[str, str] = {}
    for prefix, other in mapping.items():
        if not (isinstance(prefix, str) and isinstance(other, str)):
            raise TypeError(f"names must map str to str, and does not: {prefix!r}: {other!r}")
        prefixes[_canonical_prefix(prefix)] = other.removesuffix(".")
    unused, mapped = set(prefixes), {}
    for name in names:
        found = next((each for each in (*lineage(name), "") if each in prefixes), None)
        mapped[name] = name if found is None else _replaced(name, found, prefixes[found])
        unused.discard(name if found is None else found)
    if unused:
        raise ValueError(f"names: no parameter is called or begins with {listed(map(repr, sorted(unused)))}")
    return mapped


def _replaced(name: str, prefix: str, other: str) -> str:
    rest = name.removeprefix(prefix).removeprefix(".")
    return f"{other}.{rest}" if other and rest else other or rest


def _checked(mapped: dict[str, str]) -> dict[str, str]:
    first: dict[str, str] = {}
    for name, other in mapped.items():
        if not isinstance(other, str):
            raise TypeError(f"names: {name!r} becomes {other!r}, which is not a str")
        try:
            mapped[name] = canonical_name(other)
        except ValueError as error:
            raise ValueError(f"names: {name!r} becomes {other!r}: {error}") from error
        earlier = first.setdefault(mapped[name], name)
        if earlier != name:
            raise ValueError(
                f"names: parameters {earlier!r} and {name!r} would both get the key of {mapped[name]!r}, and "
                "so the same values"
            )
    return mapped
