"""Parameters and buffers on the meta device stay the objects that they are, wherever they are held."""

import weakref

import pytest
import torch
from meshes import every_rank
from torch import nn
from torch.distributed.fsdp import fully_shard

from convinit_ext import fingerprint, init_model_, plan_model


class Holder(nn.Module):
    """Holds its tensors a second time, as modules do that group them for an optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.cell = nn.LSTM(4, 2)
        self.__dict__["second"] = self.layer.weight
        self.groups = [{"params": list(self.layer.parameters())}, {"params": [self.cell.weight_hh_l0]}]
        self.statistics = {"mean": (self.norm.running_mean,)}


def on_meta() -> Holder:
    with torch.device("meta"):
        return Holder()


def test_whatever_holds_a_parameter_or_buffer_sees_its_values():
    model = on_meta()
    parameters, buffers = list(model.parameters()), list(model.buffers())
    optimizer = torch.optim.SGD(model.groups, lr=1.0)
    init_model_(model, 3)
    for before, now in ((parameters, model.parameters()), (buffers, model.buffers())):
        for old, new in zip(before, now, strict=True):
            assert old is new and not old.is_meta
    assert all(isinstance(each, nn.Parameter) and each.requires_grad for each in parameters)
    assert model.second is model.layer.weight and model.statistics["mean"][0] is model.norm.running_mean
    start = model.layer.weight.detach().clone()
    model.layer(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.layer.weight, start)


def test_a_plan_is_run_again_and_recurrent_modules_go_on():
    model, plain = on_meta(), Holder()
    plan = plan_model(model, 3)
    plan.run()
    plan.run(seed=4)
    init_model_(plain, 4)
    assert fingerprint(model) == fingerprint(plain)
    given = torch.ones(5, 4)
    assert torch.equal(model.cell(given)[0], plain.cell(given)[0])
    model.cell.weight_hh_l0 = nn.Parameter(torch.zeros(8, 2))  # one that is put in its place is seen
    assert not torch.equal(model.cell(given)[0], plain.cell(given)[0])
    plain.cell.weight_hh_l0.data.zero_()
    assert torch.equal(model.cell(given)[0], plain.cell(given)[0])


def test_a_parameter_that_something_holds_on_to_is_named():
    model = nn.Linear(3, 4, device="meta")
    before = model.weight, model.bias
    held = [weakref.ref(each) for each in before]
    with pytest.warns(UserWarning, match="new objects now.*optimizers.*: 'weight', 'bias'$") as warned:
        init_model_(model)
    assert len(warned) == 1 and [each() is old for each, old in zip(held, before, strict=True)] == [
        True,
        True,
    ]
    assert all(each.is_meta for each in before) and not model.weight.is_meta


class Converting(nn.Module):
    """Makes something else of each tensor that is assigned, as modules of complex weights do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("weight", nn.Parameter(torch.empty(4, 3)))
        self.register_buffer("table", torch.zeros(2))

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, torch.Tensor):
            raise TypeError("only complex tensors are assigned")
        super().__setattr__(name, value)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)


def test_a_module_that_minds_assignment_is_not_asked():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 3), Converting())
    init_model_(model, skip="1.table")
    assert not model[1].weight.is_meta and not model[0].weight.is_meta


@pytest.mark.parametrize("is_cut", [False, True])
def test_hooks_of_gradients_stay(is_cut):
    for mesh in every_rank((1,)):
        model, called = nn.Linear(3, 2, device="meta"), []
        if is_cut:
            fully_shard(model, mesh=mesh)
        first = model.weight.register_hook(lambda grad, called=called: called.append("gradient"))
        model.weight.register_post_accumulate_grad_hook(lambda _, called=called: called.append("summed"))
        for dtype, expected in ((None, ["gradient", "summed"]), (torch.float64, ["gradient", "summed"] * 2)):
            init_model_(model, dtype=dtype)
            (model.weight * 2).sum().backward()
            assert called == expected
        first.remove()
        (model.weight * 2).sum().backward()
        assert called[4:] == ["summed"]
