"""A module's own init code, and that of the module around it, which comes after it: the last one counts."""

import copy

import pytest
import torch
from planning import fillings, make_plan
from states import assert_same_state
from torch import nn

from convinit_ext import Constant, Normal, Uniform, init_model_


class Layer(nn.Module):
    """A linear layer of somebody else's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, 3))
        self.shift = nn.Parameter(torch.empty(4))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.weight.data.uniform_(-1, 1)
        self.shift.data.zero_()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(Layer(), nn.ReLU()), Layer()])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for each in (self.layers[0][0], self.layers[1]):
            each.reset_parameters()
        nn.init.normal_(self.layers[0][0].weight, std=0.5)
        self.layers[1].shift.data.fill_(3)


class Outer(nn.Module):
    """Says nothing of what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()


MEANS = {
    "layers.0.0.weight": Normal(0.0, 0.5),
    "layers.0.0.shift": Constant(0.0),
    "layers.1.weight": Uniform(-1.0, 1.0),
    "layers.1.shift": Constant(3.0),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_last_reset_counts(device):
    with torch.device(device):
        model = Network()
    before = copy.deepcopy(model.state_dict())
    assert fillings(model, "torch") == MEANS
    assert_same_state(model, before)
    with torch.device(device):
        inside = Outer()
    assert fillings(inside, "he") == {f"network.{name}": means for name, means in MEANS.items()}
    report = init_model_(model, 3)
    assert {row.initialiser for row in report.rows} == {"the model's own init code"}


def test_what_the_module_around_cannot_say_the_module_says(monkeypatch):
    def fail(self: nn.Module) -> None:
        raise RuntimeError("not of a copy")

    monkeypatch.setattr(Network, "reset_parameters", fail)
    model = nn.Sequential(Outer.__new__(Outer))
    nn.Module.__init__(model[0])
    model[0].network = Network.__new__(Network)
    nn.Module.__init__(model[0].network)
    model[0].network.layers = nn.ModuleList([Layer()])
    assert make_plan(model).rows[0].distribution == Uniform(-1.0, 1.0)


def test_a_model_with_init_weights_is_asked_first():
    class Model(nn.Sequential):
        def _init_weights(self, module: nn.Module) -> None:
            if isinstance(module, Layer):
                nn.init.normal_(module.weight, std=0.02)

    found = fillings(Model(Network()), "torch")
    assert found["0.layers.0.0.weight"] == Normal(0.0, 0.02) and found["0.layers.1.shift"] == Constant(0.0)
