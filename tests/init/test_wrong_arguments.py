"""What is no tensor, and what is no number, is named, and nothing is written or drawn."""

import math

import pytest
import torch
from torch import nn

from convinit_ext import init


@pytest.mark.parametrize("name", [name for name in init.__all__ if name.endswith("_")])
def test_what_is_no_tensor_is_named(name):
    """An AttributeError, as of torch.nn.init."""
    for given in [nn.Linear(2, 2), 3.0, None, int, [1]]:
        more = {"constant_": (1.0,), "sparse_": (0.5,)}.get(name, ())
        before = torch.get_rng_state()
        said = f"must be a torch.Tensor, not a {type(given).__name__}; of a layer pass a parameter, such as"
        with pytest.raises(AttributeError, match=said):
            getattr(init, name)(given, *more)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda w: init.kaiming_normal_(w, mode={}), AttributeError, "mode must be 'fan_in' or 'fan_out'"),
        (lambda w: init.kaiming_normal_(w, groups=1.5), TypeError, "groups must be an int, not 1.5"),
        (lambda w: init.kaiming_normal_(w, groups=[]), TypeError, r"groups must be an int, not \[\]"),
        (lambda w: init.kaiming_uniform_(w, 10**400), OverflowError, "negative_slope 10+ is beyond float64"),
        (lambda w: init.xavier_normal_(w, "2"), TypeError, "gain must be a number, not '2'"),
        (lambda w: init.variance_scaling_(w, "2"), TypeError, "scale must be a number of float64, not '2'"),
        (lambda w: init.orthogonal_(w, 10**400), OverflowError, "gain must be a number, not 10+"),
        (lambda w: init.orthogonal_(w, math.nan), ValueError, "gain must be finite, but found nan"),
        (
            lambda w: init.delta_orthogonal_(w[:, :, None], -math.inf),
            ValueError,
            "gain must be .* found -inf",
        ),
        (
            lambda w: init.orthogonal_(w, torch.ones(2)),
            (RuntimeError, ValueError),
            "gain must be a number, not",
        ),
        (lambda w: init.identity_(w, math.inf), ValueError, "gain must be finite, but found inf"),
        (lambda w: init.identity_(w, "2"), TypeError, "gain must be a number.* not '2'"),
        (lambda w: init.identity_(w, None), TypeError, "gain must be a number.* not None"),
        (lambda w: init.sparse_(w, "2"), TypeError, "sparsity must be a finite number, but found '2'"),
    ],
)
def test_arguments_that_are_no_numbers_are_named(call, error, said):
    before, weight = torch.get_rng_state(), torch.full((4, 4), 7.0)
    with pytest.raises(error, match=said):
        call(weight)
    assert weight.eq(7).all() and torch.equal(torch.get_rng_state(), before)
