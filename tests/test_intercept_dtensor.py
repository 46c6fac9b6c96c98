"""intercept on DTensors: a parameter is found whatever its placements; a rank's shard is part of the whole.

The process group is PyTorch's fake one: nothing is sent, so one process can be every rank in turn.
"""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from convinit_ext import Key, init, intercept

NUM_RANKS = 4
PLACEMENTS = [Shard(0), Shard(1), Replicate()]


@contextlib.contextmanager
def as_rank(rank):
    dist.init_process_group("fake", rank=rank, world_size=NUM_RANKS, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (NUM_RANKS,))
    finally:
        dist.destroy_process_group()


def distributed_layer(mesh, placement) -> nn.Linear:
    layer = nn.Linear(6, 8)
    weight = distribute_tensor(layer.weight.detach(), mesh, [placement], src_data_rank=None)
    layer.weight = nn.Parameter(weight)
    return layer


def dtensors_are_filled() -> bool:
    with as_rank(0) as mesh:
        try:
            init.normal_(distributed_layer(mesh, Shard(0)).weight, key=Key(0, "weight"))
        except TypeError:
            return False
    return True


CALLS = {
    "uniform_": lambda w: nn.init.uniform_(w),
    "method": lambda w: w.data.uniform_(),
    "kaiming_normal_": lambda w: nn.init.kaiming_normal_(w),
    "trunc_normal_": lambda w: nn.init.trunc_normal_(w, std=0.02),
}


@pytest.mark.parametrize("placement", PLACEMENTS, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_each_rank_has_its_part_of_the_whole(name, placement):
    if not dtensors_are_filled():
        pytest.skip("this version fills no DTensor: PyTorch does")
    alone = nn.Linear(6, 8)
    with intercept(alone, seed=0):
        CALLS[name](alone.weight)
    for rank in range(NUM_RANKS):
        with as_rank(rank) as mesh:
            layer = distributed_layer(mesh, placement)
            with intercept(layer, seed=0):
                CALLS[name](layer.weight)
            part = distribute_tensor(alone.weight.detach(), mesh, [placement], src_data_rank=None)
            assert torch.equal(layer.weight.to_local(), part.to_local()), rank


@pytest.mark.filterwarnings("ignore:DTensor random operators")  # PyTorch's, of what it fills itself
@pytest.mark.parametrize("name", CALLS)
def test_a_dtensor_is_filled_by_somebody(name):
    with as_rank(1) as mesh:
        layer = distributed_layer(mesh, Shard(0))
        with torch.no_grad():
            layer.weight.to_local().fill_(torch.nan)
        with intercept(layer, seed=0):
            CALLS[name](layer.weight)
            nn.init.uniform_(layer.bias)
        assert isinstance(layer.weight, DTensor)
        assert not layer.weight.to_local().isnan().any()
    assert torch.equal(layer.bias, init.uniform_(torch.empty(8), key=Key(0, "bias")))
