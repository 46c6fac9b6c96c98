"""intercept: what stays PyTorch's own: other operations, errors, autograd, modes, compilers and scripts."""

import functools
import inspect

import pytest
import torch
from filling import assert_same_bits
from intercepted import MODULE_FUNCTIONS, a_layer, assert_is, generator_of
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from convinit_ext import Key, init, intercept
from convinit_ext.intercept import _patch


@pytest.mark.parametrize(
    "function",
    [
        lambda: torch.randperm(20),
        lambda: torch.randn(20),
        lambda: torch.rand(20),
        lambda: torch.randint(5, (20,)),
        lambda: torch.empty(20).bernoulli_(0.3),
        lambda: torch.empty(20).exponential_(),
        lambda: torch.empty(20, dtype=torch.int64).random_(),
        lambda: torch.nn.functional.dropout(torch.ones(20), 0.5),
        lambda: torch.normal(torch.zeros(20), 1.0),
        lambda: torch.empty(20, dtype=torch.complex64).normal_(),
        lambda: torch.zeros(20, dtype=torch.complex64).conj().imag.normal_(),
    ],
)
def test_other_random_operations_and_tensors_are_left_alone(function):
    torch.manual_seed(0)
    outside = function()
    torch.manual_seed(0)
    with intercept(seed=0):
        assert torch.equal(function(), outside)


def test_what_cannot_be_filled_raises_as_in_torch():
    integers = torch.zeros(4, dtype=torch.int64)
    layer = a_layer()
    calls = [
        lambda: integers.normal_(),
        lambda: nn.init.normal_(integers),
        lambda: torch.empty(3).normal_(0, -1),
        lambda: torch.empty(3).uniform_(1, 0),
        lambda: torch.empty(3).normal_("mean"),
        lambda: torch.empty(3).normal_(0, 1, 2),
        lambda: torch.empty(3).uniform_(wrong=2),
        lambda: nn.init.kaiming_normal_(torch.empty(3)),
        lambda: nn.init.kaiming_uniform_(torch.empty(3, 3), mode="fan"),
        lambda: nn.init.xavier_normal_(torch.empty(3)),
        lambda: nn.init.orthogonal_(torch.empty(3)),
        lambda: nn.init.sparse_(torch.empty(3), 0.5),
        lambda: nn.init.normal_(torch.empty(3), generator=3),
        lambda: nn.init.trunc_normal_("tensor"),
        lambda: nn.init.normal_(),
        lambda: torch.empty(1).expand(3).normal_(),
        lambda: layer.weight.normal_(),
        lambda: layer.weight[1:].uniform_(),
    ]
    for call in calls:
        with pytest.raises(Exception) as bare:  # noqa: PT011
            call()
        with intercept(layer, seed=0), pytest.raises(bare.type):
            call()


def test_autograd_records_what_it_recorded_and_sees_other_versions():
    source, layer = torch.ones(4, requires_grad=True), a_layer()
    with intercept(seed=0):
        filled = (source * 2).normal_()
    filled.sum().backward()
    assert torch.equal(source.grad, torch.zeros(4))
    version = layer.weight._version
    with intercept(layer, seed=0), torch.no_grad():
        assert layer.weight.normal_() is layer.weight
        assert layer.weight._version == version + 1
        view = layer.weight[1:]
        assert nn.init.uniform_(view) is view
        assert layer.weight._version == version + 2
    assert layer.weight.requires_grad


def test_warnings_are_those_of_torch():
    with intercept(seed=0):
        with pytest.warns(UserWarning, match="zero-element"):
            nn.init.kaiming_normal_(torch.empty(0, 3))
        with pytest.warns(UserWarning, match=r"mean is more than 2 std") as caught:
            nn.init.trunc_normal_(torch.empty(3), mean=9.0)
    assert caught[0].filename == __file__


def test_meta_and_fake_tensors_stay_what_they_are():
    with torch.device("meta"):
        layer = a_layer()

    def state_after_fills() -> torch.Tensor:
        torch.manual_seed(0)
        for function, arguments in MODULE_FUNCTIONS.items():
            assert getattr(nn.init, function)(layer.weight, **arguments) is layer.weight
        layer.weight.data.normal_()
        with FakeTensorMode():
            fake = nn.Linear(3, 3)
            nn.init.normal_(fake.weight)
        return torch.get_rng_state()

    plain = state_after_fills()  # some releases of PyTorch draw for a meta tensor
    with intercept(layer, seed=0):
        assert torch.equal(state_after_fills(), plain)
    assert layer.weight.is_meta
    with FakeTensorMode(), intercept(seed=0), intercept(nn.Linear(2, 2)):
        assert type(nn.init.uniform_(torch.empty(3))).__name__ == "FakeTensor"


def test_inference_mode():
    layer = a_layer()
    with torch.inference_mode(), intercept(layer, seed=0):
        nn.init.normal_(layer.weight)
        made = nn.init.normal_(torch.empty(3))
    assert made.is_inference()
    with torch.inference_mode():
        block = intercept(seed=0)
        block.__enter__()
    torch.empty(3).normal_()
    block.__exit__(None, None, None)
    assert_is(layer.weight, "weight")


def test_transformed_and_compiled_code_is_not_broken():
    @torch.compile(backend="aot_eager", fullgraph=True)
    def step(x, w):
        noise = torch.empty_like(x).normal_()
        nn.init.kaiming_normal_(w)
        nn.init.uniform_(w)
        nn.init.xavier_normal_(w)
        return torch.nn.functional.linear(x + 0 * noise, torch.ones_like(w))

    x, w = torch.ones(2, 3), torch.empty(4, 3)
    step(x, w)
    with intercept(seed=0):
        doubled = torch.vmap(lambda x: x * 2 + torch.empty(2).fill_(1))(torch.ones(3, 2))
        assert torch.equal(doubled, torch.full((3, 2), 3.0))
        assert torch.equal(step(x, w), torch.full((2, 4), 3.0))
        eager = nn.init.normal_(torch.empty(3))
    assert_same_bits(eager, init.normal_(torch.empty(3), generator=generator_of(0)))
    assert torch.equal(step(x, w), torch.full((2, 4), 3.0))


@pytest.mark.parametrize("size", [3, 100_000])
@pytest.mark.parametrize("model", [None, nn.Linear(2, 2)], ids=["no model", "model"])
@pytest.mark.parametrize("fill", [nn.init.normal_, torch.Tensor.uniform_])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_what_is_traced_keeps_the_random_operations_of_pytorch(size, model, fill):
    def noise(x):
        return fill(x + 0)

    with intercept(model, seed=0):
        traced = torch.jit.trace(noise, torch.zeros(size), check_trace=False)
        graphs = [make_fx(noise, tracing_mode=mode)(torch.zeros(size)) for mode in ("real", "fake")]
    assert f"aten::{fill.__name__}" in str(traced.graph)
    for run in (traced, *graphs):
        first, second = run(torch.zeros(size)), run(torch.zeros(size))
        assert first.any() and second.any() and not torch.equal(first, second)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    "script", [torch.jit.script, lambda model: torch.jit.trace(model.eval(), torch.ones(2, 3))]
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated", "ignore::torch.jit.TracerWarning")
def test_script_modules(script, inside):
    model = script(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    if inside:
        model = nn.Sequential(model)
    with intercept(model, seed=0):
        for parameter in model.parameters():
            nn.init.normal_(parameter)
            parameter.data[1:].normal_()
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.normal_()
    for name, parameter in model.named_parameters():
        row = parameter[0].numel()
        assert_is(parameter[1:], f"{name}#1", start=row)
        assert_is(parameter[:1], name)
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            assert_is(buffer, name)


def test_tensors_marked_by_transformers_are_left_to_it():
    layer = a_layer()
    layer.weight._is_hf_initialized = True
    before = layer.weight.detach().clone()
    with intercept(layer, seed=0):
        with pytest.warns(UserWarning, match="init.normal_ left 'weight' as it is.*_is_hf_init") as said:
            nn.init.normal_(layer.weight)
        assert said[0].filename == __file__
        for function, arguments in MODULE_FUNCTIONS.items():  # once for each name
            getattr(nn.init, function)(layer.weight, **arguments)
        assert torch.equal(layer.weight, before)
        layer.weight.data.normal_()  # the mark is the tensor's, not its memory's
    assert_is(layer.weight, "weight")
    with intercept(seed=0), pytest.warns(UserWarning, match=r"left a tensor of shape \(6, 8\) as it is"):
        nn.init.eye_(layer.weight)


@pytest.mark.parametrize("name", _patch.originals)
def test_functions_have_their_source_inside_a_block(name):
    source = inspect.getsource(getattr(nn.init, name))
    with intercept(seed=0):
        assert inspect.getsource(getattr(nn.init, name)) == source


@pytest.mark.parametrize(
    "draw",
    [
        torch.rand,
        torch.randn,
        functools.partial(torch.normal, 0.0, 1.0),
        functools.partial(torch.randint, 1, 9),
        lambda size: torch.bernoulli(torch.full(size, 0.5)),
        lambda size: torch.empty(size).exponential_(),
        lambda size: torch.rand(size, out=torch.empty(size)),
        lambda size: torch.distributions.Gamma(2.0, 1.0).sample(size),
        lambda size: torch.distributions.Dirichlet(torch.ones(size)).sample(),
    ],
    ids=["rand", "randn", "normal", "randint", "bernoulli", "exponential_", "out", "gamma", "dirichlet"],
)
def test_a_parameter_that_gets_what_torch_draws_is_named_once(draw):
    for put in [
        lambda w, drawn: w.data.copy_(drawn + torch.log(-torch.expm1(-drawn))),
        lambda w, drawn: w.data.add_(drawn.mul(0.1)),
        lambda w, drawn: setattr(w, "data", drawn.exp()),
        lambda w, drawn: w.data.__setitem__(slice(2), drawn[:2]),
        lambda w, drawn: w.data.copy_(torch.stack([drawn, drawn])[0]),
        lambda w, drawn: w.data.copy_(drawn.sort().values),
        lambda w, drawn: w.data.copy_(drawn.chunk(1)[0]),
        lambda w, drawn: w.data.copy_(torch.where(condition=drawn > 1, input=drawn, other=0.0)),
        lambda w, drawn: w.data.copy_(other=drawn),
        lambda w, drawn: torch.add(drawn, 1, out=w.data),
        lambda w, drawn: torch._foreach_copy_([torch.empty(6), w.data], [torch.ones(6), drawn]),
        lambda w, drawn: torch._foreach_mul_([w.data], [drawn]),
        lambda w, drawn: w.data.copy_(torch._foreach_add([drawn], 1)[0]),
    ]:
        layer = a_layer()
        with intercept(layer, seed=0):
            drawn = torch.exp(draw(size=(6,)) * 2 + 1)
            assert not torch.equal(layer.bias, drawn)
            layer.bias.grad = drawn
            torch.empty(6).copy_(drawn)  # nobody's
            layer.bias.expand_as(drawn)
            with pytest.warns(UserWarning, match=r"^'bias' gets values of torch.rand.*manual_seed") as said:
                put(layer.bias, drawn)
            assert said[0].filename == __file__
            put(layer.bias, drawn)
            layer.weight.data.copy_(torch.zeros(6, 8))
            layer.weight.data.copy_(torch.ones_like(torch.rand(6, 8)))
            layer.weight.data.copy_(torch.rand(6, 8).zero_())
            layer.weight.data.copy_(nn.init.normal_(torch.rand(6, 8)))


@pytest.mark.parametrize(
    "draw",
    [
        lambda tensor: tensor.bernoulli_(0.5),
        torch.Tensor.cauchy_,
        torch.Tensor.exponential_,
        lambda tensor: tensor.geometric_(0.5),
        torch.Tensor.log_normal_,
        torch.Tensor.random_,
        lambda tensor: torch.randn(6, out=tensor),
    ],
)
def test_a_parameter_that_torch_draws_itself_is_named_once(draw):
    layer = a_layer()
    with intercept(layer, seed=0):
        draw(torch.empty(6))  # nobody's
        with pytest.warns(UserWarning, match=r"^'bias' gets values of torch.rand.*manual_seed") as said:
            draw(layer.bias.data)
        assert said[0].filename == __file__
        draw(layer.bias.data)


@pytest.mark.parametrize(
    "put",
    [
        lambda layer, drawn: setattr(layer, "weight", nn.Parameter(drawn)),
        lambda layer, drawn: torch.utils.swap_tensors(layer.weight, nn.Parameter(drawn)),
        lambda layer, drawn: layer.register_buffer("table", drawn),
    ],
    ids=["parameter", "swapped", "buffer"],
)
def test_what_is_made_of_what_torch_draws_is_named_at_the_end(put):
    layer = a_layer()
    name = "table" if "register_buffer" in put.__code__.co_names else "weight"
    with pytest.warns(UserWarning, match=rf"^'{name}' gets values of torch.rand"), intercept(layer, seed=0):
        put(layer, torch.randn(6, 8) * 0.02)


@pytest.mark.parametrize("as_buffer", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(4).to_sparse(),
        lambda: torch.eye(4).to_mkldnn(),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    ],
    ids=["sparse", "mkldnn", "nested"],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_without_memory_of_their_own_are_left_to_pytorch(make, as_buffer):
    layer, alone = a_layer(), make()
    if as_buffer:
        layer.register_buffer("table", alone)
    else:
        layer.register_parameter("table", nn.Parameter(alone, requires_grad=False))
    with intercept(layer, seed=3):
        nn.init.normal_(layer.weight)
        layer.table.zero_()
        if layer.table.is_nested:
            with pytest.warns(UserWarning, match=r"^'table' gets values of torch.rand"):
                nn.init.normal_(layer.table)
    assert torch.equal(layer.weight, init.normal_(torch.empty(layer.weight.shape), key=Key(3, "weight")))


def test_a_block_inside_a_transform_of_torch_func():
    def loss(scale: torch.Tensor) -> torch.Tensor:
        layer = a_layer()
        with intercept(layer, seed=3):
            nn.init.ones_(layer.weight)
        return (layer.weight * scale).sum()

    assert torch.func.grad(loss)(torch.tensor(2.0)) == a_layer().weight.numel()
