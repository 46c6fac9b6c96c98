"""Wrong recipes and parameters without a rule: what is said, and that the advice works."""

import re

import pytest
import torch
from planning import make_plan
from torch import nn

from convinit_ext import Constant, Uniform, init_model_, recipes
from convinit_ext.recipes import TORCH, Kaiming, Recipe, Rule, Xavier, as_recipe


def test_every_unmatched_parameter_is_listed():
    model = nn.Module()
    model.pos_embed, model.head = nn.Parameter(torch.ones(1, 3, 4)), nn.Linear(4, 2)
    model.scale = nn.Parameter(torch.ones(4))
    with pytest.raises(
        ValueError,
        match=r"(?s)'torch' has no rule for 2 parameters.*pos_embed \[1, 3, 4\] of Module.*scale \[4\]",
    ):
        init_model_(model)
    assert torch.equal(model.scale, torch.ones(4))
    rules = [Rule(Constant(0.0), name="pos_embed"), Rule(Constant(1.0), name="scale"), *TORCH]
    initialisers = {row.name: row.initialiser for row in init_model_(model, recipe=rules).rows}
    assert (initialisers["pos_embed"], initialisers["scale"]) == ("zeros_", "ones_")


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: as_recipe("hee"), ValueError, "no recipe 'hee'; there are torch, he, xavier"),
        (lambda: as_recipe(3), TypeError, "not int"),
        (lambda: Recipe([Constant(0.0)]), TypeError, "Constant"),
        (lambda: Rule("zeros"), TypeError, "'zeros'"),
        (lambda: Rule(Constant(0.0), module="Linear"), TypeError, "'Linear'"),
        (lambda: Rule(Constant(0.0), name=3), TypeError, "name must be a str"),
        (lambda: Rule(Constant(0.0), name=re.compile("")), ValueError, "rule's name .* is an empty pattern"),
        (lambda: Rule(Constant(0.0), parameter=re.compile("")), ValueError, "parameter .* is an empty"),
        (lambda: Rule(Constant(0.0), buffer=re.compile("")), ValueError, "buffer .* is an empty pattern"),
        (lambda: Rule(Constant(0.0), name="re:^blocks"), ValueError, "'re:.blocks' is a glob.*re.Pattern"),
        (lambda: Rule(Constant(0.0), name="[]blocks"), ValueError, "never closed"),
        (lambda: Rule(Constant(0.0), name="a[!]b"), ValueError, "never closed"),
        (lambda: Rule(Constant(0.0), module=()), ValueError, "module is empty"),
        (lambda: Rule(Constant(0.0), where=True), TypeError, "True"),
        (lambda: Recipe([], name=None), TypeError, "recipe's name must be a str, not None"),
        (lambda: Kaiming("normal", mode="fan"), ValueError, "fan"),
        (lambda: Kaiming("normal", nonlinearity="relu7"), ValueError, "relu7"),
        (lambda: Kaiming("gauss"), ValueError, "gauss"),
        (lambda: Kaiming("normal", fan="mine"), ValueError, "mine"),
        (lambda: Xavier("uniform", gain=-1.0), ValueError, "gain -1.0"),
    ],
)
def test_wrong_recipes_say_what_is_wrong(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_an_initialisers_errors_name_the_parameter():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"'0.bias', kaiming_normal_: Fan in and fan out"):
        make_plan(model, recipe=[Rule(Kaiming("normal"))])
    with pytest.raises(TypeError, match=r"'0.weight'.*distribution, not 3"):
        make_plan(model, recipe=[Rule(lambda target: 3)])
    with pytest.raises(AttributeError, match=r"'0.weight', <lambda>: 'Target' object has no attribute"):
        make_plan(model, recipe=[Rule(lambda tensor: nn.init.zeros_(tensor))])
    with pytest.raises(AttributeError, match=r"'0.weight', where of ones_: 'Linear' object has no attribute"):
        make_plan(model, recipe=[Rule(Constant(1.0), where=lambda target: target.module.groups > 1)])
    with pytest.raises(ValueError, match=r"'0.weight'.*float16 cannot hold"):
        make_plan(model, recipe=[Rule(Uniform(-7e4, 0.0))], dtype=torch.float16)


class Scaled(nn.Module):
    def __init__(self, name: str = "weight", *shape: int) -> None:
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.ones(shape or (2, 3))))


def test_the_advice_for_parameters_without_a_rule_is_a_recipe_that_has_them():
    def layer() -> nn.Module:
        return nn.ModuleDict({"experts": Scaled("up_2", 3), "out": nn.Linear(4, 4)})

    model = nn.ModuleList([layer() for _ in range(12)])
    for name in ("torch", "he", "llama"):
        with pytest.raises(ValueError, match="no rule for 12 parameters") as raised:
            init_model_(model, recipe=name)
        advice = re.search(r"recipe=(\[.*\]);", str(raised.value))[1]
        assert advice == f"[Rule(Constant(0.0), name='*.experts.up_2'), *{name.upper()}]"
        init_model_(model, recipe=eval(advice, vars(recipes) | {"Constant": Constant}))
        assert not model[11]["experts"].up_2.any()
    with pytest.raises(ValueError, match=r"up_2'\), \*the others\]; or run the model's own"):
        init_model_(model, recipe=[Rule(Constant(0.0), name="*weight")])


def test_the_advice_fits_no_other_parameter():
    alone = nn.ParameterList([torch.ones(3)])
    alone.add_module("layer", nn.Linear(2, 2))
    rest = nn.ModuleDict({"a": nn.ModuleList([Scaled(), Scaled(), nn.Linear(3, 2)])})
    for model, names in ((alone, ["0"]), (rest, ["a.0.weight", "a.1.weight"])):
        with pytest.raises(ValueError, match="has no rule") as raised:
            init_model_(model)
        rules = ", ".join(f"Rule(Constant(0.0), name={name!r})" for name in names)
        assert f"recipe=[{rules}, *TORCH]" in str(raised.value)


def test_the_advice_fits_names_with_brackets():
    model = nn.ModuleDict({f"layer[{number}]": Scaled() for number in range(2)})
    with pytest.raises(ValueError, match="has no rule") as raised:
        init_model_(model, recipe="he")
    advice = re.search(r"recipe=(\[.*\]);", str(raised.value))[1]
    init_model_(model, recipe=eval(advice, vars(recipes) | {"Constant": Constant}))
    assert not any(parameter.any() for parameter in model.parameters())

    model.register_parameter("frozen[0]", nn.Parameter(torch.ones(2), requires_grad=False))
    rules = [Rule(Constant(1.0), name="layer*")]
    with pytest.raises(ValueError, match="frozen='keep'") as raised:
        init_model_(model, recipe=[*rules, Rule(Constant(0.0))])
    pattern = re.search(r"Rule\(\.\.\., name='(.*)'\)", str(raised.value))[1]
    init_model_(model, recipe=[*rules, Rule(Constant(0.0), name=pattern)])
    assert not model.get_parameter("frozen[0]").any()
