"""The number of layers that a recipe scales by: that of a model's blocks, however its lists are nested."""

import math

import pytest
from named_modules import holding
from planning import fillings
from torch import nn

from convinit_ext import Normal


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.c_proj = nn.Linear(4, 12), nn.Linear(4, 4)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.c_proj = nn.Linear(4, 8), nn.Linear(8, 4)


class Block(nn.Module):
    def __init__(self, num_experts: int = 0) -> None:
        super().__init__()
        self.attention = Attention()
        self.mlp = nn.ModuleList(Mlp() for _ in range(num_experts)) if num_experts else Mlp()


def stage(*blocks: nn.Module, kind: type = nn.ModuleList) -> nn.Module:
    return holding(
        "Stage", down=nn.Conv1d(4, 4, 1), blocks=kind(blocks) if kind is nn.ModuleList else kind(*blocks)
    )


@pytest.mark.parametrize(
    ("stages", "num_layers"),
    [
        (lambda: [nn.ModuleList(Block() for _ in range(4)) for _ in range(2)], 8),
        (lambda: [stage(*(Block() for _ in range(depth))) for depth in (3, 5)], 8),
        (lambda: [stage(*(Block() for _ in range(depth)), kind=nn.Sequential) for depth in (1, 5)], 6),
        (lambda: [Block() for _ in range(3)], 3),
        (lambda: [Block(num_experts=4) for _ in range(3)], 3),
        (lambda: [nn.ModuleList([Attention(), Mlp()]) for _ in range(3)], 3),
        (lambda: [nn.ModuleList(stage(Block(), Block()) for _ in range(3)) for _ in range(2)], 12),
    ],
    ids=["2 x 4", "3 + 5", "sequential", "flat", "experts", "pairs", "thrice"],
)
def test_the_number_of_layers_of_nested_lists_is_that_of_their_blocks(stages, num_layers):
    found = fillings(nn.ModuleDict({"stages": nn.ModuleList(stages())}), "gpt")
    projections = {value for name, value in found.items() if name.endswith("c_proj.weight")}
    assert projections == {Normal(0.0, 0.02 / math.sqrt(2 * num_layers))}


def test_gpts_number_of_layers_is_that_of_a_dict_of_numbers():
    model = nn.Module()
    model.layers = nn.ModuleDict({str(number): nn.ModuleDict({"wo": nn.Linear(4, 4)}) for number in range(8)})
    assert fillings(model, "gpt")["layers.3.wo.weight"] == Normal(0.0, 0.02 / math.sqrt(16))
