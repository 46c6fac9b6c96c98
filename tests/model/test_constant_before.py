"""Parameters of one value at first, to which a recipe of types gives others: the report names them."""

import copy
import json

import pytest
import torch
from torch import nn

from convinit_ext import Normal, init_model_, plan_model
from convinit_ext.distributions import Constant
from convinit_ext.recipes import TORCH, Recipe, Rule


def control() -> nn.Module:
    """As ControlNet's zero convolutions, ResNet's zero_init_residual, and a gate."""
    torch.manual_seed(0)  # in float8 two numbers may be one
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Linear(8, 2), nn.PReLU())
    for parameter in model[1].parameters():
        nn.init.zeros_(parameter)
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[4].weight)
    model[3].weight.data[0] = 0.0  # but for a row
    return model


NAMES = ("1.weight", "2.weight", "4.weight")
WERE = dict.fromkeys(NAMES, 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2], ids=str)
def test_they_are_counted_once_and_named(dtype):
    model = control().to(dtype)
    said = f"3 parameters that were zero get other values, unless skip= leaves them: {', '.join(NAMES)}\n"
    for report in (init_model_(model, dry_run=True), plan_model(model).report, init_model_(model)):
        assert report.were_constant == WERE and said in str(report)
        assert json.loads(report.to_json())["were_constant"] == WERE
    report = init_model_(model)
    assert report.were_constant == {} and "were zero" not in str(report)


def test_a_plan_says_it_of_every_run():
    plan = plan_model(control())
    assert plan.run(1).were_constant == plan.run(2).were_constant == WERE


def test_one_of_them():
    said = "1 parameter that was zero gets other values, unless skip= leaves it: 4.weight\n"
    assert said in str(init_model_(control(), skip=["1", "2"]))


def test_a_rule_that_names_one_knows_what_it_does():
    rules = [Rule(Normal(), name="1.weight"), Rule(Constant(0.0), module=nn.BatchNorm2d), *TORCH]
    assert init_model_(control(), recipe=rules).were_constant == {"4.weight": 0.0}
    rules = [Rule(Normal(), module=nn.Conv2d), *TORCH]
    assert init_model_(control(), recipe=Recipe(tuple(rules))).were_constant == WERE


def test_new_memory_may_be_zero():
    model = control().to_empty(device="cpu")
    assert not copy.deepcopy(model)[0].weight._version
    model = copy.deepcopy(model)  # nothing of it was written, as where all of a model is new
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = torch.zeros_like(parameter)
    assert init_model_(model).were_constant == {}


def test_without_memory():
    assert init_model_(control().to("meta")).were_constant == {}


@pytest.mark.parametrize("recipe", ["torch", "he", "gpt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_prior_of_a_bias_is_named_with_its_value(dtype, recipe):
    """As detection heads have it: -log((1 - p) / p), that few anchors are of a class."""
    layers = nn.Conv2d(2, 6, 1), nn.BatchNorm2d(6), nn.LayerNorm(6), nn.Conv2d(6, 3, 1)
    model = nn.Sequential(*layers).to(dtype)
    nn.init.constant_(model[0].bias, -4.5)
    nn.init.constant_(model[3].bias, -4.5)
    nn.init.constant_(model[1].weight, 0.1)
    report = init_model_(model, recipe=recipe)
    value = torch.tensor(0.1, dtype=dtype).item()
    assert report.were_constant == {"0.bias": -4.5, "1.weight": value, "3.bias": -4.5}
    text = str(report)
    assert "2 parameters that were -4.5 get other values, unless skip= leaves them: 0.bias, 3.bias\n" in text
    assert f"1 parameter that was {value:.6g} gets other values, unless skip= leaves it: 1.weight\n" in text


def test_values_that_stay_are_no_loss():
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.PReLU(), nn.Linear(6, 1)).half()
    for parameter in model[0].parameters():
        nn.init.constant_(parameter, 0.1)
    nn.init.zeros_(model[3].bias)
    rules = [Rule(Constant(0.1), module=nn.Linear, where=lambda target: target.name[0] == "0"), *TORCH]
    assert init_model_(model, recipe=rules).were_constant == {}
    assert init_model_(model, recipe=rules, skip="0").were_constant == {}
    assert init_model_(model, skip="0.weight").were_constant == {"0.bias": torch.tensor(0.1).half().item()}
