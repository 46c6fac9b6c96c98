"""Axes, blocks and cuts in rules, files and reports; the fans of packed projections."""

import json
import math

import numpy as np
import pytest
import torch
from meshes import every_rank
from named_modules import conv1d
from planning import fillings, make_plan
from states import assert_refused
from torch import nn
from torch.distributed.tensor import Shard as Cut
from torch.distributed.tensor import distribute_module, distribute_tensor

from convinit_ext import Key, Normal, TruncatedNormal, Uniform, init, init_model_, plan_model, verify
from convinit_ext.recipes import (
    TORCH,
    DeltaOrthogonal,
    Kaiming,
    Orthogonal,
    Recipe,
    Rule,
    VarianceScaling,
    Xavier,
    trunc_normal,
)

INITIALISERS = {
    "kaiming": (Kaiming, {"mode": "fan_out"}, lambda fan_in, fan_out: math.sqrt(2.0) / math.sqrt(fan_out)),
    "xavier": (Xavier, {"form": "normal"}, lambda fan_in, fan_out: math.sqrt(2.0 / (fan_in + fan_out))),
    "variance_scaling": (
        VarianceScaling,
        {"scale": 3.0, "form": "normal"},
        lambda fan_in, fan_out: math.sqrt(3.0 / fan_in),
    ),
}


class Raw(nn.Module):
    """A parameter of this shape that is of no layer."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))


def row_of(module: nn.Module, init, **arguments):
    (row, *_) = make_plan(module, recipe=[Rule(init, parameter="weight*"), *TORCH], **arguments).rows
    return row


@pytest.mark.parametrize("name", INITIALISERS)
@pytest.mark.parametrize(
    ("module", "axes", "fans"),
    [
        (Raw(60, 7), {"in_axis": 0, "out_axis": 1}, (60, 7)),
        (Raw(5, 60, 7), {"batch_axis": 0, "in_axis": 1}, (60, 7)),
        (Raw(4, 60, 3), {"in_axis": 1, "out_axis": [0, 2]}, (60, 12)),
        (Raw(7), {"in_axis": -1, "out_axis": ()}, (7, 1)),
        (nn.Linear(7, 60), {"blocks": 3}, (7, 20)),
        (nn.Linear(7, 60), {"in_axis": 0}, (60, 7)),
        (nn.Conv2d(7, 60, 3), {"blocks": 4}, (63, 15 * 9)),
        (nn.ConvTranspose1d(60, 8, 3), {"blocks": 2}, (60 * 3, 4 * 3)),
        (nn.ConvTranspose1d(60, 8, 3), {"in_axis": 1, "out_axis": 0}, (8 * 3, 60 * 3)),
        (nn.Conv1d(8, 60, 3, groups=4), {"in_axis": 1, "out_axis": 0}, (2 * 3, 60 * 3)),
        (nn.LSTM(7, 5), {"blocks": 4}, (7, 5)),
        (conv1d(7, 60), {"blocks": 3}, (7, 20)),
        (nn.MultiheadAttention(8, 2), {}, (8, 8)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_a_rule_says_the_axes_and_the_report_the_fans(name, module, axes, fans):
    kind, arguments, std_of = INITIALISERS[name]
    rule = Rule(kind(**arguments, **axes), parameter="*weight*")
    row = next(row for row in make_plan(module, recipe=[rule, *TORCH]).rows if "weight" in row.name)
    assert row.fans == fans
    assert row.distribution == Normal(0.0, std_of(*fans))
    reported = next(
        each for each in plan_model(module, recipe=[rule, *TORCH]).report.rows if each.name == row.name
    )
    assert (reported.fan_in, reported.fan_out) == fans
    assert reported.std == pytest.approx(std_of(*fans))


@pytest.mark.parametrize("fan", ["true", "torch"])
def test_what_a_rule_says_counts_whatever_the_call_says_of_fans(fan):
    for init_, module, fans in (
        (Xavier(blocks=3), nn.Linear(8, 24), (8, 8)),
        (Xavier(in_axis=0, out_axis=1), nn.ConvTranspose1d(8, 24, 2), (16, 48)),
    ):
        assert row_of(module, init_, fan=fan).fans == fans


def test_attention_packed_and_apart_have_one_spread():
    packed, apart = nn.MultiheadAttention(256, 8), nn.MultiheadAttention(256, 8, kdim=257, vdim=257)
    for recipe in ("he", "xavier", "lecun"):
        whole = {row.name: row for row in make_plan(packed, recipe=recipe).rows}["in_proj_weight"]
        query = {row.name: row for row in make_plan(apart, recipe=recipe).rows}["q_proj_weight"]
        assert (whole.distribution, whole.fans) == (query.distribution, query.fans)
        torchs = make_plan(packed, recipe=recipe, fan="torch").rows
        assert next(row.fans for row in torchs if row.name == "in_proj_weight") == (256, 768)
    torchs = fillings(packed, "torch")["in_proj_weight"]
    bound = math.sqrt(3.0) * math.sqrt(2.0 / (256 + 768))
    assert torchs == Uniform(-bound, bound), "PyTorch's"


def test_attention_that_packs_otherwise_is_one_matrix():
    module = nn.MultiheadAttention(8, 2)
    module.in_proj_weight = nn.Parameter(torch.empty(8 + 2 * 4, 8))  # fewer keys and values than queries
    assert {row.name: row.fans for row in make_plan(module, recipe="xavier").rows}["in_proj_weight"] == (
        8,
        16,
    )


def test_values_are_those_of_the_functions():
    model = nn.Sequential(nn.Linear(8, 24), Raw(5, 6, 7))
    rules = [
        Rule(Xavier("uniform", blocks=3), name="0.weight"),
        Rule(Kaiming("normal", batch_axis=0, in_axis=1), name="1.weight"),
        *TORCH,
    ]
    init_model_(model, seed=4, recipe=rules)
    expected = init.xavier_uniform_(torch.empty(24, 8), blocks=3, key=Key(4, "0.weight"))
    assert torch.equal(model[0].weight, expected)
    expected = init.kaiming_normal_(torch.empty(5, 6, 7), batch_axis=0, in_axis=1, key=Key(4, "1.weight"))
    assert torch.equal(model[1].weight, expected)
    assert verify(model, seed=4, recipe=rules)


def test_shards_have_the_fans_of_the_whole():
    rules = [Rule(Xavier("uniform", blocks=3), parameter="weight"), *TORCH]
    whole = nn.Linear(8, 24)
    init_model_(whole, recipe=rules)
    for mesh in every_rank((4,)):
        model = nn.Linear(8, 24)

        def cut(name, module, mesh):
            for each, tensor in [*module.named_parameters(recurse=False)]:
                shard = distribute_tensor(tensor.detach(), mesh, [Cut(0)], src_data_rank=None)
                module.register_parameter(each, nn.Parameter(shard))

        distribute_module(model, mesh, cut)
        init_model_(model, recipe=rules)
        expected = distribute_tensor(whole.weight.detach(), mesh, [Cut(0)], src_data_rank=None)
        assert torch.equal(model.weight.to_local(), expected.to_local())


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"in_axis": 0.5}, TypeError, "in_axis must be an int or a tuple of ints, not 0.5"),
        ({"out_axis": "0"}, TypeError, "out_axis must be"),
        ({"batch_axis": [None]}, TypeError, "batch_axis must be"),
        ({"blocks": 0}, ValueError, "blocks must be 1 or more, but found 0"),
        ({"blocks": "3"}, TypeError, "blocks must be an int, not '3'"),
        ({"fan": "torch", "blocks": 3}, ValueError, "fan='torch' is how PyTorch counts"),
        ({"fan": "torch", "in_axis": 0}, ValueError, "fan='torch' is how PyTorch counts"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Kaiming, Xavier, VarianceScaling])
def test_wrong_arguments_are_refused_when_the_rule_is_made(kind, arguments, error, said):
    with pytest.raises(error, match=said):
        kind(**arguments)


@pytest.mark.parametrize(
    ("module", "init_", "said"),
    [
        (nn.Linear(4, 6), Xavier(blocks=4), "divisible by blocks, but found 6 and blocks=4"),
        (nn.Linear(4, 6), Xavier(in_axis=2), "in_axis has 2"),
        (nn.Linear(4, 6), Xavier(in_axis=0, out_axis=-2), "axis 0 is in both in_axis and out_axis"),
        (nn.Conv1d(4, 6, 1, groups=2), Xavier(blocks=3), "groups=2 says what the axes"),
        (Raw(6), Xavier(blocks=3), "fewer than 2 dimensions"),
    ],
    ids=str,
)
def test_axes_that_a_shape_cannot_have_name_the_parameter(module, init_, said):
    said = rf"parameter 'weight', xavier_uniform_\(.*\): .*{said}"
    assert_refused(module, ValueError, said, recipe=[Rule(init_, parameter="weight"), *TORCH])


def test_the_stack_of_experts_that_a_module_holds_is_no_block():
    experts = type("Experts", (nn.Module,), {})()
    experts.gate_up_proj = nn.Parameter(torch.empty(4, 6, 8))
    with pytest.raises(ValueError, match=r"blocks=2 .* it is in batch_axis"):
        make_plan(experts, recipe=[Rule(Xavier(blocks=2))])
    assert [row.fans for row in make_plan(experts, recipe=[Rule(Xavier())]).rows] == [(8, 6)]


# Files and texts

WRITTEN = {
    "kaiming_normal_(in_axis=0, out_axis=1)": Kaiming("normal", in_axis=0, out_axis=1),
    "kaiming_uniform_(mode='fan_out', blocks=3)": Kaiming("uniform", mode="fan_out", blocks=3),
    "xavier_normal_(in_axis=(0, 1), out_axis=2)": Xavier("normal", in_axis=[0, 1], out_axis=2),
    "xavier_uniform_(gain=2, batch_axis=-3)": Xavier(gain=2, batch_axis=-3),
    "lecun_normal_(batch_axis=(0,))": VarianceScaling(batch_axis=(0,)),
    "variance_scaling_(scale=2, in_axis=(), blocks=2)": VarianceScaling(2, in_axis=(), blocks=2),
}


@pytest.mark.parametrize("kind", [Kaiming, Xavier, VarianceScaling])
def test_numpys_integers_are_those_of_python(kind):
    given = kind(batch_axis=np.int64(0), in_axis=(np.int32(1),), blocks=np.int8(1))
    plain = kind(batch_axis=0, in_axis=(1,))
    assert given == plain
    assert Recipe([Rule(given)]).to_dict() == Recipe([Rule(plain)]).to_dict()
    assert str(Orthogonal(blocks=np.int64(4))) == str(Orthogonal(blocks=4))


@pytest.mark.parametrize(
    ("init_", "text"),
    [
        (Kaiming(a=np.float64(0.2)), "kaiming_normal_(a=0.2)"),
        (Xavier(gain=np.float32(0.5)), "xavier_uniform_(gain=0.5)"),
        (Xavier(gain=torch.tensor(2.0)), "xavier_uniform_(gain=2.0)"),
        (VarianceScaling(scale=np.float64(3)), "variance_scaling_(scale=3.0)"),
        (Orthogonal(np.float64(2)), "orthogonal_(gain=2.0)"),
        (DeltaOrthogonal(gain=np.float64(2)), "delta_orthogonal_(gain=2.0)"),
    ],
    ids=str,
)
def test_a_file_of_numpys_numbers_can_be_read(init_, text):
    written = Recipe([Rule(init_)]).to_dict()
    assert written["rules"] == [{"init": text}]
    assert Recipe.from_dict(written).rules[0].init == init_


@pytest.mark.parametrize("text", WRITTEN)
def test_a_file_and_a_report_write_axes_as_a_call_does(text, tmp_path):
    rule = Rule(WRITTEN[text])
    assert str(rule.init) == rule.text == text
    table = Recipe((rule,)).to_dict()
    assert Recipe.from_dict(json.loads(json.dumps(table))).rules == (rule,)
    assert Recipe.from_dict({"rules": [{"init": text}]}).rules == (rule,)
    assert hash(rule) == hash(Rule(WRITTEN[text]))


def test_a_table_of_arguments_has_lists():
    given = {"in_axis": [0, 1], "out_axis": 2, "batch_axis": []}
    (rule,) = Recipe.from_dict({"rules": [{"init": "xavier_normal_", "arguments": given}]}).rules
    assert rule.init == Xavier("normal", in_axis=(0, 1), out_axis=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kaiming_normal_(in_axis=0.5)", r"in_axis must be an int .*kaiming_normal_ takes \(.*blocks=1\)"),
        ("xavier_normal_(blocks=0)", "blocks must be 1 or more"),
        ("trunc_normal_(cut=0)", r"greater than 0.*trunc_normal_ takes \(.*cut=None, corrected=False\)"),
        ("trunc_normal_(cut=2, a=-1)", "pass cut="),
        ("trunc_normal_(corrected=True)", "corrected=True needs cut="),
        ("normal_(cut=2)", "'cut'"),
    ],
)
def test_wrong_arguments_in_a_file_are_named(text, said):
    with pytest.raises(ValueError, match=f"rule 1: .*{said}"):
        Recipe.from_dict({"rules": [{"init": text}]})


def test_a_file_cuts_in_stds():
    text = "trunc_normal_(std=0.5, cut=2, corrected=True)"
    (rule,) = Recipe.from_dict({"rules": [{"init": text}]}).rules
    assert rule.init == TruncatedNormal(0.0, 0.5, cut=2.0, corrected=True)
    assert Recipe.from_dict(Recipe((rule,)).to_dict()).rules == (rule,)
    assert Rule(TruncatedNormal(std=0.02, cut=2)).text == "trunc_normal_(0, 0.02, -0.04, 0.04)"


# Bounds that cut nothing


@pytest.mark.parametrize(
    ("init_", "label", "text"),
    [
        (TruncatedNormal(0.0, 0.02), None, "trunc_normal_(0, 0.02, -2, 2), cuts nothing"),
        (TruncatedNormal(0.0, 0.02), "narrow", "narrow, cuts nothing"),
        (TruncatedNormal(0.0, 0.02, cut=2.0), None, "trunc_normal_(0, 0.02, -0.04, 0.04)"),
        (TruncatedNormal(0.0, 0.5), None, "trunc_normal_(0, 0.5, -2, 2)"),
        (lambda target: TruncatedNormal(0.0, 0.02), "mine", "mine, cuts nothing"),
    ],
)
def test_the_report_marks_bounds_that_cut_nothing(init_, label, text):
    rules = [Rule(init_, parameter="weight", label=label), *TORCH]
    report = plan_model(nn.Linear(4, 4), recipe=rules).report
    assert report.rows[0].initialiser == text
    assert text in str(report)
    embedding = plan_model(nn.Embedding(4, 4, padding_idx=1), recipe=rules).report
    assert embedding.rows[0].initialiser == f"{text}, row 1 zero"


def test_the_vision_recipe_cuts_where_it_is_told():
    (row, _) = make_plan(nn.Linear(4, 4), recipe=trunc_normal(0.02, cut=2.0)).rows
    assert row.distribution == TruncatedNormal(0.0, 0.02, -0.04, 0.04)
    (row, _) = make_plan(nn.Linear(4, 4), recipe=trunc_normal(0.02, cut=3.0, corrected=True)).rows
    assert row.std == pytest.approx(0.02, rel=1e-6)
