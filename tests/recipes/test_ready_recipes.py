"""The recipes trunc_normal, gpt and llama, on small models as others write them, and on theirs."""

import math
import types

import pytest
import torch
from named_modules import holding, vector
from planning import GENERAL, fillings, make_plan
from real_models import convnextv2, gpt2, vit
from real_models import llama as real_llama
from torch import nn

from convinit_ext import Constant, Normal, TruncatedNormal, Uniform, init_model_
from convinit_ext.recipes import Recipe, RowZeroed, Rule, gpt, llama, trunc_normal


class Block(nn.Module):
    def __init__(self, width: int, names: dict[str, str]) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        attention, self_in = nn.Module(), nn.Linear(width, 3 * width)
        attention.add_module("qkv", self_in)
        attention.add_module(names["attention_out"], nn.Linear(width, width))
        mlp = nn.Module()
        mlp.add_module("up", nn.Linear(width, 4 * width))
        mlp.add_module(names["mlp_out"], nn.Linear(4 * width, width))
        self.add_module(names["attention"], attention)
        self.add_module(names["mlp"], mlp)


class Language(nn.Module):
    def __init__(self, depth: int, names: dict[str, str], config=None) -> None:
        super().__init__()
        if config is not None:
            self.config = config
        self.wte = nn.Embedding(11, 8, padding_idx=3)
        self.wpe = nn.Embedding(6, 8)
        self.h = nn.ModuleList(Block(8, names) for _ in range(depth))
        self.ln_f = LlamaRMSNorm(8)
        self.head = nn.Linear(8, 11, bias=False)


class LlamaRMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))


class GemmaRMSNorm(LlamaRMSNorm):
    """Its forward multiplies by 1 + weight."""


class VideoPrismLayerNorm(nn.LayerNorm):
    """Its forward multiplies by weight + 1."""


NAMES = [
    {"attention": "attn", "attention_out": "c_proj", "mlp": "mlp", "mlp_out": "c_proj"},
    {"attention": "attention", "attention_out": "dense", "mlp": "mlp", "mlp_out": "dense_4h_to_h"},
    {"attention": "self_attn", "attention_out": "o_proj", "mlp": "mlp", "mlp_out": "down_proj"},
    {"attention": "self_attn", "attention_out": "out_proj", "mlp": "ffn", "mlp_out": "fc2"},
    {"attention": "attention", "attention_out": "wo", "mlp": "feed_forward", "mlp_out": "w2"},
    {"attention": "self_attention", "attention_out": "linear_proj", "mlp": "mlp", "mlp_out": "linear_fc2"},
]


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names["mlp_out"])
def test_gpt_scales_the_residual_projections_of_models_as_they_are_named(names):
    model = Language(5, names)
    found = fillings(model, "gpt")
    residual = {f"{names['attention']}.{names['attention_out']}", f"{names['mlp']}.{names['mlp_out']}"}
    for index in range(5):
        for name in residual:
            assert found[f"h.{index}.{name}.weight"] == Normal(0.0, 0.02 / math.sqrt(10))
            assert found[f"h.{index}.{name}.bias"] == Constant(0.0)
    scaled = [name for name, filling in found.items() if filling == Normal(0.0, 0.02 / math.sqrt(10))]
    assert len(scaled) == 10
    rest = {name: filling for name, filling in found.items() if name not in scaled}
    for name, filling in rest.items():
        one = name.endswith(("ln_1.weight", "ln_f.weight"))
        assert filling == (
            Constant(1.0) if one else Constant(0.0) if "bias" in name else Normal(0.0, 0.02)
        ), name
    init_model_(model, recipe="gpt")
    assert not model.wte.weight[3].any() and model.wte.weight[2].all()


def test_gpt_reads_the_number_of_layers_from_the_nearest_config_or_is_told():
    stage = Language(2, NAMES[0], types.SimpleNamespace(n_layer=18, num_layers="many"))
    assert fillings(stage, "gpt")["h.0.attn.c_proj.weight"] == Normal(0.0, 0.02 / 6)
    outer = nn.Module()
    outer.config, outer.inner = {"num_hidden_layers": 2}, stage
    assert fillings(outer, "gpt")["inner.h.0.attn.c_proj.weight"] == Normal(0.0, 0.02 / 6)
    stage.config = {"num_hidden_layers": 8}
    assert fillings(outer, "gpt")["inner.h.1.mlp.c_proj.weight"] == Normal(0.0, 0.02 / 4)
    assert fillings(outer, gpt(0.1, num_layers=50))["inner.h.1.mlp.c_proj.weight"] == Normal(0.0, 0.1 / 10)
    with pytest.raises(ValueError, match=r"attn\.c_proj\.weight'.*gpt\(num_layers=12\)"):
        make_plan(Block(8, NAMES[0]), recipe="gpt")
    with pytest.raises(ValueError, match="num_layers must be 1 or more, but found 0"):
        gpt(num_layers=0)


@pytest.mark.parametrize("recipe", [llama(), gpt(num_layers=2)], ids=["llama", "gpt"])
def test_what_is_of_no_known_layer_is_listed_and_not_guessed(recipe):
    mixer = holding("Mixer", A_log=(8, 4), dt_bias=(8,))  # Mamba's: no name and no dimensions tell its form
    mixer.in_proj = nn.Linear(4, 8)
    router = holding("TopKRouter", weight=(4, 8), bias=(4,))
    model = nn.ModuleDict({"mixer": mixer, "router": router, "memory": nn.LSTM(3, 2)})
    said = r"2 parameters:\n  mixer\.A_log \[8, 4\] of Mixer\n  mixer\.dt_bias \[8\] of Mixer\n"
    with pytest.raises(ValueError, match=said):
        make_plan(model, recipe=recipe)
    model.mixer = mixer.in_proj
    for name, filling in fillings(model, recipe).items():
        assert filling == (Constant(0.0) if "bias" in name else Normal(0.0, 0.02)), name


def test_llama_has_one_std_whatever_the_depth_and_takes_experts():
    model = Language(5, NAMES[2])
    model.experts = holding("Experts", gate_up_proj=(4, 6, 8), gate_up_proj_bias=(4, 6))
    model.norm = GemmaRMSNorm(8)
    found = fillings(model, llama(0.01))
    assert found["h.3.self_attn.o_proj.weight"] == found["experts.gate_up_proj"] == Normal(0.0, 0.01)
    assert found["experts.gate_up_proj_bias"] == Constant(0.0)
    assert found["ln_f.weight"] == Constant(1.0) and found["norm.weight"] == Constant(0.0)
    model.scale = nn.Parameter(torch.empty(3))
    with pytest.raises(ValueError, match=r"'llama' has no rule for 1 parameter:\n  scale \[3\]"):
        make_plan(model, recipe="llama")


@pytest.mark.parametrize("recipe", GENERAL)
def test_norms_that_add_one_to_their_weights_start_from_zero(recipe):
    theirs = ("Krea2RMSNorm", "QwenImage21ZeroCenterRMSNorm", "OffsetRMSNorm")  # of diffusers and torchtitan
    others = [type(name, (LlamaRMSNorm,), {})(8) for name in theirs]
    model = nn.Sequential(GemmaRMSNorm(8), VideoPrismLayerNorm(8), nn.LayerNorm(8), *others)
    found = fillings(model, recipe)
    assert found.pop("2.weight") == Constant(1.0)
    assert set(found.values()) == {Constant(0.0)} and len(found) == 7


@pytest.mark.parametrize(
    "recipe",
    [
        [Rule(Normal(), module=nn.Linear)],
        Recipe.from_dict({"defaults": True, "rules": [{"init": "normal_", "module": "Linear"}]}),
    ],
    ids=["list of rules", "table"],
)
def test_the_defaults_know_them_too(recipe):
    model = nn.Sequential(VideoPrismLayerNorm(8), nn.LayerNorm((2, 4)), nn.Linear(8, 8))
    found = fillings(model, recipe)
    assert found["0.weight"] == found["0.bias"] == found["1.bias"] == Constant(0.0)
    assert found["1.weight"] == Constant(1.0) and found["2.weight"] == Normal()


def norm(name: str, gamma=(8,), base: type[nn.Module] = nn.Module, **others) -> nn.Module:
    """A module of a type of that name, with a gain called gamma and what else is given."""
    module = type(name, (base,), {})(*(() if base is nn.Module else (8,)))
    module.gamma = nn.Parameter(torch.empty(gamma))
    nn.init.ones_(module.gamma)  # memory that nothing was written to has buffers warned of
    for key, value in others.items():
        setattr(module, key, value)
    return module


@pytest.mark.parametrize("recipe", GENERAL)
def test_gains_called_gamma_start_from_what_their_norm_says(recipe):
    model = nn.ModuleDict(
        {
            "wan": norm("WanRMS_norm", (8, 1, 1), bias=vector(8, 1, 1)),
            "stable": norm("StableAudio3RMSNorm"),
            "affine": norm("layer_norm", beta=vector()),
            "fixed": norm("LayerNorm", beta=nn.Buffer(torch.zeros(8))),
            "plain": norm("LayerNorm", unit_offset=False),
            "offset": norm("MoonshineStreamingLayerNorm", unit_offset=1.0),
            "lower": type("Rmsnorm", (LlamaRMSNorm,), {})(8),
        }
    )
    assert fillings(model, recipe) == {
        "wan.gamma": Constant(1.0),
        "wan.bias": Constant(0.0),
        "stable.gamma": Constant(1.0),
        "affine.gamma": Constant(1.0),
        "affine.beta": Constant(0.0),
        "fixed.gamma": Constant(1.0),
        "plain.gamma": Constant(1.0),
        "offset.gamma": Constant(0.0),
        "lower.weight": Constant(1.0),
    }


@pytest.mark.parametrize(
    "module",
    [
        norm("RMSNorm", (2, 1, 8)),  # from 1 / sqrt(dim), where a ViT normalises queries and keys
        norm("LayerNorm"),  # from 0, where it multiplies by gamma + 1
        norm("LayerNorm", unit_offset="yes"),
        norm("LayerNorm", unit_offset=0.5),
        norm("ScaleNorm", beta=vector()),
        norm("Scaled", base=nn.LayerNorm),  # beside its weight
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_gamma_of_which_nobody_can_know_is_listed_and_no_layer_scale(module):
    for recipe in GENERAL:
        with pytest.raises(ValueError, match=r"has no rule for \d parameters?:\n  1\.gamma \["):
            make_plan(nn.Sequential(nn.Linear(8, 8), module), recipe=recipe)


@pytest.mark.parametrize("recipe", ["he", "trunc_normal"])
def test_the_norms_of_a_video_autoencoder_start_as_they_are_built(recipe):
    diffusers = pytest.importorskip("diffusers")
    config = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2], "num_res_blocks": 1}
    model = diffusers.AutoencoderKLWan(**config, temperal_downsample=[False])
    built = {name: tensor.detach().clone() for name, tensor in model.named_parameters() if "norm" in name}
    assert any(name.endswith("gamma") for name in built)
    init_model_(model, recipe=recipe)
    for name, tensor in built.items():
        assert torch.equal(model.get_parameter(name), tensor), name


def test_trunc_normal_knows_vision_transformers_and_convnexts():
    names = ("cls_token", "pos_embed", "dist_token", "mask_token", "position_embeddings")
    model = holding("Vision", **dict.fromkeys(names, (1, 3, 8)))
    model.patches, model.embed = nn.Conv2d(3, 8, 4), nn.Embedding(5, 8)
    model.attention, model.norm = nn.MultiheadAttention(8, 2), nn.LayerNorm(8)
    model.grn, model.head = holding("GlobalResponseNorm", weight=(8,), bias=(8,)), nn.Linear(8, 2)
    model.ls = holding("LayerScale", gamma=(8,))
    model.ls.init_values = 1e-5
    model.block = holding(
        "ConvNextLayer", layer_scale_parameter=(8, 1, 1), relative_position_bias_table=(9, 2)
    )
    normal = TruncatedNormal(0.0, 0.02, -2.0, 2.0)
    assert fillings(model, "trunc_normal") == {
        **dict.fromkeys(["cls_token", "pos_embed", "dist_token"], normal),
        "mask_token": Constant(0.0),
        "position_embeddings": normal,
        "patches.weight": normal,
        "patches.bias": Constant(0.0),
        "embed.weight": normal,
        "attention.in_proj_weight": normal,
        "attention.in_proj_bias": Constant(0.0),
        "attention.out_proj.weight": normal,
        "attention.out_proj.bias": Constant(0.0),
        "norm.weight": Constant(1.0),
        "norm.bias": Constant(0.0),
        "ls.gamma": Constant(1e-5),
        "grn.weight": Constant(0.0),
        "grn.bias": Constant(0.0),
        "head.weight": normal,
        "head.bias": Constant(0.0),
        "block.layer_scale_parameter": Constant(1e-6),
        "block.relative_position_bias_table": normal,
    }
    model.config = types.SimpleNamespace(layer_scale_init_value=0.25)
    assert fillings(model, "trunc_normal")["block.layer_scale_parameter"] == Constant(0.25)
    assert fillings(model, trunc_normal(0.5))["head.weight"] == TruncatedNormal(0.0, 0.5, -2.0, 2.0)


def test_a_position_table_has_two_dimensions():
    model = nn.Module()
    model.pos_emb, model.cls_token, model.class_embedding = vector(1, 3, 8), vector(8), vector(8)
    assert set(fillings(model, "trunc_normal").values()) == {TruncatedNormal(0.0, 0.02, -2.0, 2.0)}
    model.pos_emb_alpha = vector(1)  # a gain of SeamlessM4Tv2
    with pytest.raises(ValueError, match=r"no rule for 1 parameter:\n  pos_emb_alpha \[1\]"):
        make_plan(model, recipe="trunc_normal")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("build", "recipe"),
    [(gpt2, "gpt"), (real_llama, "llama"), (convnextv2, "trunc_normal"), (vit, "trunc_normal")],
)
def test_a_model_of_transformers_has_the_spread_that_its_own_code_gives_it(build, recipe):
    eager = build()
    with torch.device("meta"):
        model = build()
    init_model_(model, recipe=recipe)
    for (path, mine), other in zip(model.named_parameters(), eager.parameters(), strict=True):
        mine, other = mine.detach(), other.detach()
        if not other.any() or other.eq(other.flatten()[0]).all():
            assert torch.equal(mine, other), path
        else:
            expected = pytest.approx(other.std().item(), rel=6 / math.sqrt(mine.numel()))
            assert mine.std().item() == expected, path
    for (path, mine), other in zip(model.named_buffers(), eager.buffers(), strict=True):
        assert torch.equal(mine, other), path


def test_a_ready_made_recipe_draws_what_it_says():
    model = nn.Sequential(nn.Linear(300, 400), nn.Linear(400, 300))
    for recipe in ("lecun", "llama", "trunc_normal"):
        for row in make_plan(model, recipe=recipe).rows[::2]:
            init_model_(model, recipe=recipe)
            assert row.tensor.detach().std().item() == pytest.approx(row.std, rel=0.01)
            assert isinstance(row.distribution, Normal | TruncatedNormal | Uniform | RowZeroed)
