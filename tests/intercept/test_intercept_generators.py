"""intercept: what global generators other than PyTorch's draw inside a block."""

import random
import warnings

import numpy as np
import pytest
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
