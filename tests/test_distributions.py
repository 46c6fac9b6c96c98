"""distributions.py: what is a distribution and what is not; fans, gains, standard deviations."""

import dataclasses
import math
import re

import pytest
import torch

from convinit_ext import Constant, Normal, TruncatedNormal, Uniform
from convinit_ext.distributions import (
    FAN_MODES,
    FORMS,
    ParameterError,
    calculate_gain,
    fan_of,
    fans,
    kaiming_std,
    variance_scaling,
    xavier_std,
    zero_mean,
)

given = pytest.importorskip("hypothesis").given
settings = pytest.importorskip("hypothesis").settings
st = pytest.importorskip("hypothesis.strategies")

INF, NAN = math.inf, math.nan
ALL = (Constant, Uniform, Normal, TruncatedNormal)


def test_engine_codes_and_parameters():
    assert [kind.kind for kind in ALL] == [0, 1, 2, 3]
    assert [kind().params for kind in ALL] == [(0, 0, 0, 0), (0, 1, 0, 0), (0, 1, 0, 0), (0, 1, -2, 2)]
    assert TruncatedNormal(1.0, 2.0, -3.0, 4.0).params == (1.0, 2.0, -3.0, 4.0)
    assert Constant(2**60 + 1).value == 2**60 + 1, "integers keep every digit"


@pytest.mark.parametrize("kind", ALL)
def test_parameters_are_numbers_of_float64(kind):
    first = dataclasses.fields(kind)[0].name
    for value in ("1.0", b"1", None, 2j, [1.0]):
        with pytest.raises(
            TypeError, match=re.escape(f"{kind.__name__}: {first} must be a number, not {value!r}")
        ):
            kind(value)
    for error in (OverflowError, ValueError):
        with pytest.raises(error, match="too large"):
            kind(10**400)


@pytest.mark.parametrize("kind", ALL)
def test_distributions_are_values(kind):
    assert kind() == kind()
    assert hash(kind()) == hash(kind())
    assert not hasattr(kind(), "__dict__")
    name = dataclasses.fields(kind)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(kind(), name, 3.0)


@pytest.mark.parametrize(
    ("kind", "params", "named"),
    [
        (Uniform, (2.0, 1.0), "from=2.0 and to=1.0"),
        (Uniform, (NAN, 1.0), "from=nan"),
        (Uniform, (0.0, NAN), "to=nan"),
        (Uniform, (-INF, 0.0), "from=-inf"),
        (Uniform, (INF, INF), "to=inf"),
        (Uniform, (-1.7e308, 1.7e308), "to=1.7e\\+308"),
        (Normal, (0.0, -1.0), "std -1.0"),
        (Normal, (0.0, NAN), "std nan"),
        (Normal, (0.0, INF), "std inf"),
        (Normal, (NAN, 1.0), "mean nan"),
        (Normal, (-INF, 1.0), "mean -inf"),
        (TruncatedNormal, (0.0, -1.0), "std -1.0"),
        (TruncatedNormal, (INF, 1.0), "mean inf"),
        (TruncatedNormal, (0.0, 1.0, 2.0, 1.0), "a=2.0 and b=1.0"),
        (TruncatedNormal, (0.0, 1.0, NAN, 1.0), "a=nan"),
        (TruncatedNormal, (0.0, 1.0, 0.0, NAN), "b=nan"),
        (TruncatedNormal, (0.0, 1.0, INF, INF), "a=inf"),
        (TruncatedNormal, (0.0, 1.0, -INF, -INF), "b=-inf"),
        (Constant, (NAN,), "value=nan"),
        (Constant, (INF,), "value=inf"),
    ],
)
def test_impossible_parameters(kind, params, named):
    with pytest.raises(ParameterError, match=named) as caught:
        kind(*params)
    assert isinstance(caught.value, ValueError), "for those who catch what is wrong"
    assert isinstance(caught.value, RuntimeError), "for those who catch what PyTorch raises"


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (Uniform, (1.0, 1.0)),
        (Normal, (0.0, 0.0)),
        (Normal, (0, 1)),
        (TruncatedNormal, (0.0, 0.0)),
        (TruncatedNormal, (0.0, 1.0, -INF, INF)),
        (TruncatedNormal, (0.0, 1.0, 1.0, 1.0)),
        (TruncatedNormal, (0.0, 1.0, 3.0, INF)),
    ],
)
def test_possible_parameters_at_the_edge(kind, params):
    kind(*params)


# Fans: fan_in is what one output element sums over, fan_out how many output elements one input element feeds.


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5))
def test_fans_are_those_of_pytorch(shape):
    assert fans(shape) == torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_fans_count_the_connections_of_a_convolution(groups, transposed):
    layer_type = torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d
    layer = layer_type(8, 4, (3, 2), groups=groups, bias=False, dtype=torch.float64)
    torch.nn.init.ones_(layer.weight)
    image = torch.zeros(1, 8, 9, 9, dtype=torch.float64, requires_grad=True)
    output = layer(image)
    (summed,) = torch.autograd.grad(output[0, 0, 4, 4], image, retain_graph=True)
    (fed,) = torch.autograd.grad(output.sum(), image)
    assert fans(layer.weight.shape, groups=groups, transposed=transposed) == (summed.sum(), fed[0, 0, 4, 4])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: fans(()), "fewer than 2 dimensions"),
        (lambda: fans((3,)), "fewer than 2 dimensions"),
        *(
            (lambda n=n: fans((8, 4), groups=n), f"divisible by groups, but found 8 and groups={n}")
            for n in (0, -1, 3)
        ),
        *(
            (lambda s=s: calculate_gain("leaky_relu", s), r"negative_slope .* not a valid number")
            for s in (True, [1], {"a": "b"}, "0.1")
        ),
        (lambda: calculate_gain("swish"), r"Unsupported nonlinearity swish, .*'relu'"),
    ],
)
def test_shapes_groups_and_gains_that_are_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_fan_modes():
    assert [fan_of(mode, 4, 16) for mode in FAN_MODES] == [4, 16, 10, 8]
    with pytest.raises(ValueError, match=r"Mode fan_sum not supported, .*fan_avg"):
        fan_of("fan_sum", 4, 16)


# Gains and standard deviations: the doubles of torch.nn.init, to the last bit.


@pytest.mark.parametrize(
    "nonlinearity",
    ["linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]
    + [f"conv{transpose}{dims}d" for transpose in ("", "_transpose") for dims in (1, 2, 3)],
)
def test_gains_are_those_of_pytorch(nonlinearity):
    assert calculate_gain(nonlinearity) == torch.nn.init.calculate_gain(nonlinearity)


@settings(deadline=None)
@given(st.one_of(st.none(), st.integers(-9, 9), st.floats(-1e100, 1e100)))
def test_gain_of_a_slope_is_that_of_pytorch(slope):
    assert calculate_gain("leaky_relu", slope) == torch.nn.init.calculate_gain("leaky_relu", slope)


def test_standard_deviations_as_published():
    assert kaiming_std(fan=50, gain=math.sqrt(2.0)) == pytest.approx(0.2)  # He et al. 2015
    assert xavier_std(fan_in=20, fan_out=30) == pytest.approx(0.2)  # Glorot & Bengio 2010


@pytest.mark.parametrize("mode", FAN_MODES)
@pytest.mark.parametrize("form", FORMS)
def test_variance_scaling_has_the_variance_it_says(mode, form):
    distribution = variance_scaling(3.0, mode, form, 6, 24)
    assert type(distribution) is dict(zip(FORMS, (Normal, Uniform, TruncatedNormal), strict=True))[form]
    assert _variance(distribution) == pytest.approx(3.0 / fan_of(mode, 6, 24), rel=1e-12)


def _variance(distribution):
    if isinstance(distribution, Normal):
        return distribution.std**2
    if isinstance(distribution, Uniform):
        return (distribution.high - distribution.low) ** 2 / 12
    cut = distribution.b / distribution.std
    assert cut == pytest.approx(2)
    assert distribution.a == -distribution.b
    density, mass = math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi), math.erf(cut / math.sqrt(2))
    return distribution.std**2 * (1 - 2 * cut * density / mass)


def test_variance_scaling_turns_away():
    with pytest.raises(ValueError, match=r"Distribution cauchy not supported, .*truncated_normal"):
        variance_scaling(1.0, "fan_in", "cauchy", 3, 3)
    with pytest.raises(ValueError, match=r"Mode fan_max not supported"):
        variance_scaling(1.0, "fan_max", "normal", 3, 3)
    for scale in (-1.0, NAN, INF):
        with pytest.raises(ValueError, match=f"found scale {scale}"):
            variance_scaling(scale, "fan_in", "normal", 3, 3)
    for form in FORMS:
        with pytest.raises(ParameterError):
            zero_mean(-1.0, form)
