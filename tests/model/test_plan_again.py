"""A plan that is run again: for the places that the model's tensors had, whatever else has come or gone."""

import pytest
import torch
from torch import nn

from convinit_ext import fingerprint, plan_model


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.__setitem__(0, nn.Linear(4, 4)),
        lambda model: model[1].__setitem__(0, nn.Linear(4, 4)),
        lambda model: model.append(nn.Linear(4, 4)),
        lambda model: model.__delitem__(0),
        lambda model: model[1].register_buffer("ages", torch.ones(4)),
        lambda model: setattr(model[1][0], "bias", nn.Parameter(torch.ones(4))),
    ],
)
def test_it_does_not_run_where_layers_were_replaced_added_or_removed(change):
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4, bias=False)))
    plan = plan_model(model)
    plan.run()
    change(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for asked in (plan.run, plan.fingerprint):
        with pytest.raises(RuntimeError, match=r"changed since it was planned, '\d.*'.*plan it again"):
            asked()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_plan_runs_again_where_what_has_come_holds_no_tensors():
    model = nn.ModuleDict({"stem": nn.Linear(4, 4), "head": nn.Linear(4, 4)})
    plan = plan_model(model, seed=1)
    model["head"].register_parameter("nothing", None)
    model.add_module("loss", nn.Sequential(nn.ReLU(), nn.MSELoss()))
    for _ in range(2):
        plan.run()
    model["loss"].append(nn.Linear(4, 4))
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"changed since it was planned, 'loss\.2\.weight'"):
            plan.run()
    del model["loss"][2]
    plan.run()
    assert plan.fingerprint() == fingerprint(model)


def test_a_module_that_holds_itself_has_a_plan():
    model = nn.Linear(4, 4)
    model.add_module("loop", model)
    plan = plan_model(model)
    plan.run()
    model.add_module("other", nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match=r"'other\.weight' first"):
        plan.run()
