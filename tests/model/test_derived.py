"""Copies, presets and weight norms: values, order, chains, and every error before the first write."""

import copy
import math
import re

import pytest
import torch
from planning import GENERAL, make_plan
from reference import layer_key, reference
from states import assert_refused
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from convinit_ext import Constant, Uniform, fingerprint, init_model_, plan_model, save_model, verify
from convinit_ext.recipes import HE, TORCH, CopyFrom, Preset, RowZeroed, Rule

DRAWN = Rule(Uniform(-0.5, 0.25))  # the reference has a uniform's bits


def expected(tensor: torch.Tensor, name: str, seed: int = 0) -> torch.Tensor:
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    values = reference(shape, *layer_key(seed, name), ("uniform", -0.5, 0.25), dtype)
    return torch.from_numpy(values).to(tensor.dtype)


def pair(**kinds) -> nn.Module:
    model = nn.Module()
    for name, module in kinds.items():
        model.add_module(name, module)
    return model


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_copy_has_the_key_and_the_distribution_of_its_source(device):
    with torch.device(device):
        model = pair(a=nn.Linear(3, 4), b=nn.Linear(3, 4).bfloat16(), c=nn.Linear(3, 4).double())
    model.c.weight = nn.Parameter(torch.empty(3, 4, device=device).t())
    rules = [Rule(CopyFrom("b.weight"), name="c.weight"), Rule(CopyFrom("a.weight"), name="b.weight"), DRAWN]
    report = init_model_(model, 6, rules)
    assert torch.equal(model.a.weight.detach(), expected(model.a.weight, "a.weight", 6))
    assert torch.equal(model.b.weight.detach(), expected(model.b.weight, "a.weight", 6))  # rounded once
    assert torch.equal(model.c.weight.detach(), model.a.weight.detach())  # a chain, another layout
    assert torch.equal(model.c.bias.detach(), expected(model.c.bias, "c.bias", 6))
    row = {row.name: row for row in report.rows}["c.weight"]
    assert (row.initialiser, row.std) == ("copy_from('b.weight')", report.rows[0].std)
    assert (row.fan_in, row.fan_out) == (3, 4)


def test_a_copy_keeps_the_zero_row_and_follows_names_and_ties():
    model = pair(
        a=nn.Embedding(5, 3, padding_idx=1), b=nn.Linear(3, 5, bias=False), c=nn.Linear(3, 5, bias=False)
    )
    model.b.weight = model.a.weight
    rules = [
        Rule(CopyFrom("b.weight"), name="c.weight"),
        Rule(lambda target: RowZeroed(Uniform(-0.5, 0.25), 1), module=nn.Embedding),
        *TORCH,
    ]
    init_model_(model, 2, rules, names={"a": "x"})
    source = expected(model.a.weight, "x.weight", 2)
    source[1] = 0
    assert torch.equal(model.c.weight.detach(), source)
    assert torch.equal(model.a.weight.detach(), source)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("own", [torch.float32, torch.float16, torch.float64], ids=str)
def test_a_copy_between_float64_and_narrower_is_the_rounding_of_its_source(own, device, tmp_path):
    """The two draw other words."""
    source_dtype = torch.float32 if own == torch.float64 else torch.float64

    def build() -> nn.Module:
        model = pair(
            a=nn.Embedding(5, 3, padding_idx=1, dtype=source_dtype), b=nn.Linear(3, 5, bias=False, dtype=own)
        )
        model.c = nn.Linear(3, 5, bias=False)
        return model

    with torch.device(device):
        model = build()
    rules = [Rule(CopyFrom("b.weight"), name="c.weight"), Rule(CopyFrom("a.weight"), name="b.weight"), *TORCH]
    plan = plan_model(model, 1, rules)
    marks = plan.fingerprint(), plan.fingerprint(seed=2)
    for seed, mark in enumerate(marks, 1):
        report = plan.run(seed=seed)
        for copied in (model.b.weight, model.c.weight):
            assert torch.equal(copied.detach(), model.a.weight.detach().to(copied.dtype))
        assert model.a.weight[0, 0] != 0 and not model.a.weight[1].any()
        assert report.rows[1].std == report.rows[0].std
        assert fingerprint(model) == mark
        assert verify(model, seed, rules)
        save_model(model, tmp_path / "saved.safetensors", seed, rules, overwrite=True)
        assert verify(tmp_path / "saved.safetensors", seed, rules, model=model)
    alone = build()
    init_model_(alone, 2, rules, only="b")
    assert torch.equal(alone.b.weight, model.b.weight)
    init_model_(alone, 2, rules, dtype=torch.float32)  # all of one dtype: the same words
    assert torch.equal(alone.a.weight, alone.b.weight)


def test_a_copy_of_what_is_not_chosen_is_what_it_would_be_initialised_to():
    model = pair(a=nn.Linear(3, 4), b=nn.Linear(3, 4))
    before = model.a.weight.detach().clone()
    init_model_(model, 2, [Rule(CopyFrom("a.weight"), name="b.weight"), DRAWN], only="b.weight")
    assert torch.equal(model.b.weight.detach(), expected(model.b.weight, "a.weight", 2))
    assert torch.equal(model.a.weight.detach(), before)


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_preset_is_copied_and_rounded(device, dtype):
    values = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3).requires_grad_()
    with torch.device(device):
        model = pair(a=nn.Linear(3, 4), b=nn.Linear(3, 4), c=nn.Linear(3, 4))
    rules = [
        Rule(Preset(values), name="a.weight"),
        Rule(lambda target: values * 2, name="b.weight", label="doubled"),
        Rule(CopyFrom("a.weight"), name="c.weight"),
        *TORCH,
    ]
    report = init_model_(model, recipe=rules, dtype=dtype)
    assert torch.equal(model.a.weight, values.to(dtype or torch.float32))
    assert torch.equal(model.b.weight, (values * 2).to(dtype or torch.float32))
    assert torch.equal(model.c.weight, model.a.weight)
    assert model.a.weight.is_leaf and model.a.weight.requires_grad
    texts = {row.name: row.initialiser for row in report.rows}
    assert (texts["a.weight"], texts["b.weight"]) == ("preset", "doubled")
    assert report.to_json().count('"std": null') == 3
    assert " -  " in str(report)


COPIES = pair(a=nn.Linear(3, 4), b=nn.Linear(3, 4), c=nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("rules", "error", "said"),
    [
        (
            [Rule(CopyFrom("b.weight"), name="a.weight"), Rule(CopyFrom("a.weight"), name="b.weight")],
            ValueError,
            "in a cycle: 'a.weight' -> 'b.weight' -> 'a.weight'",
        ),
        (
            [Rule(CopyFrom("b.bias"), name="a.bias"), Rule(CopyFrom("b.bias"), name="b.bias")],
            ValueError,
            "in a cycle: 'b.bias' -> 'b.bias'",
        ),
        (
            [Rule(CopyFrom("d.weight"), name="a.weight")],
            ValueError,
            "'a.weight' copies from 'd.weight', which",
        ),
        (
            [Rule(CopyFrom("b.weight"), name="a.weight"), Rule(CopyFrom("e"), name="b.weight")],
            ValueError,
            "'b.weight' copies from 'e'",
        ),
        (
            [Rule(CopyFrom("c.weight"), name="a.weight")],
            ValueError,
            r"'a.weight' of shape \[4, 3\] cannot copy from 'c.weight' of shape \[4, 4\]",
        ),
        (
            [Rule(Preset(torch.ones(3, 4)), name="a.weight")],
            ValueError,
            r"'a.weight', preset: the preset has shape \[3, 4\], not \[4, 3\]",
        ),
        (
            [Rule(lambda target: torch.ones(4, 3, device="meta"), name="a.weight")],
            ValueError,
            "'a.weight', .*meta device",
        ),
    ],
)
def test_wrong_copies_and_presets_are_named_and_nothing_is_written(rules, error, said):
    assert_refused(COPIES, error, said, recipe=[*rules, DRAWN])


@pytest.mark.parametrize(
    ("value", "given", "dtype"),
    [
        (1e38, torch.float32, torch.float16),
        (-7e4, torch.float64, torch.float16),
        (1e39, torch.float64, torch.float32),
        (70_000, torch.int64, torch.float16),
        (500.0, torch.float32, torch.float8_e4m3fn),
        (5e4, torch.float8_e5m2, torch.float8_e4m3fn),
    ],
)
def test_a_preset_whose_finite_values_would_be_infinite_is_refused(value, given, dtype):
    values = torch.ones(4, 3, dtype=torch.float64)
    values[2, 1], values[3, 0] = value, math.nan if given.is_floating_point else 1
    rules = [Rule(Preset(values.to(given)), name="a.weight"), DRAWN]
    said = rf"'a.weight', preset: {dtype} cannot hold {values.to(given)[2, 1].item():.6g}, which"
    assert_refused(copy.deepcopy(COPIES).to(dtype), ValueError, re.escape(said), recipe=rules)
    assert_refused(COPIES, ValueError, re.escape(said), recipe=rules, dtype=dtype)


def test_a_preset_keeps_what_is_infinite_as_it_is():
    model = nn.Linear(2, 1, bias=False)
    init_model_(model, recipe=[Rule(Preset(torch.tensor([[math.inf, 6e4]])))], dtype=torch.float16)
    assert model.weight.isinf().tolist() == [[True, False]]


def test_wrong_arguments_of_copies_and_presets():
    with pytest.raises(TypeError, match="not 3"):
        CopyFrom(3)
    with pytest.raises(TypeError, match="not list"):
        Preset([1.0])
    with pytest.raises(ValueError, match="meta device"):
        Preset(torch.ones(2, device="meta"))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def normalised() -> list[tuple[nn.Module, nn.Module, str, str, int]]:
    """(weight-normalised, plain, magnitude, direction, dim)"""
    new, old = parametrizations.weight_norm, weight_norm
    pairs = [
        (new(nn.Conv2d(4, 6, 3, groups=2)), nn.Conv2d(4, 6, 3, groups=2), 0),
        (new(nn.ConvTranspose1d(4, 6, 3), dim=1), nn.ConvTranspose1d(4, 6, 3), 1),
        (new(nn.Linear(4, 6), dim=None), nn.Linear(4, 6), -1),
        (new(nn.Embedding(5, 4, padding_idx=2)), nn.Embedding(5, 4, padding_idx=2), 0),
    ]
    named = [
        (*each, "parametrizations.weight.original0", "parametrizations.weight.original1") for each in pairs
    ]
    return [
        *named,
        (old(nn.Conv2d(4, 6, 3)), nn.Conv2d(4, 6, 3), 0, "weight_g", "weight_v"),
        (old(nn.Linear(4, 6), dim=None), nn.Linear(4, 6), -1, "weight_g", "weight_v"),
    ]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("recipe", GENERAL)
def test_a_weight_normalised_weight_is_its_plain_initialisation(recipe):
    for module, plain, dim, magnitude, direction in normalised():
        report = init_model_(module, 3, recipe)
        rows = {row.name: row for row in make_plan(module, 3, recipe).rows}
        (row,) = (row for row in make_plan(plain, 3, recipe).rows if row.name == "weight")
        v, g = module.get_parameter(direction).detach(), module.get_parameter(magnitude).detach()
        assert (rows[direction].distribution, rows[direction].fans) == (row.distribution, row.fans)
        assert rows[direction].values.zero_row == row.values.zero_row
        assert torch.equal(g, torch.norm_except_dim(v, 2, dim))
        for hook in module._forward_pre_hooks.values():  # the older form computes its weight there
            hook(module, ())
        if not isinstance(plain, nn.Embedding):
            torch.testing.assert_close(module.weight.detach(), v, rtol=3e-7, atol=0.0)
        assert f"norm_of('{direction}')" in {row.initialiser for row in report.rows}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_narrow_weight_normalised_model_is_the_rounding_of_the_float32_model(dtype):
    def layers() -> nn.Module:
        grouped = parametrizations.weight_norm(nn.Conv1d(48, 48, 16, groups=4), dim=2)
        return nn.Sequential(*(each[0] for each in normalised()), grouped)

    whole, narrow, already = layers(), layers(), layers().to(dtype)
    init_model_(whole, 3)
    init_model_(narrow, 3, dtype=dtype)
    init_model_(already, 3)
    rounded = {name: tensor.to(dtype) for name, tensor in whole.state_dict().items()}
    for name, tensor in rounded.items():
        for model in (narrow, already):
            assert torch.equal(model.state_dict()[name].float(), tensor.float()), name
    assert verify(rounded, 3, model=layers()) and verify(narrow, 3) and verify(rounded, 3, model=already)
    assert plan_model(layers(), 3, dtype=dtype).fingerprint() == fingerprint(narrow) == fingerprint(rounded)


def test_a_norm_of_presets_and_of_what_is_not_chosen_is_rounded_once():
    values = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    part = "parametrizations.weight.original"
    model = parametrizations.weight_norm(nn.Linear(3, 4)).bfloat16()
    init_model_(model, 0, [Rule(Preset(values), name=f"{part}1"), *TORCH])
    norm = torch.norm_except_dim(values, 2, 0).bfloat16()
    assert torch.equal(model.get_parameter(f"{part}0"), norm)
    init_model_(model, 0, only=f"{part}0")
    norm = torch.norm_except_dim(values.bfloat16().float(), 2, 0).bfloat16()
    assert torch.equal(model.get_parameter(f"{part}0"), norm)
    meta = model.to("meta")
    said = r"original0', norm_of.*'parametrizations\.weight\.original1', which is on the meta"
    with pytest.raises(ValueError, match=said):
        init_model_(meta, only=f"{part}0")
    assert all(parameter.is_meta for parameter in meta.parameters())


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_rules_fit_the_plain_weight_and_parts_only_by_their_own_names(device):
    with torch.device(device):
        model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2))
    part = "parametrizations.weight.original"
    init_model_(model, 1, [Rule(Uniform(-0.5, 0.25), name="0.weight"), *HE])
    v = model.get_parameter(f"0.{part}1").detach().clone()
    assert torch.equal(v, expected(v, f"0.{part}1", 1))
    init_model_(model, 1, [DRAWN])  # fits everything: the magnitude stays what it means
    assert torch.equal(model.get_parameter(f"0.{part}0").detach(), torch.norm_except_dim(v, 2, 0))
    init_model_(model, 1, [Rule(Uniform(-0.5, 0.25), name="0.*"), DRAWN])  # so does this, by both names
    assert torch.equal(model.get_parameter(f"0.{part}0").detach(), torch.norm_except_dim(v, 2, 0))
    init_model_(model, 1, [Rule(Constant(2.0), name="*original0"), DRAWN])
    assert model.get_parameter(f"0.{part}0").eq(2).all()
    init_model_(model, 2, only="0.weight")
    assert not torch.equal(model.get_parameter(f"0.{part}1").detach(), v)
    assert not model.get_parameter(f"0.{part}0").eq(2).any()
