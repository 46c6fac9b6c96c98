"""Tensors in plain attributes: from the meta device they come as the constructor makes them."""

from __future__ import annotations

import types

import pytest
import torch
from named_modules import ModelMixin
from safetensors.torch import load_file
from torch import nn

from convinit_ext import init_model_, save_model

WRAPS = [lambda x: x, lambda x: [x, x], lambda x: (x, "other"), lambda x: {"a": x, "b": x}]


class Rotary(nn.Module):
    def __init__(self, make, wrap) -> None:
        super().__init__()
        self.table = wrap(make())
        self.twice = self.table


class Model(ModelMixin):
    """A model of diffusers' kind: made from a config."""

    def __init__(self, make, wrap=WRAPS[0]) -> None:
        super().__init__()
        self.config = types.SimpleNamespace(make=make, wrap=wrap)
        self.layer, self.rotary = nn.Linear(4, 4), Rotary(make, wrap)

    @classmethod
    def from_config(cls, config: types.SimpleNamespace) -> Model:
        return cls(config.make, config.wrap)


def on_meta(*arguments) -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(Model(*arguments))


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(4),
        lambda: torch.linspace(0, 1, 4).pow(3),
        lambda: torch.polar(torch.ones(4), torch.arange(4.0)),
    ],
)
def test_a_plain_attribute_is_as_the_constructor_makes_it(make, wrap):
    model = on_meta(make, wrap)
    init_model_(model)
    for held in (model[0].rotary.table, model[0].rotary.twice):
        assert type(held) is type(wrap(make()))
        found, own = tensors(held), tensors(wrap(make()))
        assert len(found) == len(own) and all(map(torch.equal, found, own))
        assert all(each is found[0] for each in found)
    assert tensors(model[0].rotary.table)[0] is tensors(model[0].rotary.twice)[0]


def tensors(value: object) -> list[torch.Tensor]:
    several = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
    )
    return [each for each in several if isinstance(each, torch.Tensor)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.randn(4),
        lambda: torch.zeros(4).uniform_(),
        lambda: torch.empty(4),
        lambda: torch.arange(float(next(SIZES))),
    ],
)
def test_what_a_constructor_draws_or_leaves_empty_or_makes_otherwise_is_listed(make):
    model = on_meta(make)
    with pytest.raises(
        ValueError, match=r"1 buffer on the meta device:\n  0\.rotary\.table.*a plain attribute"
    ):
        init_model_(model)
    assert model[0].layer.weight.is_meta


SIZES = iter(range(1, 1000))


def test_a_file_has_none_of_them(tmp_path):
    model = on_meta(lambda: torch.randn(4))
    save_model(model, tmp_path / "a.safetensors")
    assert set(load_file(tmp_path / "a.safetensors")) == {"0.layer.weight", "0.layer.bias"}


def test_they_go_to_the_device_of_the_buffers_and_those_in_memory_stay():
    model = on_meta(lambda: torch.arange(4))
    kept = model[0].rotary.twice = torch.full((4,), 7)
    init_model_(model, device="cpu")
    assert model[0].rotary.table.device.type == "cpu" and model[0].rotary.twice is kept
    assert torch.equal(model[0].rotary.table, torch.arange(4)) and kept.eq(7).all()


@pytest.mark.parametrize("wrap", [lambda x: {"a": [x]}, lambda x: {"a": x, "b": [x]}, lambda x: {x}])
def test_what_lies_deeper_is_listed(wrap):
    model = on_meta(lambda: torch.arange(4), wrap)
    with pytest.raises(ValueError, match="a plain attribute"):
        init_model_(model)
    assert model[0].layer.weight.is_meta
