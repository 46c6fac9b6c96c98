"""What the callers of a plan ask for, checked: one dataclass for filling, saving and verifying."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, TypeAlias

import torch

from convinit_ext._engine import HAS_CUDA, SUPPORTED_DTYPES
from convinit_ext.model._selection import Names, Selectors
from convinit_ext.recipes import FANS, Fan, Recipe, Rule, as_recipe

AnyRecipe: TypeAlias = "str | PathLike[str] | Recipe | Sequence[Rule]"


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """How to plan a model; the first seven are those of init_model_.

    Args:
        recipe: which initialiser for which parameter.
        dtype: of all values afterwards; None leaves each its own.
        fan: of transposed and grouped convolutions.
        only, skip: what to initialise.
        names: the names that make the keys.
        device: where meta tensors go; None where nobody says.
        reading: the plan is for a look at the model, which then need not be one that can be filled: it may
            hold gathered parameters or inference tensors. Its buffers all have rows, also those that keep
            their values, and meta ones that nobody can rebuild.
        persistent: leave out buffers that a state dict has not.

    Raises:
        TypeError, ValueError: as init_model_.
    """

    recipe: Any = "torch"
    dtype: torch.dtype | None = None
    fan: Fan = "true"
    only: Selectors = None
    skip: Selectors = None
    names: Names | None = None
    device: Any = None
    reading: bool = False
    persistent: bool = False

    def __post_init__(self) -> None:
        if self.fan not in FANS:
            raise ValueError(f"fan must be one of {list(FANS)}, not {self.fan!r}")
        if self.device is not None:
            object.__setattr__(self, "device", checked_device(self.device))
        object.__setattr__(self, "recipe", as_recipe(self.recipe))
        _check_dtype(self.dtype)


def _check_dtype(dtype: object) -> None:
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype, not {type(dtype).__name__}")
    if dtype is not None and dtype not in SUPPORTED_DTYPES:
        accepted = ", ".join(str(each).removeprefix("torch.") for each in SUPPORTED_DTYPES)
        raise ValueError(f"dtype {dtype} cannot be filled; accepted are {accepted}")


def checked_device(device: torch.device | str | None) -> torch.device:
    """Return where new memory goes; raise ValueError if it cannot be filled there."""
    try:
        checked = torch.device("cpu" if device is None else device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r}: {error}") from error
    if checked.type == "cuda":
        _check_cuda(checked)
    elif checked.type != "cpu":
        raise ValueError(f"device {str(checked)!r} cannot be filled; accepted are cpu and cuda")
    return checked


def _check_cuda(device: torch.device) -> None:
    if not HAS_CUDA:
        raise ValueError(
            f"device {str(device)!r} cannot be filled: this build has no CUDA; "
            "build it with: CONVINIT_CUDA=1 pip install --no-build-isolation ."
        )
    num_devices = torch.cuda.device_count()
    if (device.index or 0) >= num_devices:
        raise ValueError(f"device {str(device)!r}: PyTorch sees {num_devices} CUDA devices")
