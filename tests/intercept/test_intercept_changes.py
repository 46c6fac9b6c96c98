"""intercept: models whose tensors move, are replaced or appear while a block is open."""

import gc
import warnings
from types import MappingProxyType

import numpy as np
import pytest
import torch
from filling import assert_same_bits
from intercepted import Net, a_layer, assert_is, assert_values, expected, generator_of
from torch import nn

from convinit_ext import Key, init, intercept


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


def test_what_was_replaced_has_no_name_any_more():
    """A parameter, and one of a module two places above it that was."""
    model = nn.Sequential(nn.Sequential(a_layer()), a_layer())
    in_module, parameter, module = model[0][0].weight, model[1].weight, nn.Sequential(a_layer())
    with intercept(model, seed=0):
        model[0] = module
        model[1].weight = nn.Parameter(torch.empty(6, 8))
        generator = generator_of(0)
        for old in (parameter, in_module, in_module[2:].detach()):
            nn.init.normal_(old)
            assert_same_bits(old, init.normal_(torch.empty_like(old), generator=generator))
        for new, name in ((model[0][0].weight, "0.0.weight"), (model[1].weight, "1.weight")):
            nn.init.normal_(new)
            assert_is(new, name)


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


FILLS = [nn.init.normal_, nn.init.zeros_, nn.init.orthogonal_, lambda w: w.data.copy_(torch.ones(6, 8))]


@pytest.mark.parametrize("then", [*FILLS, None])
def test_a_new_parameter_of_what_pytorch_draws_is_said_unless_it_is_filled(then):
    model = nn.Sequential(a_layer())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with intercept(model, seed=0):
            torch.rand(3)  # nobody's
            model[0].weight = nn.Parameter(torch.randn(6, 8) * 0.1)
            if then is not None:
                then(model[0].weight)
    if then is not None:
        assert said == []
    else:
        (one,) = said
        assert str(one.message).startswith("'0.weight' gets values of torch.rand")
        assert one.filename == __file__
