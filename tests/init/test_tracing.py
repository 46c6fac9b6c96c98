"""The functions of init under fake tensors, functional transforms, torch.compile and torch.jit.trace."""

import pytest
import torch
from init_functions import KEY, random_function
from torch._subclasses.fake_tensor import FakeTensorMode

from convinit_ext import Key, init

pytestmark = pytest.mark.usefixtures("seeded")


@random_function
def test_under_fake_tensor_mode(fill):
    state = torch.get_rng_state()
    with FakeTensorMode():
        assert fill(torch.empty(6, 4)).shape == (6, 4)
        assert fill(torch.empty(6, 4), key=KEY).shape == (6, 4)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_fake_tensor_outside_its_mode():
    with FakeTensorMode():
        weight = torch.empty(6, 4)
    state = torch.get_rng_state()
    assert init.kaiming_normal_(weight) is weight
    assert torch.equal(torch.get_rng_state(), state)


def test_under_a_functional_transform():
    def loss(scale):
        return (init.normal_(torch.empty(4)) * scale).sum()

    torch.manual_seed(5)
    gradient = torch.func.grad(loss)(torch.tensor(1.0))
    torch.manual_seed(5)
    assert gradient == init.normal_(torch.empty(4)).sum()


@random_function
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("source", [{}, {"key": KEY}], ids=["drawn", "key"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*_prims_common.check:FutureWarning")
def test_compiled_into_the_caller_without_a_break(fill, backend, source):
    def caller(first, second):
        return fill(first, **source) + 1, fill(second, **source)

    expected = [part.clone() for part in caller(torch.empty(6, 4), torch.empty(6, 4))]
    torch.manual_seed(0)
    torch.compiler.reset()
    compiled = torch.compile(caller, fullgraph=True, backend=backend)
    for actual, eager in zip(compiled(torch.empty(6, 4), torch.empty(6, 4)), expected, strict=True):
        assert torch.equal(actual, eager)


@pytest.mark.parametrize("size", [3, 100_000])
@pytest.mark.parametrize("source", [{}, {"key": KEY}], ids=["drawn", "key"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_fill_is_done_at_every_call(size, source):
    traced = torch.jit.trace(lambda x: init.normal_(x + 0, **source), torch.zeros(size), check_trace=False)
    torch.manual_seed(1)
    first, second = traced(torch.zeros(size)), traced(torch.zeros(size))
    torch.manual_seed(1)
    assert torch.equal(first, init.normal_(torch.empty(size), **source))
    assert torch.equal(second, init.normal_(torch.empty(size), **source))


def test_seeds_given_to_compiled_code():
    def caller(weight, seed):
        key = Key(seed, f"layers.{weight.numel()}.weight")
        return init.normal_(weight, 0, 1, key=key) + init.uniform_(torch.empty(4), -1, 1, key=KEY)

    torch.compiler.reset()
    compiled = torch.compile(caller, fullgraph=True, backend="aot_eager")
    for seed in (3, 4, -5, 2**63 + 1):
        assert torch.equal(compiled(torch.empty(4), seed), caller(torch.empty(4), seed)), seed
