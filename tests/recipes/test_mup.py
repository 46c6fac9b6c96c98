"""The recipe mup: what grows by shape, the paper's table, the library's stds and learning rates."""

import math

import pytest
import torch
from doors import check_every_door, check_writes_nothing
from planning import GENERAL, make_plan, stds
from torch import nn

from convinit_ext import Constant, Normal, TruncatedNormal, fingerprint, init_model_
from convinit_ext.model import Options
from convinit_ext.recipes import (
    TORCH,
    CopyFrom,
    Orthogonal,
    Preset,
    Rule,
    deepnorm,
    depth_scaled,
    mamba,
    mup,
    mup_groups,
    mup_table,
)


class Net(nn.Module):
    """Each kind of parameter: 10 words and 3 classes stay, the width and the hidden width grow."""

    def __init__(self, width: int, readout: type[nn.Module] = nn.Linear) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, width)
        self.position = nn.Parameter(torch.empty(1, 6, width))
        self.depthwise = nn.Conv1d(width, width, 3, groups=width)
        self.attention = nn.MultiheadAttention(width, 2)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.back = nn.ConvTranspose1d(width, 2 * width, 5)
        self.norm = nn.LayerNorm(width)
        self.readout, self.scale = readout(width, 3), nn.Parameter(torch.empty(3))


def rules(*first: Rule) -> list[Rule]:
    stay = [Rule(Normal(0.0, 0.5), parameter="position"), Rule(Constant(2.0), parameter="scale")]
    return [*first, *stay, *TORCH]


HIDDEN = ("attention.in_proj_weight", "attention.out_proj.weight", "up.weight", "down.weight", "back.weight")


@pytest.mark.parametrize("inner", ["torch", "he", "xavier"])
@pytest.mark.parametrize("as_shapes", [False, True], ids=["model", "shapes"])
def test_stds_are_the_base_s_by_the_width(inner, as_shapes):
    wide, base = Net(64), Net(16)
    inner = rules(*GENERAL[inner])
    given = {name: tuple(each.shape) for name, each in base.named_parameters()} if as_shapes else base
    if as_shapes:
        said = "pass the base model itself, which may be on the meta device"
        check_writes_nothing(wide, mup(given, inner), ValueError, said)
        del wide.attention, base.attention, wide.depthwise, base.depthwise
    small, found = stds(base, inner), stds(wide, mup(given, inner))
    for name, std in small.items():
        factor = 1 / 2 if name in HIDDEN else 1 / 4 if name == "readout.weight" else 1
        assert found[name] == pytest.approx(std * factor, rel=1e-12), name
    assert stds(base, mup(given, inner)) == small


def test_the_table_is_that_of_the_paper():
    table = {row.name: row for row in mup_table(Net(64), Net(16))}
    for name in HIDDEN:
        assert table[name][1:] == ("hidden", 4, 0.5, 0.25, 1), name
    for name in ("embed.weight", "position", "depthwise.weight", "up.bias", "norm.weight", "norm.bias"):
        assert table[name][1:] == ("vector", 4, 1, 1, 4), name
    assert table["readout.weight"][1:] == ("readout", 4, 0.25, 0.25, 0.25)
    assert table["readout.bias"] == ("readout.bias", "fixed", 1, 1, 1, 1)
    wider = {row.name: row for row in mup_table(nn.Linear(32, 24), nn.Linear(8, 8))}
    assert wider["weight"] == ("weight", "hidden", 4, 0.5, 0.25, 3 / 4)
    head = nn.ModuleDict({"head": nn.Module()})
    own = nn.ModuleDict({"head": nn.Module()})
    head["head"].weight, own["head"].weight = (nn.Parameter(torch.empty(3, n)) for n in (64, 16))
    assert mup_table(head, own)[0].kind == "vector"
    assert mup_table(head, own, readout="head.*")[0].kind == "readout"
    tied, base = (nn.ModuleDict({"a": nn.Embedding(10, n), "b": nn.Linear(n, 10)}) for n in (64, 16))
    tied["b"].weight = tied["a"].weight
    assert [row[:2] for row in mup_table(tied, base)] == [("a.weight", "vector"), ("b.bias", "fixed")]
    shapes = {"weight": [None, 4], "bias": [None]}  # of a file of the library mup
    assert mup_table(nn.Linear(16, 3), shapes)[0][1:] == ("readout", 4, 0.25, 0.25, 0.25)


def test_parameter_groups():
    model, base = Net(64), Net(16)
    table = {row.name: row for row in mup_table(model, base)}
    names = {id(each): name for name, each in model.named_parameters()}
    for optimizer in ("adam", "sgd"):
        groups = mup_groups(model, base, lr=0.1, optimizer=optimizer, weight_decay=0.01)
        torch.optim.AdamW(groups)
        found = {names[id(each)]: group for group in groups for each in group["params"]}
        assert found.keys() == table.keys()
        for name, group in found.items():
            factor = getattr(table[name], optimizer)
            assert group["lr"] == pytest.approx(0.1 * factor)
            assert group["weight_decay"] * group["lr"] == pytest.approx(0.001)
    with pytest.raises(ValueError, match="optimizer must be 'adam' or 'sgd', not 'lion'"):
        mup_groups(model, base, 0.1, "lion")
    with pytest.raises(TypeError, match=r"lr must be a number, not '0\.1'"):
        mup_groups(model, base, "0.1")
    for wrong, said in ((-1, "0 or more, but found -1"), (math.nan, "finite, but found nan")):
        with pytest.raises(ValueError, match=f"weight_decay must be {said}"):
            mup_groups(model, base, 0.1, weight_decay=wrong)
    with pytest.raises(OverflowError, match="lr must be a number, not 1000"):
        mup_groups(model, base, 10**400)


def test_processes_compare_what_a_recipe_depends_on():
    def rules_of(recipe) -> str:
        return Options(recipe).facts["rules of the recipe"]

    small = mup(Net(16))
    assert rules_of(small) == rules_of(mup(Net(16)))
    others = [small, mup(Net(8)), mup(Net(16), "he"), depth_scaled("he"), depth_scaled("he", "layer")]
    others += [
        mamba(),
        mamba(dt_max=0.2),
        mamba(dt_init_floor=0.01),
        deepnorm(2),
        deepnorm(3),
        deepnorm(3, 2),
    ]
    assert len(set(map(rules_of, others))) == len(others)


def test_the_report_says_why():
    said = {row.name: row.initialiser for row in make_plan(Net(64), recipe=mup(Net(16), rules())).rows}
    assert said["up.weight"] == "kaiming_uniform_(a=2.23607) / 2 (mup hidden, width 4)"
    assert said["readout.weight"] == "kaiming_uniform_(a=2.23607) / 4 (mup readout, width 4)"
    assert said["up.bias"] == "uniform_(+-1/sqrt(fan_in)) (mup vector, width 4)"
    assert said["readout.bias"] == "uniform_(+-1/sqrt(fan_in))"
    assert said["norm.weight"] == "ones_" and said["scale"] == "constant_(2)"


def test_a_base_of_the_same_width_changes_nothing():
    one, two = Net(16), Net(16)
    init_model_(one, 0, rules())
    init_model_(two, 0, mup(Net(16), rules()))
    assert fingerprint(one) == fingerprint(two)


def test_every_door_has_the_same_values(tmp_path):
    with torch.device("meta"):
        base = Net(4)
    check_every_door(lambda: Net(8), mup(base, rules()), tmp_path)


def test_copies_presets_parametrized_weights_and_other_recipes():
    def build(width: int) -> nn.Module:
        blocks = [
            nn.ModuleDict({"fc1": nn.Linear(width, width), "fc2": nn.Linear(width, width)}) for _ in "ab"
        ]
        return nn.ModuleList(blocks)

    wide, base = build(16), build(4)
    for model in (wide, base):
        nn.utils.parametrizations.weight_norm(model[0].fc1)
    inner = [
        Rule(CopyFrom("0.fc2.weight"), name="1.fc1.weight"),
        Rule(Preset(torch.ones(16)), name="1.fc1.bias"),
        Rule(lambda target: Normal(0.0, target.module.in_features**-0.5), name="0.fc1.weight"),
        *TORCH,
    ]
    init_model_(wide, 0, mup(base, inner))
    assert torch.equal(wide[1].fc1.weight, wide[0].fc2.weight) and wide[1].fc1.bias.eq(1).all()
    assert wide[0].fc1.weight.std().item() == pytest.approx(1 / 2 / 2, rel=0.1)
    wide, base = build(16), build(4)
    both = {row.name: row for row in make_plan(wide, recipe=mup(base, depth_scaled("lecun"))).rows}
    assert both["1.fc2.weight"].std == pytest.approx(1 / 2 / 2 / math.sqrt(4), rel=1e-6)
    assert both["1.fc2.weight"].initialiser == "lecun_normal_ / sqrt(2 * 2) / 2 (mup hidden, width 4)"
    assert both["0.fc2.bias"].initialiser == "zeros_"


def lstm(width: int) -> nn.Module:
    return nn.ModuleDict({"rnn": nn.LSTM(3, width)})


def pair(wide: int = 8, base: int = 4) -> tuple[nn.Module, nn.Module]:
    return nn.Linear(wide, wide), nn.Linear(base, base)


WEIGHT = {"parameter": "weight"}
LSTM_SHAPES = {f"rnn.{name}": each.shape for name, each in nn.LSTM(3, 4).named_parameters()}


@pytest.mark.parametrize(
    ("models", "inner", "said"),
    [
        ((nn.Linear(8, 8), nn.ModuleDict({"a": nn.Linear(4, 4)})), "torch", "of this name; it has 'a.w"),
        ((nn.Linear(8, 8), {"weight": (8,), "bias": (8,)}), "torch", "in the base of mup [8]: accepted"),
        ((nn.Conv1d(8, 8, 3), nn.Conv1d(4, 4, 5)), "torch", "[8, 8, 3] grows from [4, 4, 5] in 3 dimensions"),
        ((nn.Conv1d(8, 3, 3), nn.Conv1d(4, 3, 5)), "torch", "in 2 dimensions, and not in one of inputs and"),
        (pair(), [Rule(Orthogonal(), **WEIGHT), *TORCH], "(mup hidden, width 2): accepted are distributions"),
        (pair(), [Rule(Constant(1.0))], "a width scales values of mean 0 only, and these have 1"),
        (pair(), [Rule(Normal(0.5, 1.0))], "a width scales values of mean 0 only, and these have 0.5"),
        (pair(), [Rule(TruncatedNormal(0.0, 1.0, -1.0, 2.0))], "and these have 0.5"),
        (pair(), [Rule(Preset(torch.ones(8, 8)), **WEIGHT), *TORCH], "accepted are distributions, which can"),
        ((lstm(8), LSTM_SHAPES), "torch", "what a narrower LSTM starts from"),
        ((nn.Conv1d(8, 8, 3, groups=8), {"weight": (4, 1, 3), "bias": [4]}), "he", "a narrower Conv1d"),
    ],
    ids=[
        "names",
        "ndim",
        "three",
        "kernel",
        "orthogonal",
        "constant",
        "mean",
        "truncated",
        "preset",
        "lstm",
        "groups",
    ],
)
def test_what_makes_no_sense_is_refused(models, inner, said):
    wide, base = models
    check_writes_nothing(wide, mup(base, inner), ValueError, said)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: mup(None), TypeError, "base must be a model or its shapes by name, not NoneType"),
        (lambda: mup({}), ValueError, "base has no parameters"),
        (lambda: mup({"a": (0, 2)}), ValueError, r"base\['a'\] must be a shape, of ints from 1 or None"),
        (lambda: mup({"a": "ab"}), ValueError, r"base\['a'\] must be a shape"),
        (lambda: mup(nn.Linear(2, 2), "none"), ValueError, "there is no recipe 'none'"),
        (lambda: mup(nn.Linear(2, 2), readout=""), ValueError, "readout is an empty pattern"),
    ],
)
def test_wrong_arguments(make, error, said):
    with pytest.raises(error, match=said):
        make()
