"""Run as ranks (test_verify_sharded.py) on 4 processes: what verify finds on each, and on all of them."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from convinit_ext import init_model_, verify

SEED = 5


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))


def sharded(mesh: DeviceMesh) -> nn.Module:
    model = small()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    init_model_(model, SEED, "he")
    return model


def trained() -> None:
    mesh = init_device_mesh("cpu", (4,))
    model = sharded(mesh)
    model[2].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    torch.manual_seed(0)
    model(torch.randn(8, 6)).square().sum().backward()
    optimizer.step()
    found = verify(model, SEED, "he", check_ranks=True)
    assert found.unmoved == ("2.weight", "2.bias"), found
    assert found.num_elements == sum(parameter.to_local().numel() for parameter in model.parameters())
    assert found.num_ranks == 4 and "compared" in found.summary()
    model = sharded(mesh)
    model(torch.randn(8, 6))
    model[0].unshard()
    assert verify(model, SEED, "he") and verify(model, SEED, "he", check_ranks=True)


def one_element() -> None:
    """Two replicas of two shards; one element of one copy is wrong."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    model = sharded(mesh)
    if dist.get_rank() == 3:
        local = model[2].weight.to_local().detach()
        local[-1, -1] = 100.0
        local[-2, 3] = 100.0
    found = verify(model, SEED, "he", check_ranks=True)
    assert not found and found.num_ranks == 4 and "2.weight" not in found.unmoved
    if dist.get_rank() == 3:
        (row,) = (row for row in found.rows if not row.equal)
        assert (row.num_different, row.first_index) == (2, (5, 3))
        assert row.actual == 100.0 != row.expected and not found.problems
    else:
        (problem,) = found.problems
        assert problem[:2] == ("2.weight", "values") and "rank 3: 2 of " in problem.text
        assert not found.different
    found = verify(model, SEED, "he")
    assert found.equal is (dist.get_rank() != 3) and found.num_ranks == 1


def stages() -> None:
    model = nn.Linear(4, 4)
    name = str(dist.get_rank() // 2)
    model = nn.ModuleDict({name: model})
    init_model_(model, SEED)
    found = verify(model, SEED, check_ranks=True)
    assert found and found.unmoved == (f"{name}.weight", f"{name}.bias") and found.num_elements == 20


def failures() -> None:
    model = nn.Linear(2, 2)
    if dist.get_rank() == 2:
        model.weight = nn.Parameter(torch.empty(2, 2, device="meta"))
    with pytest.raises(RuntimeError, match=r"^rank 2: ValueError: 1 tensor on the meta device"):
        verify(model, SEED, check_ranks=True)
    with pytest.raises(ValueError, match=r"the seed must be the same on all ranks"):
        verify(nn.Linear(2, 2), dist.get_rank() // 3, check_ranks=True)


CASES = (trained, one_element, stages, failures)
