"""Models to save, and what should then be in their files; for test_saving*.py."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

from convinit_ext import Normal, init_model_
from convinit_ext.checkpoint._safetensors import open_weights
from convinit_ext.recipes import TORCH, Rule


def spectral() -> nn.Module:
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)),
        spectral_norm(nn.Linear(9, 6)),
        parametrizations.orthogonal(nn.Linear(6, 6)),
        parametrizations.orthogonal(nn.Linear(5, 8), use_trivialization=False),
    )


def filled(build, **arguments):
    model = build()
    init_model_(model, **arguments)
    return unique(model)


def unique(model):
    """The state dict without tied names."""
    found, seen = {}, set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


def on_meta(build):
    if build is spectral:  # PyTorch looks at its values
        return build().to("meta")
    with torch.device("meta"):
        return build()


def rule_model() -> nn.Module:
    return nn.Sequential(*(nn.Linear(6, 6) for _ in range(5)))


def snapshot(folder):
    return {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in Path(folder).iterdir()}


def assert_same_values(folder, tensors):
    weights = open_weights(folder)
    assert weights.tensors.keys() == tensors.keys()
    for path in weights.paths:
        for name, tensor in load_file(path).items():
            assert tensor.equal(tensors[name])


ANY = [*TORCH, Rule(Normal(0.0, 0.02))]
