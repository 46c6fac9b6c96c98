"""Adapters as loralib, torchtune and peft have them: what every recipe makes of their halves."""

import math
import types

import pytest
import torch
from named_modules import holding, lora, vector
from planning import GENERAL, fillings
from torch import nn

from convinit_ext import Constant, Normal, Uniform, init_model_

ZERO = Constant(0.0)


def kaiming(fan_in: int) -> Uniform:
    bound = math.sqrt(3) * (math.sqrt(2 / 6) / math.sqrt(fan_in))
    return Uniform(-bound, bound)


def assert_halves(found: dict[str, object], first: str, second: str, fan_in: int) -> None:
    assert found[second] == ZERO
    assert found[first].params[:2] == pytest.approx(kaiming(fan_in).params[:2], rel=1e-12)


@pytest.mark.parametrize("recipe", GENERAL, ids=str)
def test_the_first_half_is_drawn_as_nn_linears_and_the_second_is_zero_in_every_recipe(recipe):
    for model in (lora("mine", True), lora("peft.tuners.lora.layer", False)):
        found = fillings(model, recipe)
        assert_halves(found, "0.lora_A.default.weight", "0.lora_B.default.weight", 8)
        assert found["0.lora_B.default.bias"] == ZERO != found["0.base_layer.weight"]


@pytest.mark.parametrize("recipe", GENERAL, ids=str)
def test_halves_that_a_layer_holds_itself(recipe):
    pair = {"lora_A": vector(2, 8), "lora_B": vector(6, 2)}
    found = fillings(holding("Linear", nn.Linear, (8, 6), **pair), recipe)
    assert_halves(found, "lora_A", "lora_B", 8)
    layers = {"lora_a": nn.Linear(8, 2, bias=False), "lora_b": nn.Linear(2, 6, bias=False)}
    found = fillings(nn.Sequential(holding("LoRALinear", **layers)), recipe)
    assert_halves(found, "0.lora_a.weight", "0.lora_b.weight", 8)
    table = holding("Embedding", nn.Embedding, (5, 4), lora_A=vector(2, 5), lora_B=vector(4, 2))
    found = fillings(table, recipe)
    assert found["lora_A"] == ZERO and found["lora_B"] == Normal()
    alone = {"lora_embedding_A": nn.ParameterDict({"default": vector(2, 5)})}
    assert fillings(holding("Embedding", **alone), recipe) == {"lora_embedding_A.default": ZERO}
    pair = alone | {"lora_embedding_B": nn.ParameterDict({"default": vector(4, 2)})}
    found = fillings(holding("Layer", table=nn.Embedding(5, 4), **pair), recipe)
    assert found["lora_embedding_A.default"] == ZERO and found["lora_embedding_B.default"] == Normal()


def test_half_a_pair_is_no_adapter():
    model = nn.Sequential(holding("Layer", lora_b=nn.Linear(8, 8)))
    assert fillings(model, "torch")["0.lora_b.weight"] != ZERO
    assert fillings(lora("mine", False), "torch")["0.lora_B.default.weight"] != ZERO


@pytest.mark.parametrize("recipe", GENERAL, ids=str)
def test_pefts_configuration_may_ask_for_a_normal_first_half(recipe):
    model = lora("peft.tuners.lora.layer", True)
    for asked, expected in (("gaussian", Normal(0.0, 0.5)), (True, None)):
        model.peft_config = {"default": types.SimpleNamespace(init_lora_weights=asked)}
        found = fillings(model, recipe)["0.lora_A.default.weight"]
        assert (found == expected) is (asked == "gaussian")


def test_a_layer_that_is_saved_whole_starts_as_the_original():
    model = nn.Module()
    model.head = holding("ModulesToSaveWrapper")
    type(model.head).__module__ = "peft.utils.other"
    model.head.original_module = nn.Linear(4, 3)
    model.head.modules_to_save = nn.ModuleDict({"default": nn.Linear(4, 3)})
    init_model_(model, 3, "he")
    own, original = model.head.modules_to_save["default"], model.head.original_module
    assert torch.equal(own.weight, original.weight) and original.weight.any()


@pytest.mark.parametrize(("transposed", "shape"), [(False, (4, 6)), (True, (4, 6)), (False, (4, 6, 3, 2))])
def test_doras_magnitudes(transposed, shape):
    model, size = nn.Module(), shape[1] if transposed else shape[0]
    model.layer = type("Linear", (nn.Module,), {"__module__": "peft.tuners.lora.layer"})()
    model.layer.weight = vector(*shape)
    magnitude = holding("DoraLinearLayer", weight=vector(*((1, size, 1, 1) if len(shape) > 2 else (size,))))
    type(magnitude).__module__, magnitude.fan_in_fan_out = "peft.tuners.lora.dora", transposed
    model.layer.lora_magnitude_vector = nn.ModuleDict({"default": magnitude})
    nn.init.normal_(model.layer.weight)
    init_model_(model, 3, "torch", only="*lora_*")
    weight = model.layer.weight.T if transposed else model.layer.weight
    torch.testing.assert_close(magnitude.weight.flatten(), weight.flatten(1).norm(dim=1))
