"""Run by torchrun (test_verify_sharded.py) on 4 processes: what verify finds on each, and on all of them."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

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


def say(text: str) -> None:
    dist.barrier()
    if dist.get_rank() == 0:
        print(f"held: {text}", flush=True)


def trained(mesh: DeviceMesh) -> None:
    model = sharded(mesh)
    model[2].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    torch.manual_seed(0)
    model(torch.randn(8, 6)).square().sum().backward()
    optimizer.step()
    found = verify(model, SEED, "he", check_ranks=True)
    assert found.unmoved == ("2.weight", "2.bias"), found
    assert found.num_elements == sum(parameter.numel() for parameter in model.parameters())
    assert found.num_ranks == 4 and "compared on 4 ranks" in found.summary()
    say("trained under FSDP2, the frozen layer alone has not moved")
    model = sharded(mesh)
    model(torch.randn(8, 6))
    model[0].unshard()
    assert verify(model, SEED, "he") and verify(model, SEED, "he", check_ranks=True)
    say("gathered parameters can be looked at")


def one_element(mesh: DeviceMesh) -> None:
    """Two replicas of two shards; one element of one copy is wrong."""
    model = sharded(mesh)
    if dist.get_rank() == 3:
        local = model[2].weight.to_local().detach()
        local[-1, -1] = 100.0
        local[-2, 3] = 100.0
    found = verify(model, SEED, "he", check_ranks=True)
    assert found.different == ("2.weight",)
    (row,) = (row for row in found.rows if not row.equal)
    assert (row.num_elements, row.num_different, row.first_index) == (63, 2, (5, 3))
    assert row.actual == 100.0 != row.expected
    say("all ranks know of one element, counted once for its copies")
    found = verify(model, SEED, "he")
    assert found.equal is (dist.get_rank() != 3) and found.num_ranks == 1
    say("each rank for itself")


def stages() -> None:
    model = nn.Linear(4, 4)
    name = str(dist.get_rank() // 2)
    model = nn.ModuleDict({name: model})
    init_model_(model, SEED)
    found = verify(model, SEED, check_ranks=True)
    assert found.unmoved == ("0.weight", "0.bias", "1.weight", "1.bias") and found
    assert found.num_elements == 2 * 20
    say("two stages of a pipeline")


def shapes_that_differ() -> None:
    """Each rank's values are right by themselves, so that only the shapes tell."""
    model = nn.Sequential(nn.Linear(4, 6 if dist.get_rank() == 2 else 4), nn.Flatten(), nn.Linear(3, 3))
    init_model_(model, SEED)
    assert verify(model, SEED)
    found = verify(model, SEED, check_ranks=True)
    assert not found and found.unmoved == ("2.weight", "2.bias") and found.num_elements == 12
    assert [(each.name, each.kind, each.text) for each in found.problems] == [
        ("0.weight", "shape", "its shape is [4, 4] on ranks 0, 1, 3, and [6, 4] on rank 2"),
        ("0.bias", "shape", "its shape is [4] on ranks 0, 1, 3, and [6] on rank 2"),
    ]
    say("one name, two shapes")
    weight = weight_of(8 if dist.get_rank() == 3 else 4)
    mesh = init_device_mesh("cpu", (4,))
    part = nn.Parameter(distribute_tensor(weight, mesh, [Shard(0)], src_data_rank=None))
    model = nn.Linear(2, 4, bias=False)
    model.weight = part
    (problem,) = verify(model, SEED, check_ranks=True).problems
    assert problem.text == "its shape is [4, 2] on ranks 0, 1, 2, and [8, 2] on rank 3"
    say("two shapes of sharded tensors")


def weight_of(rows: int) -> torch.Tensor:
    model = nn.Linear(2, rows, bias=False)
    init_model_(model, SEED)
    return model.weight.detach()


def failures() -> None:
    model = nn.Linear(2, 2)
    if dist.get_rank() == 2:
        model.weight = nn.Parameter(torch.empty(2, 2, device="meta"))
    with pytest.raises(RuntimeError, match=r"^rank 2: ValueError: 1 tensor on the meta device"):
        verify(model, SEED, check_ranks=True)
    say("what fails on one rank is said on all")
    with pytest.raises(ValueError, match=r"the seed must be the same on all ranks"):
        verify(nn.Linear(2, 2), dist.get_rank() // 3, check_ranks=True)
    say("seeds that differ")


def main() -> None:
    dist.init_process_group("gloo")
    trained(init_device_mesh("cpu", (4,)))
    one_element(init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))
    stages()
    shapes_that_differ()
    failures()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
