"""Tensors in plain attributes of a model on the meta device, which nothing can fill, are named."""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from convinit_ext import init_model_


class Pair(NamedTuple):
    first: object


@dataclass
class Held:
    value: object


def in_a_circle(tensor: Tensor) -> list[object]:
    held: list[object] = [tensor]
    held.append(held)
    return held


def in_a_module(tensor: Tensor) -> list[object]:
    module = nn.Module()
    module.register_buffer("table", tensor)
    return [module]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: [x],
        lambda x: (x,),
        lambda x: {"a": x},
        lambda x: {"a": [{"b": (x,)}]},
        lambda x: {x},
        lambda x: deque([x]),
        Pair,
        Held,
        in_a_circle,
        in_a_module,
    ],
)
def test_tensors_on_meta_in_plain_attributes_are_named(wrap):
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2))
        model[0].positions = wrap(torch.arange(4.0))
    with pytest.raises(ValueError, match=r"  0\.positions\S* \[4\] of Linear, a plain attribute"):
        init_model_(model)
    assert model[0].weight.is_meta
    init_model_(model, skip="0.positions*")
    assert not model[0].weight.is_meta


def test_the_second_list_of_a_recurrent_modules_weights_is_read_anew():
    with torch.device("meta"):
        layer = nn.utils.parametrizations.weight_norm(nn.LSTM(3, 4), "weight_hh_l0")
    other = nn.utils.parametrizations.weight_norm(nn.LSTM(3, 4), "weight_hh_l0")
    init_model_(layer, 3)
    init_model_(other, 3)
    assert torch.equal(layer(torch.ones(2, 3))[0], other(torch.ones(2, 3))[0])


def test_what_to_empty_left_behind_is_named():
    """It makes new parameters, and moves no plain attribute."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        model.groups = [{"params": [model[0].weight]}]
        model[1].positions = torch.arange(4.0)
    model.to_empty(device="cpu")
    before = model[0].weight.detach().clone()
    said = r"groups\[0\]\['params'\]\[0\] \[2, 2\] of S.*\n  1\.positions \[4\] of Linear, a plain attribute"
    with pytest.raises(ValueError, match=said):
        init_model_(model)
    assert torch.equal(model[0].weight.nan_to_num(), before.nan_to_num())
    model.groups = [{"params": [model[0].weight]}]
    model[1].positions = torch.arange(4.0)
    init_model_(model)
