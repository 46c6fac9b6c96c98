"""What transformers and diffusers keep beside a model's weights, so that from_pretrained finds it."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convinit_ext.model import walk


def base_name(model: nn.Module) -> str:
    """Of the files of weights: diffusers has its own."""
    return "diffusion_pytorch_model" if _is_of_diffusers(walk.unwrapped(model)) else "model"


def config_files(model: nn.Module, dtype: torch.dtype | None) -> dict[str, bytes]:
    """Return the files by name; none where the model has no configuration.

    They say this dtype, in which from_pretrained then loads the weights; for float8, in which it makes no
    model, the model's own.
    """
    found: Any = walk.unwrapped(model)
    with tempfile.TemporaryDirectory() as folder:
        if _is_of_diffusers(found):
            found.save_config(folder)
        elif callable(getattr(getattr(found, "config", None), "save_pretrained", None)):
            config = copy.deepcopy(found.config)
            config.architectures = [_class_name(found)]
            if dtype is not None:
                wide = dtype if dtype.itemsize > 1 else _wide_dtype(found)
                setattr(config, "dtype" if hasattr(config, "dtype") else "torch_dtype", wide)
            config.save_pretrained(folder)
        return {each.name: _of_class(each, found) for each in sorted(Path(folder).iterdir())}


def _of_class(path: Path, model: nn.Module) -> bytes:
    """A file's content; diffusers' says the class of the model, which may be one that FSDP made."""
    made, own = (
        json.dumps({"_class_name": name})[1:-1] for name in (type(model).__name__, _class_name(model))
    )
    return path.read_bytes().replace(made.encode(), own.encode())


def _class_name(model: nn.Module) -> str:
    """Of what was wrapped in place: fully_shard, replicate and parametrizations derive classes from it."""
    classes = (each for each in type(model).__mro__ if issubclass(each, nn.Module))
    return next((each for each in classes if not each.__module__.startswith("torch.")), type(model)).__name__


def _wide_dtype(model: nn.Module) -> torch.dtype:
    dtypes = (each.dtype for each in model.parameters() if each.is_floating_point() and each.itemsize > 1)
    return next(dtypes, torch.get_default_dtype())


def _is_of_diffusers(model: Any) -> bool:
    return callable(getattr(model, "save_config", None))
