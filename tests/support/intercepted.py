"""What tensors filled inside an intercept block should hold, models to fill, and what no block may change."""

import numpy as np
import torch
from filling import DTYPES, assert_same_bits, values
from reference import layer_key, reference
from torch import nn
from torch._C import _len_torch_dispatch_stack, _len_torch_function_stack

UNIT = ("normal", 0.0, 1.0)


def expected(tensor, name, distribution=UNIT, seed=0, start=0, strides=None):
    """What the value contract says for a tensor of this name."""
    dtype = {torch_dtype: name for name, torch_dtype in DTYPES.items()}[tensor.dtype]
    return reference(
        tuple(tensor.shape), *layer_key(seed, name), distribution, dtype, start=start, strides=strides
    )


def assert_is(tensor, name, distribution=UNIT, **where):
    assert_values(tensor, expected(tensor, name, distribution, **where), distribution, name)


def assert_values(tensor, wanted, distribution=UNIT, context=""):
    """Bit for bit where the contract is; the reference's normals are exact, ours polynomials near them."""
    if distribution[0] == "uniform":
        assert_same_bits(tensor, wanted, context)
    else:
        bound = {torch.bfloat16: 2**-8, torch.float16: 2**-10}.get(tensor.dtype, 1e-5)
        np.testing.assert_allclose(values(tensor), wanted, rtol=bound, atol=bound, err_msg=context)


def generator_of(seed):
    return torch.Generator().manual_seed(seed)


def a_layer() -> nn.Linear:
    return nn.Linear(8, 6)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.body = nn.Sequential(nn.Linear(8, 12), nn.LSTM(12, 4))
        self.register_buffer("noise", torch.zeros(5))


MODULE_FUNCTIONS = {
    "kaiming_normal_": {"a": 0.3, "mode": "fan_out"},
    "kaiming_uniform_": {"a": 5**0.5},
    "xavier_normal_": {"gain": 2.0},
    "xavier_uniform_": {},
    "orthogonal_": {"gain": 2.0},
    "sparse_": {"sparsity": 0.3},
    "uniform_": {},
    "normal_": {},
    "trunc_normal_": {"std": 0.02},
}


def state_of_torch():
    functions = [getattr(nn.init, name) for name in nn.init.__all__]
    return (
        [
            (id(function), function.__code__, function.__defaults__, dict(vars(function)))
            for function in functions
        ],
        [id(getattr(torch.Tensor, name)) for name in ("normal_", "uniform_")],
        dict(vars(nn.init)).keys(),
        _len_torch_function_stack(),
        _len_torch_dispatch_stack(),
    )
