"""Modules of types and with parameters that are called as is asked for; recipes know layers by such names."""

import torch
from torch import nn


def vector(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape or 8))


def holding(name: str, base: type[nn.Module] = nn.Module, arguments: tuple = (), **parameters) -> nn.Module:
    """A module of a type of that name, with these parameters, or parameters of these shapes."""
    module = type(name, (base,), {})(*arguments)
    for leaf, value in parameters.items():
        setattr(module, leaf, vector(*value) if isinstance(value, tuple) else value)
    return module


def conv1d(num_in: int, num_out: int) -> nn.Module:
    """transformers' Conv1D, as a module of that name: its weight is [in, out]."""
    kind = type("Conv1D", (nn.Module,), {"__module__": "transformers.pytorch_utils"})
    module = kind()
    module.weight, module.bias = (
        nn.Parameter(torch.empty(num_in, num_out)),
        nn.Parameter(torch.empty(num_out)),
    )
    return module


# What diffusers' models derive from, by its name.
ModelMixin = type("ModelMixin", (nn.Module,), {"__module__": "diffusers.models.modeling_utils"})


def lora(package: str, dictionary: bool) -> nn.Module:
    base = nn.ModuleDict if dictionary else type("LoraHalves", (nn.Module,), {})
    layer = type("Linear", (nn.Module,), {"__module__": package})()
    layer.base_layer, layer.lora_A, layer.lora_B = nn.Linear(8, 8), base(), base()
    layer.lora_A.add_module("default", nn.Linear(8, 2, bias=False))
    layer.lora_B.add_module("default", nn.Linear(2, 8))
    return nn.Sequential(layer)
