"""The functions of init under fake tensors, torch.func, torch.compile, torch.jit.trace and make_fx."""

import pytest
import torch
from filling import assert_same_bits
from init_functions import KEY, RANDOM, random_function
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from convinit_ext import Key, init, init_model_

pytestmark = pytest.mark.usefixtures("seeded")


@random_function
def test_inside_functionalize_a_fill_says_what_to_do(fill):
    state = torch.get_rng_state()
    weight = torch.zeros(6, 4)
    transforms = (
        torch.func.functionalize(fill),
        torch.func.functionalize(lambda weight: weight + fill(torch.empty(6, 4), key=KEY)),
        torch.func.functionalize(torch.func.grad(lambda weight: fill(weight).sum())),
        torch.func.grad(torch.func.functionalize(lambda weight: fill(weight * 1, key=KEY).sum())),
    )
    for transform in transforms:
        with pytest.raises(RuntimeError, match=r"torch\.func\.functionalize.*fill it outside"):
            transform(weight)
    assert not weight.any() and torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
@random_function
@pytest.mark.parametrize("size", [6, 20000])
def test_what_is_filled_depends_on_nothing_by_forward_derivatives(fill, size):
    weight = torch.zeros(size, 4)
    _, derivative = torch.func.jvp(lambda weight: fill(weight.clone(), key=KEY), (weight,), (weight + 7,))
    assert not derivative.any()
    own, tangent = torch.func.jvp(lambda weight: fill(weight, key=KEY), (weight.clone(),), (weight + 7,))
    assert not tangent.any() and torch.equal(own, fill(torch.empty(size, 4), key=KEY))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(weight, weight + 7)
        filled = forward_ad.unpack_dual(fill(dual, key=KEY))
        assert filled.tangent is None or not filled.tangent.any()
        assert torch.equal(filled.primal, fill(torch.empty(size, 4), key=KEY))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_what_an_outer_jvp_has_made_is_not_written_by_an_inner_one():
    weight = torch.zeros(3)

    def outer(outer_weight):
        return torch.func.jvp(lambda weight: weight * init.normal_(outer_weight), (weight,), (weight,))

    filled = torch.zeros(3)
    with pytest.raises(RuntimeError, match="mutate a captured Tensor"):  # as torch.nn.init
        torch.func.jvp(outer, (filled,), (weight + 7,))
    assert not filled.any()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_a_model_depends_on_nothing_by_forward_derivatives():
    layer = nn.Linear(3, 3)
    with forward_ad.dual_level():
        weight = forward_ad.make_dual(layer.weight.detach().clone(), torch.ones(3, 3))
        del layer.weight
        layer.register_parameter("weight", None)
        layer._parameters["weight"] = weight
        init_model_(layer, frozen="draw")
        assert not forward_ad.unpack_dual(layer.weight).tangent.any()


@random_function
def test_under_fake_tensor_mode(fill):
    state = torch.get_rng_state()
    with FakeTensorMode():
        assert fill(torch.empty(6, 4)).shape == (6, 4)
        assert fill(torch.empty(6, 4), key=KEY).shape == (6, 4)
    assert torch.equal(torch.get_rng_state(), state)


def test_under_a_functional_transform():
    def loss(scale):
        return (init.normal_(torch.empty(4)) * scale).sum()

    torch.manual_seed(5)
    gradient = torch.func.grad(loss)(torch.tensor(1.0))
    torch.manual_seed(5)
    assert gradient == init.normal_(torch.empty(4)).sum()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("source", [{}, {"key": KEY}], ids=["drawn", "key"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*_prims_common.check:FutureWarning")
def test_compiled_into_the_caller_without_a_break(backend, source):
    """All of them in one graph."""

    def caller(weight):
        first = {name: fill(weight.clone(), **source) + 1 for name, fill in RANDOM.items()}
        return first, {name: fill(weight.clone(), **source) for name, fill in RANDOM.items()}

    expected = caller(torch.zeros(6, 4))
    torch.manual_seed(0)
    torch.compiler.reset()
    compiled = torch.compile(caller, fullgraph=True, backend=backend)
    for actual, eager in zip(compiled(torch.zeros(6, 4)), expected, strict=True):
        for name, filled in eager.items():
            assert torch.equal(actual[name], filled), name


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


@pytest.mark.parametrize("mode", ["real", "fake"])
def test_graphs_of_make_fx_hold_the_key(mode):
    graph = make_fx(lambda w: init.normal_(w.clone(), key=KEY), tracing_mode=mode)(torch.zeros(4, 5))
    assert_same_bits(graph(torch.zeros(4, 5)), init.normal_(torch.zeros(4, 5), key=KEY))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("fill", [init.normal_, init.orthogonal_])
def test_graphs_of_make_fx_draw_anew_as_calls_do(mode, fill):
    graph = make_fx(lambda w: fill(w.clone()), tracing_mode=mode)(torch.zeros(4, 5))
    torch.manual_seed(0)
    expected = [fill(torch.zeros(4, 5)) for _ in range(2)]
    torch.manual_seed(0)
    for each in expected:
        assert_same_bits(graph(torch.zeros(4, 5)), each)
