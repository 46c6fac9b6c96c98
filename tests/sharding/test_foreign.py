"""Parameters that other frameworks hold: refused by name where nobody can tell what they are."""

import sys
import types

import pytest
import torch
from init_functions import FUNCTIONS
from torch import Tensor, nn

from convinit_ext import (
    Key,
    Shard,
    fingerprint,
    fingerprints,
    init,
    init_model_,
    intercept,
    plan_model,
    save_model,
    verify,
)


def placeholder(parameter: nn.Parameter) -> None:
    parameter.ds_id, parameter.ds_shape, parameter.data = 0, parameter.shape, torch.empty(0)


def zero3(parameter: nn.Parameter) -> None:
    parameter.ds_tensor = parameter.detach().flatten()[:8].clone()
    placeholder(parameter)


def megatron(parameter: nn.Parameter) -> None:
    parameter.tensor_model_parallel, parameter.partition_dim, parameter.partition_stride = True, 0, 1


def masters(parameter: nn.Parameter) -> None:
    parameter._hp_mapping = None


PLACEHOLDER = r"it is a placeholder of DeepSpeed's ZeRO-3, of shape \[4, 4\] \(ds_shape\)"
REFUSED = {
    "a placeholder without values": (placeholder, f"{PLACEHOLDER}, without a ds_tensor.*GatheredParameters"),
    "a range of nobody knows which rank": (zero3, f"{PLACEHOLDER}, and torch.distributed.*not initialised"),
    "a part of nobody knows which rank": (megatron, r"it is a part .*parallel_state.*Shard\.split"),
}


def model_with(make) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, bias=False))
    make(model[1].weight)
    return model


def values(model: nn.Module) -> list[Tensor]:
    return [each.detach().clone() for each in model.parameters()]


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_every_door(case, tmp_path):
    make, said = REFUSED[case]
    model = model_with(make)
    before = values(model)
    for refuses in (init_model_, plan_model, verify, lambda each: save_model(each, tmp_path / "new")):
        with pytest.raises(ValueError, match=rf"parameter '1\.weight': {said}"):
            refuses(model)
    for refuses in (fingerprint, fingerprints, lambda each: fingerprint(each.state_dict(keep_vars=True))):
        with pytest.raises(ValueError, match=rf"tensor '1\.weight': {said}"):
            refuses(model)
    with pytest.raises(ValueError, match=said):
        fingerprint(model[1].weight)
    assert not (tmp_path / "new").exists()
    assert all(map(torch.equal, before, values(model)))
    init_model_(model, skip="1")
    if make is not megatron:
        with pytest.raises(TypeError, match=r"'1\.weight' is a part of a tensor that is not filled"):
            save_model(model, tmp_path / "new", skip="1")


@pytest.mark.parametrize(("make", "said"), [*REFUSED.values(), (masters, r"before deepspeed\.initialize")])
def test_functions_refuse_what_nobody_can_place_and_what_a_step_would_undo(make, said):
    for name, arguments in FUNCTIONS.items():
        model = model_with(make)
        before = values(model)
        for module in (init, torch.nn.init):
            with pytest.raises(ValueError, match=said), intercept(model, 3):
                getattr(module, name)(model[1].weight, **arguments)
        model[1].weight.requires_grad_(False)
        with pytest.raises(ValueError, match=said), intercept():
            model[1].weight.normal_()
        assert all(map(torch.equal, before, values(model)))


def test_parts_of_megatron_by_hand():
    weight = model_with(megatron)[1].weight
    whole = init.normal_(torch.empty(8, 4), key=Key(3, "w"))
    init.normal_(weight, key=Key(3, "w"), shard=Shard.split((8, 4), 0, 1, 2))
    assert torch.equal(weight, whole[4:])


def test_a_layer_that_is_not_parallel_is_whole():
    model, whole = nn.Linear(4, 4), nn.Linear(4, 4)
    model.weight.tensor_model_parallel, model.weight.partition_dim = False, -1
    init_model_(model, 3)
    init_model_(whole, 3)
    assert torch.equal(model.weight, whole.weight) and fingerprint(model) == fingerprint(whole)


def test_copies_in_higher_precision_would_win():
    model = model_with(masters)
    before = values(model)
    for refuses in (init_model_, plan_model):
        with pytest.raises(ValueError, match=r"'1\.weight': DeepSpeed's optimizer .* before deepspeed"):
            refuses(model)
    assert all(map(torch.equal, before, values(model)))
    assert not verify(model)
    init_model_(model, skip="1")
    assert fingerprint(model) == fingerprint(model.state_dict())


@pytest.mark.parametrize("many", [False, True])
def test_offloaded_parameters(many):
    hook = types.SimpleNamespace(offload=True)
    kept = types.SimpleNamespace(offload=False)
    for offloads in (True, False):
        model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4, device="meta")))
        own = hook if offloads else kept
        for holder in (model[1], model[1][0]):
            holder._hf_hook = types.SimpleNamespace(hooks=[kept, own]) if many else own
            before = values(model)
            if not offloads:
                plan_model(model)
            else:
                for refuses in (init_model_, plan_model):
                    with pytest.raises(ValueError, match=r"'1\.0\.weight': accelerate has offloaded it"):
                        refuses(model)
                assert torch.equal(before[0], model[0].weight)
                init_model_(model, skip="1")
            del holder._hf_hook


class Asked(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        raise AssertionError(function)


def test_an_alias_of_a_part_is_refused_whatever_else_there_is(monkeypatch):
    """Some tensors of the process refuse to be asked."""
    monkeypatch.setitem(sys.modules, "megatron.core.parallel_state", types.ModuleType("parallel_state"))
    weight = model_with(megatron)[1].weight
    others = nn.LazyLinear(2), Asked(torch.zeros(3))
    with pytest.raises(ValueError, match="as Megatron cuts it"):
        init.normal_(weight.data)
    del others


def test_a_view_of_a_part_is_refused():
    weight = model_with(megatron)[1].weight
    before = weight.detach().clone()
    for fill in (init.normal_, init.ones_, init.orthogonal_):
        with pytest.raises(ValueError, match=r"(view|part along dim 0) of a .*parameter.* key= and shard="):
            fill(weight[:2])
    assert torch.equal(weight, before)
    init.normal_(weight[:2], key=Key(3, "w"), shard=Shard.split((8, 4), 0, 1, 4))
    assert torch.equal(weight[:2], init.normal_(torch.empty(8, 4), key=Key(3, "w"))[2:4])
