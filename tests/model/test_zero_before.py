"""Layers that are zero at first, and that a recipe of types gives other values: the report counts them."""

import copy

import pytest
import torch
from torch import nn

from convinit_ext import Normal, init_model_, plan_model
from convinit_ext.distributions import Constant
from convinit_ext.recipes import TORCH, Recipe, Rule


def control() -> nn.Module:
    """As ControlNet's zero convolutions, ResNet's zero_init_residual, and a gate."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Linear(8, 2), nn.PReLU())
    for parameter in model[1].parameters():
        nn.init.zeros_(parameter)
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[4].weight)
    model[3].weight.data[0] = 0.0  # but for a row
    return model


NAMES = ("1.weight", "2.weight", "4.weight")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2], ids=str)
def test_they_are_counted_once_and_named(dtype):
    model = control().to(dtype)
    said = f"3 parameters that were zero get other values, unless skip= leaves them: {', '.join(NAMES)}\n"
    for report in (init_model_(model, dry_run=True), plan_model(model).report, init_model_(model)):
        assert report.were_zero == NAMES and said in str(report)
        assert report.to_dict()["were_zero"] == list(NAMES)
    report = init_model_(model)
    assert report.were_zero == () and "were zero" not in str(report)


def test_a_plan_says_it_of_every_run():
    plan = plan_model(control())
    assert plan.run(1).were_zero == plan.run(2).were_zero == NAMES


def test_one_of_them():
    said = "1 parameter that was zero gets other values, unless skip= leaves them: 4.weight\n"
    assert said in str(init_model_(control(), skip=["1", "2"]))


def test_a_rule_that_names_one_knows_what_it_does():
    rules = [Rule(Normal(), name="1.weight"), Rule(Constant(0.0), module=nn.BatchNorm2d), *TORCH]
    assert init_model_(control(), recipe=rules).were_zero == ("4.weight",)
    rules = [Rule(Normal(), module=nn.Conv2d), *TORCH]
    assert init_model_(control(), recipe=Recipe(tuple(rules))).were_zero == NAMES


def test_new_memory_may_be_zero():
    model = control().to_empty(device="cpu")
    assert not copy.deepcopy(model)[0].weight._version
    model = copy.deepcopy(model)  # nothing of it was written, as where all of a model is new
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = torch.zeros_like(parameter)
    assert init_model_(model).were_zero == ()


def test_without_memory():
    assert init_model_(control().to("meta")).were_zero == ()
