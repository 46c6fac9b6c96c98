"""Functions of init with arguments, what the engine itself fills with, and calls that touch nothing."""

import pytest
import torch

from convinit_ext import Key, init
from convinit_ext._engine import _ops as ops

KEY = Key(3, "conv.weight")
RANDOM = {
    "uniform_": init.uniform_,
    "normal_": init.normal_,
    "trunc_normal_": init.trunc_normal_,
    "xavier_uniform_": init.xavier_uniform_,
    "xavier_normal_": init.xavier_normal_,
    "kaiming_uniform_": init.kaiming_uniform_,
    "kaiming_normal_": init.kaiming_normal_,
    "variance_scaling_": init.variance_scaling_,
    "lecun_normal_": init.lecun_normal_,
    "lecun_uniform_": init.lecun_uniform_,
    "orthogonal_": init.orthogonal_,
    "delta_orthogonal_": lambda weight, **source: init.delta_orthogonal_(
        weight.unsqueeze(2), **source
    ).squeeze(2),
    "sparse_": lambda weight, **source: init.sparse_(weight, 0.3, **source),
}
# Those that torch.nn.init has too, each with arguments.
FUNCTIONS = {
    "normal_": {},
    "uniform_": {},
    "kaiming_normal_": {},
    "kaiming_uniform_": {"mode": "fan_out"},
    "xavier_uniform_": {},
    "trunc_normal_": {"std": 0.02},
    "orthogonal_": {},
    "sparse_": {"sparsity": 0.3},
    "eye_": {},
    "constant_": {"val": 2.0},
    "ones_": {},
    "zeros_": {},
}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]

random_function = pytest.mark.parametrize("fill", RANDOM.values(), ids=RANDOM)


def filled_with(distribution, shape, key=KEY, dtype=torch.float32):
    """The tensor that the engine itself makes of a distribution."""
    tensor = torch.empty(shape, dtype=dtype)
    ops.fill_([tensor], key.tensor() if isinstance(key, Key) else key, [distribution])
    return tensor


class Recorder(torch.Tensor):
    """Returns the keywords that an override of init's functions is given."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return kwargs


def untouched(tensor_of, call, error, match):
    """The call raises, the tensor keeps every bit, and no generator moves."""
    generator = torch.Generator().manual_seed(5)
    tensor = tensor_of()
    before, version = tensor.clone(), tensor._version
    states = torch.get_rng_state(), generator.get_state()
    with pytest.raises(error, match=match):
        call(tensor, generator)
    assert tensor._version == version
    assert torch.equal(tensor.to_dense() if tensor.is_sparse else tensor, before.to_dense())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(generator.get_state(), states[1])
