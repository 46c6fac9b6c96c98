"""What a model holds, and that another holds the same."""

import torch
from torch import nn


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same_state(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Wherever the model is, the same names, dtypes and values."""
    now = model.state_dict()
    assert now.keys() == state.keys()
    for name, tensor in state.items():
        assert now[name].dtype == tensor.dtype, name
        assert torch.equal(now[name].cpu(), tensor), name
