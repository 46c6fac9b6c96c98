"""Rules as tables of text: initialisers in the words of torch.nn.init, types and functions by name."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from convinit_ext._engine import excerpt, reason
from convinit_ext.distributions import Constant, Normal, TruncatedNormal, Uniform
from convinit_ext.recipes import _patterns as patterns
from convinit_ext.recipes._derived import CopyFrom
from convinit_ext.recipes._initialisers import ONES, ZEROS, Fan, Kaiming, VarianceScaling, Xavier
from convinit_ext.recipes._rules import Rule, is_values

_KEYS = ("init", "arguments", "module", "parameter", "name", "buffer", "where", "label")
_PATTERNS = ("parameter", "name", "buffer")


def _kaiming(form: str) -> Callable[..., Kaiming]:
    def kaiming(
        a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", fan: Fan | None = None
    ) -> Kaiming:
        return Kaiming(form, a, mode, nonlinearity, fan)

    return kaiming


def _xavier(form: str) -> Callable[..., Xavier]:
    return lambda gain=1.0, fan=None: Xavier(form, gain, fan)


def _lecun(form: str) -> Callable[..., VarianceScaling]:
    return lambda fan=None: VarianceScaling(form=form, fan=fan)


def _variance_scaling(
    scale: float = 1.0,
    mode: str = "fan_in",
    distribution: str = "truncated_normal",
    fan: Fan | None = None,
) -> VarianceScaling:
    return VarianceScaling(scale, mode, distribution, fan)


_WRITTEN = (Constant, Uniform, Normal, TruncatedNormal, Kaiming, Xavier, VarianceScaling, CopyFrom)

# The arguments' names are those of torch.nn.init.
INITIALISERS: dict[str, Callable[..., Any]] = {
    "zeros_": lambda: ZEROS,
    "ones_": lambda: ONES,
    "constant_": lambda val: Constant(val),
    "uniform_": lambda a=0.0, b=1.0: Uniform(a, b),
    "normal_": lambda mean=0.0, std=1.0: Normal(mean, std),
    "trunc_normal_": lambda mean=0.0, std=1.0, a=-2.0, b=2.0: TruncatedNormal(mean, std, a, b),
    "kaiming_normal_": _kaiming("normal"),
    "kaiming_uniform_": _kaiming("uniform"),
    "kaiming_truncated_normal_": _kaiming("truncated_normal"),
    "xavier_normal_": _xavier("normal"),
    "xavier_uniform_": _xavier("uniform"),
    "xavier_truncated_normal_": _xavier("truncated_normal"),
    "lecun_normal_": _lecun("truncated_normal"),
    "lecun_uniform_": _lecun("uniform"),
    "variance_scaling_": _variance_scaling,
    "copy_from": lambda name: CopyFrom(name),
}


def rule_from_dict(given: object) -> Rule:
    """The rule of a table.

    Raises:
        ValueError, TypeError: what is wrong, and what is accepted.

    >>> rule_from_dict({"module": "Conv2d", "init": "kaiming_normal_(mode='fan_out')"}).text
    "kaiming_normal_(mode='fan_out')"
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"a rule is a table with {', '.join(_KEYS)}, not {excerpt(given)}")
    for key, value in given.items():
        if key not in _KEYS:
            raise ValueError(f"a rule has no {excerpt(key)}; accepted are {', '.join(_KEYS)}")
        wanted = {"arguments": Mapping, "module": str | list}.get(key, str)
        if not isinstance(value, wanted):
            raise TypeError(f"{key} must be a {getattr(wanted, '__name__', wanted)}, not {excerpt(value)}")
    if "init" not in given:
        raise ValueError(f"it has no init; accepted are {_accepted()}")
    conditions: dict[str, Any] = {key: patterns.parse(given[key], key) for key in _PATTERNS if key in given}
    if "module" in given:
        named = given["module"]
        if not named:
            raise ValueError("module is empty, and no parameter would fit; leave it out, and all do")
        types = tuple(map(_module_type, named)) if isinstance(named, list) else _module_type(named)
        conditions["module"] = types
    if "where" in given:
        conditions["where"] = _imported(given["where"], "where")
    init = _initialiser(given["init"], given.get("arguments", {}))
    return Rule(init, label=given.get("label"), **conditions)


def rule_to_dict(rule: Rule) -> dict[str, Any]:
    """The table of a rule.

    Raises:
        ValueError: a function or a type that cannot be imported by its name, or a tensor.
    """
    table: dict[str, Any] = {"init": _init_text(rule.init)}
    if rule.module is not None:
        types = rule.module if isinstance(rule.module, tuple) else (rule.module,)
        names = [_type_name(each) for each in types]
        table["module"] = names if len(names) > 1 else names[0]
    for key in _PATTERNS:
        if getattr(rule, key) is not None:
            table[key] = patterns.text_of(getattr(rule, key))
    if rule.where is not None:
        table["where"] = _function_name(rule.where, "where")
    if rule.label is not None:
        table["label"] = rule.label
    return table


def _initialiser(text: str, arguments: Mapping[str, Any]) -> Any:
    if ":" in text and "(" not in text:
        if arguments:
            raise ValueError(f"init {excerpt(text)}: a function of yours takes the target and no arguments")
        return _imported(text, "init")
    name, positional, named = _call_of(text)
    if name not in INITIALISERS:
        raise ValueError(f"init {excerpt(text)}: there is no {excerpt(name)}; accepted are {_accepted()}")
    _check_distinct(text, [*named, *arguments])
    make = INITIALISERS[name]
    try:
        bound = inspect.signature(make).bind(*positional, **named, **arguments)
        return make(*bound.args, **bound.kwargs)
    except (TypeError, ValueError) as error:
        takes = ", ".join(str(each).split(":")[0] for each in inspect.signature(make).parameters.values())
        raise ValueError(f"init {excerpt(text)}: {reason(error)}; {name} takes ({takes})") from error


def _call_of(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Name and arguments of "normal_(0, std=0.02)", or of the name alone."""
    wrong = f"init {excerpt(text)} is not of the form NAME or NAME(ARGUMENTS), such as 'normal_(0, 0.02)'"
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(wrong) from error
    if isinstance(tree, ast.Name):
        return tree.id, [], {}
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        raise ValueError(wrong)
    _check_distinct(text, [each.arg for each in tree.keywords])
    try:
        positional = [_literal(each) for each in tree.args]
        return tree.func.id, positional, {str(each.arg): _literal(each.value) for each in tree.keywords}
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{wrong}; arguments are numbers and strings") from error


def _check_distinct(text: str, names: Sequence[str | None]) -> None:
    for name in names:
        if name is None:
            raise ValueError(f"init {excerpt(text)}: ** is not accepted; arguments are numbers and strings")
        if names.count(name) > 1:
            raise ValueError(f"init {excerpt(text)}: {excerpt(name)} is there twice")


def _literal(node: ast.expr) -> Any:
    sign = -1.0 if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else 1.0
    inner = node.operand if isinstance(node, ast.UnaryOp) else node
    if isinstance(inner, ast.Name) and inner.id == "inf":
        return sign * math.inf
    return ast.literal_eval(node)


def _module_type(name: Any) -> type[nn.Module]:
    path, _, leaf = str(name).rpartition(".")
    try:
        found = getattr(importlib.import_module(path) if path else nn, leaf)
    except (ImportError, AttributeError, TypeError) as error:  # the last of a relative import
        raise ValueError(
            f"module {excerpt(name)}: {reason(error)}; accepted are types of torch.nn, as 'Conv2d', and "
            "others with their package, as 'torchvision.ops.FrozenBatchNorm2d'"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"module {excerpt(name)} is not a type of torch.nn.Module")
    return found


def _imported(text: str, key: str) -> Callable[..., Any]:
    package, _, path = text.partition(":")
    try:
        found: Any = importlib.import_module(package)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # TypeError: a relative import
        raise ValueError(
            f"{key} {excerpt(text)} is not of the form PACKAGE.MODULE:FUNCTION: {reason(error)}"
        ) from error
    if not (callable(found) or is_values(found)):
        raise ValueError(f"{key} {excerpt(text)} is not a function")
    return found  # type: ignore[no-any-return]


def _accepted() -> str:
    return f"{', '.join(INITIALISERS)}, and PACKAGE.MODULE:FUNCTION"


def _init_text(init: object) -> str:
    """As initialiser_text, with every digit."""
    if type(init) not in _WRITTEN:  # a type derived from one of them may do otherwise
        return _function_name(init, "init")
    match init:
        case Constant():
            named = {repr(ZEROS.value): "zeros_", repr(ONES.value): "ones_"}.get(repr(init.value))
            return named or _call("constant_", val=init.value)
        case Uniform():
            return _call("uniform_", a=init.low, b=init.high)
        case Normal():
            return _call("normal_", mean=init.mean, std=init.std)
        case TruncatedNormal():
            return _call("trunc_normal_", mean=init.mean, std=init.std, a=init.a, b=init.b)
        case Kaiming():
            return _call(
                f"kaiming_{init.form}_",
                a=init.a,
                mode=init.mode,
                nonlinearity=init.nonlinearity,
                fan=init.fan,
            )
        case Xavier():
            return _call(f"xavier_{init.form}_", gain=init.gain, fan=init.fan)
        case VarianceScaling():
            return _call(
                "variance_scaling_", scale=init.scale, mode=init.mode, distribution=init.form, fan=init.fan
            )
        case CopyFrom():
            return _call("copy_from", name=init.name)
    return _function_name(init, "init")


def _call(function: str, **arguments: object) -> str:
    """With the arguments that are not the defaults."""
    defaults = inspect.signature(INITIALISERS[function]).parameters
    given = [f"{name}={value!r}" for name, value in arguments.items() if value != defaults[name].default]
    return f"{function}({', '.join(given)})" if given else function


def _type_name(kind: type) -> str:
    name = kind.__name__
    if getattr(nn, name, None) is kind:
        return name
    name = f"{kind.__module__}.{kind.__qualname__}"
    try:
        found = _module_type(name)
    except ValueError:
        found = None
    if found is not kind:
        raise ValueError(f"module {kind!r} cannot be written: it has no name to import it by")
    return name


def _function_name(function: object, key: str) -> str:
    name = f"{getattr(function, '__module__', None)}:{getattr(function, '__qualname__', None)}"
    try:
        found = _imported(name, key)
    except ValueError:
        found = None
    if found is None or found is not function:
        raise ValueError(f"{key} {function!r} cannot be written: it has no name to import it by")
    return name
