"""Run as ranks (test_on_processes.py): experts' weights on a mesh of expert and data ranks, over gloo.

Experts are cut along an axis of their own, by dimension 0 of [experts, in, out], and once more by FSDP2; or
every process has modules of its own experts alone.
"""

import torch
import torch.distributed as dist
from filling import assert_same_bits
from real_models import mixtral
from sharded_models import SEED, WITH_TRANSFORMERS, Cut, check
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from convinit_ext import Normal, TruncatedNormal, init_model_
from convinit_ext.recipes import TORCH, Kaiming, Recipe, Rule, Xavier

if WITH_TRANSFORMERS:
    mixtral()  # imports what it is made of, before this process is forked
BARE = Recipe(
    (
        Rule(Kaiming(), name="*.up"),
        Rule(Xavier(), name="*.down"),
        Rule(TruncatedNormal(std=0.02), name="*.gate.weight"),
        Rule(Normal(std=0.02), name="*.experts.*"),
    ),
    allow_unused=True,
)


class Experts(nn.Module):
    def __init__(self, num_experts: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.empty(num_experts, 8, 12))
        self.down = nn.Parameter(torch.empty(num_experts, 12, 8))


class Layer(nn.Module):
    def __init__(self, num_experts: int) -> None:
        super().__init__()
        self.router = nn.Linear(8, num_experts, bias=False)
        self.experts = Experts(num_experts)


def cut_experts(model: nn.Module, mesh: DeviceMesh) -> None:
    """Every parameter of a module of experts by its first dimension."""
    for module in model.modules():
        if type(module).__name__.endswith("Experts"):
            for leaf, parameter in list(module._parameters.items()):
                cut = distribute_tensor(parameter.detach(), mesh, [Shard(0)], src_data_rank=None)
                setattr(module, leaf, nn.Parameter(cut))


def expert_parallel(mesh: DeviceMesh, dim: int) -> Cut:
    """Experts over "ep", and everything over "dp", experts by this dimension."""

    def placement(parameter: nn.Parameter) -> Shard:
        return Shard(dim if parameter.ndim == 3 else 0)

    def cut(model: nn.Module) -> None:
        cut_experts(model, mesh["ep"])
        for child in model.modules():
            if type(child).__name__ in ("Layer", "MixtralDecoderLayer"):
                fully_shard(child, mesh=mesh["dp"], shard_placement_fn=placement)
        fully_shard(model, mesh=mesh["dp"], shard_placement_fn=placement)

    return cut


def one_tensor(mesh: DeviceMesh) -> None:
    for num_experts in (8, 6, 5):
        for dim in (0, 1, 2):

            def build(num_experts: int = num_experts) -> nn.Module:
                return nn.Sequential(Layer(num_experts), Layer(num_experts))

            name = f"{num_experts} experts in one tensor, FSDP2 by dimension {dim}"
            # by dimension 0 distribute_tensor deals uneven rows out in another order than FSDP2
            check(name, build, expert_parallel(mesh, dim), True, [*BARE, *TORCH], by_shard=dim > 0)


def own_modules() -> None:
    """As where every rank builds its experts alone: the names are those that they have in the whole."""
    rank, size = dist.get_rank(), dist.get_world_size()
    whole = nn.ModuleDict({"experts": nn.ModuleList([nn.Linear(6, 10) for _ in range(2 * size)])})
    mine = nn.ModuleDict({"experts": nn.ModuleList([nn.Linear(6, 10) for _ in range(2)])})
    init_model_(whole, SEED)
    init_model_(mine, SEED, names={f"experts.{each}": f"experts.{2 * rank + each}" for each in range(2)})
    for each in range(2):
        for leaf, parameter in mine["experts"][each].named_parameters():
            expected = whole["experts"][2 * rank + each].get_parameter(leaf)
            assert_same_bits(parameter, expected, (rank, each, leaf))


def experts() -> None:
    size = dist.get_world_size()
    mesh = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("dp", "ep"))
    one_tensor(mesh)
    own_modules()
    if WITH_TRANSFORMERS:
        for dim in (0, 2):
            name, cut = f"Mixtral, FSDP2 by dimension {dim}", expert_parallel(mesh, dim)
            check(name, mixtral, cut, False, [*BARE, *TORCH], by_shard=dim > 0)


CASES = (experts,)
