"""The recipe mamba: the value contract's numbers, mamba_ssm's distributions, transformers' models."""

import math

import numpy as np
import pytest
import reference_state_space as oracle
import torch
from doors import check_every_door, check_writes_nothing
from filling import assert_same_bits, values
from planning import fillings, make_plan
from torch import nn
from torch.nn.functional import softplus

from convinit_ext import Constant, Normal, Uniform, fingerprint, init_model_
from convinit_ext.recipes import MAMBA, Recipe, mamba

LOW, HIGH = oracle.log(1e-3), oracle.log(0.1)


class Mamba(nn.Module):
    """The parameters of mamba_ssm's, by its names."""

    def __init__(self, width: int, states: int = 5, rank: int = 3) -> None:
        super().__init__()
        inner = 2 * width
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, 4, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, states))
        self.D = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)


class Mamba2(nn.Module):
    def __init__(self, width: int, heads: int = 6) -> None:
        super().__init__()
        self.in_proj = nn.Linear(width, 4 * width + heads, bias=True)
        self.conv1d = nn.Conv1d(2 * width, 2 * width, 4, groups=2 * width)
        self.dt_bias, self.A_log, self.D = (nn.Parameter(torch.empty(heads)) for _ in range(3))
        self.norm = nn.RMSNorm(2 * width)
        self.out_proj = nn.Linear(2 * width, width, bias=False)


class Net(nn.Module):
    def __init__(self, *mixers: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        blocks = [nn.ModuleDict({"norm": nn.LayerNorm(8), "mixer": mixer}) for mixer in mixers]
        self.layers, self.head = nn.ModuleList(blocks), nn.Linear(8, 11)


def net() -> nn.Module:
    return Net(Mamba(8), Mamba2(8))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_values_are_those_of_the_contract(dtype):
    model = net().to(getattr(torch, dtype))
    init_model_(model, 7, "mamba")

    def expected(name: str, low: float, high: float, function) -> np.ndarray:
        shape = tuple(model.get_parameter(name).shape)
        return oracle.of_uniform(shape, 7, name, low, high, function, dtype)

    for name in ("layers.0.mixer.dt_proj.bias", "layers.1.mixer.dt_bias"):
        steps = expected(name, LOW, HIGH, lambda y: oracle.inverse_softplus(y, 1e-4))
        assert_same_bits(values(model.get_parameter(name)), steps, name)
    heads = expected("layers.1.mixer.A_log", 1.0, 16.0, oracle.log)
    assert_same_bits(values(model.layers[1]["mixer"].A_log), heads)
    row = np.array([oracle.log(n) for n in range(1, 6)])
    row = oracle.round_to(row if dtype == "float64" else row.astype(np.float32), dtype)
    assert_same_bits(values(model.layers[0]["mixer"].A_log), np.tile(row, (16, 1)))


def test_a_model_that_becomes_float64_is_that_of_float64():
    one, two = net(), net().double()
    init_model_(one, 0, "mamba", dtype=torch.float64)
    init_model_(two, 0, "mamba")
    assert fingerprint(one) == fingerprint(two)


def test_the_formulas_are_exp_and_log():
    for x in np.random.default_rng(0).uniform(-12, 3, 1000):
        assert oracle.exp(x) == pytest.approx(math.exp(x), rel=3e-16)
        assert oracle.log(math.exp(x)) == pytest.approx(x, rel=5e-16, abs=5e-16)
        assert oracle.inverse_softplus(x, 1e-4) == pytest.approx(
            math.log(math.expm1(max(math.exp(x), 1e-4))), abs=1e-11
        )


def test_every_door_has_the_same_values(tmp_path):
    model = check_every_door(net, "mamba", tmp_path)
    assert fingerprint(model) == "6a0dbf2fff46c61fd1b06950ad3b8f12"


def test_what_each_parameter_gets():
    rows = {row.name: row for row in make_plan(net(), recipe="mamba").rows}
    found = {name: row.distribution for name, row in rows.items()}
    assert found["embedding.weight"] == Normal(0.0, 0.02)
    for layer in ("layers.0.mixer", "layers.1.mixer"):
        assert found[f"{layer}.D"] == Constant(1.0)
        bound = 1 / math.sqrt(16) / math.sqrt(2)
        assert found[f"{layer}.out_proj.weight"].high == pytest.approx(bound)
        assert found[f"{layer}.in_proj.weight"].high == pytest.approx(1 / math.sqrt(8))
        assert found[f"{layer}.conv1d.bias"] == Uniform(-0.5, 0.5)
    assert found["layers.0.mixer.dt_proj.weight"] == Uniform(-(3**-0.5), 3**-0.5)
    assert found["layers.1.mixer.in_proj.bias"] == found["head.bias"] == Constant(0.0)
    said = {name: row.initialiser for name, row in rows.items()}
    assert said["layers.0.mixer.A_log"] == "log of 1 .. 5"
    assert said["layers.1.mixer.A_log"] == "log of uniform_(1, 16)"
    assert said["layers.0.mixer.dt_proj.bias"].startswith("softplus^-1 of exp(uniform_(-6.90776, -2.30259))")
    assert said["layers.0.mixer.out_proj.weight"] == "kaiming_uniform_(a=2.23607) / sqrt(1 * 2)"
    other = mamba(num_layers=8, branches=2, dt_scale=0.5, a_range=(2.0, 3.0))
    found = fillings(net(), other)
    assert found["layers.0.mixer.out_proj.weight"].high == pytest.approx(1 / 16)
    assert found["layers.0.mixer.dt_proj.weight"] == Uniform(-0.5 * 3**-0.5, 0.5 * 3**-0.5)
    model = net()
    init_model_(model, 0, other)
    assert (
        2.0 <= model.layers[1]["mixer"].A_log.exp().min() <= model.layers[1]["mixer"].A_log.exp().max() <= 3
    )


def test_time_steps_are_uniform_in_their_logarithm_and_have_a_floor():
    stats = pytest.importorskip("scipy.stats")
    model = Net(Mamba2(8, heads=20_000))
    init_model_(model, 0, mamba())
    steps = softplus(model.layers[0]["mixer"].dt_bias.detach().double())
    assert stats.kstest(steps.log(), stats.uniform(LOW, HIGH - LOW).cdf).pvalue > 0.01
    init_model_(model, 0, mamba(dt_init_floor=0.01))
    steps = softplus(model.layers[0]["mixer"].dt_bias.detach().double())
    assert steps.min().item() == pytest.approx(0.01, rel=1e-5)
    assert (steps < 0.0100001).double().mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("kind", ["Mamba", "Mamba2"])
def test_models_of_transformers_start_as_their_own_code_starts_them(kind):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 500, "hidden_size": 128, "num_hidden_layers": 2, "state_size": 16}
    sizes |= {"num_heads": 32, "head_dim": 8, "n_groups": 1} if kind == "Mamba2" else {}
    config = getattr(transformers, f"{kind}Config")(**sizes, rescale_prenorm_residual=True)
    torch.manual_seed(0)
    theirs, ours = (getattr(transformers, f"{kind}ForCausalLM")(config) for _ in range(2))
    init_model_(ours, 0, "mamba")
    mixers = [f"backbone.layers.{layer}.mixer" for layer in range(2)]
    for mixer in mixers:
        own, other = ours.get_submodule(mixer), theirs.get_submodule(mixer)
        assert torch.equal(own.D, other.D)
        for name, each in own.named_parameters():
            there = other.get_parameter(name)
            if name == "A_log" and kind == "Mamba":
                torch.testing.assert_close(each, there)
            elif name in ("dt_bias", "dt_proj.bias"):
                spread = math.log(0.1) - math.log(1e-3)
                for steps in (softplus(each.detach()), softplus(there.detach())):
                    assert 0.99e-3 < steps.min() < steps.max() < 0.101
                    assert steps.log().std() == pytest.approx(spread / math.sqrt(12), rel=0.25)
            elif name in ("out_proj.weight", "conv1d.weight", "dt_proj.weight"):
                assert each.std().item() == pytest.approx(there.std().item(), rel=0.05), name
                assert each.abs().max().item() == pytest.approx(there.abs().max().item(), rel=0.02), name


def test_a_model_without_state_spaces_is_refused():
    said = "recipe 'mamba' has 1 rule without effect:\n  rule 1 (log, parameter='A_log', where=...) fits no"
    check_writes_nothing(nn.Sequential(nn.Linear(3, 4)), "mamba", ValueError, said)
    stage = nn.ModuleDict({"head": nn.Linear(3, 4)})
    init_model_(stage, 0, Recipe(tuple(MAMBA), allow_unused=True))
    only_decays = nn.ModuleDict({"mixer": nn.Linear(3, 4)})
    only_decays["mixer"].A_log = nn.Parameter(torch.zeros(4))  # without a D: a delta rule's
    check_writes_nothing(only_decays, "mamba", ValueError, "has no rule for 1 parameter")
    alone = nn.ModuleDict({"mixer": Mamba(4)})
    check_writes_nothing(alone, "mamba", ValueError, "recipes.mamba(num_layers=12)")


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"num_layers": 0}, ValueError, "num_layers must be 1 or more, but found 0"),
        ({"branches": 0}, ValueError, "branches must be 1 or more, but found 0"),
        ({"dt_min": 0.2}, ValueError, "dt_max must be greater than 0, finite and at least 0.2, but found"),
        ({"dt_min": 0.0}, ValueError, "dt_min must be greater than 0, finite, but found 0.0"),
        ({"dt_max": math.inf}, ValueError, "dt_max must be greater than 0, finite and at least 0.001"),
        ({"dt_scale": 10**400}, ValueError, "dt_scale must be greater than 0, finite and at least"),
        ({"dt_scale": "1"}, TypeError, "dt_scale must be a number, not '1'"),
        ({"a_range": (4.0, 2.0)}, ValueError, r"a_range\[1\] must be greater than 0, finite and at least 4"),
    ],
)
def test_wrong_arguments(arguments, error, said):
    with pytest.raises(error, match=said):
        mamba(**arguments)


def test_files_and_names():
    table = MAMBA.to_dict()
    assert table["extends"] == "mamba" and Recipe.from_dict(table) == MAMBA
    assert Recipe.from_dict({"extends": "mamba"}).rules == MAMBA.rules
