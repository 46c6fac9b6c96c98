"""Run as ranks: parameters as DeepSpeed and Megatron leave them."""

import enum
import inspect
import sys
import types

import pytest
import torch
import torch.distributed as dist
from clients import shared_folder
from init_functions import FUNCTIONS
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from convinit_ext import (
    Key,
    Shard,
    fingerprint,
    fingerprints,
    init,
    init_model_,
    intercept,
    plan_model,
    save_model,
    verify,
)
from convinit_ext.recipes import TORCH, CopyFrom, Kaiming, Preset, Rule, Xavier


class Status(enum.Enum):
    AVAILABLE = 1
    NOT_AVAILABLE = 2


def build() -> nn.Module:
    torch.manual_seed(dist.get_rank())
    return nn.Sequential(
        nn.Embedding(7, 5, padding_idx=3),
        weight_norm(nn.Linear(5, 9)),
        nn.Conv2d(3, 2, 3),
        nn.LayerNorm(5),
        nn.BatchNorm1d(1),
    )


def ranges_of(num_elements: int) -> tuple[int, int, int]:
    size = -(-num_elements // dist.get_world_size())
    start = min(dist.get_rank() * size, num_elements)
    return size, start, min(start + size, num_elements)


def partition(model: nn.Module) -> nn.Module:
    """As deepspeed.zero.Init leaves it."""
    for number, parameter in enumerate(model.parameters()):
        size, start, stop = ranges_of(parameter.numel())
        piece = torch.full((size,), 7.0, dtype=parameter.dtype)
        piece[: stop - start] = parameter.detach().flatten()[start:stop]
        parameter.ds_id, parameter.ds_shape, parameter.ds_numel = number, parameter.shape, parameter.numel()
        parameter.ds_tensor, parameter.ds_status = piece, Status.NOT_AVAILABLE
        parameter.ds_process_group = None
        parameter.data = torch.empty(0, dtype=parameter.dtype)
    return model


def assert_pieces_of(model: nn.Module, whole: nn.Module) -> None:
    for (name, own), (_, other) in zip(model.named_parameters(), whole.named_parameters(), strict=True):
        _, start, stop = ranges_of(other.numel())
        piece, padding = own.ds_tensor[: stop - start], own.ds_tensor[stop - start :]
        assert torch.equal(piece, other.detach().flatten()[start:stop]), name
        assert (own.numel() == 0 and (padding == 7).all()) or not padding.numel(), name


def zero3() -> None:
    whole, model = build(), partition(build())
    for recipe in ("torch", "he", "xavier"):
        report, expected = init_model_(model, 3, recipe), init_model_(whole, 3, recipe)
        assert [row[:7] for row in report.rows] == [row[:7] for row in expected.rows]
        assert_pieces_of(model, whole)
        assert verify(model, 3, recipe, check_ranks=True)
        assert fingerprint(model) == fingerprint(whole)
        assert fingerprints(model) == fingerprints(whole)
    recipe = [
        Rule(CopyFrom("3.weight"), name="3.bias"),
        Rule(Preset(torch.arange(35.0).view(7, 5)), name="0.weight"),
        *TORCH,
    ]
    plan = plan_model(model, 4, recipe)
    for seed in (4, 5):
        plan.run(seed)
        init_model_(whole, seed, recipe)
        assert_pieces_of(model, whole)
        assert verify(model, seed, recipe)
    assert plan.fingerprint(5) == fingerprint(whole)
    model[0].weight.ds_tensor[0] += 1
    found = verify(model, 5, recipe)
    (row,) = [row for row in found.rows if not row.equal]
    first = ranges_of(35)[1]
    assert (row.name, row.shape, row.first_index) == ("0.weight", (7, 5), (first // 5, first % 5))
    folder = shared_folder()
    save_model(model, folder, 3)
    assert verify(folder, 3, model=whole)
    init_model_(whole, 3)
    assert fingerprint(folder) == fingerprint(whole)
    before = [each.ds_tensor.clone() for each in model.parameters()]
    with pytest.raises(ValueError, match=r"parameter '0\.weight': .*keeps its dtype; leave dtype= out"):
        init_model_(model, 3, dtype=torch.bfloat16)
    model[2].weight._z3_optimizer = None
    with pytest.raises(ValueError, match=r"parameter '2\.weight'.*before deepspeed.initialize"):
        init_model_(model, 3)
    assert all(map(torch.equal, before, (each.ds_tensor for each in model.parameters())))
    init_model_(model, 3, skip="2")
    model[0].weight.ds_tensor = model[0].weight.ds_tensor[1:].clone()
    for refuses in (init_model_, verify, plan_model):
        with pytest.raises(ValueError, match=r"'0\.weight'.*ds_tensor has shape.*GatheredParameters"):
            refuses(model, 3)
    with pytest.raises(ValueError, match=r"'weight'.*ds_tensor has shape"):
        fingerprint(model[0])
    model = partition(build())
    if dist.get_rank() == 1:
        for parameter in model.parameters():
            parameter.ds_tensor = None
    said = "without a ds_tensor" if dist.get_rank() == 1 else "rank 1 could not read what it holds"
    for reads in (fingerprint, fingerprints):
        with pytest.raises((ValueError, RuntimeError), match=said):
            reads(model)
    model = partition(build())
    for parameter in model.parameters():  # as inside of GatheredParameters
        parameter.data, parameter.ds_status = torch.empty(parameter.ds_shape), Status.AVAILABLE
    init_model_(model, 6)
    init_model_(whole, 6)
    assert all(map(torch.equal, model.parameters(), whole.parameters()))
    assert fingerprint(model) == fingerprint(whole)
    for parameter in model.parameters():
        parameter.data, parameter.ds_status = torch.empty(0), Status.NOT_AVAILABLE
    assert_pieces_of(model, whole)


def each_function(whole: nn.Module, model: nn.Module, weight_of, assert_same) -> None:
    """Those of init, with a key and drawn, and those of torch inside intercept."""
    for name, arguments in FUNCTIONS.items():
        ours, torchs = getattr(init, name), getattr(nn.init, name)
        keys = ({"key": Key(3, name)}, {}) if "generator" in inspect.signature(torchs).parameters else ({},)
        for key in keys:
            for each in (whole, model):
                torch.manual_seed(5)
                assert ours(weight_of(each), **arguments, **key) is weight_of(each)
            assert_same(name)
        for blocks in (lambda each: (each, 3), lambda each: (None, 3), lambda each: (None, None)):
            for each in (whole, model):
                torch.manual_seed(6)
                with intercept(*blocks(each)):
                    torchs(weight_of(each), **arguments)
            assert_same(f"intercept, {name}")


def zero3_by_functions() -> None:
    def assert_same(what: str) -> None:
        start, stop = ranges_of(60)[1:]
        piece = model.weight.ds_tensor[: stop - start]
        assert torch.equal(piece, whole.weight.detach().flatten()[start:stop]), what
        assert model.weight.numel() == 0

    whole = nn.Linear(6, 10, bias=False)
    model = partition(nn.Linear(6, 10, bias=False))
    each_function(whole, model, lambda each: each.weight, assert_same)
    for each in (whole, model):
        with intercept(each, 3):
            each.weight.requires_grad_(False).uniform_()
            each.weight.normal_(2.0)
    assert_same("methods")
    with pytest.raises(ValueError, match="expects std >= 0"):
        init.normal_(model.weight, std=-1.0)
    assert_same("a wrong argument")


class Parallel(nn.Module):
    def __init__(self, shape, dim: int, stride: int, num_ranks: int, device: str) -> None:
        super().__init__()
        local = [size // num_ranks if at == dim else size for at, size in enumerate(shape)]
        self.weight = nn.Parameter(torch.full(local, 7.0, device=device))
        self.weight.tensor_model_parallel = num_ranks > 1
        self.weight.partition_dim, self.weight.partition_stride = dim, stride


class Layer(nn.Module):
    def __init__(self, num_ranks: int, device: str = "cpu") -> None:
        super().__init__()
        self.embedding = Parallel((num := 4 * 3, 5), 0, 1, num_ranks, device)
        self.fc1 = Parallel((24, 6), 0, 2, num_ranks, device)
        self.fc2 = Parallel((6, num), 1, 1, num_ranks, device)
        self.norm = nn.LayerNorm(6, device=device)


def megatron() -> None:
    num_ranks = dist.get_world_size()
    xavier, he = ([Rule(each, module=Parallel), *TORCH] for each in (Xavier(), Kaiming()))
    with pytest.raises(ValueError, match=r"'embedding\.weight'.*parallel_state.*Shard\.split"):
        init_model_(Layer(num_ranks), 3, xavier)
    with pytest.raises(ValueError, match=r"'embedding\.weight'.*parallel_state.*Shard\.split"):
        fingerprint(Layer(num_ranks))
    state = types.ModuleType("megatron.core.parallel_state")
    state.get_tensor_model_parallel_group = lambda: dist.group.WORLD
    sys.modules["megatron.core.parallel_state"] = state
    for recipe, device, dtype in (
        (xavier, "cpu", None),
        (he, "meta", None),
        (xavier, "cpu", torch.bfloat16),
        (he, "meta", torch.float64),
    ):
        whole, model = Layer(1), Layer(num_ranks, device)
        expected, report = (init_model_(each, 3, recipe, dtype=dtype) for each in (whole, model))
        assert [row[:7] for row in report.rows] == [row[:7] for row in expected.rows]
        for name in ("embedding", "fc1", "fc2"):
            own, full = getattr(model, name).weight, getattr(whole, name).weight
            assert isinstance(own, nn.Parameter) and own.tensor_model_parallel
            chunks = full.chunk(num_ranks * own.partition_stride, own.partition_dim)
            mine = torch.cat(chunks[dist.get_rank() :: num_ranks], own.partition_dim)
            assert torch.equal(own, mine), name
        assert verify(model, 3, recipe)
        assert fingerprint(model) == fingerprint(whole)

    for name, dim, stride in (("fc1", 0, 2), ("fc2", 1, 1)):

        def assert_same(what: str, name: str = name, dim: int = dim, stride: int = stride) -> None:
            own, full = getattr(model, name).weight, getattr(whole, name).weight
            mine = torch.cat(full.chunk(num_ranks * stride, dim)[dist.get_rank() :: num_ranks], dim)
            assert torch.equal(own, mine), (name, what)

        each_function(whole, model, lambda each, name=name: getattr(each, name).weight, assert_same)
        for each in (whole, model):
            with intercept(each, 4):
                nn.init.kaiming_uniform_(getattr(each, name).weight.data)
        assert_same("data")
    for each in (whole, model):
        with intercept(each, 4), torch.no_grad():
            each.fc2.weight[:2].normal_()
    assert_same("a slice along the other dimension")  # of fc2
    own = model.fc1.weight
    shard = Shard.split((24, 6), 0, dist.get_rank(), num_ranks, 2)
    init.normal_(own, shard=shard)
    model.fc2.weight.partition_dim = 5
    with pytest.raises(ValueError, match=r"'fc2\.weight'.*there is no dim"):
        init_model_(model, 3, xavier)
    del sys.modules["megatron.core.parallel_state"]


class ColumnParallelLinear(nn.Module):
    def __init__(self, group: dist.ProcessGroup, allreduce: bool = True) -> None:
        super().__init__()
        self.tp_group = group
        self.weight = nn.Parameter(torch.full((8 // group.size(), 6), 7.0))
        self.weight.allreduce = allreduce


def megatron_layers() -> None:
    """Their process group counts, and not that of all layers; they know what their weights do not say."""
    num_ranks, rank = dist.get_world_size(), dist.get_rank()
    recipe = [Rule(Xavier(), module=ColumnParallelLinear), *TORCH]
    state = types.ModuleType("megatron.core.parallel_state")
    state.get_tensor_model_parallel_group = lambda: dist.group.WORLD
    state.get_expert_model_parallel_world_size = lambda: num_experts
    sys.modules["megatron.core.parallel_state"] = state
    ColumnParallelLinear.__module__ = "megatron.core.tensor_parallel.layers"
    alone = [dist.new_group([each]) for each in range(num_ranks)][rank]
    pair = dist.new_group([0, 1])
    whole = nn.Sequential(ColumnParallelLinear(alone))
    whole[0].weight.tensor_model_parallel, whole[0].weight.partition_dim = True, 0
    init_model_(whole, 3, recipe)
    assert fingerprint(whole) == plan_model(whole, 3, recipe).fingerprint()
    if rank < 2:
        model = nn.Sequential(ColumnParallelLinear(pair))
        weight, mine = model[0].weight, slice(4 * rank, 4 * rank + 4)
        said = r"'0\.weight': .*perform_initialization=False.*set_tensor_model_parallel_attributes"
        for refuses in (init_model_, plan_model, verify):
            with pytest.raises(ValueError, match=said):
                refuses(model, 3, recipe)
        with pytest.raises(ValueError, match=said):
            fingerprint(model)
        assert weight.eq(7).all()
        weight.tensor_model_parallel, weight.partition_dim = True, 0
        init_model_(model, 3, recipe)
        assert torch.equal(weight, whole[0].weight[mine]) and fingerprint(model) == fingerprint(whole)
        for each in (model, whole):
            with intercept(each, seed=4):
                nn.init.xavier_normal_(each[0].weight)
        assert torch.equal(weight, whole[0].weight[mine])
    num_experts = 2
    model = nn.Sequential(ColumnParallelLinear(alone, allreduce=False))
    with pytest.raises(ValueError, match=r"'0\.weight': it is of an expert that this rank alone has.*names="):
        init_model_(model, 3, recipe)
    init_model_(model, 3, recipe, names={"0": "0"})
    num_experts = 1
    init_model_(model, 4, recipe)
    init_model_(whole, 4, recipe)
    assert torch.equal(model[0].weight, whole[0].weight)
    del sys.modules["megatron.core.parallel_state"]


CASES = (zero3, zero3_by_functions, megatron, megatron_layers)
