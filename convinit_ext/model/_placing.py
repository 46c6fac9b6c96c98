"""Putting new memory wherever a model holds a tensor, so that what was tied stays tied."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convinit_ext.model._named_tensors import Held
from convinit_ext.sharding import is_dtensor


def place_parameter(held: Held, memory: Tensor) -> None:
    """Makes filled memory a parameter's. One on the meta device becomes a new one of its type."""
    parameter = held.tensor
    if not (parameter.is_meta or is_dtensor(parameter)):  # assigning a DTensor's data changes nothing
        grad, parameter.grad = parameter.grad, None
        parameter.data = memory
        parameter.grad = None if grad is None else grad.to(memory.dtype)
        return
    held.tensor = _parameter_like(parameter, memory)
    for module, leaf in held.places:
        setattr(module, leaf, held.tensor)  # not _parameters[leaf]: recurrent modules keep a second list


def _parameter_like(parameter: Tensor, memory: Tensor) -> Tensor:
    """A parameter of the same type and with the same attributes, whose values are in `memory`."""
    if not is_dtensor(parameter):
        fresh = torch.Tensor._make_subclass(type(parameter), memory, parameter.requires_grad)
    else:
        fresh = nn.Parameter(memory, parameter.requires_grad)
        fresh.grad = None if parameter.grad is None else parameter.grad.to(memory.dtype)
    fresh.__dict__.update(parameter.__dict__)
    return fresh


def place_buffer(held: Held, buffer: Tensor) -> None:
    """Makes a new tensor the buffer."""
    before, held.tensor = held.tensor, buffer
    for module, leaf in held.places:
        module._buffers[leaf] = buffer
        for name, value in list(vars(module).items()):
            if value is before:  # kept under a second name: original_inv_freq in transformers 4
                setattr(module, name, buffer)
