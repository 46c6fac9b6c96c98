"""The problems that inspect_model names: dead, exploding, vanishing and unused layers, and wrong weights."""

import re

import numpy as np
import pytest
import torch
from inspected import mlp
from torch import nn

from convinit_ext import init_model_, inspect_model


def test_a_good_net_has_no_problems():
    assert inspect_model(mlp(10), recipe="he").problems == ()


@pytest.mark.parametrize("inplace", [False, True])
def test_dead_layers_are_named(inplace):
    model = mlp(inplace=inplace)
    nn.init.constant_(model[2].bias, -100)
    dead, unreached = inspect_model(model, recipe=None).problems
    assert dead == "dead: the output of 3 (ReLU) is the same for every input"
    names = "0.weight, 0.bias, 2.weight, 2.bias, 4.weight"
    assert unreached == f"cannot learn at first: the gradient is zero of {names}"
    found = inspect_model(model)
    assert [row.name for row in found.rows if row.dead] == ["3"]
    assert found.rows[3].zeros == 1 and found.rows[2].zeros == 0


def test_zero_weights_are_dead_and_the_layers_before_learn_nothing():
    model = mlp()
    nn.init.zeros_(model[4].weight)
    dead, unreached = inspect_model(model).problems
    assert dead == "dead: the output of 4 (Linear) is the same for every input"
    assert unreached.endswith("the gradient is zero of 0.weight, 0.bias, 2.weight, 2.bias")
    nn.init.zeros_(model[4].bias)  # also where the batch is of one
    assert inspect_model(model, torch.randn(1, 32)).problems[0] == dead


def test_nearly_dead_layers_are_named():
    model = mlp()
    nn.init.constant_(model[2].bias[1:], -100)
    (said,) = inspect_model(model, recipe=None).problems[:1]
    assert said.startswith("nearly dead: the output is mostly zero of 3 (ReLU), 9")


def test_exploding_layers_are_named():
    model = mlp(6)
    for layer in model[::2]:
        nn.init.normal_(layer.weight, 0, 10)
    outputs, gradients = inspect_model(model, torch.randn(512, 32)).problems
    # std 10 on 32 inputs: 57 times the input, then 40 times the output of a ReLU
    assert outputs.startswith("exploding outputs: 6 of 7 layers, from 2 (Linear), std ")
    assert ", to 12 (Linear), " in outputs and "times its input" in outputs
    assert "exploding gradients: " in gradients and ", to 0 (Linear), " in gradients
    assert "; 12 (Linear) has 1" in gradients


def test_vanishing_layers_are_named():
    outputs, gradients = inspect_model(mlp(12), recipe="trunc_normal").problems
    # std 0.02 on 32 inputs of which half are zero: 0.08 times a layer
    assert outputs.startswith("vanishing outputs: 10 of 13 layers, from 6 (Linear), std ")
    assert ", to 24 (Linear), " in outputs
    assert gradients.startswith("vanishing gradients: ") and ", to 0 (Linear), " in gradients


def test_one_steep_layer_is_named():
    model = mlp()
    init_model_(model, recipe="he")
    model[4].weight.data *= 1e4
    outputs = inspect_model(model).problems[0]
    assert outputs.startswith("exploding outputs: 3 of 5 layers, from 4 (Linear)")
    assert "; the steepest is 4 (Linear), 1" in outputs


def test_a_branch_with_small_gradients_does_not_vanish():
    model = nn.Sequential(nn.Embedding(20, 32), nn.TransformerEncoderLayer(32, 2, 64), nn.Linear(32, 4))
    init_model_(model, recipe="he")
    model[1].linear1.weight.data *= 1e-8
    assert inspect_model(model).rows[5].gradient_std > 0.1  # of what is after it
    model[1].linear2.weight.data *= 1e-8
    found = inspect_model(model)
    (small,) = (row.gradient_std for row in found.rows if row.name == "1.linear1")
    assert small < 1e-7 and not [said for said in found.problems if "gradients" in said]


class Positions(nn.Module):
    """Makes a table that is the same for every input, as rotary embeddings do."""

    def forward(self, x):
        return torch.arange(12.0).expand(len(x), 2, 12)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.positions = nn.Linear(4, 12), Positions()
        self.other, self.more = nn.Linear(4, 4), nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.first(x) + self.positions(x).sum(1)


def test_what_the_outputs_do_not_depend_on_is_unused():
    said = ("unused: the outputs on these inputs do not depend on more, other.weight, other.bias",)
    assert inspect_model(Unused()).problems == said


def test_what_is_not_finite_is_named():
    model = mlp()
    model[2].weight.data[0, 0] = float("nan")
    outputs, weights = inspect_model(model).problems
    assert outputs == "not finite: 3.1% of what 2 (Linear) puts out, the first such layer"
    assert weights == "not as intended: 2.weight (not finite)"
    assert "NaN" not in inspect_model(model).to_json()
    overflows = mlp().half()
    overflows[0].weight.data.fill_(0.5)
    found = inspect_model(overflows, torch.full((2, 32), 6e4, dtype=torch.float16))
    assert found.problems[0].startswith("not finite: ") and "of what 0 (Linear)" in found.problems[0]


def test_weights_that_are_not_as_expected_are_named():
    model = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    init_model_(model, recipe="he")
    assert inspect_model(model, expected="he").problems == ()
    std = np.sqrt(2 / 100)
    nn.init.normal_(model[0].weight, 0, 0.1)
    nn.init.uniform_(model[1].weight, -np.sqrt(3) * std, np.sqrt(3) * std)  # of the right std
    nn.init.ones_(model[1].bias)
    (said,) = inspect_model(model, expected="he").problems
    first, second, third = said.split("), ")
    assert re.fullmatch(r"not as intended: 0.weight \(std 0.[01]\d*, kaiming_normal_.* has 0.141", first)
    assert re.fullmatch(r"1.weight \(\d\d% of its values lie elsewhere than by kaiming_normal_.*\)", second)
    assert third == "1.bias (100% of its values lie elsewhere than by zeros_)"


class Spectral(nn.Module):
    """Multiplies by complex numbers, as Fourier neural operators do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight = nn.Linear(8, 8), nn.Parameter(torch.randn(5, 5, dtype=torch.complex64))

    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(self.first(x)) @ self.weight, n=8)


def test_complex_weights_have_rows_of_their_parts():
    model = Spectral()
    found = inspect_model(model)
    assert found.problems == ()
    parts = torch.view_as_real(model.weight.detach())
    row = next(row for row in found.weights if row.name == "weight")
    assert row.std == pytest.approx(parts.double().std(correction=0).item())
    assert sum(row.counts) == parts.numel() and row.gradient_std > 0


def test_what_has_no_elements_is_no_problem():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))
    model[0].extra = nn.Parameter(torch.empty(0, 3))
    assert inspect_model(model).problems == ()
    (said,) = inspect_model(nn.Linear(4, 3), torch.ones(0, 4)).problems
    assert said == "no gradients: the outputs are empty, integers or detached, or every parameter is frozen"
