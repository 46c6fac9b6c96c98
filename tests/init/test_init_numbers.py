"""The mean and std, or the bounds, that each function of init fills with are PyTorch's, to the last bit."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from convinit_ext import Key, init

THEIRS = torch.nn.init
KEY = Key(0, "conv.weight")


class FillArguments(TorchDispatchMode):
    """Notes the arguments of normal_ and uniform_."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.normal_, torch.ops.aten.uniform_):
            self.seen.append((func.overloadpacket.__name__, *args[1:]))
        return func(*args, **(kwargs or {}))


SHAPES = [(5, 3), (7, 3, 3), (64, 3, 7, 7), (2, 5, 3, 1, 2), (13, 1)]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("xavier_uniform_", {}),
        ("xavier_normal_", {"gain": 1.7}),
        ("kaiming_uniform_", {"a": math.sqrt(5)}),
        ("kaiming_uniform_", {"mode": "fan_out", "nonlinearity": "tanh"}),
        ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}),
        ("kaiming_normal_", {"nonlinearity": "selu"}),
    ],
)
def test_kaiming_and_xavier_have_torch_s_numbers(name, arguments):
    for shape in SHAPES:
        with FillArguments() as theirs:
            getattr(THEIRS, name)(torch.empty(shape, dtype=torch.float64), **arguments)
        ((fill, *numbers),) = theirs.seen
        expected = getattr(init, fill)(torch.empty(shape, dtype=torch.float64), *numbers, key=KEY)
        actual = getattr(init, name)(torch.empty(shape, dtype=torch.float64), **arguments, key=KEY)
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (4, 3, 3, 3), (5, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gain", [1, 0.3])
def test_orthogonal_is_torch_s_for_the_same_normals(shape, dtype, gain, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "normal_", lambda self, *_, generator: init.normal_(self, key=KEY))
    theirs = THEIRS.orthogonal_(torch.empty(shape, dtype=dtype), gain)
    ours = init.orthogonal_(torch.empty(shape, dtype=dtype), gain, key=KEY)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=10 * torch.finfo(dtype).eps)
