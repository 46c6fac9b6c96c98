"""The library mup: recipe mup has its standard deviations and its learning rates."""

import pytest

library = pytest.importorskip("mup")

import torch  # noqa: E402
from torch import nn  # noqa: E402

from convinit_ext import init_model_  # noqa: E402
from convinit_ext.recipes import TORCH, Kaiming, Rule, Xavier, mup, mup_groups  # noqa: E402


@pytest.mark.parametrize("form", ["default", "kaiming", "xavier"])
def test_stds_and_learning_rates_are_those_of_the_library(form):
    def build(width: int) -> nn.Module:
        layers = {"input": nn.Linear(64, width), "hidden": nn.Linear(width, 2 * width)}
        layers |= {"more": nn.Linear(2 * width, width), "readout": library.MuReadout(width, 64)}
        return nn.ModuleDict(layers)

    torch.manual_seed(0)
    theirs, ours, base = build(512), build(512), build(128)
    library.set_base_shapes(theirs, base)
    library.set_base_shapes(ours, base, rescale_params=False)
    inner: list[Rule] = []
    if form != "default":
        init = Kaiming("normal") if form == "kaiming" else Xavier("uniform")
        fill_ = library.init.kaiming_normal_ if form == "kaiming" else library.init.xavier_uniform_
        inner = [Rule(init, parameter="weight")]
        for module in theirs.values():
            fill_(module.weight)
    init_model_(ours, 0, mup(base, [*inner, *TORCH]))
    for name, each in theirs.named_parameters():
        found = ours.get_parameter(name).std().item()
        assert found == pytest.approx(each.std().item(), rel=0.02 if each.ndim > 1 else 0.15), name
    for optimizer, impl in (("adam", library.MuAdamW), ("sgd", library.MuSGD)):
        wanted = impl(theirs.parameters(), lr=0.1, weight_decay=0.3).param_groups
        groups = mup_groups(theirs, base, 0.1, optimizer, 0.3)
        rates = [
            {id(each): (group["lr"], group["weight_decay"]) for group in some for each in group["params"]}
            for some in (wanted, groups)
        ]
        for each in theirs.parameters():
            assert rates[1][id(each)] == pytest.approx(rates[0][id(each)])


def test_a_readout_that_is_asked_to_start_from_zero_does():
    wide, base = (nn.ModuleDict({"out": library.MuReadout(n, 3, readout_zero_init=True)}) for n in (64, 16))
    nn.init.ones_(wide["out"].weight)
    init_model_(wide, 0, mup(base, "he"))
    assert not any(each.any() for each in wide.parameters())
