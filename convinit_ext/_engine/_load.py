"""Loads the compiled module once, and says what is wrong when it cannot be loaded."""

from __future__ import annotations

import os
import platform
from importlib.util import find_spec
from pathlib import Path

import torch


def _load_error(cause: ImportError) -> ImportError:
    folder = Path(__file__).parents[2]
    if find_spec("convinit_ext._C") is None and (folder / "setup.py").is_file():
        return ImportError(
            f"convinit_ext's sources in {folder} have no compiled part, and hide an installed convinit_ext: "
            "start Python in another folder, or compile it there with: "
            "pip install --no-build-isolation --editable ."
        )
    return ImportError(
        f"convinit_ext's compiled part could not be loaded under Python {platform.python_version()} and "
        f"torch {torch.__version__}: {cause}. "
        f"It was {_built_for()}; build it again with: pip install --no-build-isolation ."
    )


def _built_for() -> str:
    try:
        from convinit_ext._build import PYTHON_VERSION, TORCH_VERSION
    except ImportError:
        return "never built here"
    return (
        f"built for Python {PYTHON_VERSION} (and no other) and "
        f"torch {TORCH_VERSION} (any from 2.11 on should do)"
    )


try:
    import convinit_ext._C as _C
except ImportError as error:
    raise _load_error(error) from error

if os.environ.get("CONVINIT_ISA"):
    try:
        _C.force_isa(os.environ["CONVINIT_ISA"])
    except ValueError as error:
        raise ValueError(f"CONVINIT_ISA: {error}") from None

__all__ = ["_C"]
