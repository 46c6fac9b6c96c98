"""What the commands have in common: the model and the recipe that are named, facts about the machine."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import nn

import convinit_ext
from convinit_ext import _C
from convinit_ext.cli._arguments import ArgumentError
from convinit_ext.recipes import RECIPES, as_recipe


def built(build: Callable[[], nn.Module], on_meta: bool, device: torch.device | str = "cpu") -> nn.Module:
    """Return a new model without memory for its parameters, or with, on the device."""
    try:
        with torch.device("meta" if on_meta else device):
            model = build()
    except (Exception, SystemExit) as error:  # it is the user's code, and may raise anything
        hint = "; --construct cpu may help" if on_meta else ""
        raise RuntimeError(f"the model's constructor raised {type(error).__name__}: {error}{hint}") from error
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model's constructor returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def builder(spec: str) -> Callable[[], nn.Module]:
    """Return the constructor of a model that MODULE:CALLABLE names."""
    found = imported(spec, "model")
    if isinstance(found, ModuleType):
        raise ArgumentError(f"model {spec!r} is a module; name what in it makes the model, as {spec}.build")
    if isinstance(found, nn.Module):
        raise ArgumentError(f"model {spec!r} is a model already; name a class or a function that returns one")
    if not callable(found):
        raise ArgumentError(
            f"model {spec!r} is a {type(found).__name__}, and no class or function that returns a model"
        )
    return found  # type: ignore[no-any-return]  # callable, and what it makes is checked


def imported(spec: str, what: str) -> Any:
    """Return what MODULE:NAME names."""
    module_name, _, path = spec.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError) as error:
        raise ArgumentError(f"{what} {spec!r}: {text_of(error)}") from error
    except SystemExit as error:  # a script; it must not end this program as if all were well
        raise ArgumentError(f"{what} {spec!r}: importing {module_name} raised SystemExit: {error}") from error
    return found


def recipe_of(text: str, allow_code: bool | None) -> Any:
    """Return what --recipe and --allow-code say."""
    if ":" in text:
        return imported(text, "recipe")
    if text not in RECIPES:
        check_exists(text)
    return as_recipe(text, allow_code=True) if allow_code else text


def check_exists(path: str) -> None:
    """Raise ArgumentError where there is no such file or folder."""
    if path and not os.path.exists(path):  # what is empty is refused by what reads it
        raise ArgumentError(f"{path}: there is no such file")


def dtype_of(name: str | None) -> torch.dtype | None:
    return getattr(torch, name) if name else None


def text_of(error: BaseException) -> str:
    """Return what an error says; its type where it says nothing."""
    return str(error) or type(error).__name__


def environment() -> dict[str, object]:
    """Return facts about the build and the machine."""
    build = _C.build_info()
    return {
        "convinit_ext": convinit_ext.__version__,
        "value contract": convinit_ext.CONTRACT_VERSION,
        "torch running": torch.__version__,
        "torch built for": build["torch"],
        "compiler": build["compiler"],
        "instruction set": _C.isa(),
        "instruction sets here": ", ".join(_C.available_isas()),
        "threads": torch.get_num_threads(),
        "cuda": build["cuda"],
        "gpus": ", ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))) or "none",
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cpus",
    }


def environment_line() -> str:
    threads = torch.get_num_threads()
    return (
        f"convinit_ext {convinit_ext.__version__}, torch {torch.__version__}, {_C.isa()}, "
        f"{threads} thread{'s' * (threads != 1)}"
    )
