"""The names that make the keys: those of the model, or what the caller maps them to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from convinit_ext.keys import canonical_name

Names: TypeAlias = Mapping[str, str] | Callable[[str], str]


def key_names(names: Iterable[str], mapping: Names | None, buffers: Iterable[str] = ()) -> dict[str, str]:
    """The name that makes the key of each of these parameters and buffers.

    Args:
        names: canonical names of parameters.
        buffers: those of buffers; few need a key, so a function may raise LookupError for them.
        mapping: a function of the name; or a dict of names and of prefixes ("layers.0" is one of
            "layers.0.weight", "" of every name; the longest counts), to what stands there instead.

    Raises:
        TypeError: neither, or something in it that is not a string.
        ValueError: two parameters that would get one key, an entry that fits no name.

    >>> key_names(["layers.0.weight", "layers.1.weight", "head.weight"], {"layers.0": "layers.8"})
    {'layers.0.weight': 'layers.8.weight', 'layers.1.weight': 'layers.1.weight', 'head.weight': 'head.weight'}
    """
    names, buffers = list(names), list(buffers)
    if mapping is None:
        return {name: name for name in (*names, *buffers)}
    if isinstance(mapping, Mapping):
        mapped = _by_prefix((*names, *buffers), mapping)
    elif callable(mapping):
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
        found = _longest(name, prefixes)
        mapped[name] = name if found is None else _replaced(name, found, prefixes[found])
        unused.discard(name if found is None else found)
    if unused:
        raise ValueError(
            f"names: no parameter is called or begins with {', '.join(map(repr, sorted(unused)))}"
        )
    return mapped


def _longest(name: str, prefixes: Mapping[str, str]) -> str | None:
    prefix = name
    while prefix and prefix not in prefixes:
        prefix = prefix.rpartition(".")[0]
    return prefix if prefix in prefixes else None


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
