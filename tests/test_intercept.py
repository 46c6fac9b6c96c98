"""intercept: which fills are taken, the key that each has, and that nothing else changes."""

from __future__ import annotations

import functools
import gc
import inspect
import threading
from types import MappingProxyType

import numpy as np
import pytest
import torch
from filling import DTYPES, assert_same_bits, values
from reference import layer_key, reference
from torch import nn
from torch._C import _len_torch_dispatch_stack, _len_torch_function_stack
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.init import kaiming_normal_ as captured_kaiming_normal_
from torch.nn.init import orthogonal_ as captured_orthogonal_
from torch.nn.init import trunc_normal_ as captured_trunc_normal_
from torch.utils._python_dispatch import TorchDispatchMode

from convinit_ext import Key, announce, init, intercept
from convinit_ext.regions import box_in

captured_method = torch.Tensor.normal_
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


# Which key


KAIMING = ("normal", 0.0, float(np.sqrt(2.0) / np.sqrt(8)))
BOUND = float(np.sqrt(3.0) * (np.sqrt(2.0 / 6) / np.sqrt(8)))

CALLS = {
    "nn.init.normal_": (lambda w: nn.init.normal_(w, 0.5, 2.0), ("normal", 0.5, 2.0)),
    "nn.init.uniform_": (lambda w: nn.init.uniform_(w, -1, b=3), ("uniform", -1.0, 3.0)),
    "nn.init.trunc_normal_": (
        lambda w: nn.init.trunc_normal_(w, std=0.5, a=-1.0, b=0.5),
        ("truncated_normal", 0.0, 0.5, -1.0, 0.5),
    ),
    "captured kaiming_normal_": (lambda w: captured_kaiming_normal_(w, nonlinearity="relu"), KAIMING),
    "captured trunc_normal_": (captured_trunc_normal_, ("truncated_normal", 0.0, 1.0, -2.0, 2.0)),
    "partial": (functools.partial(nn.init.normal_, std=2.0), ("normal", 0.0, 2.0)),
    "no_grad method": (torch.no_grad()(lambda w: w.normal_(std=2)), ("normal", 0.0, 2.0)),
    "data": (lambda w: w.data.uniform_(2, 3), ("uniform", 2.0, 3.0)),
    "data, by name": (lambda w: w.data.uniform_(**{"to": 3, "from": 2}), ("uniform", 2.0, 3.0)),
    "detach": (lambda w: w.detach().uniform_(to=0.5), ("uniform", 0.0, 0.5)),
    "captured method": (lambda w: captured_method(w.data), UNIT),
    "aten": (lambda w: torch.ops.aten.normal_(w.detach()), UNIT),
    "aten overload": (lambda w: torch.ops.aten.uniform_.default(w.detach(), 0.0, 2.0), ("uniform", 0.0, 2.0)),
    "std as a tensor": (lambda w: w.data.normal_(0, torch.tensor(2.0)), ("normal", 0.0, 2.0)),
}


@pytest.mark.parametrize(("call", "distribution"), CALLS.values(), ids=CALLS)
def test_every_way_to_fill_a_parameter_has_its_key(call, distribution):
    layer = a_layer()
    with intercept(layer, seed=7):
        call(layer.weight)
    assert_is(layer.weight, "weight", distribution, seed=7)


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


@pytest.mark.parametrize("name", MODULE_FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functions_of_torch_give_what_ours_of_the_name_give_with_the_key(name, dtype):
    layer, arguments = a_layer().to(dtype), MODULE_FUNCTIONS[name]
    with intercept(layer, seed=3):
        same = getattr(torch.nn.init, name)(layer.weight, **arguments)
    assert same is layer.weight
    ours = getattr(init, name)(torch.empty(6, 8, dtype=dtype), **arguments, key=Key(3, "weight"))
    assert_same_bits(layer.weight, ours)


@pytest.mark.parametrize("sparsity", [1.5, -0.5])
def test_sparse_takes_any_number_as_in_torch(sparsity):
    layer = a_layer()
    with intercept(layer, seed=3):
        torch.nn.init.sparse_(layer.weight, sparsity)
    assert_same_bits(layer.weight, init.sparse_(torch.empty(6, 8), sparsity, key=Key(3, "weight")))


def test_all_random_functions_of_torch_are_announced():
    drawing = {
        name
        for name in torch.nn.init.__all__
        if name.endswith("_") and "generator" in getattr(torch.nn.init, name).__code__.co_varnames
    }
    assert drawing == set(MODULE_FUNCTIONS)
    assert drawing | {"eye_", "dirac_"} == set(announce.NAMES)


def test_the_deprecated_names_too():
    layer = a_layer()
    with intercept(layer, seed=0), pytest.warns(FutureWarning, match="deprecated"):
        nn.init.xavier_normal(layer.weight)
    assert_same_bits(layer.weight, init.xavier_normal_(torch.empty(6, 8), key=Key(0, "weight")))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_large_and_strided_tensors(dtype):
    model = nn.ParameterDict(
        {
            "small": torch.empty(5, 7, dtype=DTYPES[dtype]),
            "large": torch.empty(40_000, dtype=DTYPES[dtype]),
            "last": torch.empty(4, 3, 5, 5, dtype=DTYPES[dtype]).to(memory_format=torch.channels_last),
        }
    )
    with intercept(model, seed=0):
        for parameter in model.values():
            nn.init.normal_(parameter)
    for name, parameter in model.items():
        assert_is(parameter, name)


def test_order_does_not_matter():
    first, second = Net(), Net()
    with intercept(first, seed=1):
        for _, parameter in first.named_parameters():
            nn.init.normal_(parameter)
        first.noise.normal_()
    with intercept(second, seed=1):
        second.noise.normal_()
        nn.Linear(3, 3).weight.data.normal_()  # nobody's
        for _, parameter in reversed(list(second.named_parameters())):
            nn.init.normal_(parameter)
    for name, tensor in first.state_dict().items():
        assert_same_bits(tensor, second.state_dict()[name], name)
        assert_is(tensor, name, seed=1)


def test_reset_parameters_gives_what_init_model_gives():
    from convinit_ext import init_model_

    first, second = Net(), Net()
    init_model_(first, seed=5)
    with intercept(second, seed=5):
        for module in second.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    for name, tensor in first.named_parameters():
        assert_same_bits(tensor, second.get_parameter(name), name)


def test_later_fills_have_a_number():
    layer = a_layer()
    with intercept(layer, seed=0):
        for number in range(3):
            nn.init.normal_(layer.weight)
            assert_is(layer.weight, f"weight#{number}" if number else "weight")
        nn.init.normal_(layer.bias)
        assert_is(layer.bias, "bias")
    with intercept(layer, seed=0):  # each block counts anew
        nn.init.normal_(layer.weight)
    assert_is(layer.weight, "weight")


def test_a_fill_that_failed_does_not_count():
    layer = a_layer()
    with intercept(layer, seed=0):
        with pytest.raises(RuntimeError, match="std"):
            nn.init.normal_(layer.weight, std=-1.0)
        with pytest.raises(RuntimeError, match="leaf"):
            layer.weight.normal_()
        nn.init.normal_(layer.weight)
    assert_is(layer.weight, "weight")


def test_tied_parameters_have_the_first_name():
    model = nn.ModuleDict({"embed": nn.Embedding(6, 4), "head": nn.Linear(4, 6, bias=False)})
    model["head"].weight = model["embed"].weight
    with intercept(model, seed=0):
        nn.init.normal_(model["head"].weight)
    assert_is(model["embed"].weight, "embed.weight")
    model["head"].weight = nn.Parameter(model["embed"].weight.data)  # tied by memory alone
    with intercept(model, seed=1):
        nn.init.normal_(model["head"].weight)
    assert_is(model["embed"].weight, "embed.weight", seed=1)


def test_wrappers_do_not_change_a_name():
    layer = a_layer()
    with intercept(nn.ModuleDict({"_orig_mod": layer}), seed=0):
        nn.init.normal_(layer.weight)
    assert_is(layer.weight, "weight")


# Views


def test_slices_are_parts_of_the_whole_in_any_order():
    whole = expected(torch.empty(12, 6), "weight")
    for order in ([0, 1, 2], [2, 0, 1]):
        layer = nn.Linear(6, 12)
        with intercept(layer, seed=0):
            for block in order:
                nn.init.normal_(layer.weight[4 * block : 4 * block + 4])
        assert_values(layer.weight, whole)
    columns = nn.Linear(6, 12)
    with intercept(columns, seed=0):
        for part in reversed(columns.weight.data.chunk(3, dim=1)):
            part.normal_()
    assert_values(columns.weight, whole)


def test_a_slice_has_the_distribution_asked_for():
    layer = a_layer()
    with intercept(layer, seed=0), torch.no_grad():
        nn.init.xavier_uniform_(layer.weight[:4])
    bound = float(np.sqrt(3.0) * np.sqrt(2.0 / 12))
    assert_is(layer.weight[:4], "weight", ("uniform", -bound, bound))


VIEWS = {
    "rows": lambda w: w[2:],
    "every other row": lambda w: w[1::2],
    "columns": lambda w: w[:, 1:3],
    "one element": lambda w: w[1, 2, 1],
    "kernel": lambda w: w[:, :, 1],
    "transposed": lambda w: w.transpose(0, 2),
    "heads": lambda w: w.unflatten(0, (2, 3))[1],
    "permuted slice": lambda w: w.permute(2, 0, 1)[1:, 3:],
    "extra dimension": lambda w: w[None, 2:4, None],
    "diagonal": lambda w: w.diagonal(dim1=0, dim2=1),
}
FORMATS = {
    "contiguous": lambda: torch.empty(6, 4, 3),
    "transposed": lambda: torch.empty(3, 4, 6).transpose(0, 2),
    "inner last": lambda: torch.empty(6, 3, 4).transpose(1, 2),
    "spaced": lambda: torch.empty(12, 8, 3)[::2, ::2],
}


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_every_view_has_the_values_of_its_own_elements(view, form):
    model, index = nn.ParameterDict({"w": form()}), torch.arange(72).reshape(6, 4, 3)
    with intercept(model, seed=0):
        view(model["w"].data).normal_()
    whole = torch.from_numpy(expected(torch.empty(6, 4, 3), "w"))
    assert_values(view(model["w"].data), whole.flatten()[view(index)].numpy())


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_a_box_is_where_the_elements_are(form):
    whole = form()
    whole.copy_(torch.arange(72).reshape(6, 4, 3))
    for name, view in VIEWS.items():
        box = box_in(view(whole), whole)
        places = torch.empty(0)
        places = torch.full(view(whole).shape, float(box.start))
        for dim, stride in enumerate(box.strides):
            along = torch.arange(places.shape[dim]) * stride
            places += along.reshape([-1 if d == dim else 1 for d in range(places.dim())])
        assert torch.equal(places, view(whole)), name


def test_what_no_box_describes_has_its_own_key():
    weight = torch.empty(6, 3, 4).transpose(1, 2)
    model = nn.ParameterDict({"w": weight, "raw": torch.empty(4, 6)})
    over_two_dims = model["w"].data.transpose(1, 2).flatten(1)[:2]
    as_half = model["raw"].data.view(torch.bfloat16)
    with intercept(model, seed=0):
        over_two_dims.normal_()
        as_half.normal_()
    assert box_in(over_two_dims, model["w"].data) is None
    assert_is(over_two_dims, "w[memory,torch.float32,0,(2, 12),(12, 1)]")
    assert_is(as_half, "raw[memory,torch.bfloat16,0,(4, 12),(12, 1)]")


@pytest.mark.parametrize("name", MODULE_FUNCTIONS)
@pytest.mark.parametrize("size", [4, 200])
def test_the_parts_that_chunk_gives_as_in_torch(name, size):
    """Autograd lets nobody change them in place but under no_grad."""
    for block in (intercept(seed=0), intercept(layer := nn.Linear(size, 3 * size), seed=0)):
        with block:
            for part in layer.weight.chunk(3):
                getattr(nn.init, name)(part, **MODULE_FUNCTIONS[name])


def test_numbers_of_slices():
    layer = a_layer()
    top, rest = layer.weight[:2], layer.weight[2:]
    with intercept(layer, seed=0):
        nn.init.normal_(top)
        nn.init.normal_(top)
        nn.init.normal_(rest)
        assert_is(top, "weight#1")
        assert_is(rest, "weight", start=16)
        nn.init.normal_(layer.weight)
        assert_is(layer.weight, "weight#2")
        nn.init.normal_(rest)
        assert_is(rest, "weight#3", start=16)
        assert_is(top, "weight#2")


def test_orthogonal_slices_differ():
    layer = nn.Linear(4, 8)
    with intercept(layer, seed=0):
        for part in layer.weight.chunk(2):
            captured_orthogonal_(part)
    first, second = layer.weight.detach().chunk(2)
    assert torch.allclose(first @ first.T, torch.eye(4), atol=1e-5)
    assert not torch.allclose(first, second)
    alone = init.orthogonal_(torch.empty(4, 4), key=Key(0, "weight[16,(4, 4),(4, 1)]"))
    assert_same_bits(second, alone)


# A model that changes


def test_a_model_that_gets_memory_inside():
    with torch.device("meta"):
        model = Net()
    with intercept(model, seed=0):
        nn.init.normal_(model.conv.weight)  # on meta: nothing to fill, and no fill
        model.to_empty(device="cpu")
        nn.init.normal_(model.conv.weight)
        model.body[0].weight.data.normal_()
    assert_is(model.conv.weight, "conv.weight")
    assert_is(model.body[0].weight, "body.0.weight")


def test_parameters_that_move_or_are_replaced_or_added():
    model = Net()
    with intercept(model, seed=0):
        model.double()
        model.conv.weight.data.normal_()
        model.body[0].weight = nn.Parameter(torch.empty(12, 8))
        model.body[0].weight.data.normal_()
        model.head = nn.Linear(4, 4)
        nn.init.normal_(model.head.weight.data[2:])
        torch.utils.swap_tensors(model.conv.bias, nn.Parameter(torch.empty(8)))
        model.conv.bias.data.normal_()
    assert_is(model.conv.weight, "conv.weight")
    assert_is(model.body[0].weight, "body.0.weight")
    assert_is(model.head.weight[2:], "head.weight", start=8)
    assert_is(model.conv.bias, "conv.bias")


def test_memory_that_has_another_name_now():
    layer = a_layer()
    with intercept(layer, seed=0):
        nn.utils.parametrizations.weight_norm(layer)
        layer.parametrizations.weight.original1.data.normal_()
    assert_is(layer.parametrizations.weight.original1, "parametrizations.weight.original1")


def test_a_parameter_that_was_replaced_has_no_name_any_more():
    layer = a_layer()
    old = layer.weight
    with intercept(layer, seed=0):
        layer.weight = nn.Parameter(torch.empty(6, 8))
        nn.init.normal_(old)
        nn.init.normal_(layer.weight)
    assert_is(layer.weight, "weight")
    assert_same_bits(old, init.normal_(torch.empty(6, 8), generator=generator_of(0)))


def test_parameters_of_a_module_that_was_replaced_have_no_name_any_more():
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 6)))
    old = model[0][0]
    with intercept(model, seed=0):
        model[0] = nn.Sequential(nn.Linear(8, 6))
        nn.init.normal_(old.weight)
        nn.init.normal_(old.weight[2:])
        nn.init.normal_(model[0][0].weight)
    assert_is(model[0][0].weight, "0.0.weight")
    with pytest.raises(AssertionError):
        assert_is(old.weight, "0.0.weight")


def test_parameters_that_change_places_change_names():
    model = nn.ModuleList([a_layer(), a_layer()])
    first, second = model[0].weight, model[1].weight
    with intercept(model, seed=0):
        model[0].weight, model[1].weight = second, first
        nn.init.normal_(first)
        nn.init.normal_(second[2:])
    assert_is(first, "1.weight")
    assert_is(second[2:], "0.weight", start=16)


def test_tied_parameters_that_part():
    model = nn.ModuleList([a_layer(), a_layer()])
    model[1].weight = nn.Parameter(model[0].weight.data)
    with intercept(model, seed=0):
        nn.init.normal_(model[1].weight)
        assert_is(model[0].weight, "0.weight")
        model[1].weight.data = torch.empty(6, 8)
        nn.init.normal_(model[1].weight)
    assert_is(model[1].weight, "1.weight")
    assert_is(model[0].weight, "0.weight")


def test_tensors_that_a_model_gets_past_its_attributes():
    model = nn.BatchNorm1d(4, device="meta")
    model.register_buffer("noise", torch.empty(4, device="meta"))
    other, added = torch.empty(4), nn.Linear(3, 4)
    with intercept(model, seed=0):
        other.normal_()  # nothing of the model has memory yet
        model.to_empty(device="cpu")  # which writes into the module's dicts
        model.noise.normal_()
        model.weight.data.normal_()
        other.normal_()
        model._modules["added"] = added
        added.weight.data[1:].normal_()
        other.normal_()
        model._buffers["other"] = other
        other.normal_()
    for tensor, name in [
        (model.noise, "noise"),
        (model.weight, "weight"),
        (added.weight[1:], "added.weight"),
        (other, "other"),
    ]:
        assert_is(tensor, name, start=3 if name == "added.weight" else 0)


def test_modules_whose_dicts_are_replaced_or_no_dicts():
    class Children(dict):  # which have their own, as DeepSpeed's
        pass

    class Odd(nn.Module):  # as a ScriptModule's: no dict, and not the module's own attribute
        @property
        def _buffers(self):
            return MappingProxyType(held)

        @_buffers.setter
        def _buffers(self, value):
            pass

    held = {}
    model = nn.Sequential(nn.Linear(2, 2), Odd())
    first, second, third = torch.empty(4), torch.empty(4), torch.empty(4)
    with intercept(model, seed=0):
        first.normal_()
        model[0]._buffers = Children(first=first)
        first.normal_()
        second.normal_()
        held["second"] = second
        second.normal_()
        model[0]._buffers["third"] = third
        third.normal_()
    for tensor, name in [(first, "0.first"), (second, "1.second"), (third, "0.third")]:
        assert_is(tensor, name)


def test_slices_of_memory_that_is_seen_in_another_way_later():
    model = nn.ParameterDict({"w": torch.empty(6, 4)})
    weight = model["w"]
    with intercept(model, seed=0):
        weight.data[2:4].normal_()
        assert_is(weight[2:4], "w", start=8)
        weight.data = weight.data.t()
        weight.data.t()[2:4].normal_()  # the same memory: now two columns of a weight of four rows
    whole = torch.from_numpy(expected(torch.empty(4, 6), "w"))
    assert_values(weight[:, 2:4], whole[:, 2:4].numpy())


def test_a_slice_whose_elements_overlap_is_refused():
    layer = a_layer()
    before = layer.weight.detach().clone()
    for size in (6, 60_000):
        with intercept(layer, seed=0), pytest.raises(RuntimeError, match="single memory location"):
            layer.weight.data[:1].expand(size, 8).normal_()
    assert_same_bits(layer.weight, before)


def test_what_watches_pytorch_s_operations_sees_the_fills():
    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.overloadpacket._qualified_op_name.removeprefix("convinit_ext::"))
            return func(*args, **(kwargs or {}))

    layer, seen = a_layer(), []
    view = layer.weight.data[2:4]
    with intercept(layer, seed=0), Watch():
        nn.init.normal_(layer.weight)
        nn.init.normal_(view)
    assert seen == ["fill_one_", "fill_part_"]
    assert_is(view, "weight#1", start=16)


def test_a_table_filled_row_by_row():
    table = nn.Embedding(3000, 2)
    with intercept(table, seed=0):
        for row in table.weight.data:
            row.uniform_()
    assert_is(table.weight, "weight", ("uniform", 0.0, 1.0))


def test_large_slices():
    model = nn.ParameterDict({"w": torch.empty(300, 400)})
    with intercept(model, seed=0):
        model["w"].data[10:200].uniform_()
        model["w"].data[210:, ::2].uniform_()
    whole = torch.from_numpy(expected(torch.empty(300, 400), "w", ("uniform", 0.0, 1.0)))
    assert_same_bits(model["w"][10:200], whole[10:200])
    assert_same_bits(model["w"][210:, ::2], whole[210:, ::2])


def test_memory_that_was_a_parameters_is_not_confused_with_it():
    layer = nn.Linear(64, 64)
    with intercept(layer, seed=0):
        for _ in range(20):
            layer.weight.data = torch.empty(64, 64)
            gc.collect()
            other = torch.empty(64, 64).normal_()
            for name in ("weight", "weight#1"):
                assert not np.allclose(other.numpy(), expected(other, name), atol=1e-3)


def test_lazy_modules():
    model = nn.Sequential(nn.LazyLinear(4))
    with intercept(model, seed=0):
        model(torch.zeros(2, 8))
    like = torch.empty(4, 8)
    assert_same_bits(model[0].weight, init.kaiming_uniform_(like, a=5**0.5, key=Key(0, "0.weight")))


# Without a model


def test_a_seed_alone_leaves_the_default_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with intercept(seed=4):
        first = nn.init.normal_(torch.empty(9))
        layer = a_layer()
    assert torch.equal(torch.get_rng_state(), before)
    generator = generator_of(4)
    assert_same_bits(first, init.normal_(torch.empty(9), generator=generator))
    assert_same_bits(layer.weight, init.kaiming_uniform_(torch.empty(6, 8), a=5**0.5, generator=generator))


def test_neither_follows_manual_seed():
    torch.manual_seed(2)
    with intercept():
        first, second = nn.init.normal_(torch.empty(9)), torch.empty(40_000).uniform_()
    torch.manual_seed(2)
    assert_same_bits(first, init.normal_(torch.empty(9)))
    assert_same_bits(second, init.uniform_(torch.empty(40_000)))


def test_a_model_alone_takes_its_seed_from_the_default_generator():
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        layer = a_layer()
        torch.manual_seed(seed)
        with intercept(layer):
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.weight)
        weights.append(layer.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_generator_in_the_call_gives_the_key():
    layer = a_layer()
    with intercept(layer, seed=0):
        nn.init.normal_(layer.weight, generator=generator_of(3))
        layer.bias.data.uniform_(generator=generator_of(3))
    assert_same_bits(layer.weight, init.normal_(torch.empty(6, 8), generator=generator_of(3)))
    assert_same_bits(layer.bias, init.uniform_(torch.empty(6), generator=generator_of(3)))


# What is PyTorch's


def same_as_torch(function, *args):
    """Whether a call gives the same inside a block as outside, from the default generator."""
    results = []
    for block in (intercept(seed=0), None):
        torch.manual_seed(0)
        if block is None:
            results.append(function(*args))
        else:
            with block:
                results.append(function(*args))
    return torch.equal(*(torch.as_tensor(result) for result in results))


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
    assert same_as_torch(function)


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
        bare = error_of(call)
        assert bare is not None
        with intercept(layer, seed=0):
            inside = error_of(call)
        assert isinstance(inside, type(bare)), (bare, inside)


def error_of(call):
    try:
        call()
    except Exception as error:
        return error
    return None


def test_autograd_records_what_it_recorded():
    source = torch.ones(4, requires_grad=True)
    with intercept(seed=0):
        filled = (source * 2).normal_()
    filled.sum().backward()
    assert torch.equal(source.grad, torch.zeros(4))


def test_version_and_identity():
    layer = a_layer()
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


def test_vmap_and_grad_transforms():
    with intercept(seed=0):
        doubled = torch.vmap(lambda x: x * 2 + torch.empty(2).fill_(1))(torch.ones(3, 2))
    assert torch.equal(doubled, torch.full((3, 2), 3.0))


def test_compiled_code_is_not_broken():
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
        assert torch.equal(step(x, w), torch.full((2, 4), 3.0))
        eager = nn.init.normal_(torch.empty(3))
    assert_same_bits(eager, init.normal_(torch.empty(3), generator=generator_of(0)))
    assert torch.equal(step(x, w), torch.full((2, 4), 3.0))


@pytest.mark.parametrize("size", [3, 100_000])
@pytest.mark.parametrize("model", [None, nn.Linear(2, 2)], ids=["no model", "model"])
@pytest.mark.parametrize("fill", [nn.init.normal_, torch.Tensor.uniform_])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")
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


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    "script", [torch.jit.script, lambda model: torch.jit.trace(model.eval(), torch.ones(2, 3))]
)
@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*deprecated:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
def test_script_modules(script, inside):
    model = script(Normed())
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
        assert_values(parameter[1:].detach(), expected(parameter.detach(), f"{name}#1")[1:], context=name)
        assert_values(parameter[:1].detach(), expected(parameter.detach(), name)[:1], context=name)
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            assert_is(buffer, name)


def test_tensors_marked_by_transformers_are_left_to_it():
    layer = a_layer()
    layer.weight._is_hf_initialized = True
    before = layer.weight.detach().clone()
    with intercept(layer, seed=0):
        for function, arguments in MODULE_FUNCTIONS.items():
            getattr(nn.init, function)(layer.weight, **arguments)
        assert torch.equal(layer.weight, before)
        layer.weight.data.normal_()  # the mark is the tensor's, not its memory's
    assert_is(layer.weight, "weight")


def test_functions_have_their_source_inside_a_block():
    sources = [inspect.getsource(getattr(nn.init, name)) for name in announce.NAMES]
    with intercept(seed=0):
        assert [inspect.getsource(getattr(nn.init, name)) for name in announce.NAMES] == sources


# Blocks


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


BEFORE_ANY_BLOCK = state_of_torch()


def test_nothing_is_left_behind():
    before = BEFORE_ANY_BLOCK
    assert state_of_torch() == before
    layer = a_layer()
    with intercept(layer, seed=0), intercept(), intercept(seed=1):
        nn.init.orthogonal_(layer.weight)
    assert state_of_torch() == before
    with pytest.raises(ZeroDivisionError), intercept(layer, seed=0), intercept(seed=3):
        _ = 1 / 0
    assert state_of_torch() == before
    bad = nn.ModuleDict({"module": a_layer()})
    bad.register_parameter("weight", nn.Parameter(torch.empty(2)))
    with pytest.raises(ValueError, match="both named 'weight'"), intercept(bad, seed=0):
        pass
    assert state_of_torch() == before
    torch.manual_seed(0)
    plain = nn.init.trunc_normal_(torch.empty(50))
    torch.manual_seed(0)
    assert torch.equal(plain, nn.init.trunc_normal_(torch.empty(50)))


def test_the_inner_block_counts():
    outer, inner = a_layer(), a_layer()
    with intercept(outer, seed=0):
        with intercept(inner, seed=1):
            nn.init.normal_(inner.weight)
            nn.init.normal_(outer.weight)
        nn.init.trunc_normal_(inner.bias)
        assert_is(inner.weight, "weight", seed=1)
        assert_same_bits(outer.weight, init.normal_(torch.empty(6, 8), generator=generator_of(1)))
        with pytest.raises(KeyError), intercept(outer, seed=2):
            raise KeyError
        nn.init.normal_(outer.weight)
    assert_is(outer.weight, "weight")


def test_one_block_twice_and_inside_itself():
    layer = a_layer()
    block = intercept(layer, seed=0)
    for _ in range(2):
        with block:
            nn.init.normal_(layer.weight)
            assert_is(layer.weight, "weight")
            with block:
                nn.init.normal_(layer.weight)
                assert_is(layer.weight, "weight")
            nn.init.normal_(layer.weight)
            assert_is(layer.weight, "weight#1")


def test_other_threads_go_on_with_torch():
    def work():
        found.append(nn.init.trunc_normal_(torch.empty(50)))
        found.append(nn.init.orthogonal_(torch.empty(4, 4)))
        found.append(torch.empty(9).normal_())

    found: list[torch.Tensor] = []
    torch.manual_seed(0)
    work()
    torch.manual_seed(0)
    with intercept(seed=0):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        nn.init.trunc_normal_(torch.empty(50))
    for alone, beside in zip(found[:3], found[3:], strict=True):
        assert torch.equal(alone, beside)


def test_many_threads_each_with_a_block():
    before, errors = state_of_torch(), []
    barrier = threading.Barrier(6)

    def work(seed):
        try:
            barrier.wait()
            for _ in range(30):
                layer = a_layer()
                with intercept(layer, seed=seed):
                    nn.init.trunc_normal_(layer.bias)
                    nn.init.normal_(layer.weight)
                assert_is(layer.weight, "weight", seed=seed)
                assert_is(layer.bias, "bias", ("truncated_normal", 0.0, 1.0, -2.0, 2.0), seed=seed)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert state_of_torch() == before


@pytest.mark.parametrize("model", [[a_layer(), a_layer()], a_layer().weight, "model", nn.Linear])
def test_what_is_not_one_model_is_refused(model):
    with pytest.raises(TypeError, match="one model"):
        intercept(model, seed=0)


def test_wrong_seeds():
    with pytest.raises(TypeError, match="seed must be an int"):
        intercept(seed="0")
    with pytest.raises(ValueError, match=r"2\*\*64"):
        intercept(a_layer(), seed=2**64)
    with intercept(seed=-1):
        first = nn.init.normal_(torch.empty(3))
    with intercept(seed=2**64 - 1):
        assert torch.equal(first, nn.init.normal_(torch.empty(3)))
