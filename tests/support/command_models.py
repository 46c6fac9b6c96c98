"""Models and recipes that the tests of the command line name as MODULE:CALLABLE."""

import sys

import torch
from torch import nn

from convinit_ext import Constant
from convinit_ext.recipes import TORCH, Recipe, Rule

MINE = [Rule(Constant(0.25), parameter="weight"), *TORCH]
NAMED = Recipe(tuple(MINE), name="gpt")


def a_quarter(target: object) -> Constant:
    return Constant(0.25)


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4))


SMALL = f"{__name__}:small"
A_MODEL = small()


def wide() -> nn.Module:
    return nn.ModuleDict({"a_transformer_block_with_a_long_name": nn.ModuleDict({"feed_forward": small()})})


def only_on_the_cpu() -> nn.Module:
    model = small()
    assert not model[0].weight.is_meta
    return model


def raising() -> nn.Module:
    raise RuntimeError("no blueprint")


def uncovered() -> nn.Module:
    model = nn.Module()
    model.scale = nn.Parameter(torch.ones(3))
    return model


def odd(target: object) -> None:
    raise KeyError("no such thing")


def ends(target: object = None) -> nn.Module:
    sys.exit(0)


ODD, ENDING = [Rule(odd)], [Rule(ends)]


def seeing_twice() -> nn.Module:
    return nn.Bilinear(3, 4, 2)


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(2, 3), torch.ones(2, 4)


PAIR = pair()
