"""intercept: which fills are taken, and the key that each has."""

import copy
import functools

import numpy as np
import pytest
import torch
from filling import DTYPES, assert_same_bits
from intercepted import MODULE_FUNCTIONS, UNIT, Net, a_layer, assert_is
from torch import nn
from torch.nn.init import kaiming_normal_ as captured_kaiming_normal_
from torch.nn.init import trunc_normal_ as captured_trunc_normal_
from torch.nn.utils.parametrizations import spectral_norm

from convinit_ext import Key, init, intercept
from convinit_ext.intercept import _patch

captured_method = torch.Tensor.normal_

KAIMING = ("normal", 0.0, float(np.sqrt(2.0) / np.sqrt(8)))

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


@pytest.mark.parametrize(
    ("name", "arguments"),
    [*MODULE_FUNCTIONS.items(), ("sparse_", {"sparsity": 1.5}), ("sparse_", {"sparsity": -0.5})],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functions_of_torch_give_what_ours_of_the_name_give_with_the_key(name, arguments, dtype):
    layer = a_layer().to(dtype)
    with intercept(layer, seed=3):
        same = getattr(torch.nn.init, name)(layer.weight, **arguments)
    assert same is layer.weight
    ours = getattr(init, name)(torch.empty(6, 8, dtype=dtype), **arguments, key=Key(3, "weight"))
    assert_same_bits(layer.weight, ours)


def test_all_random_functions_of_torch_are_answered():
    drawing = {
        name
        for name in torch.nn.init.__all__
        if name.endswith("_") and "generator" in getattr(torch.nn.init, name).__code__.co_varnames
    }
    assert drawing == set(MODULE_FUNCTIONS)
    fixed = {"constant_", "dirac_", "eye_", "ones_", "zeros_"}
    assert drawing | fixed == set(_patch.originals)


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


@pytest.mark.parametrize("order", [iter, reversed])
def test_order_does_not_matter(order):
    model = Net()
    with intercept(model, seed=1):
        for tensor in order(list(model.state_dict().values())):
            nn.Linear(3, 3).weight.data.normal_()  # nobody's
            nn.init.normal_(tensor)
    for name, tensor in model.state_dict().items():
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [torch.channels_last, torch.channels_last_3d])
def test_a_convolution_in_channels_last_is_reset_to_the_same_values(last, dtype):
    kind = nn.Conv2d if last is torch.channels_last else nn.ConvTranspose3d
    models = [nn.Sequential(kind(4, 6, 3, dtype=dtype)) for _ in range(2)]
    models[1].to(memory_format=last)
    for model in models:
        with intercept(model, seed=5):
            model[0].reset_parameters()
            once = model[0].weight.detach().clone()
            model[0].reset_parameters()
        assert not torch.equal(once, model[0].weight)  # the second fill has a number
    assert models[1][0].weight.is_contiguous(memory_format=last)
    assert_same_bits(models[0][0].weight, models[1][0].weight)


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 4, 3), nn.ConvTranspose3d(4, 4, 3), nn.Linear(4, 4)])
def test_the_weight_behind_a_parametrization_is_not_reset_in_vain(layer):
    model = nn.Sequential(spectral_norm(copy.deepcopy(layer)))
    before = copy.deepcopy(model.state_dict())
    with intercept(model, seed=5), pytest.raises(RuntimeError, match="is computed from others"):
        model[0].reset_parameters()
    assert all(
        torch.equal(before[name], each) for name, each in model.state_dict().items() if "0._" not in name
    )


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
