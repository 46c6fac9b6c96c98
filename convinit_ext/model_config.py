"""What transformers and diffusers keep beside a model's weights, so that from_pretrained finds it."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn


def base_name(model: nn.Module) -> str:
    """Of the files of weights: diffusers has its own."""
    return "diffusion_pytorch_model" if _is_of_diffusers(_unwrapped(model)) else "model"


def config_files(model: nn.Module, dtype: torch.dtype | None) -> dict[str, bytes]:
    """By name; empty where the model has no configuration.

    Args:
        model: is not changed.
        dtype: of the weights: from_pretrained loads them in this one.
    """
    found: Any = _unwrapped(model)
    with tempfile.TemporaryDirectory() as folder:
        if _is_of_diffusers(found):
            found.save_config(folder)
        elif callable(getattr(getattr(found, "config", None), "save_pretrained", None)):
            config = copy.deepcopy(found.config)
            config.architectures = [type(found).__name__]
            if dtype is not None:
                setattr(config, "dtype" if hasattr(config, "dtype") else "torch_dtype", dtype)
            config.save_pretrained(folder)
        return {each.name: each.read_bytes() for each in sorted(Path(folder).iterdir())}


def _is_of_diffusers(model: Any) -> bool:
    return callable(getattr(model, "save_config", None))


def _unwrapped(model: nn.Module) -> nn.Module:
    """Without DDP and torch.compile around it."""
    while isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel) or hasattr(
        model, "_orig_mod"
    ):
        inner = getattr(model, "_orig_mod", None) or model.module
        assert isinstance(inner, nn.Module)
        model = inner
    return model
