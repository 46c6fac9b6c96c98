"""intercept: what other generators draw inside a block, and PyTorch's where intercept leaves it to them."""

import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from convinit_ext import intercept

OTHERS = [
    (lambda: random.random(), "Python's"),
    (lambda: np.random.randn(3), "NumPy's"),
    (lambda: (np.random.rand(), random.shuffle([1, 2])), "Python's and NumPy's"),
]


@pytest.mark.parametrize(("draw", "whose"), OTHERS, ids=[whose for _, whose in OTHERS])
def test_what_other_generators_draw_is_no_secret(draw, whose):
    model = nn.Linear(2, 2)
    for arguments in ((model, 0), (model,), (None, 0)):
        said = pytest.warns(UserWarning, match=f"^{whose} global generator was drawn from inside")
        with said as caught, intercept(*arguments):
            draw()
        assert [each.filename for each in caught] == [__file__]


def test_what_they_draw_elsewhere_is():
    model = nn.Linear(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        random.random(), np.random.rand()
        with intercept(model, 0):
            model.reset_parameters()
            np.random.default_rng(0).random(), random.Random(0).random()
        with intercept():  # who gives no seed seeds all generators
            random.random(), np.random.rand()


def test_numpy_may_have_another_generator():
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(0))
    try:
        with pytest.warns(UserWarning, match="^NumPy's"), intercept(nn.Linear(2, 2), 0):
            np.random.rand()
    finally:
        np.random.set_bit_generator(before)


class Made(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 4) * 0.02)
        self.register_buffer("codes", torch.rand(3))
        self.head = nn.Linear(2, 2)
        self.head.weight = nn.Parameter(torch.randn(2, 2))
        nn.init.normal_(self.head.weight)
        self.size = torch.randn(3).numel()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_model_made_inside_is_told_what_does_not_follow_the_seed(device):
    with warnings.catch_warnings(record=True) as said, torch.device(device):
        warnings.simplefilter("always")
        with intercept(seed=0):
            made, kept = Made(), torch.randn(3)  # nobody's
    names = [] if device == "meta" else ["'Made.token'", "'Made.codes'"]
    assert [str(each.message).split()[0] for each in said] == names, (made, kept)
    assert {each.filename for each in said} <= {__file__}
    with intercept(), torch.device(device):  # all follow PyTorch's generator
        Made()


@pytest.mark.parametrize(
    "fill",
    [
        nn.init.normal_,
        nn.init.xavier_uniform_,
        lambda tensor: tensor.data.uniform_(),
        lambda tensor: tensor.data[1:].normal_(),
    ],
    ids=["normal_", "xavier_uniform_", "data", "slice"],
)
def test_a_complex_parameter_that_pytorch_draws_is_named_once(fill):
    layer = nn.Linear(3, 3, dtype=torch.complex64)
    expected = pytest.warns(UserWarning, match=r"^'weight' gets values of torch.rand.*view_as_real")
    with expected as said, intercept(layer, seed=0):
        fill(layer.weight), fill(layer.weight), nn.init.zeros_(layer.bias)
    assert [each.filename for each in said] == [__file__]
