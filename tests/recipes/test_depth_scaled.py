"""The recipe depth_scaled: GPT-2's and torchtitan's numbers, over any other recipe."""

import math
import re

import pytest
import torch
from doors import check_every_door, check_writes_nothing
from planning import make_plan, stds
from real_models import gpt2
from torch import nn

from convinit_ext import Normal, fingerprint, init_model_
from convinit_ext.recipes import TORCH, Kaiming, Orthogonal, Preset, Recipe, Rule, depth_scaled, gpt, llama

TITAN = re.compile(r"\.(wo|w2|w3)\.weight$")  # torchtitan scales the gate's partner too


class TitanBlock(nn.Module):
    """With the names of torchtitan's Llama 3."""

    def __init__(self, layer_id: int, width: int = 8) -> None:
        super().__init__()
        self.layer_id = layer_id
        sizes = {"wq": (8, 8), "wk": (8, 4), "wv": (8, 4), "wo": (8, 8)}
        self.attention = nn.ModuleDict({name: nn.Linear(*each, bias=False) for name, each in sizes.items()})
        sizes = {"w1": (8, 12), "w2": (12, 8), "w3": (8, 12)}
        self.feed_forward = nn.ModuleDict(
            {name: nn.Linear(*each, bias=False) for name, each in sizes.items()}
        )
        self.attention_norm, self.ffn_norm = nn.RMSNorm(width), nn.RMSNorm(width)


class Titan(nn.Module):
    def __init__(self, first: int = 0, depth: int = 3) -> None:
        super().__init__()
        self.tok_embeddings, self.output = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
        self.layers = nn.ModuleDict({str(first + i): TitanBlock(first + i) for i in range(depth)})


def test_over_llama_it_is_gpt_to_the_bit():
    one, two = gpt2(), gpt2()
    init_model_(one, 5, "gpt")
    init_model_(two, 5, depth_scaled(llama()))
    assert fingerprint(one) == fingerprint(two)


@pytest.mark.parametrize("first", [0, 8], ids=["whole", "stage"])
def test_by_layer_has_the_stds_of_torchtitan(first):
    found = stds(Titan(first), depth_scaled(llama(), by="layer", weights=TITAN))
    for layer in range(first, first + 3):
        inside = f"layers.{layer}"
        for name in ("attention.wo", "feed_forward.w2", "feed_forward.w3"):
            assert found[f"{inside}.{name}.weight"] == 0.02 / (2 * (layer + 1)) ** 0.5
        for name in ("attention.wq", "attention.wv", "feed_forward.w1"):
            assert found[f"{inside}.{name}.weight"] == 0.02
    assert found["output.weight"] == found["tok_embeddings.weight"] == 0.02
    if first == 0:
        whole = stds(Titan(), depth_scaled(llama(), weights=TITAN))
        assert whole["layers.0.attention.wo.weight"] == 0.02 / (2 * 3) ** 0.5  # depth_init of none


def test_a_block_is_known_by_its_place_its_key_or_its_own_number():
    blocks = nn.ModuleList(nn.ModuleDict({"fc1": nn.Linear(4, 8), "fc2": nn.Linear(8, 4)}) for _ in range(3))
    stages = nn.ModuleList(nn.Sequential(*(TitanBlock(0).attention for _ in range(2))) for _ in range(2))
    keys = nn.ModuleDict({"4": nn.ModuleDict({"wo": nn.Linear(4, 4)})})
    numbered = nn.ModuleList([nn.ModuleDict({"linear_proj": nn.Linear(4, 4)})])
    numbered[0].layer_number = 6  # Megatron's, from 1
    recipe = depth_scaled([Rule(Normal(0.0, 1.0))], by="layer")
    for model, name, depth in (
        (blocks, "2.fc2.weight", 3),
        (stages, "1.1.wo.weight", 4),
        (keys, "4.wo.weight", 5),
        (numbered, "0.linear_proj.weight", 6),
    ):
        assert stds(model, recipe)[name] == pytest.approx(1 / math.sqrt(2 * depth)), name


def test_any_recipe_and_any_values_that_can_be_divided():
    model, by = Titan(), math.sqrt(2 * 3)
    for inner in ("he", "xavier", "lecun", "torch", "trunc_normal"):
        plain, found = stds(model, inner), stds(model, depth_scaled(inner))
        for name, std in plain.items():
            scale = by if name.endswith(("wo.weight", "w2.weight")) else 1
            assert found[name] * scale == pytest.approx(std, rel=1e-6, nan_ok=True), (inner, name)
    said = {row.name: row.initialiser for row in make_plan(model, recipe=depth_scaled("he")).rows}
    assert said["layers.1.attention.wo.weight"] == "kaiming_normal_(nonlinearity='relu') / sqrt(2 * 3)"
    assert said["layers.1.attention.wq.weight"] == "kaiming_normal_(nonlinearity='relu')"
    rules = [Rule(Orthogonal(), name="*.wo.weight"), Rule(Kaiming(), name="*.w2.weight"), *TORCH]
    init_model_(model, 0, depth_scaled(rules, num_layers=8))
    wo = model.layers["0"].attention.wo.weight.detach()
    torch.testing.assert_close(wo @ wo.T, torch.eye(8) / 16)


def test_rules_before_it_are_not_scaled_and_its_parametrized_weights_are():
    model = Titan()
    nn.utils.parametrizations.weight_norm(model.layers["0"].attention.wo)
    rules = [
        Rule(Normal(0.0, 0.5), name="layers.1.attention.wo.weight"),
        *depth_scaled(llama(), num_layers=2),
    ]
    assert stds(model, rules)["layers.1.attention.wo.weight"] == 0.5
    init_model_(model, 0, rules)
    plain = Titan()
    init_model_(
        plain,
        0,
        rules,
        names={"layers.0.attention.wo.weight": "layers.0.attention.wo.parametrizations.weight.original1"},
    )
    torch.testing.assert_close(model.layers["0"].attention.wo.weight, plain.layers["0"].attention.wo.weight)


def test_every_door_has_the_same_values(tmp_path):
    check_every_door(Titan, depth_scaled("lecun", by="layer"), tmp_path)


def test_files():
    table = {"extends": "llama", "depth_scaled": "layer"}
    assert stds(Titan(), Recipe.from_dict(table)) == stds(Titan(), depth_scaled("llama", by="layer"))
    with pytest.raises(ValueError, match=r"depth_scaled: by must be one of \['model', 'layer'\], not 'own'"):
        Recipe.from_dict({"extends": "llama", "depth_scaled": "own"})
    for name in ("gpt", "deepnorm", "mamba"):
        with pytest.raises(ValueError, match="depth_scaled: recipe 'mine' scales by depth itself"):
            Recipe.from_dict({"name": "mine", "extends": name, "depth_scaled": "model"})
    with pytest.raises(ValueError, match="cannot be written"):
        depth_scaled([Rule(Normal(0.0, 1.0))]).to_dict()


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: depth_scaled("he", num_layers=0), ValueError, "num_layers must be 1 or more, but found 0"),
        (lambda: depth_scaled("he", num_layers=2.0), TypeError, "num_layers must be an int, not 2.0"),
        (lambda: depth_scaled("he", by="block"), ValueError, r"by must be one of \['model', 'layer'\]"),
        (lambda: depth_scaled("he", "layer", 3), ValueError, "num_layers is not looked at"),
        (lambda: depth_scaled("he", weights=""), ValueError, "weights is an empty pattern"),
        (lambda: depth_scaled("nothing"), ValueError, "there is no recipe 'nothing'"),
        (lambda: depth_scaled("gpt"), ValueError, "recipe 'gpt' scales by depth itself"),
        (lambda: depth_scaled([*gpt()]), ValueError, "recipe 'custom' scales by depth itself"),
        (lambda: depth_scaled(depth_scaled("he")), ValueError, "scales by depth itself"),
    ],
)  # fmt: skip
def test_wrong_arguments(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_models_that_it_makes_no_sense_for():
    flat = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    check_writes_nothing(flat, depth_scaled("he"), ValueError, "'0.weight', kaiming_normal_")
    check_writes_nothing(flat, depth_scaled("he"), ValueError, "and the model has none; say which: weights=")
    check_writes_nothing(
        flat, depth_scaled("he", weights="9.*"), ValueError, "weights that fit, and the model"
    )
    lenet = nn.ModuleDict({"fc1": nn.Linear(3, 4), "fc2": nn.Linear(4, 2)})
    check_writes_nothing(lenet, depth_scaled("he"), ValueError, "recipes.depth_scaled(num_layers=12)")
    rules = [Rule(Preset(torch.eye(8)), name="layers.0.attention.wo.weight"), *TORCH]
    check_writes_nothing(Titan(), depth_scaled(rules), ValueError, "accepted are distributions")
