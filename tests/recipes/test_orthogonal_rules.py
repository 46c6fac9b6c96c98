"""Rules Orthogonal and DeltaOrthogonal: the values of init.orthogonal_ by each name, through every door."""

import math

import pytest
import torch
from doors import check_every_door
from filling import assert_same_bits
from states import assert_refused
from torch import nn
from torch.nn.utils import parametrizations

from convinit_ext import Key, init, init_model_, plan_model, verify
from convinit_ext.model import _values
from convinit_ext.recipes import TORCH, CopyFrom, DeltaOrthogonal, Orthogonal, Recipe, RowZeroed, Rule

RULES = [
    Rule(Orthogonal(0.5, blocks=4), parameter="weight_hh*"),
    Rule(DeltaOrthogonal(2.0), module=nn.Conv2d, parameter="weight"),
    Rule(Orthogonal(), module=nn.Linear, parameter="weight"),
]
RECIPE = [*RULES, *TORCH]


def build(dtype=torch.float32) -> nn.Module:
    return nn.ModuleDict({"lstm": nn.LSTM(5, 6), "conv": nn.Conv2d(4, 8, 3), "head": nn.Linear(30, 7)}).to(
        dtype
    )


def expected(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    def like(name: str) -> torch.Tensor:
        return torch.empty_like(model.get_parameter(name).detach())

    return {
        name: fill(like(name), gain, key=Key(seed, name), **more)
        for name, fill, gain, more in [
            ("lstm.weight_hh_l0", init.orthogonal_, 0.5, {"blocks": 4}),
            ("conv.weight", init.delta_orthogonal_, 2.0, {}),
            ("head.weight", init.orthogonal_, 1.0, {}),
        ]
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_are_the_function_s_by_the_parameter_s_name(dtype):
    model = build(dtype)
    before = torch.get_rng_state()
    report = init_model_(model, 7, RECIPE)
    for name, values in expected(model, 7).items():
        assert_same_bits(model.get_parameter(name), values, name)
    assert torch.equal(before, torch.get_rng_state())
    said = {row.name: row.initialiser for row in report.rows}
    assert said["lstm.weight_hh_l0"] == "orthogonal_(gain=0.5, blocks=4)"
    assert (said["conv.weight"], said["head.weight"]) == ("delta_orthogonal_(gain=2)", "orthogonal_")


def test_every_door_has_the_same_values(tmp_path):
    model = check_every_door(build, RECIPE, tmp_path)
    assert not _values._kept  # the whole of the last one
    model.head.weight.data[3, 4] += 1
    assert verify(model, 3, RECIPE).different == ("head.weight",)


def test_a_matrix_is_made_once_whatever_its_regions(monkeypatch):
    made = []
    orthogonal_ = init.orthogonal_
    monkeypatch.setattr(
        init, "orthogonal_", lambda *args, **more: made.append(1) or orthogonal_(*args, **more)
    )
    plan = plan_model(nn.Linear(64, 64, bias=False), 0, [RULES[2]])
    whole = plan.fingerprint()
    monkeypatch.setattr(_values, "_SCRATCH_BYTES", 64 * 4 * 10)
    assert plan.fingerprint() == whole
    assert len(made) == 2 and not _values._kept


def test_copies_padding_and_parametrizations():
    model = nn.ModuleDict(
        {
            "a": nn.Embedding(6, 4, padding_idx=2),
            "b": nn.Linear(4, 6, bias=False, dtype=torch.float64),
            "c": nn.Embedding(6, 4),
            "d": parametrizations.weight_norm(nn.Linear(4, 6, bias=False)),
        }
    )
    rules = [
        Rule(CopyFrom("a.weight"), name="b.weight"),
        Rule(RowZeroed(Orthogonal(), 1), name="c.weight"),
        Rule(lambda target: Orthogonal(3.0), name="d.*"),
        Rule(Orthogonal()),
    ]
    report = init_model_(model, 0, rules)
    padded = init.orthogonal_(torch.empty(6, 4), key=Key(0, "a.weight"))
    padded[2] = 0
    assert_same_bits(model.a.weight, padded)
    assert_same_bits(model.b.weight, padded.double())
    row = init.orthogonal_(torch.empty(6, 4), key=Key(0, "c.weight"))
    row[1] = 0
    assert_same_bits(model.c.weight, row)
    assert report.rows[0].initialiser == "orthogonal_, row 2 zero"
    torch.testing.assert_close(model.d.weight.T @ model.d.weight, 9 * torch.eye(4))
    assert verify(model, 0, rules)


def test_rules_say_axes_as_the_function_does():
    model, experts = nn.Linear(6, 4), Orthogonal(2.0, batch_axis=0, in_axis=1)
    model.experts = nn.Parameter(torch.empty(3, 8, 5))
    recipe = Recipe.from_dict(Recipe((Rule(experts, name="experts"), *TORCH)).to_dict())
    assert recipe.rules[0] == Rule(experts, name="experts")
    report = init_model_(model, 4, recipe)
    assert report.rows[2].initialiser == "orthogonal_(gain=2, in_axis=1, batch_axis=0)"
    values = init.orthogonal_(torch.empty(3, 8, 5), 2.0, key=Key(4, "experts"), batch_axis=0, in_axis=1)
    assert_same_bits(model.experts, values)
    each = model.experts.detach()
    torch.testing.assert_close(each.mT @ each, 4 * torch.eye(5).expand(3, 5, 5))
    with pytest.raises(ValueError, match=r"'experts', orthogonal.*: batch_axis has 3, and shape"):
        init_model_(model, 4, [Rule(Orthogonal(batch_axis=3), name="experts"), *TORCH])
    assert verify(model, 4, recipe)


@pytest.mark.parametrize("dims", [1, 2])
def test_blocks_are_not_of_a_layer_s_inputs(dims):
    layer = (nn.ConvTranspose1d, nn.ConvTranspose2d)[dims - 1](6, 4, 1)
    said = r"'weight', orth.*: blocks lie in dim 0, where ConvTranspose"
    assert_refused(layer, ValueError, said, recipe=[Rule(Orthogonal(blocks=2), parameter="weight"), *TORCH])
    init_model_(layer, 0, [Rule(Orthogonal(blocks=2, out_axis=0), parameter="weight"), *TORCH])
    shape = layer.weight.shape
    assert_same_bits(layer.weight, init.orthogonal_(torch.empty(shape), key=Key(0, "weight"), blocks=2))


def test_files():
    table = {
        "rules": [
            {"parameter": "weight_hh*", "init": "orthogonal_(0.5, blocks=4)"},
            {
                "module": "Conv2d",
                "parameter": "weight",
                "init": "delta_orthogonal_",
                "arguments": {"gain": 2.0},
            },
            {"module": "Linear", "parameter": "weight", "init": "orthogonal_"},
        ]
    }
    recipe = Recipe.from_dict(table)
    assert list(recipe.rules) == RULES
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    thirds = Recipe((Rule(Orthogonal(1 / 3)),))
    assert Recipe.from_dict(thirds.to_dict()) == thirds


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: Orthogonal("2"), TypeError, "gain must be a number, not '2'"),
        (lambda: DeltaOrthogonal(math.nan), ValueError, "gain must be finite, but found nan"),
        (lambda: Orthogonal(blocks=0), ValueError, "blocks must be 1 or more, but found 0"),
        (lambda: Orthogonal(blocks=1.5), TypeError, "blocks must be an int, not 1.5"),
    ],
)
def test_wrong_arguments(make, error, said):
    with pytest.raises(error, match=said):
        make()


@pytest.mark.parametrize(
    ("init_of", "said"),
    [
        (Orthogonal(blocks=4), r"'1.weight', orthogonal_\(blocks=4\): blocks must divide dim 0, but found 6"),
        (
            DeltaOrthogonal(),
            r"'1.weight', delta_orthogonal_: accepted are \[out, in, \*kernel\] of 3, 4, or 5",
        ),
        (RowZeroed(Orthogonal(), 9), "'1.weight', orthogonal_, row 9 zero: there is no row 9"),
        (RowZeroed(Orthogonal(), None), "there is no row None to make zero"),
    ],
)
def test_a_shape_that_it_does_not_fit(init_of, said):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 6))
    assert_refused(model, ValueError, said, recipe=[Rule(init_of, name="1.weight"), *TORCH])
    said = r"'0.bias', orthogonal_: accepted are 2 or more dimensions, not \[4\]"
    assert_refused(model, ValueError, said, recipe=[Rule(Orthogonal(), parameter="*")])
    said, recipe = (
        r"'weight', delta_orthogonal_: dim 1 \(inputs\) must be <= dim 0",
        [Rule(DeltaOrthogonal(), parameter="weight"), *TORCH],
    )
    assert_refused(nn.Conv1d(5, 4, 3), ValueError, said, recipe=recipe)


def test_complex_parameters_are_refused():
    model = nn.Linear(3, 4, bias=False, dtype=torch.complex64)
    with pytest.raises(TypeError, match="complex64"):
        init_model_(model, 0, [Rule(Orthogonal())])
