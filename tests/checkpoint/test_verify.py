"""verify: every bit counts, the first difference is named, and what is looked at need not be writable."""

import json
import math
import warnings

import pytest
import torch
from filling import DTYPES, as_integers
from reference import layer_key, reference
from torch import nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from verified import SEED, made

from convinit_ext import Constant, Normal, TruncatedNormal, Uniform, fingerprint, init_model_, verify
from convinit_ext.checkpoint._verification import VerifiedRow
from convinit_ext.recipes import TORCH, CopyFrom, Preset, Rule


def flip(tensor: torch.Tensor, index: tuple[int, ...], bit: int = 0) -> None:
    """One bit of one element."""
    as_integers(tensor.detach())[index] ^= 1 << bit


# Values


DISTRIBUTIONS = [
    (Normal(0.5, 2.0), ("normal", 0.5, 2.0)),
    (Uniform(-1.0, 3.0), ("uniform", -1.0, 3.0)),
    (TruncatedNormal(0.0, 1.0, -2.0, 2.0), ("truncated_normal", 0.0, 1.0, -2.0, 2.0)),
    (Constant(-0.0), ("constant", -0.0)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("distribution", "spec"), DISTRIBUTIONS, ids=lambda each: type(each).__name__)
def test_values_of_the_contract_are_equal_and_one_flipped_bit_is_not(device, distribution, spec, dtype):
    key, stream = layer_key(SEED, "weight")
    model = nn.Linear(9, 5, bias=False)
    recipe = [Rule(distribution)]
    values = torch.from_numpy(reference((5, 9), key, stream, spec, dtype)).clone()
    model.weight = nn.Parameter(values.to(device, DTYPES[dtype], copy=True))
    if "normal" in spec[0]:  # whose polynomials the reference knows within a bound
        init_model_(model, SEED, recipe)
        torch.testing.assert_close(
            model.weight.detach().cpu().double(), values.double(), rtol=0.25, atol=1e-5
        )
        values = model.weight.detach().cpu().double().clone()
    found = verify(model, SEED, recipe)
    assert found and found.equal and found.unmoved == ("weight",)
    assert found.rows == (
        VerifiedRow("weight", (5, 9), dtype, found.rows[0].initialiser, 45, 0, None, None, None),
    )
    flip(model.weight, (4, 8))
    found = verify(model, SEED, recipe)
    (row,) = found.rows
    assert not found and found.different == ("weight",) and found.unmoved == ()
    assert (row.num_different, row.first_index) == (1, (4, 8))
    assert row.expected == float(values[4, 8])
    assert row.actual == float(model.weight.detach()[4, 8].double()) != row.expected


def test_a_swap_of_two_elements_and_every_kind_of_zero_and_nan():
    model = made()
    weight = model.conv.weight.data
    first, second = weight[1, 2, 0, 1].clone(), weight[7, 0, 2, 2].clone()
    weight[1, 2, 0, 1], weight[7, 0, 2, 2] = second, first
    model.norm.bias.data[3] = -0.0
    row, bias = (row for row in verify(model, SEED).rows if not row.equal)
    assert (row.name, row.num_different, row.first_index) == ("conv.weight", 2, (1, 2, 0, 1))
    assert (row.actual, row.expected) == (float(second), float(first))
    assert (bias.name, bias.first_index, math.copysign(1, bias.actual), bias.expected) == (
        "norm.bias",
        (3,),
        -1.0,
        0.0,
    )
    model = nn.Linear(2, 2, bias=False)
    recipe = [Rule(Preset(torch.zeros(2, 2)))]
    init_model_(model, 0, recipe)
    assert verify(model, 0, recipe)
    model.weight.data[1, 0] = -0.0
    assert verify(model, 0, recipe).rows[0].first_index == (1, 0)
    recipe = [Rule(Preset(torch.full((2, 2), math.nan)))]
    init_model_(model, 0, recipe)
    assert verify(model, 0, recipe)
    flip(model.weight, (1, 0))  # a NaN of another payload
    found = verify(model, 0, recipe)
    assert found.rows[0].first_index == (1, 0) and math.isnan(found.rows[0].actual)
    assert json.loads(found.to_json())["rows"][0]["actual"] is None


@pytest.mark.parametrize("recipe", ["torch", "he", "xavier", "lecun", "trunc_normal"])
def test_what_init_model_writes_is_equal_for_its_seed_recipe_and_fan_alone(recipe):
    model = made(7, recipe)
    assert verify(model, 7, recipe)
    assert "conv.weight" in verify(model, 8, recipe).different
    assert "conv.weight" in verify(model, 7, "he" if recipe != "he" else "torch").different
    if recipe != "torch":
        assert verify(model, 7, recipe, fan="torch").different == ("back.weight",) * (
            recipe in ("he", "lecun")
        )


def test_of_a_half_trained_model_the_frozen_layers_are_those_that_never_moved():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    init_model_(model, 3, "he")
    model[2].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(16, 6)).square().sum().backward()
        optimizer.step()
    found = verify(model, 3, "he")
    assert found.unmoved == ("2.weight", "2.bias")
    assert found.different == ("0.weight", "0.bias", "4.weight", "4.bias")


def test_strides_do_not_matter_and_empty_tensors_are_equal():
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Linear(5, 7, bias=False))
    model.nothing = nn.Parameter(torch.empty(0, 3))
    recipe = [Rule(Normal())]
    init_model_(model, 1, recipe)
    model[0].to(memory_format=torch.channels_last)
    model[1].weight.data = model[1].weight.data.t().contiguous().t()
    assert verify(model, 1, recipe)
    model[1].weight.data[2, 3] = 9.0
    model[0].weight.data[5, 1, 2, 0] = 9.0
    found = verify(model, 1, recipe)
    assert [row.first_index for row in found.rows if not row.equal] == [(5, 1, 2, 0), (2, 3)]
    assert found.unmoved == ("nothing", "0.bias")


def test_the_row_of_zeros_is_part_of_what_is_expected():
    model = made()
    model.embed.weight.data[4, 2] = 1.0
    (row,) = (row for row in verify(model, SEED).rows if not row.equal)
    assert (row.first_index, row.actual, row.expected) == ((4, 2), 1.0, 0.0)
    model.embed.weight.data[3, 5] = 2.0
    (row,) = (row for row in verify(model, SEED).rows if not row.equal)
    assert (row.num_different, row.first_index) == (2, (3, 5))


# What is not drawn


def derived() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the older form
        return nn.Sequential(
            weight_norm(nn.Conv1d(3, 7, 2)),
            nn.utils.weight_norm(nn.Linear(4, 5), dim=1),
            orthogonal(nn.Linear(4, 4)),
            nn.Linear(4, 4),
            nn.Linear(4, 4),
        )


DERIVED = [
    Rule(Preset(torch.arange(16, dtype=torch.float64).reshape(4, 4).t()), name="3.weight"),
    Rule(CopyFrom("3.bias"), name="4.bias"),
    *TORCH,
]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float64])
def test_norms_presets_copies_and_identities_are_made_anew(dtype):
    if dtype == torch.bfloat16:
        recipe, build = (
            DERIVED,
            lambda: nn.Sequential(*list(derived())[:2], nn.Identity(), *list(derived())[3:]),
        )
    else:
        recipe, build = DERIVED, derived
    model = build()
    init_model_(model, 5, recipe, dtype=dtype)
    assert verify(model, 5, recipe, dtype=dtype)
    assert verify(model.state_dict(), 5, recipe, model=build().to("meta"))
    halves = {"only": "0.*.original0", "model": build().to("meta")}
    assert len(verify(model.state_dict(), 5, recipe, **halves).rows) == 1
    # never of what the model holds now
    model[0].parametrizations.weight.original1.data.mul_(2)
    found = verify(model, 5, recipe)
    assert found.different == ("0.parametrizations.weight.original1",)
    model[0].parametrizations.weight.original0.data.mul_(2)
    model[3].weight.data[1, 2] += 0.5
    model[4].bias.data[1] += 1
    found = verify(model, 5, recipe)
    assert len(found.different) == 4
    preset = next(row for row in found.rows if row.name == "3.weight")
    assert (preset.num_different, preset.first_index, preset.actual, preset.expected) == (1, (1, 2), 9.5, 9.0)
    assert verify(model, 5, recipe, only="0.*.original0").different == (
        "0.parametrizations.weight.original0",
    )


def test_the_older_spectral_norms_vectors_are_not_looked_at():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(3, 3)))
    init_model_(model, 2)
    found = verify(model, 2)
    assert found and found.unchecked == ("0.weight_u", "0.weight_v")


def test_buffers_are_verified_where_their_start_is_known_and_named_where_not():
    model = nn.Sequential(nn.BatchNorm1d(3), spectral_norm(nn.Linear(3, 3)), nn.Module())
    model[2].register_buffer("mask", torch.ones(2))
    model[2].register_buffer("scale", torch.ones(2), persistent=False)
    model[2].register_buffer("drawn", torch.ones(4, dtype=torch.float64))
    recipe = [Rule(Preset(torch.tensor([1.5, 2.5])), buffer="scale"), Rule(Normal(), buffer="drawn"), *TORCH]
    init_model_(model, 2, recipe)
    found = verify(model, 2, recipe)
    assert found
    assert set(found.unchecked) == {
        "2.mask",
        "1.parametrizations.weight.0._u",
        "1.parametrizations.weight.0._v",
    }
    assert "not looked at, as nobody knows their start: 1.parametrizations.weight.0._u" in str(found)
    assert verify(model.state_dict(), 2, recipe, model=model)  # which has no 2.scale
    model[0].num_batches_tracked += 3
    model[2].scale[1] = 7.0
    model[2].drawn[3] = 0.25
    found = verify(model, 2, recipe)
    assert found.different == ("0.num_batches_tracked", "2.scale", "2.drawn")
    assert [row.actual for row in found.rows if not row.equal] == [3.0, 7.0, 0.25]
    assert verify(model, 2, recipe, skip=["0.num_batches_tracked", "2.*"]).unchecked == found.unchecked[:2]


# Models that cannot be filled


def test_inference_tensors_and_views_that_overlap_can_be_looked_at():
    with torch.inference_mode():
        model = made()
    assert verify(model, SEED)
    model = nn.Linear(3, 2)
    model.bias = nn.Parameter(torch.zeros(1).expand(2))
    assert verify(model, 0, [Rule(Constant(0.0))], only="bias")


def test_lazily_cloned_memory_is_read_where_it_is():
    model = nn.Linear(8, 8)
    init_model_(model, 0)
    model.weight.data = torch._lazy_clone(model.weight.data)
    assert verify(model, 0)
    fingerprint(model)
    assert torch._C._is_cow_tensor(model.weight)


def test_nothing_is_written_and_no_graph_is_made():
    model = made()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    versions = {name: parameter._version for name, parameter in model.named_parameters()}
    verify(model, 99)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert versions == {name: parameter._version for name, parameter in model.named_parameters()}
    assert all(parameter.grad is None and parameter.grad_fn is None for parameter in model.parameters())


# The result


def test_the_table_is_short_and_the_result_is_json():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(60)))
    init_model_(model, 1)
    model[3].weight.data[0, 1] = 0.5
    model[40].weight.data[1, 1] = 0.5
    found = verify(model, 1)
    text = str(found)
    assert len(text.splitlines()) < 10
    assert "*.weight  (x58)" in text and "*.bias  (x60)" in text
    assert "2 of 32 differ  [0, 1]" in text
    assert text.splitlines()[-1].startswith(
        "not equal: 120 tensors, 2 of them different, 1,200 elements compared"
    )
    told = json.loads(found.to_json(indent=1))
    assert told["different"] == ["3.weight", "40.weight"]
    assert told["equal"] is False and told["num_different"] == 2 and len(told["unmoved"]) == 118
    assert told["rows"][6]["first_index"] == [0, 1] and told["rows"][6]["equal"] is False
    many = nn.ParameterList([torch.zeros(size) for size in range(1, 61)])
    assert "more lines, all of them in verification.rows" in str(verify(many, 1, [Rule(Constant(0.0))]))


def test_a_bar_counts_the_bytes(capsys):
    pytest.importorskip("tqdm")
    assert verify(made(), SEED, progress=True)
    assert "verify: 100%" in capsys.readouterr().err
