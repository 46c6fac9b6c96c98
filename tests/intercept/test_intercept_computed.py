"""Inside intercept a fill of what a parametrized layer shows for its weight is in vain: that is said."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.modules.module import _global_forward_hooks
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from convinit_ext import intercept

PARTS = {
    "0.weight_v": weight_norm,
    "0.parametrizations.weight.original1": parametrizations.weight_norm,
    "0.parametrizations.weight.original": parametrizations.spectral_norm,
    "0.weight_orig": lambda layer: prune.identity(layer, "weight"),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "fill",
    [
        lambda layer: layer.weight.data.normal_(0, 0.01),
        lambda layer: nn.init.xavier_uniform_(layer.weight.data),
        torch.no_grad()(lambda layer: layer.weight.zero_()),
    ],
)
def test_the_data_of_a_weight_that_is_computed_is_named_once(part, fill):
    model = nn.Sequential(PARTS[part](nn.Conv1d(3, 4, 3)), nn.Linear(2, 2))
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    with intercept(model, seed=0):
        with pytest.warns(UserWarning, match=rf"weight that '{part}' makes is in vain") as warned:
            fill(model[0])
        fill(model[0])  # warnings are errors here
    assert len(warned) == 1 and warned[0].filename == __file__
    assert all(torch.equal(each, before[name]) for name, each in model.named_parameters())


def test_what_the_model_sees_is_not_warned_of():
    model = nn.Sequential(
        spectral_norm(nn.Linear(3, 3)), parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 3)
    )
    started = model[1].weight.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with intercept(model, seed=0):
            model[0].weight.data.normal_()  # the original's memory, until the first call
            model[1].weight = torch.empty(3, 3).normal_()  # put back into its parts
            model[2].weight.data.normal_()
            (model[2].weight * 2).data.normal_()
    assert not torch.equal(model[1].weight, started)


@pytest.mark.parametrize(
    "fill",
    [nn.init.kaiming_uniform_, torch.Tensor.normal_, nn.init.ones_, lambda w: w.copy_(w * 2)],
)
@pytest.mark.parametrize("part", [part for part in PARTS if "parametrizations" in part])
def test_a_weight_that_is_computed_without_a_record_is_named_too(part, fill):
    model = nn.Sequential(PARTS[part](nn.Conv1d(3, 4, 3)))
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    with torch.no_grad(), intercept(model, seed=0):
        with pytest.warns(UserWarning, match=rf"weight that '{part}' makes is in vain") as warned:
            fill(model[0].weight)
        fill(model[0].weight)
    assert len(warned) == 1 and warned[0].filename == __file__
    assert all(torch.equal(each, before[name]) for name, each in model.named_parameters())
    assert not _global_forward_hooks
