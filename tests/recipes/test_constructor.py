"""What no rule and no init code of a model knows: the constructor of a model around it is run again."""

from __future__ import annotations

import types

import pytest
import torch
from named_modules import ModelMixin
from planning import GENERAL, fillings
from torch import nn

from convinit_ext import Constant, Normal, Uniform, init_model_
from convinit_ext.recipes import TORCH, Rule

SAID = "the model's own init code"


class FromConfig(ModelMixin):
    """A model of diffusers' kind: made from a config, without code that initialises."""

    def __init__(self, size: int = 4, scale: float = 2.0) -> None:
        super().__init__()
        self.config = types.SimpleNamespace(size=size, scale=scale)
        self.layer = nn.Linear(size, size)
        self.gain = nn.Parameter(torch.ones(size) * scale)
        self.register_buffer("grid", torch.linspace(0, scale, size))
        self.inner = nn.Module()
        self.inner.register_buffer("table", torch.arange(size), persistent=False)
        self.inner.ramp = nn.Parameter(torch.arange(float(size)))

    @classmethod
    def from_config(cls, config: types.SimpleNamespace) -> FromConfig:
        return cls(**vars(config))


@pytest.mark.parametrize("recipe", GENERAL)
def test_what_a_constructor_makes_of_the_config_is_made_again(recipe):
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = nn.Sequential(FromConfig(6, 0.25))
        state = torch.get_rng_state()
        report = init_model_(model, recipe=recipe)
        assert torch.equal(torch.get_rng_state(), state)
        assert model[0].gain.eq(0.25).all() and torch.equal(model[0].inner.ramp, torch.arange(6.0))
        assert torch.equal(model[0].grid, torch.linspace(0, 0.25, 6))
        assert torch.equal(model[0].inner.table, torch.arange(6))
        assert [row.initialiser for row in report.rows if "gain" in row.name] == [SAID]


class Made(ModelMixin):
    """A model whose constructor makes one parameter by a function."""

    def __init__(self, make) -> None:
        super().__init__()
        self.config = types.SimpleNamespace(make=make)
        self.p = nn.Parameter(make())

    @classmethod
    def from_config(cls, config: types.SimpleNamespace) -> Made:
        return cls(config.make)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("make", "means"),
    [
        (lambda: torch.randn(3, 4) / 4**0.5, Normal(0.0, 0.5)),
        (lambda: 0.1 * torch.randn(2, 3) - 2, Normal(-2.0, 0.1)),
        (lambda: torch.randn(4, 3).t()[None].clone().neg_().add_(1).to(torch.float64), Normal(1.0, 1.0)),
        (lambda: 1 - 2 * torch.rand(3), Uniform(-1.0, 1.0)),
        (lambda: torch.rand_like(torch.ones(3)), Uniform(0.0, 1.0)),
        (lambda: torch.zeros(3).uniform_(-1, 2), Uniform(-1.0, 2.0)),
        (lambda: torch.empty(3).copy_(torch.randn(3)), Normal()),
        (lambda: nn.init.kaiming_uniform_(torch.empty(4, 6)), Uniform(-1.0, 1.0)),
        (lambda: nn.init.constant_(torch.empty(3), 0.5), Constant(0.5)),
        (lambda: nn.init.trunc_normal_(torch.zeros(3), std=0.02), Normal(0.0, 0.02)),
    ],
)
def test_what_a_constructor_draws_has_its_distribution(make, means, device):
    for recipe in GENERAL:
        with torch.device(device):
            model = Made(make)
        state = torch.get_rng_state()
        assert fillings(nn.Sequential(model), recipe) == {"0.p": means}
        assert torch.equal(torch.get_rng_state(), state)


def a_part_zero() -> torch.Tensor:
    values = torch.randn(3, 4)
    values[0].zero_()
    return values


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(3),
        lambda: torch.Tensor(3),  # memory that nothing was written to
        lambda: torch.randn(4, 3)[0],
        lambda: torch.rand(3).add(1).log(),
        lambda: torch.randn(3).add(1, alpha=2),
        lambda: torch.rand(3).mul(5).int().float(),
        lambda: torch.cat([torch.randn(3), torch.rand(3)]),
        lambda: torch.empty(3).copy_(torch.randn(1)),
        lambda: nn.init.orthogonal_(torch.randn(3, 3)),
        lambda: nn.init.trunc_normal_(torch.zeros(1)),
        lambda: nn.init.trunc_normal_(nn.init.zeros_(torch.empty(3))),
        a_part_zero,
    ],
)
def test_what_a_constructor_leaves_empty_or_draws_in_another_way_is_listed(make):
    for _ in range(5):
        with pytest.raises(ValueError, match=r"no rule for 1 parameter:\n  p \["):
            init_model_(Made(make))


def test_only_models_of_diffusers_and_transformers_are_made_anew():
    """What another package's from_config does nobody knows."""

    class Others(nn.Module):
        config, from_config = {}, classmethod(lambda cls, config: pytest.fail("called"))

    model = Others()
    model.gain = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"no rule for 1 parameter:\n  gain \[3\]"):
        init_model_(model)


def test_a_model_of_transformers_is_made_by_its_constructor_of_a_copy_of_the_config():
    base = type(
        "PreTrainedModel", (nn.Module,), {"__module__": "transformers.modeling_utils", "_from_config": None}
    )

    class Clip(base):
        def __init__(self, config: types.SimpleNamespace) -> None:
            super().__init__()
            self.config = config
            config.made = getattr(config, "made", 0) + 1
            self.logit_scale = nn.Parameter(torch.tensor(config.scale))

    config = types.SimpleNamespace(scale=2.5)
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = Clip(config)
        init_model_(model, recipe="trunc_normal")
        assert model.logit_scale == 2.5 and model.config is config
    assert config.made == 2


def test_a_constructor_that_fails_or_needs_more_says_nothing():
    class Failing(FromConfig):
        @classmethod
        def from_config(cls, config: object) -> FromConfig:
            raise OSError("no network")

    with torch.device("meta"):
        model = Failing()
    with pytest.raises(ValueError, match="no rule for 2 parameters"):
        init_model_(model)
    rules = [Rule(Constant(1.0), parameter=name) for name in ("gain", "ramp")]
    with pytest.raises(ValueError, match=r"(?s)grid \[4\].*table \[4\]"):
        init_model_(model, recipe=[*rules, *TORCH])
