"""What recipes know beside torch.nn's layers, and what they list because they cannot know it."""

import math
import warnings

import pytest
import torch
from named_modules import holding, vector
from planning import GENERAL, fillings, make_plan, unlisted
from torch import nn

from convinit_ext import Constant, Normal, Uniform, init_model_
from convinit_ext.recipes import TORCH, Rule, Xavier, as_recipe, gpt
from convinit_ext.recipes._rules import unknown

ZERO, ONE = Constant(0.0), Constant(1.0)
LISTS = [[Rule(Normal(0.0, 0.1), parameter="weight")], *GENERAL]


@pytest.mark.parametrize("recipe", LISTS, ids=str)
def test_a_pattern_that_fits_a_part_of_a_name_makes_no_zeros_and_no_layer_scales(recipe):
    names = ["dt_bias", "logit_bias", "forget_bias", "A_log", "D", "lambda_q1", "log_gamma", "gamma_proj"]
    names += ["logit_scale_factor", "lambdas", "layer_scale_factor", "in_proj_bias", "bias_ih_l0"]
    model = holding("Mixer", **{name: vector() for name in names})
    model.dt_proj = nn.Linear(8, 8)
    model.layer = holding("Odd", nn.Linear, (8, 8), logit_bias=vector(8), scale_bias=vector(8))
    assert unlisted(model, recipe) == ["dt_proj.weight", "layer.weight", "layer.bias"]


def test_layer_scales_are_known_by_whole_names():
    names = [
        "gamma",
        "gamma_1",
        "lambda1",
        "lambda_2",
        "layer_scale",
        "layer_scale_1",
        "layer_scale_parameter",
    ]
    parameters = {name: vector() for name in names}
    assert fillings(holding("ConvNeXtBlock", **parameters), "trunc_normal") == dict.fromkeys(
        names, Constant(1e-6)
    )
    block = holding("Block", **parameters)
    assert unlisted(block, "trunc_normal") == []  # CaiT's start from 1e-5, and nothing says so
    block.init_values = 1e-5
    assert fillings(block, "trunc_normal") == dict.fromkeys(names, Constant(1e-5))


def test_biases_are_zero_by_default_where_they_are_called_so_or_are_torchs_own():
    model = nn.ModuleDict({"rnn": nn.LSTM(3, 2, bidirectional=True), "mha": nn.MultiheadAttention(4, 2)})
    model["own"], model["cell"] = holding("Own", bias=vector()), nn.GRUCell(3, 2)
    recipe = [Rule(Normal(), where=lambda target: target.tensor.ndim > 1)]
    assert {value for name, value in fillings(model, recipe).items() if "bias" in name} == {ZERO}


OFFSETS = [
    ({"residual_weight": True}, 0.0),
    ({"residual_weight": False}, 1.0),
    ({"unit_offset": True}, 0.0),
    ({"add_unit_offset": 1.0}, 0.0),
    ({"zero_centered_gamma": True}, 0.0),
    ({"plus_one": False}, 1.0),
    ({"unit_offset": 0.5}, None),
    ({"weight_offset": "one"}, None),
    ({"eps": 1.0, "normalized_shape": 8}, 1.0),
]


@pytest.mark.parametrize(("attributes", "start"), OFFSETS, ids=str)
def test_a_norm_says_what_it_adds_to_its_weight_or_is_listed(attributes, start):
    for recipe in GENERAL:
        norms = [
            holding(name, weight=vector()) for name in ("LayerNorm", "MultiHeadLayerNorm", "FastRMSNorm")
        ]
        norms += [
            holding(f"My{base.__name__}", base, (8,)) for base in (nn.LayerNorm, nn.RMSNorm, nn.BatchNorm1d)
        ]
        for norm in norms:
            vars(norm).update(attributes)
            model = nn.Sequential(norm)
            if start is None:
                assert "0.weight" not in unlisted(model, recipe)
            else:
                assert fillings(model, recipe)["0.weight"] == Constant(start)


@pytest.mark.parametrize(
    ("base", "arguments"),
    [
        (nn.Linear, (8, 8)),
        (nn.Conv2d, (8, 8, 1)), (nn.Bilinear, (4, 4, 8)), (nn.RNN, (4, 8)), (nn.LSTM, (4, 8)),
        (nn.GRU, (4, 8)), (nn.LSTMCell, (4, 8)), (nn.GRUCell, (4, 8)), (nn.MultiheadAttention, (8, 2)),
        (nn.Embedding, (5, 8)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_what_a_derived_type_adds_is_listed_or_decided_by_its_own_type(base, arguments):
    for recipe in GENERAL:
        with torch.no_grad():
            plain = base(*arguments)
        added = {
            "gain": vector(8, 1, 1, 1),
            "table": vector(4, 8),
            "gate_weight": vector(8, 8),
            "scale_bias": vector(),
        }
        model = holding("Derived", base, arguments, **added)
        own = [name for name, _ in plain.named_parameters()]
        assert unlisted(model, recipe) == own
        recipe = gpt(num_layers=2) if recipe == "gpt" else recipe
        rules = [*(Rule(ZERO, name=name) for name in added), *as_recipe(recipe)]
        model.inner = nn.Embedding(5, 8)
        given = fillings(model, rules)
        assert {name: given[name] for name in own} == fillings(plain, recipe)
        assert given["inner.weight"] == fillings(nn.Embedding(5, 8), recipe)["weight"]


class Words(nn.Transformer):
    """As in PyTorch's examples: the decoder is another than nn.Transformer's own."""

    def __init__(self) -> None:
        super().__init__(8, 2, 1, 1, 16, batch_first=True)
        self.embed, self.decoder = nn.Embedding(9, 8), nn.Linear(8, 9)


@pytest.mark.parametrize("recipe", ["torch", "he", "xavier", "lecun"])
def test_of_a_derived_transformer_the_encoder_and_the_decoder_alone_are_drawn_anew(recipe):
    found, layer = fillings(Words(), recipe), fillings(nn.Linear(8, 9), recipe)
    assert found["embed.weight"] == Normal() and found["decoder.weight"] == layer["weight"]
    xavier = Xavier().of_fans(8, 16)
    if recipe == "torch":
        assert found["encoder.layers.0.linear1.weight"] == xavier
    custom = nn.Transformer(8, 2, custom_encoder=nn.Linear(8, 16), custom_decoder=nn.Linear(8, 8))
    if recipe == "torch":
        assert fillings(custom, recipe)["encoder.weight"] == xavier


class ZeroLinear(nn.Linear):
    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


def test_recipe_torch_warns_of_types_with_reset_parameters_of_their_own_once():
    model = nn.Sequential(ZeroLinear(4, 4), nn.Linear(4, 4), nn.Sequential(ZeroLinear(4, 4)))
    for recipe in ("torch", [Rule(Constant(1.0), name="1.weight"), *TORCH]):
        with pytest.warns(UserWarning, match=r"own reset_parameters: ZeroLinear: '0', '2\.0'\.") as said:
            init_model_(model, recipe=recipe)
        assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_model_(model, recipe=[Rule(ZERO, module=ZeroLinear), *TORCH])
        init_model_(model, recipe="he")
        init_model_(model, only="1")
        make_plan(model, reading=True)


def experts(transposed: bool, kind: str = "NaiveMoe") -> nn.Module:
    up, down = (3, 12, 4), (3, 4, 6)
    if transposed:
        up, down = (3, 4, 12), (3, 6, 4)
    biases = {"gate_up_proj_bias": vector(3, 12), "down_proj_bias": vector(3, 4)}
    return holding(kind, gate_up_proj=vector(*up), down_proj=vector(*down), **biases)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("recipe", GENERAL)
def test_experts_in_one_tensor_have_the_fans_of_one_expert(recipe, transposed):
    recipe = gpt(num_layers=2) if recipe == "gpt" else recipe
    one = {"gate_up_proj": nn.Linear(4, 12), "down_proj": nn.Linear(6, 4)}
    found = fillings(experts(transposed), recipe)
    for name, linear in one.items():
        assert found[name] == fillings(nn.ModuleDict({name: linear}), recipe)[f"{name}.weight"], name
        assert found[f"{name}_bias"] == ZERO
    (row, *_) = make_plan(experts(transposed), recipe=recipe).rows
    assert row.fans == (4, 12)


def test_experts_of_both_layouts_and_one_shape_are_told_apart():
    model = nn.Sequential(
        holding("Experts", up_proj=vector(3, 4, 12)), holding("Experts", up_proj=vector(3, 4, 12))
    )
    model[1].is_transposed = True
    assert [row.fans for row in make_plan(model, recipe="he").rows] == [(12, 4), (4, 12)]


@pytest.mark.parametrize("recipe", ["gpt", "llama"])
def test_class_tokens_and_position_embeddings_have_the_models_own_std(recipe):
    model = holding("Vision", cls_token=vector(1, 1, 8), class_embedding=vector(8), pos_embed=vector(1, 5, 8))
    assert set(fillings(model, recipe).values()) == {Normal(0.0, 0.02)}
    model.mask_token, model.pos_emb_alpha = vector(1, 1, 8), vector(1)
    assert unlisted(model, recipe) == ["cls_token", "class_embedding", "pos_embed"]


class SinusoidalTable(nn.Embedding): ...


class MarianEmbedding(nn.Embedding):
    def create_weight(self): ...


class FixedPositions(nn.Embedding): ...


class ScaledWordEmbedding(nn.Embedding): ...


class LearnedPositions(nn.Embedding): ...


@pytest.mark.parametrize("recipe", GENERAL)
def test_computed_tables_are_listed_and_frozen_words_are_not(recipe):
    kinds = [SinusoidalTable, MarianEmbedding, FixedPositions]
    model = nn.Sequential(*(kind(6, 4).requires_grad_(False) for kind in [*kinds, ScaledWordEmbedding]))
    model.append(FixedPositions(6, 4))  # not frozen
    model.append(LearnedPositions(6, 4).requires_grad_(False))
    assert unlisted(model, recipe, frozen="draw") == ["3.weight", "4.weight", "5.weight"]
    init_model_(model, recipe=[Rule(ZERO, name="[012].weight"), *GENERAL[recipe]], frozen="draw")


def test_what_is_unknown_says_so_where_a_rule_is_asked_anyhow():
    with pytest.raises(ValueError, match="does not know it"):
        unknown(None)


@pytest.mark.parametrize("nested", [False, True])
def test_of_scripted_and_traced_modules_what_no_rule_names_is_listed_with_what_to_do(nested):
    for build in (torch.jit.script, lambda module: torch.jit.trace(module, torch.ones(1, 4))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = build(nn.Sequential(nn.Linear(4, 4)))
        model = nn.Sequential(nn.Linear(4, 4), module) if nested else module
        for recipe in GENERAL:
            said = r"(?s)0\.weight \[4, 4\] of .*torch\.jit .*: initialise before scripting"
            with pytest.raises(ValueError, match=said):
                init_model_(model, recipe=recipe)
        init_model_(model, recipe=[*TORCH, Rule(ONE, name="*")])
        assert all(each.eq(1).all() for each in module.parameters())


class MuReadout(nn.Linear):
    """The facts of mup's MuReadout after set_base_shapes, which has multiplied what it drew by `factor`."""

    def __init__(self, factor: float, zero: bool = False) -> None:
        super().__init__(200, 300)
        self.readout_zero_init, self._has_rescaled_params, self.factor = zero, True, factor

    def width_mult(self) -> float:
        return self.factor


@pytest.mark.filterwarnings("ignore:recipe 'torch' does")
@pytest.mark.parametrize("recipe", GENERAL)
def test_mups_readout_keeps_its_scale(recipe):
    bound = math.sqrt(8 / 200)  # sqrt(width / base width) times that of nn.Linear
    for zero, means in ((False, Uniform(-bound, bound)), (True, ZERO)):
        found = fillings(nn.Sequential(nn.Linear(200, 200), MuReadout(8.0, zero)), recipe)
        assert found["1.weight"] == found["1.bias"] == means != found["0.weight"]
    hidden = nn.Linear(200, 300)
    hidden._has_rescaled_params = True  # set_base_shapes says so of hidden layers, whose biases it scales
    assert fillings(hidden, recipe) == fillings(nn.Linear(200, 300), recipe)
    plain = MuReadout(8.0)
    plain._has_rescaled_params = False  # set_base_shapes is still to come
    assert fillings(plain, recipe)["weight"] == fillings(nn.Linear(200, 300), recipe)["weight"]


@pytest.mark.parametrize("recipe", GENERAL)
def test_diffusers_tables_of_shifts_and_scales_are_known_by_their_package(recipe):
    table = holding("WanTransformerBlock", scale_shift_table=vector(1, 6, 64))
    type(table).__module__ = "diffusers.models.transformers.transformer_wan"
    assert fillings(table, recipe) == {"scale_shift_table": Normal(0.0, 0.125)}
    type(table).__module__ = "mine"
    assert unlisted(table, recipe) == []
    zero = holding("Krea2Block", scale_shift_table=vector(6, 64))
    type(zero).__module__ = "diffusers.models.transformers.transformer_krea2"
    assert unlisted(zero, recipe) == []


@pytest.mark.parametrize("tokens", ["cls_token1", "cls_token_0", "dist_token", "cls_tokens"])
@pytest.mark.parametrize("recipe", ["gpt", "llama"])
def test_class_tokens_may_be_numbered(recipe, tokens):
    assert fillings(holding("CoaT", **{tokens: vector(1, 1, 8)}), recipe) == {tokens: Normal(0.0, 0.02)}


@pytest.mark.parametrize("recipe", GENERAL)
def test_response_norms_start_from_zero(recipe):
    model = nn.Sequential(
        holding("GlobalResponseNorm", weight=vector(), bias=vector()),
        holding("AudioDiTGRN", gamma=vector(1, 1, 8), beta=vector(1, 1, 8)),
    )
    assert set(fillings(model, recipe).values()) == {ZERO} and len(fillings(model, recipe)) == 4
