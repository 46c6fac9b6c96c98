"""Tensors that are no part of the model, filled inside a block: by what the code was called for."""

import pytest
import torch
from filling import assert_same_bits
from intercepted import assert_is
from meshes import every_rank
from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor

from convinit_ext import Key, init, intercept

NUM_RANKS = 4


def fused(weight: torch.Tensor) -> None:
    """As torchtitan's fused projection: three draws of the shapes of its own, put together."""
    parts = [weight.new_empty(size, weight.shape[1]) for size in (8, 4, 4)]
    for part in parts:
        nn.init.trunc_normal_(part, std=0.02)
    with torch.no_grad():
        weight.copy_(
            torch.cat([parts[0].view(4, 2, 6), *(part.view(4, 1, 6) for part in parts[1:])], 1).view(16, 6)
        )


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 16, bias=False)
        self.out = nn.Linear(16, 6)

    def reset_parameters(self) -> None:
        fused(self.qkv.weight)
        for parameter in self.out.parameters():
            values = torch.empty_like(parameter)
            values.normal_()
            with torch.no_grad():
                parameter.copy_(values)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(number): Attention() for number in range(3)})

    def init_weights(self) -> None:
        for layer in self.layers.values():
            layer.reset_parameters()


def filled(model: nn.Module, seed: int = 3) -> nn.Module:
    with intercept(model, seed):
        model.init_weights()
    return model


def test_a_stage_equals_the_whole():
    whole, stage = filled(Model()), Model()
    del stage.layers["0"]
    state = dict(filled(stage).named_parameters())
    assert state.keys() == {name for name, _ in whole.named_parameters() if ".0." not in name}
    for name, parameter in state.items():
        assert torch.equal(parameter, whole.get_parameter(name)), name
    weights = [layer.qkv.weight for layer in whole.layers.values()]
    assert not any(torch.equal(weights[0], each) for each in weights[1:])
    assert not torch.equal(filled(Model(), 4).layers["0"].qkv.weight, weights[0])


def test_names_of_the_keys():
    model = filled(Model())
    name = "layers.1.qkv.weight"
    parts = [
        init.trunc_normal_(torch.empty(size, 6), std=0.02, key=Key(3, f"{name}#temporary{number}"))
        for number, size in enumerate((8, 4, 4))
    ]
    heads = model.get_parameter(name).detach().view(4, 4, 6)
    assert_same_bits(heads[:, :2].reshape(8, 6), parts[0])
    assert_same_bits(heads[:, 2], parts[1])
    assert_same_bits(heads[:, 3], parts[2])
    out = model.layers["1"].out  # of which the function had no argument: by the module's name
    assert_is(out.weight.detach(), "layers.1#temporary0", seed=3)
    assert_is(out.bias.detach(), "layers.1#temporary1", seed=3)


@pytest.mark.parametrize("placement", [Shard(0), Shard(1)], ids=str)
def test_sharded(placement):
    whole = filled(Model()).layers["1"].qkv.weight.detach()
    for rank, mesh in enumerate(every_rank((NUM_RANKS,))):
        model = Model()
        for layer in model.layers.values():
            weight = distribute_tensor(layer.qkv.weight.detach(), mesh, [placement], src_data_rank=None)
            layer.qkv.weight = nn.Parameter(weight)
        with intercept(model, 3):
            for layer in model.layers.values():
                parts = []

                def draw(weight, parts=parts):
                    for size in (8, 4, 4):
                        parts.append(nn.init.trunc_normal_(weight.new_empty(size, 6), std=0.02))

                draw(layer.qkv.weight)
                if layer is model.layers["1"]:
                    values = parts
        heads = whole.view(4, 4, 6)
        for part, wanted in zip(values, (heads[:, :2], heads[:, 2], heads[:, 3]), strict=True):
            assert torch.equal(part.to_local(), wanted.reshape(part.shape)), rank


def test_the_argument_furthest_inside_counts():
    model = Model()
    drawn = {}

    def init_weights(self: nn.Module, module: nn.Module, *, parameter: nn.Parameter | None = None) -> None:
        drawn[len(drawn)] = nn.init.normal_(torch.empty(5))

    with intercept(model, 3):
        init_weights(model, model.layers["0"])
        init_weights(model.layers["0"], model.layers["0"].out)
        init_weights(model.layers, model.layers["2"], parameter=model.layers["2"].out.bias)
        model.layers["1"].apply(lambda module: init_weights(None, model))
    assert_is(drawn[0], "layers.0#temporary0", seed=3)
    assert_is(drawn[1], "layers.0.out#temporary0", seed=3)
    assert_is(drawn[2], "layers.2.out.bias#temporary0", seed=3)
    assert_is(drawn[3], "layers.1.qkv#temporary0", seed=3)
    assert_is(drawn[5], "layers.1#temporary0", seed=3)


def test_matrices_and_refused_fills():
    model = Model()

    def reset(weight: torch.Tensor) -> torch.Tensor:
        with pytest.raises(RuntimeError, match="std"):
            torch.empty(4, 4).normal_(std=-1.0)
        nn.init.eye_(torch.empty(4, 4))
        return nn.init.orthogonal_(torch.empty(4, 4))

    with intercept(model, 3):
        found = reset(model.layers["0"].qkv.weight)
    name = "layers.0.qkv.weight#temporary0"
    assert torch.equal(found, init.orthogonal_(torch.empty(4, 4), key=Key(3, name)))


def test_without_a_name_a_generator_is_followed():
    model, generator = Model(), torch.Generator().manual_seed(3)

    def draw(where: nn.Module | None, generator: torch.Generator | None = None) -> torch.Tensor:
        return nn.init.normal_(torch.empty(5), generator=generator)

    with intercept(model, 3):
        found = [draw(model), draw(None), draw(nn.Linear(2, 2, device="meta"))]
        given = draw(model.layers["0"], torch.Generator().manual_seed(8))
    for each in found:
        assert torch.equal(each, init.normal_(torch.empty(5), generator=generator))
    assert torch.equal(given, init.normal_(torch.empty(5), generator=torch.Generator().manual_seed(8)))
