"""Run as ranks: `.data` and slices of parameters in parts, which do not say so."""

import contextlib
import sys
import types

import pytest
import torch
import torch.distributed as dist
from foreign_ranks import Parallel, partition, ranges_of
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel as Wrapper

from convinit_ext import Key, init, intercept

SHAPE = (8, 6)
ALIASES = {
    "data": lambda weight: weight.data,
    "detached": lambda weight: weight.detach(),
    "a view of data": lambda weight: weight.data.view(-1),
}
SLICES = {
    "rows": lambda weight: weight[:2],
    "rows of data": lambda weight: weight.data[:2],
    "detached rows": lambda weight: weight.detach()[1:2],
    "a detached row": lambda weight: weight[:1].detach(),
}
KEYED = [
    lambda tensor: init.normal_(tensor, key=Key(3, "w")),
    init.uniform_,
    init.eye_,
    lambda tensor: init.orthogonal_(tensor, key=Key(3, "w")),
]
DRAWN = [
    nn.init.normal_,
    nn.init.trunc_normal_,
    lambda tensor: tensor.normal_(),
    lambda tensor: tensor.uniform_(),
]
SHAPED = [nn.init.xavier_normal_, nn.init.kaiming_uniform_, nn.init.orthogonal_, nn.init.eye_]
CONSTANTS = [nn.init.ones_, lambda tensor: tensor.zero_(), lambda tensor: tensor.fill_(2.0)]
CHANGES = [
    lambda tensor: tensor.add_(1),
    lambda tensor: tensor.__setitem__(slice(None), 1.0),
    lambda t: t.mul_(2),
]


def assert_refused(model: nn.Module, weight: Tensor, held: Tensor, fills, of, blocks, said: str) -> None:
    held.fill_(7.0)
    for fill in fills:
        for block in blocks:
            with pytest.raises(ValueError, match=said), block(model):
                fill(of(weight))
    assert held.eq(7).all()


NO_BLOCK = (lambda model: contextlib.nullcontext(),)
NO_MODEL = (lambda model: intercept(None, 3),)
ALL = (lambda model: intercept(model, 3), *NO_MODEL)
NOT_SAID = "in parts on several processes|FullyShardedDataParallel's flat parameter|Only tensors with 2"


@torch.no_grad()
def zero3() -> None:
    model = partition(nn.Sequential(nn.Linear(*SHAPE[::-1], bias=False)))
    weight, held = model[0].weight, model[0].weight.ds_tensor
    for of in (*ALIASES.values(), *SLICES.values()):
        assert_refused(model, weight, held, KEYED, of, NO_BLOCK, NOT_SAID)
        assert_refused(model, weight, held, [*DRAWN, *CONSTANTS, *CHANGES], of, ALL, NOT_SAID)
    _, start, stop = ranges_of(weight.ds_numel)
    whole = torch.arange(48.0).view(SHAPE)
    for block in ALL:
        with block(model):
            assert weight.fill_(5.0) is weight
            assert held.eq(5).all()
            weight.zero_()
            assert held.eq(0).all()
            weight.copy_(whole)
            assert torch.equal(held[: stop - start], whole.flatten()[start:stop])
            nn.init.constant_(weight, 3.0)
            assert held.eq(3).all()
    for changes in (*CHANGES, lambda tensor: tensor.copy_(torch.ones(6)), Tensor.exp_):
        said = r"placeholder of DeepSpeed's ZeRO-3, of shape \[8, 6\].*would write nothing"
        assert_refused(model, weight, held, [changes], lambda each: each, ALL, said)


@torch.no_grad()
def megatron() -> None:
    state = types.ModuleType("megatron.core.parallel_state")
    state.get_tensor_model_parallel_group = lambda: dist.group.WORLD
    sys.modules["megatron.core.parallel_state"] = state
    num_ranks = dist.get_world_size()
    for dim in (0, 1):
        model, whole = (Parallel(SHAPE, dim, 1, ranks, "cpu") for ranks in (num_ranks, 1))
        weight = model.weight
        for of in (*ALIASES.values(), *SLICES.values()):
            assert_refused(model, weight, weight, KEYED, of, NO_BLOCK, NOT_SAID)
            assert_refused(model, weight, weight, DRAWN, of, NO_MODEL, NOT_SAID)
        for of in (SLICES["rows"], SLICES["rows of data"]):  # one row alone is whole where rows are dealt out
            assert_refused(model, weight, weight, SHAPED, of, ALL, f"{NOT_SAID}|slice of 'weight'")
        for fill in (*DRAWN, *SHAPED, *CONSTANTS):
            for of in (ALIASES["data"], ALIASES["detached"]):
                for each in (model, whole):
                    with intercept(each, 3):
                        fill(of(each.weight))
                mine = whole.weight.chunk(num_ranks, dim)[dist.get_rank()]
                assert torch.equal(weight, mine), (dim, fill)
        plain = torch.zeros(4, 4)
        for tensor in (plain, plain[:2], plain.data, nn.Parameter(plain).data, plain.detach()[1:]):
            assert init.ones_(tensor).eq(1).all()
            assert init.normal_(tensor, key=Key(0, "w")).count_nonzero() == tensor.numel()
    experts = [Parallel((4, 3, 5), 0, 1, ranks, "cpu") for ranks in (num_ranks, 1)]
    first = dist.get_rank() * 4 // num_ranks
    for fill in SHAPED[:3]:
        for each in experts:
            with intercept(each, 3):
                for expert in each.weight.data:  # each is all there is of it
                    fill(expert)
        assert torch.equal(experts[0].weight, experts[1].weight[first : first + 4 // num_ranks])
    del sys.modules["megatron.core.parallel_state"]


@torch.no_grad()
def fsdp() -> None:
    inner = nn.Sequential(nn.Linear(*SHAPE[::-1], bias=False))
    model = Wrapper(inner, device_id=torch.device("cpu"), use_orig_params=True)
    weight = inner[0].weight
    for of in (*ALIASES.values(), *SLICES.values()):
        assert_refused(model, weight, weight, KEYED[:2], of, NO_BLOCK, NOT_SAID)
        assert_refused(model, weight, weight, DRAWN, of, NO_MODEL, NOT_SAID)
    said = f"{NOT_SAID}|a range of the flattened parameter"
    for of in SLICES.values():
        assert_refused(model, weight, weight, [*DRAWN, *CONSTANTS], of, ALL, said)
    whole = nn.Sequential(nn.Linear(*SHAPE[::-1], bias=False))
    for fill in (*DRAWN, *CONSTANTS, *SHAPED):
        for of in (ALIASES["data"], ALIASES["detached"]):
            for each, own in ((model, weight), (whole, whole[0].weight)):
                with intercept(each, 3):
                    fill(of(own))
            with Wrapper.summon_full_params(model):
                assert torch.equal(inner[0].weight, whole[0].weight), fill
            weight = inner[0].weight


CASES = (zero3, megatron, fsdp)
