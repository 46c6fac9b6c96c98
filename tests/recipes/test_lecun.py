"""The recipe lecun, and the fans that recipes see of a Conv1D of transformers."""

import math

import pytest
from named_modules import conv1d
from planning import fillings, make_plan
from torch import nn

from convinit_ext import Constant, Normal, TruncatedNormal
from convinit_ext.model._report import std_of

LECUN_CUT = 0.87962566103423978  # std of a standard normal cut at -2 and 2


def test_lecun_has_a_variance_of_one_over_the_true_fan_in():
    for module, fan_in in (
        (nn.Linear(50, 8), 50),
        (nn.Conv2d(8, 16, 3, groups=4), 2 * 9),
        (nn.ConvTranspose1d(6, 4, 3), 6 * 3),
        (conv1d(50, 8), 50),
    ):
        found = fillings(module, "lecun")
        std = math.sqrt(1 / fan_in) / LECUN_CUT
        assert found["weight"] == TruncatedNormal(0.0, std, -2 * std, 2 * std)
        assert found["bias"] == Constant(0.0)
        assert std_of(found["weight"]) == pytest.approx(fan_in**-0.5, rel=1e-6)
    assert fillings(nn.Embedding(4, 3), "lecun")["weight"] == Normal()


def test_conv1d_of_transformers_has_its_own_fans_and_its_constructors_values():
    module = conv1d(50, 8)
    assert fillings(module, "torch") == {"weight": Normal(0.0, 0.02), "bias": Constant(0.0)}
    assert fillings(module, "he")["weight"] == Normal(0.0, math.sqrt(2.0) / math.sqrt(50))
    assert fillings(module, "he", fan="torch")["weight"] == Normal(0.0, math.sqrt(2.0) / math.sqrt(8))
    assert fillings(module, "xavier")["weight"] == fillings(nn.Linear(50, 8), "xavier")["weight"]
    assert {row.fans for row in make_plan(module, recipe="lecun").rows} == {(50, 8), None}
    both = nn.Sequential(conv1d(50, 8), nn.Linear(8, 50))  # one shape, two layouts
    found = fillings(both, "lecun")
    assert found["0.weight"] != found["1.weight"]
