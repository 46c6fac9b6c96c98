"""Rules that decide for nothing are errors at every door, with the nearest names."""

import re

import pytest
import torch
from torch import nn

from convinit_ext import Constant, fingerprint, init_model_, plan_model, save_model, verify
from convinit_ext.recipes import TORCH, Recipe, Rule, gpt, trunc_normal

ONE = Constant(1.0)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.zeros(2))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Rule(ONE, name="model.blocks.*.weight"), "fits no parameter; nearest are 'blocks.0.weight'"),
        (Rule(ONE, name=re.compile(r"^block\.\d")), "fits no parameter; nearest are? 'blocks.0"),
        (Rule(ONE, parameter="weigth"), "fits no parameter; nearest is 'weight'"),
        (Rule(ONE, module=nn.Linear, parameter="weigth"), "nearest is 'weight'"),
        (Rule(ONE, module=(nn.Bilinear, nn.LSTM)), "module=Bilinear|LSTM.* nearest is 'Linear'"),
        (Rule(ONE, where=lambda target: False), r"where=\.\.\.\) fits no parameter$"),
        (Rule(ONE, buffer="scales"), "fits no buffer; nearest is 'scale'"),
        (Rule(ONE, name="head.weight"), "fits 'head.weight', which is tied to 'embed.weight'"),
        (Rule(ONE, name="blocks.0.bias"), "is never reached: an earlier rule decides for 'blocks.0.bias'"),
    ],
)
def test_a_rule_without_effect_is_named_with_what_is_nearest(rule, said, tmp_path):
    model = Model()
    before = fingerprint(model)
    recipe = [Rule(ONE, name="blocks.*.bias"), rule, *TORCH]
    for call in (
        lambda: init_model_(model, recipe=recipe),
        lambda: init_model_(model, recipe=recipe, only="head", dry_run=True),
        lambda: plan_model(model, recipe=recipe),
        lambda: verify(model, recipe=recipe),
        lambda: save_model(model, tmp_path / "out", recipe=recipe),
    ):
        with pytest.raises(ValueError, match=rf"(?m)1 rule without effect:\n  rule 2 .*{said}"):
            call()
    assert fingerprint(model) == before and not list(tmp_path.iterdir())
    init_model_(model, recipe=Recipe(recipe, allow_unused=True))


def test_rules_for_what_only_and_skip_leave_out_and_ready_made_ones_are_no_error():
    model = Model()
    rules = [Rule(ONE, name="blocks.1.bias"), Rule(ONE, buffer="scale"), Rule(ONE, module=nn.Embedding)]
    for ready in (TORCH, trunc_normal(0.1), gpt(num_layers=3)):
        init_model_(model, recipe=[*rules, *ready], only="head.bias")
        init_model_(model, recipe=[*rules, *ready], skip="blocks")
    init_model_(model, recipe=[*TORCH, Rule(ONE)])  # for whatever is left


def test_of_many_rules_the_first_twenty_are_named():
    with pytest.raises(ValueError, match=r"rule 20 .*\n  and 5 more\n") as raised:
        init_model_(Model(), recipe=[*(Rule(ONE, name=f"x{number}") for number in range(25)), *TORCH])
    assert "rule 21 " not in str(raised.value)


def test_allow_unused_is_a_bool():
    with pytest.raises(TypeError, match="allow_unused must be a bool, not 1"):
        Rule(ONE, allow_unused=1)
