"""intercept on DTensors: a parameter is found whatever its placements, and each rank has its part of it."""

from __future__ import annotations

import pytest
import torch
from meshes import every_rank
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import _clear_sharding_prop_cache

from convinit_ext import intercept

NUM_RANKS = 4
PLACEMENTS = [Shard(0), Shard(1), Replicate()]


def ranks():
    """PyTorch remembers with an operation's result whose rank it was."""
    for mesh in every_rank((NUM_RANKS,)):
        _clear_sharding_prop_cache()
        yield mesh


def distributed_layer(mesh, placement) -> nn.Linear:
    layer = nn.Linear(6, 8)
    weight = distribute_tensor(layer.weight.detach(), mesh, [placement], src_data_rank=None)
    layer.weight = nn.Parameter(weight)
    return layer


CALLS = {
    "uniform_": lambda w: nn.init.uniform_(w),
    "method": lambda w: w.data.uniform_(),
    "kaiming_normal_": lambda w: nn.init.kaiming_normal_(w),
    "trunc_normal_": lambda w: nn.init.trunc_normal_(w, std=0.02),
    "orthogonal_": lambda w: nn.init.orthogonal_(w),
    "sparse_": lambda w: nn.init.sparse_(w, 0.3),
    "eye_": lambda w: nn.init.eye_(w),
    "a second time": lambda w: nn.init.normal_(nn.init.uniform_(w)),
    "local": lambda w: (w.to_local() if isinstance(w, DTensor) else w).detach().uniform_(),
}


@pytest.mark.parametrize("placement", PLACEMENTS, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_each_rank_has_its_part_of_the_whole(name, placement):
    alone = nn.Linear(6, 8)
    with intercept(alone, seed=0):
        CALLS[name](alone.weight)
    for rank, mesh in enumerate(ranks()):
        layer = distributed_layer(mesh, placement)
        with intercept(layer, seed=0):
            CALLS[name](layer.weight)
        part = distribute_tensor(alone.weight.detach(), mesh, [placement], src_data_rank=None)
        assert torch.equal(layer.weight.to_local(), part.to_local()), rank


def test_dirac_of_a_convolution():
    alone = nn.init.dirac_(torch.empty(8, 6, 3))
    for rank, mesh in enumerate(ranks()):
        weight = distribute_tensor(torch.empty(8, 6, 3), mesh, [Shard(0)], src_data_rank=None)
        with intercept():
            nn.init.dirac_(weight)
        assert torch.equal(weight.to_local(), alone[2 * rank : 2 * rank + 2])


@pytest.mark.parametrize("placement", PLACEMENTS, ids=str)
def test_a_dtensor_of_no_model_follows_the_generator(placement):
    with intercept(seed=4):
        alone = nn.init.uniform_(torch.empty(8, 6))
    for rank, mesh in enumerate(ranks()):
        weight = distribute_tensor(torch.empty(8, 6), mesh, [placement], src_data_rank=None)
        with intercept(seed=4):
            nn.init.uniform_(weight)
        part = distribute_tensor(alone, mesh, [placement], src_data_rank=None)
        assert torch.equal(weight.to_local(), part.to_local()), rank
