"""What a model holds, that another holds the same, and that it stays where something is refused."""

import functools

import pytest
import torch
from filling import assert_same_bits
from torch import nn

from convinit_ext import init_model_, plan_model


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same_state(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Wherever the model is, the same names, dtypes and values."""
    now = model.state_dict()
    assert now.keys() == state.keys()
    for name, tensor in state.items():
        assert now[name].dtype == tensor.dtype and now[name].is_meta == tensor.is_meta, name
        assert tensor.is_meta or torch.equal(now[name].cpu(), tensor), name


def assert_refused(model: nn.Module, error: type[Exception], said: str, **arguments: object) -> None:
    """By init_model_ and plan_model, before anything is written."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for refuses in (init_model_, plan_model, functools.partial(init_model_, dry_run=True)):
        with pytest.raises(error, match=said):
            refuses(model, 1, **arguments)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == before[name].dtype, name
        if not parameter.is_meta:
            assert_same_bits(parameter, before[name], name)
