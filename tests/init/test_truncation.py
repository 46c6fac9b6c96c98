"""Truncation in standard deviations: cut= and corrected= of trunc_normal_ and TruncatedNormal."""

import math
import warnings

import pytest
import torch
from filling import assert_same_bits
from init_functions import Recorder, untouched

from convinit_ext import Key, TruncatedNormal, init
from convinit_ext.distributions import truncated_std

stats = pytest.importorskip("scipy.stats")

KEY = Key(0, "weight")
CUTS = [1e-3, 0.1, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0]


@pytest.mark.parametrize("cut", CUTS)
def test_the_std_after_a_cut_is_scipys(cut):
    assert truncated_std(cut) == pytest.approx(stats.truncnorm(-cut, cut).std(), rel=1e-7)
    if cut >= 0.5:  # nearer to zero the difference in scipy's own formula loses digits
        assert truncated_std(cut) == pytest.approx(stats.truncnorm(-cut, cut).std(), rel=1e-13)


def test_the_std_after_a_cut_at_its_ends():
    assert truncated_std(2.0) == 0.87962566103423978  # as jax.nn.initializers and TensorFlow write it
    assert truncated_std(1e-9) == pytest.approx(1e-9 / math.sqrt(3)), "uniform"
    assert truncated_std(9.0) == truncated_std(50.0) == truncated_std(1e300) == 1.0


@pytest.mark.parametrize("mean", [0.0, 0.7])
@pytest.mark.parametrize("cut", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("corrected", [False, True])
def test_values_end_so_many_stds_from_the_mean(mean, cut, corrected):
    std = 0.02
    wider = std / stats.truncnorm(-cut, cut).std() if corrected else std
    weight = torch.empty(300, 400, dtype=torch.float64)
    init.trunc_normal_(weight, mean, std, cut=cut, corrected=corrected, key=KEY)
    bounds = init.trunc_normal_(
        torch.empty_like(weight), mean, wider, mean - cut * wider, mean + cut * wider, key=KEY
    )
    torch.testing.assert_close(weight, bounds, rtol=1e-12, atol=0)
    farthest = (weight - mean).abs().max().item()
    assert 0.99 * cut * wider < farthest <= cut * wider * (1 + 1e-12)
    law = stats.truncnorm(-cut, cut, loc=mean, scale=wider)
    assert stats.kstest(weight.flatten()[:20_000].numpy(), law.cdf).pvalue > 1e-4
    assert weight.std().item() == pytest.approx(std if corrected else law.std(), rel=0.01)


def test_corrected_at_two_stds_is_variance_scaling():
    scaled = init.variance_scaling_(torch.empty(6, 25), 1.0, "fan_in", "truncated_normal", key=KEY)
    assert_same_bits(init.trunc_normal_(torch.empty(6, 25), std=0.2, cut=2, corrected=True, key=KEY), scaled)


def test_without_them_it_is_torchs_function():
    plain = init.trunc_normal_(torch.empty(50), 0.1, 0.5, key=KEY)
    assert_same_bits(init.trunc_normal_(torch.empty(50), 0.1, 0.5, cut=None, corrected=False, key=KEY), plain)
    assert_same_bits(init.trunc_normal_(torch.empty(50), 0.1, 0.5, -2.0, 2.0, key=KEY), plain)
    with pytest.warns(UserWarning, match="mean is more than 2 std from"):
        init.trunc_normal_(torch.empty(5), 9.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init.trunc_normal_(torch.empty(5), 9.0, cut=1e-3)


def test_a_std_of_zero_is_the_mean():
    assert init.trunc_normal_(torch.empty(5), 0.25, 0.0, cut=2, corrected=True).eq(0.25).all()


WRONG = {
    "with a": ({"cut": 2.0, "a": -1.0}, ValueError, r"pass cut=, .* or a= and b=, but found cut=2.0, a=-1.0"),
    "with b": ({"cut": 2.0, "b": math.inf}, ValueError, "b=inf"),
    "zero": ({"cut": 0.0}, ValueError, "cut must be greater than 0 and finite, but found cut=0.0"),
    "negative": ({"cut": -2}, ValueError, "cut=-2"),
    "infinite": ({"cut": math.inf}, ValueError, "cut=inf"),
    "NaN": ({"cut": math.nan}, ValueError, "cut=nan"),
    "text": ({"cut": "2"}, TypeError, "cut must be a number, not '2'"),
    "alone": ({"corrected": True}, ValueError, r"corrected=True needs cut="),
    "no truth": ({"cut": 2.0, "corrected": "no"}, TypeError, "corrected must be True or False, not 'no'"),
    "std": ({"cut": 2.0, "std": -1.0}, ValueError, "std -1.0"),
    "tiny": ({"cut": 1e-170, "corrected": True}, ValueError, "cut is too small .* found cut=1e-170"),
}


@pytest.mark.parametrize(("arguments", "error", "said"), WRONG.values(), ids=WRONG)
def test_wrong_cuts_are_named_before_anything_is_written(arguments, error, said):
    untouched(lambda: torch.ones(5), lambda w, _: init.trunc_normal_(w, **arguments), error, said)
    with pytest.raises(error, match=said):
        TruncatedNormal(**arguments)


def test_the_distribution_is_what_it_is_made_to():
    cut = TruncatedNormal(1.0, 0.5, cut=3)
    assert cut == TruncatedNormal(1.0, 0.5, -0.5, 2.5)
    assert hash(cut) == hash(TruncatedNormal(1.0, 0.5, -0.5, 2.5))
    wider = 0.5 / truncated_std(3.0)
    assert TruncatedNormal(1.0, 0.5, cut=3, corrected=True).params == (
        1.0,
        wider,
        1 - 3 * wider,
        1 + 3 * wider,
    )


@pytest.mark.parametrize(
    ("distribution", "nothing"),
    [
        (TruncatedNormal(0.0, 0.02), True),
        (TruncatedNormal(0.0, 0.02, -math.inf, math.inf), True),
        (TruncatedNormal(0.0, 0.02, -math.inf, 0.1), False),
        (TruncatedNormal(1.9, 0.02), False),
        (TruncatedNormal(0.0, 0.3), True),
        (TruncatedNormal(0.0, 0.34), False),
        (TruncatedNormal(0.0, 0.02, cut=2.0), False),
        (TruncatedNormal(0.0, 0.0), False),
        (TruncatedNormal(), False),
    ],
)
def test_bounds_beyond_six_stds_cut_nothing(distribution, nothing):
    assert distribution.cuts_nothing is nothing


def test_an_override_sees_them_if_they_are_given():
    weight, given = torch.empty(3).as_subclass(Recorder), {"cut": 2.0, "corrected": True}
    assert given.items() <= init.trunc_normal_(weight, **given).items()
    assert not init.trunc_normal_(weight).keys() & given.keys()
