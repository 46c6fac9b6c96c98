"""Recipes as TOML and JSON files, and as dicts: what docs/recipes.md describes, read and written."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from convinit_ext._engine import excerpt, reason
from convinit_ext.recipes import _rule_text as rule_text
from convinit_ext.recipes._rules import Rule

SUFFIXES = (".toml", ".json")
_MAX_DEPTH = 100  # of files that extend files
_KEYS = ("name", "extends", "defaults", "rules")

Known = Mapping[str, tuple[Rule, ...]]  # the ready-made recipes by name


class Contents(NamedTuple):
    """What a file says."""

    rules: tuple[Rule, ...]
    name: str = "custom"
    defaults: bool = True


def read(path: str | Path, known: Known, within: tuple[Path, ...] = ()) -> Contents:
    """The recipe in a file. `within`: the files that extend this one."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: a recipe is a file that ends in {' or '.join(SUFFIXES)}")
    resolved = path.resolve()
    if resolved in within:
        raise ValueError(
            f"recipes extend each other in a cycle: {' -> '.join(map(str, (*within, resolved)))}"
        )
    if len(within) >= _MAX_DEPTH:
        raise ValueError(f"{path}: recipes extend each other more than {_MAX_DEPTH} deep")
    try:
        text = path.read_text(encoding="utf-8")
        given = json.loads(text, object_pairs_hook=_unique) if path.suffix == ".json" else _toml(text)
    except (RecursionError, MemoryError) as error:
        raise ValueError(f"{path}: it is nested too deeply, or too large, to be read") from error
    except ValueError as error:  # of the readers, or of bytes that are no text
        raise ValueError(f"{path}: {error}") from error
    return from_dict(given, known, path, (*within, resolved))


def from_dict(
    given: object, known: Known, path: Path | None = None, within: tuple[Path, ...] = ()
) -> Contents:
    """The recipe of a dict, which is that of the file `path` if there is one."""
    place = f"{path}: " if path else ""
    if not isinstance(given, Mapping):
        raise TypeError(f"{place}a recipe is a table with {', '.join(_KEYS)}, not {excerpt(given)}")
    _check_keys(given, place)
    rules: list[Rule] = []
    for number, each in enumerate(given.get("rules", []), 1):
        try:
            rules.append(rule_text.rule_from_dict(each))
        except (ValueError, TypeError) as error:
            raise type(error)(f"{place}rule {number}: {error}") from error
    rules += _extended(given["extends"], known, path, within, place) if "extends" in given else ()
    return Contents(
        tuple(rules), given.get("name", path.stem if path else "custom"), given.get("defaults", True)
    )


def to_dict(contents: Contents, known: Known) -> dict[str, Any]:
    """The dict of a recipe; rules that are the end of it and a ready-made recipe's become `extends`."""
    rules, written = contents.rules, {"name": contents.name, "defaults": contents.defaults}
    fitting = [name for name, others in known.items() if others and _ends_with(rules, others)]
    if fitting:
        longest = max(fitting, key=lambda name: len(known[name]))
        rules = rules[: len(rules) - len(known[longest])]
        written["extends"] = longest
    described = []
    for number, rule in enumerate(rules, 1):
        try:
            described.append(rule_text.rule_to_dict(rule))
        except ValueError as error:
            raise ValueError(f"rule {number}: {error}") from error
    return {**written, "rules": described}


def _ends_with(rules: Sequence[Rule], others: Sequence[Rule]) -> bool:
    end = rules[len(rules) - len(others) :] if len(others) <= len(rules) else ()
    return len(end) == len(others) and all(mine is theirs for mine, theirs in zip(end, others, strict=True))


def _check_keys(given: Mapping[Any, Any], place: str) -> None:
    for key, value in given.items():
        if key not in _KEYS:
            raise ValueError(f"{place}a recipe has no {excerpt(key)}; accepted are {', '.join(_KEYS)}")
        wanted = {"rules": list, "defaults": bool}.get(key, str)
        if not isinstance(value, wanted):
            raise TypeError(f"{place}{key} must be a {wanted.__name__}, not {excerpt(value)}")


def _extended(
    name: str, known: Known, path: Path | None, within: tuple[Path, ...], place: str
) -> tuple[Rule, ...]:
    if name in known:
        return known[name]
    if not name.endswith(SUFFIXES):
        accepted = f"{', '.join(known)}, and files in {' or '.join(SUFFIXES)}"
        raise ValueError(f"{place}extends {excerpt(name)}: accepted are {accepted}")
    other = path.parent / name if path else Path(name)
    try:
        return read(other, known, within).rules
    except OSError as error:
        raise ValueError(f"{place}extends {excerpt(name)}: {reason(error)}") from error


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{excerpt(name)} is there twice")
        found[name] = value
    return found


def _toml(text: str) -> object:
    for reader in ("tomllib", "tomli"):  # Python 3.10 has none of its own
        try:
            return importlib.import_module(reader).loads(text)
        except ImportError:
            continue
    raise ValueError("reading TOML needs Python 3.11, or the package tomli: pip install tomli")
