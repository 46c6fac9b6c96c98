"""What the caller of init_model_ asks for, checked."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from convinit_ext._engine import ops
from convinit_ext.recipes import Fan, Recipe


@dataclass(frozen=True, slots=True)
class Wish:
    """The same for every parameter.

    Args:
        recipe: which initialiser for which.
        fan: of transposed and grouped convolutions.
        dtype: of all values afterwards; None leaves each its own.
        device: where meta tensors go; None where nobody says.
        reading: whether the model is only to be looked at.
    """

    recipe: Recipe
    fan: Fan
    dtype: torch.dtype | None
    device: torch.device | None
    reading: bool


def checked_dtype(dtype: torch.dtype | None) -> torch.dtype | None:
    """Of the values: TypeError if it is none, ValueError if it cannot be filled."""
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype, not {type(dtype).__name__}")
    if dtype is not None and dtype not in ops.SUPPORTED_DTYPES:
        accepted = ", ".join(str(each).removeprefix("torch.") for each in ops.SUPPORTED_DTYPES)
        raise ValueError(f"dtype {dtype} cannot be filled; accepted are {accepted}")
    return dtype


def checked_device(device: torch.device | str | None) -> torch.device:
    """Where new memory goes: ValueError if it cannot be filled there."""
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
    if not ops.HAS_CUDA:
        raise ValueError(
            f"device {str(device)!r} cannot be filled: this build has no CUDA; "
            "build it with: CONVINIT_CUDA=1 pip install --no-build-isolation ."
        )
    num_devices = torch.cuda.device_count()
    if (device.index or 0) >= num_devices:
        raise ValueError(f"device {str(device)!r}: PyTorch sees {num_devices} CUDA devices")
