"""Rules and recipes as tables: read from TOML and JSON files, checked, and written."""

from __future__ import annotations

import ast
import importlib
import json
import stat
import sys
from collections.abc import Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from torch import nn

from convinit_ext._engine import excerpt, reason
from convinit_ext.recipes import _patterns as patterns
from convinit_ext.recipes._initialisers import FUNCTIONS, initialiser_text, is_values
from convinit_ext.recipes._rules import Rule

SUFFIXES = (".toml", ".json")
_PATTERNS = ("parameter", "name", "buffer")
_KEYS = ("init", "arguments", "module", *_PATTERNS, "where", "label", "allow_unused")  # of a rule
# Of their values; the others are str.
_TYPES = {"arguments": (Mapping,), "module": (str, list), "allow_unused": (bool,)}
_INITS = f"{', '.join(FUNCTIONS)}, and PACKAGE.MODULE:FUNCTION"
_MAX_BYTES = 1 << 26  # of a file
_MODULES = "types of torch.nn ('Conv2d') and others with their package ('timm.layers.LayerScale')"


def read(path: Path) -> object:
    """Return what is in a file; OSError or ValueError where it cannot be read."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: a recipe is a file that ends in {' or '.join(SUFFIXES)}")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a FIFO keeps its reader waiting, /dev/zero never ends
        raise ValueError(f"{path}: a recipe is a regular file, not a folder, a FIFO or a device")
    if status.st_size > _MAX_BYTES:
        raise ValueError(f"{path}: {status.st_size} bytes are too many for a recipe, at most {_MAX_BYTES}")
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin files with a mark
        return json.loads(text, object_pairs_hook=distinct) if path.suffix == ".json" else _toml(text)
    except (RecursionError, MemoryError) as error:
        raise ValueError(f"{path}: it is nested too deeply, or too large, to be read") from error
    except ValueError as error:  # of the readers, or of bytes that are no text
        raise ValueError(f"{path}: {error}") from error


def _toml(text: str) -> object:
    for reader in ("tomllib", "tomli"):  # Python 3.10 has none of its own
        try:
            return importlib.import_module(reader).loads(text)
        except ImportError:
            continue
    raise ValueError("reading TOML needs Python 3.11, or the package tomli: pip install tomli")


def distinct(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return pairs as a dict; raise ValueError for a name that is there twice, or that UTF-8 cannot hold."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        name.encode("utf-8")  # half a surrogate pair is no name
        if name in found:
            raise ValueError(f"{excerpt(name)} is there twice")
        found[name] = value
    return found


def check_table(
    given: object, what: str, keys: Iterable[str], types: Mapping[str, tuple[type, ...]]
) -> Mapping[str, Any]:
    """Return a table after checking its keys and its values' types, which are str if not in `types`."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} is a table with {', '.join(keys)}, not {excerpt(given)}")
    for key, value in given.items():
        if key not in keys:
            raise ValueError(f"{what} has no {excerpt(key)}; accepted are {', '.join(keys)}")
        if not isinstance(value, types.get(key, str)):
            accepted = " or ".join(each.__name__ for each in types.get(key, (str,)))
            raise TypeError(f"{what}'s {key} must be a {accepted}, not {excerpt(value)}")
    return given


def rule_from_dict(given: object, allow_code: bool = False) -> Rule:
    """Return the rule of a table, which may name functions and types of other packages if code is allowed.

    >>> rule_from_dict({"module": "Conv2d", "init": "kaiming_normal_(mode='fan_out')"}).text
    "kaiming_normal_(mode='fan_out')"
    """
    table = check_table(given, "a rule", _KEYS, _TYPES)
    if "init" not in table:
        raise ValueError(f"a rule must have init; accepted are {_INITS}")
    read: dict[str, Any] = {key: patterns.parse(table[key], key) for key in _PATTERNS if key in table}
    if isinstance(table.get("module"), list):
        read["module"] = tuple(_find(each, "module", allow_code) for each in table["module"])
    elif "module" in table:
        read["module"] = _find(table["module"], "module", allow_code)
    if "where" in table:
        read["where"] = _find(table["where"], "where", allow_code)
    init = _initialiser(table["init"], table.get("arguments", {}), allow_code)
    return Rule(init, label=table.get("label"), allow_unused=table.get("allow_unused", False), **read)


def rule_to_dict(rule: Rule) -> dict[str, Any]:
    """Return the table of a rule; ValueError for what cannot be imported by its name, or a tensor."""
    has_text = any(type(rule.init) is function.kind for function in FUNCTIONS.values())  # no derived type
    init = initialiser_text(rule.init, exact=True) if has_text else _name(rule.init, "init")
    table: dict[str, Any] = {"init": init}
    if isinstance(rule.module, tuple):
        table["module"] = [_name(each, "module") for each in rule.module]
    elif rule.module is not None:
        table["module"] = _name(rule.module, "module")
    for key in _PATTERNS:
        if getattr(rule, key) is not None:
            table[key] = patterns.text_of(getattr(rule, key))
    if rule.where is not None:
        table["where"] = _name(rule.where, "where")
    if rule.label is not None:
        table["label"] = rule.label
    if rule.allow_unused:
        table["allow_unused"] = True
    return table


def _initialiser(text: str, arguments: Mapping[str, Any], allow_code: bool) -> Any:
    about = f"init {excerpt(text)}"
    if ":" in text and "(" not in text:
        if arguments:
            raise ValueError(f"{about}: a function of yours takes the target and no arguments")
        return _find(text, "init", allow_code)
    name, positional, named = _parse_call(text)
    if name not in FUNCTIONS:
        raise ValueError(f"{about}: there is no {excerpt(name)}; accepted are {_INITS}")
    kind, fixed, takes = FUNCTIONS[name].kind, FUNCTIONS[name].fixed, FUNCTIONS[name].signature
    try:
        given = takes.bind(*positional, **distinct([*named, *arguments.items()]))
        given.apply_defaults()
        return kind(*fixed, *given.args, **given.kwargs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{about}: {reason(error)}; {name} takes {takes}") from error


def _parse_call(text: str) -> tuple[str, list[Any], list[tuple[str, Any]]]:
    """Split "normal_(0, std=0.02)", or a name alone, into the name and its arguments."""
    wrong = f"init {excerpt(text)} is not of the form NAME or NAME(ARGUMENTS), such as 'normal_(0, 0.02)'"
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
        if isinstance(call.func, ast.Name):
            named = [(each.arg or "**", _literal(each.value)) for each in call.keywords]
            return call.func.id, [_literal(each) for each in call.args], named
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{wrong}; arguments are numbers and strings") from error
    raise ValueError(wrong)


def _literal(node: ast.expr) -> Any:
    text = ast.unparse(node)
    return float(text) if text in ("inf", "+inf", "-inf") else ast.literal_eval(node)


def _find(name: Any, key: str, allow_code: bool) -> Any:
    """Return the module type, or the function, that a rule's `key` names.

    Nothing is imported but by the caller's word: importing runs code, and a recipe may be another's.
    """
    is_module = key == "module"
    package, _, path = str(name).rpartition(".") if is_module else name.partition(":")
    about = f"{key} {excerpt(name)}"
    package = package or ("torch.nn" if is_module else "")
    is_torchs = (
        is_module and (package == "torch.nn" or package.startswith("torch.nn.")) and package in sys.modules
    )
    if not (is_torchs or allow_code):
        raise ValueError(
            f"{about} would import code, which a recipe may do only where its reader allows it: "
            "recipe=Recipe.load(path, allow_code=True), Recipe.from_dict(table, allow_code=True), or "
            "--allow-code on the command line; types of torch.nn ('Linear', 'torch.nn.Linear') need no such "
            "word"
        )
    try:
        found = attrgetter(path)(sys.modules[package] if is_torchs else importlib.import_module(package))
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # TypeError: a relative import
        form = f": accepted are {_MODULES}" if is_module else " is not of the form PACKAGE.MODULE:FUNCTION"
        raise ValueError(f"{about}{form}: {reason(error)}") from error
    if is_module and not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"{about} is not a type of torch.nn.Module")
    if not (callable(found) or is_values(found)):
        raise ValueError(f"{about} is not a function")
    return found


def _name(value: object, key: str) -> str:
    """Return the name by which _find() finds a module type or a function."""
    package, path = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    for name in (f"{path}", f"{package}.{path}") if key == "module" else (f"{package}:{path}",):
        try:
            if _find(name, key, allow_code=True) is value:
                return name
        except ValueError:
            continue
    raise ValueError(f"{key} {value!r} cannot be written: it has no name to import it by")
