"""peft and loralib themselves: adapters that change nothing at first, around a model that keeps its keys."""

import copy

import pytest

pytest.importorskip("peft")
pytest.importorskip("loralib")
pytest.importorskip("transformers")

import loralib
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from convinit_ext import Key, fingerprint, init, init_model_, plan_model, save_model, verify
from convinit_ext.recipes import gpt

RECIPES = ("torch", "he", "xavier", "lecun", "trunc_normal", "llama", gpt(num_layers=2))
SEED = 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8, padding_idx=2)
        self.conv = nn.Conv1d(8, 6, 3, padding=1)
        self.mlp = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.conv(self.embed(tokens).mT).mT
        return self.head(self.norm(self.mlp(x)))


def adapted(model: nn.Module, *layers: str, **more: object) -> nn.Module:
    return get_peft_model(model, LoraConfig(r=2, target_modules=list(layers), **more))


def named(model: nn.Module, ending: str) -> dict[str, Tensor]:
    return {name: each for name, each in model.named_parameters() if ending in name}


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_model_inside_keeps_its_keys_and_the_adapters_change_nothing(recipe, tmp_path):
    whole, tokens = Net(), torch.arange(11)[None]
    init_model_(whole, SEED, recipe)
    model = adapted(Net(), "embed", "conv", "mlp", modules_to_save=["head"])
    with pytest.raises(ValueError, match=r"frozen='keep'|frozen=\"keep\""):
        init_model_(model, SEED, recipe)
    init_model_(model, SEED, recipe, frozen="draw")
    assert verify(model, SEED, recipe, frozen="draw")
    assert torch.equal(model(tokens), whole(tokens))
    merged = copy.deepcopy(model).merge_and_unload()
    assert fingerprint(merged) == fingerprint(whole)
    for name in ("lora_A", "lora_embedding_B", "lora_B", "lora_embedding_A"):
        for full, own in named(model, f"{name}.default").items():
            key = Key(SEED, full.replace("base_model.model.", ""))
            if name in ("lora_B", "lora_embedding_A"):
                expected = torch.zeros_like(own)
            elif name == "lora_A":
                expected = init.kaiming_uniform_(torch.empty_like(own), a=5**0.5, key=key)
            else:
                expected = init.normal_(torch.empty_like(own), key=key)
            assert torch.equal(own, expected), full
    save_model(model, tmp_path / "a.safetensors", SEED, recipe, frozen="draw")
    assert fingerprint(tmp_path / "a.safetensors") == fingerprint(model)


def test_the_values_are_of_the_same_distribution_as_pefts_own():
    own, theirs = (adapted(nn.Sequential(nn.Linear(400, 300)), "0") for _ in range(2))
    init_model_(own, SEED, "he", only="*lora_*")
    for name, first in named(own, "lora_").items():
        second = theirs.get_parameter(name)
        assert first.shape == second.shape
        torch.testing.assert_close(first.std(), second.std(), rtol=0.1, atol=0)
        torch.testing.assert_close(first.abs().max(), second.abs().max(), rtol=0.02, atol=0)


def test_a_frozen_base_is_kept_or_left_out():
    model = adapted(Net(), "mlp")
    before = {name: each.clone() for name, each in model.named_parameters()}
    for more in ({"frozen": "keep"}, {"only": "*lora_*"}):
        init_model_(model, SEED, "he", **more)
        for name, each in model.named_parameters():
            assert torch.equal(each, before[name]) == ("lora_A" not in name), name


def test_gaussian_adapters():
    model = adapted(nn.Sequential(nn.Linear(500, 500)), "0", init_lora_weights="gaussian")
    init_model_(model, SEED, "he", only="*lora_*")
    (first,) = named(model, "lora_A").values()
    key = Key(SEED, "0.lora_A.default.weight")
    assert torch.equal(first, init.normal_(torch.empty(2, 500), std=0.5, key=key))


@pytest.mark.parametrize("draw", [False, True])
def test_magnitudes_are_the_norms_of_the_weights(draw):
    model, tokens = adapted(Net(), "embed", "conv", "mlp", use_dora=True), torch.arange(11)[None]
    for each in named(model, "lora_").values():
        nn.init.constant_(each, 7.0)
    init_model_(model, SEED, "he", **({"frozen": "draw"} if draw else {"only": "*lora_*"}))
    for name, magnitude in named(model, "lora_magnitude_vector").items():
        layer = model.get_submodule(name.partition(".lora_magnitude")[0])
        weight, dims = layer.base_layer.weight, {"embed": 0, "conv": (1, 2), "mlp": 1}
        norm = weight.norm(dim=dims[name.split(".")[2]]).view(magnitude.shape)
        torch.testing.assert_close(magnitude, norm)
    if draw:  # otherwise those that belong to the base as it would be drawn are compared
        assert verify(model, SEED, "he", frozen="draw")
    with model.disable_adapter():
        expected = model(tokens)
    torch.testing.assert_close(model.eval()(tokens), expected)


@pytest.mark.parametrize("recipe", ["gpt", "llama"])
def test_models_of_transformers(recipe):
    sizes = {"vocab_size": 11, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    builds = {
        "llama": (
            lambda: LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=24)),
            ["q_proj", "up_proj"],
        ),
        "gpt": (lambda: GPT2LMHeadModel(GPT2Config(**sizes)), ["c_attn", "c_proj"]),
    }
    build, layers = builds[recipe]
    whole, model = build(), adapted(build(), *layers, use_dora=recipe == "llama")
    init_model_(whole, SEED, recipe)
    init_model_(model, SEED, recipe, frozen="draw")
    merged = model.merge_and_unload()
    for (name, own), other in zip(merged.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-6, msg=name)
    adapter = plan_model(adapted(build(), *layers), SEED, recipe, only="*lora_*")
    assert {row.name.split(".")[-3] for row in adapter.report.rows} == {"lora_A", "lora_B"}


def test_several_adapters_of_one_layer():
    model = adapted(Net(), "mlp")
    model.add_adapter("second", LoraConfig(r=3, target_modules=["mlp"]))
    init_model_(model, SEED, only="*lora_*", frozen="draw")  # the second is not the active one
    rows = {name.partition("mlp.")[2]: bool(each.any()) for name, each in named(model, "lora_").items()}
    assert rows == {
        "lora_A.default.weight": True,
        "lora_A.second.weight": True,
        "lora_B.default.weight": False,
        "lora_B.second.weight": False,
    }


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_loralibs_layers(recipe):
    model = nn.Sequential(
        loralib.Embedding(11, 8, r=2),
        loralib.Linear(8, 8, r=2),
        loralib.MergedLinear(8, 24, r=2, enable_lora=[True, False, True]),
        loralib.Conv2d(3, 4, 3, r=2),
    )
    for layer in model:
        for half in (layer.lora_A, layer.lora_B):
            nn.init.constant_(half, 7.0)
    init_model_(model, SEED, recipe, only="*lora_*")
    for at, layer in enumerate(model):
        first, key = layer.lora_A, Key(SEED, f"{at}.lora_A")
        if at == 0:
            second = Key(SEED, "0.lora_B")
            assert not first.any()
            assert torch.equal(layer.lora_B, init.normal_(torch.empty(8, 2), key=second))
        else:
            expected = init.kaiming_uniform_(torch.empty_like(first), a=5**0.5, key=key)
            assert torch.equal(first, expected) and not layer.lora_B.any()
