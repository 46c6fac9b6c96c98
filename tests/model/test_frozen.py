"""Frozen parameters: kept, drawn, or asked about; a rule that names one decides for it."""

from __future__ import annotations

import types

import pytest
import torch
from named_modules import ModelMixin
from safetensors.torch import load_file
from states import assert_refused
from torch import nn

from convinit_ext import Constant, init_model_, plan_model, save_model, verify
from convinit_ext.recipes import TORCH, CopyFrom, Recipe, Rule, as_recipe, depth_scaled, gpt


def built(device: str = "cpu") -> nn.Module:
    with torch.device(device):
        model = nn.Sequential(nn.Linear(4, 4), nn.Embedding(6, 4), nn.Linear(4, 4))
    model[1].weight.requires_grad_(False)
    if device == "cpu":
        nn.init.constant_(model[1].weight, 7.0)
    return model


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "recipe", ["torch", "gpt", gpt(0.1), [Rule(Constant(0.5), module=nn.Linear), *TORCH]]
)
def test_a_frozen_parameter_is_asked_about(recipe, device):
    said = r"1\.weight \[6, 4\] of Embedding\n.*frozen='keep'.*frozen='draw'"
    assert_refused(built(device), ValueError, said, recipe=recipe)


@pytest.mark.parametrize("recipe", ["gpt", "mamba", depth_scaled("torch")])
def test_a_ready_made_rule_that_is_scaled_names_nothing(recipe):
    model = nn.ModuleList([nn.ModuleDict({"out_proj": nn.Linear(4, 4)}) for _ in "ab"])
    next(model.parameters()).requires_grad_(False)
    rules = [Rule(Constant(0.0), parameter="A_log", allow_unused=True), *as_recipe(recipe)]
    with pytest.raises(ValueError, match=r"(?s)weight .*frozen='keep'"):
        init_model_(model, recipe=Recipe(rules, allow_unused=True))


@pytest.mark.parametrize("condition", [{"name": "1.weight"}, {"parameter": "weight", "module": nn.Embedding}])
def test_a_rule_of_ones_own_that_names_it_decides(condition):
    model = built("meta")
    init_model_(model, recipe=[Rule(Constant(0.5), **condition), *TORCH])
    assert model[1].weight.eq(0.5).all() and not model[1].weight.requires_grad


def test_models_that_are_frozen_as_a_whole_and_trained_ones_are_not_asked_about():
    whole = built().requires_grad_(False)
    assert len(init_model_(whole).rows) == 5 and not whole[1].weight.eq(7).any()
    init_model_(built(), only=["0", "2"])


def test_keep_holds_for_a_model_that_is_frozen_as_a_whole_too():
    whole = built().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    report = init_model_(whole, frozen="keep")
    assert {row.initialiser for row in report.rows} == {"kept (frozen)"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in whole.state_dict().items())
    with pytest.raises(ValueError, match=r"frozen='keep' cannot keep 5 parameters on the meta device"):
        init_model_(built("meta").requires_grad_(False), frozen="keep")


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_kept_ones_stay_and_the_report_says_so(dtype, tmp_path):
    model, other = built(), built().requires_grad_(True)
    report = init_model_(model, 3, dtype=dtype, frozen="keep")
    init_model_(other, 3, dtype=dtype)
    assert model[1].weight.eq(7).all() and model[1].weight.dtype == (dtype or torch.float32)
    assert torch.equal(model[2].weight, other[2].weight)
    names = [row.name for row in report.rows]
    assert names == [name for name, _ in model.named_parameters()]
    assert report.rows[names.index("1.weight")].initialiser == "kept (frozen)"
    found = verify(model, 3, frozen="keep")
    assert found and found.unchecked == ("1.weight",)
    save_model(model, tmp_path / "a.safetensors", 3, frozen="keep")
    assert all(
        torch.equal(each, model.state_dict()[name])
        for name, each in load_file(tmp_path / "a.safetensors").items()
    )
    plan = plan_model(model, 4, frozen="keep")
    plan.run(5)
    assert model[1].weight.eq(7).all() and verify(model, 5, frozen="keep")


def test_drawn_ones_are_as_others():
    model, other = built(), built().requires_grad_(True)
    init_model_(model, 3, frozen="draw")
    init_model_(other, 3)
    assert torch.equal(model[1].weight, other[1].weight)
    assert verify(model, 3, frozen="draw")


def test_meta_ones_cannot_be_kept_and_are_listed():
    with pytest.raises(ValueError, match=r"cannot keep 1 parameter on the meta device.*\n  1\.weight"):
        init_model_(built("meta"), frozen="keep")
    with pytest.raises(ValueError, match="frozen must be"):
        init_model_(built(), frozen="both")


def test_a_copy_of_a_kept_one_is_what_it_holds():
    model = built()
    model.append(nn.Embedding(6, 4))
    init_model_(model, recipe=[Rule(CopyFrom("1.weight"), name="3.weight"), *TORCH], frozen="keep")
    assert model[3].weight.eq(7).all()


def test_of_many_the_first_twenty_are_listed():
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(30)]).requires_grad_(False)
    model.append(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="60 parameters are frozen") as error:
        init_model_(model)
    assert str(error.value).count("of Linear") == 20 and "\n  and 40 more\n" in str(error.value)


class FreezingItself(ModelMixin):
    """A model of diffusers' kind, whose constructor freezes some parameters."""

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.config = types.SimpleNamespace(size=size)
        self.layer, self.encoder = nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)
        self.constant = nn.Parameter(torch.tensor([0.1, 0.1]), requires_grad=False)
        self.table = nn.Parameter(torch.arange(4.0), requires_grad=False)
        self.waves = nn.Parameter(torch.randn(size) * 16, requires_grad=False)
        self.filter = nn.Linear(2, 1, bias=False).requires_grad_(False)
        self.filter.weight = nn.Parameter(torch.ones(1, 2), requires_grad=False)

    @classmethod
    def from_config(cls, config: types.SimpleNamespace) -> FreezingItself:
        return cls(config.size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_a_constructor_freezes_is_what_it_makes_or_draws(dtype):
    with torch.device("meta"):
        model, other = (nn.Sequential(FreezingItself()).to(dtype) for _ in range(2))
    init_model_(model, 3)
    init_model_(other.requires_grad_(True), 3)
    made, drawn = model[0], other[0]
    assert torch.equal(made.constant, torch.tensor([0.1, 0.1]).to(dtype))
    assert torch.equal(made.table, torch.arange(4.0, dtype=dtype))
    assert made.filter.weight.eq(1).all() and not drawn.filter.weight.eq(1).any()
    assert 12 < made.waves.std() < 20
    for name in ("encoder.weight", "encoder.bias", "waves", "layer.weight"):
        assert torch.equal(model.get_parameter(f"0.{name}"), other.get_parameter(f"0.{name}")), name
    assert [name for name, each in made.named_parameters() if each.requires_grad] == [
        "layer.weight",
        "layer.bias",
    ]
    assert verify(model, 3) and not verify(model, 4)


def test_what_else_is_frozen_or_has_values_is_asked_about():
    model = FreezingItself()
    with pytest.raises(ValueError, match="6 parameters are frozen"):
        init_model_(model)
    init_model_(model, frozen="keep")
    with torch.device("meta"):
        model, by_user = FreezingItself(), FreezingItself()
    with pytest.raises(ValueError, match="cannot keep 6 parameters on the meta device"):
        init_model_(model, frozen="keep")
    by_user.layer.weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"1 parameter is frozen.*\n  layer\.weight"):
        init_model_(by_user)
