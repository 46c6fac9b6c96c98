"""Run as ranks: models under FullyShardedDataParallel, the older FSDP."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel as Wrapper
from torch.distributed.fsdp import ShardingStrategy
from torch.nn.utils import parametrizations

from convinit_ext import (
    fingerprint,
    fingerprints,
    init,
    init_model_,
    intercept,
    plan_model,
    save_model,
    verify,
)


def build() -> nn.Module:
    return nn.Sequential(nn.Embedding(40, 6), nn.Linear(6, 6), nn.LayerNorm(6))  # rank 1 has none of the last


def wrapped(**options) -> Wrapper:
    inner = build()
    inner[1] = Wrapper(inner[1], device_id=torch.device("cpu"), **options)
    return Wrapper(inner, device_id=torch.device("cpu"), **options)


def values(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def assert_refused(model: nn.Module, said: str, recipe: str = "torch") -> None:
    before = values(model)
    for refuses in (init_model_, plan_model, verify):
        with pytest.raises(ValueError, match=said):
            refuses(model, 3, recipe)
    assert_not_saved(model, said, recipe)
    assert all(map(torch.equal, before, values(model)))


def assert_not_saved(model: nn.Module, said: str, recipe: str = "torch") -> None:
    with pytest.raises(RuntimeError, match=f"(?s)ranks 0, 1[^:]*: ValueError: .*{said}"):
        save_model(model, "/nowhere", 3, recipe)


def assert_filled_in_place(model: Wrapper, whole: nn.Module) -> None:
    """Under every recipe, and by a plan that is run twice."""
    for recipe in ("torch", "xavier", "llama"):
        expected = init_model_(whole, 3, recipe)
        report = init_model_(model, 3, recipe, dtype=torch.float32)  # which it has
        assert sorted(row[:7] for row in report.rows) == sorted(row[:7] for row in expected.rows)
        assert verify(model, 3, recipe, check_ranks=True)
        assert not verify(model, 4, recipe, check_ranks=True)
        with Wrapper.summon_full_params(model):
            assert verify(model, 3, recipe)
            assert all(map(torch.equal, values(model), values(whole)))
            init_model_(model, 4, recipe)
        assert verify(model, 4, recipe)
    plan = plan_model(model, 4)
    plan.run(3)
    assert verify(model, 3)
    with pytest.raises(ValueError, match="pieces of a FullyShardedDataParallel"):
        plan.fingerprint()
    assert_not_saved(model, "is a FullyShardedDataParallel")
    with pytest.raises(ValueError, match="which keeps its dtypes; pass dtype= before"):
        init_model_(model, 3, dtype=torch.bfloat16)
    model(torch.zeros(2, dtype=torch.int64))
    with pytest.raises((ValueError, RuntimeError), match="plan it again"):
        plan.run(5)


def assert_functions_know_pieces() -> None:
    """Without a planned model: the functions of init, and a model's own init code inside intercept."""
    whole, model = build(), wrapped(use_orig_params=True)
    for at, parameter in enumerate(whole.parameters()):
        functions = (init.normal_, init.ones_) + ((init.xavier_uniform_,) if parameter.dim() > 1 else ())
        for function in functions:
            for each in (whole, model):
                torch.manual_seed(3)
                function(list(each.parameters())[at])
            assert_same_as(whole, model, at)
    for name in ("normal_", "uniform_", "zeros_", "trunc_normal_"):
        for each in (whole, model):
            with intercept(each, 4):
                for parameter in each.parameters():
                    getattr(nn.init, name)(parameter)
        assert_same_as(whole, model)
    with Wrapper.summon_full_params(model):
        for each in (whole, model):
            with intercept(each, 5):
                for module in each.modules():
                    if hasattr(type(module), "reset_parameters"):
                        module.reset_parameters()
    assert_same_as(whole, model)
    with pytest.raises(ValueError, match=r"FullyShardedDataParallel's flat parameter.*summon_full_params"):
        init.normal_(wrapped(use_orig_params=False)._handle.flat_param)
    gathered = wrapped(use_orig_params=True, sharding_strategy=ShardingStrategy.SHARD_GRAD_OP)
    gathered(torch.zeros(2, dtype=torch.int64))
    for parameter in gathered.parameters():
        for function in (init.normal_, init.zeros_):
            with pytest.raises(ValueError, match="view of a parameter that is in parts"):
                function(parameter)
    copy = nn.Parameter(torch.empty(4))
    copy._fsdp_flattened = True  # as a copy of one whose wrapper is gone
    init.normal_(copy)


def assert_same_as(whole: nn.Module, model: Wrapper, at: int | None = None) -> None:
    with Wrapper.summon_full_params(model):
        same = list(map(torch.equal, values(model), values(whole)))
        assert all(same) if at is None else same[at], same


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.middle = nn.Embedding(9, 4), nn.Sequential(nn.Linear(4, 4))
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.embed.weight


def assert_values_and_fingerprint(make: Callable[[], nn.Module]) -> None:
    whole = make()
    init_model_(whole, 3)
    for original in (True, False):
        for strategy in (ShardingStrategy.FULL_SHARD, ShardingStrategy.SHARD_GRAD_OP):
            options = {"use_orig_params": original, "sharding_strategy": strategy}
            for inner in (make(), nn.ModuleDict({"inner": make()})):
                model = Wrapper(inner, device_id=torch.device("cpu"), **options)
                expected = nn.ModuleDict({"inner": whole}) if isinstance(inner, nn.ModuleDict) else whole
                init_model_(model, 3)
                init_model_(expected, 3)
                assert_same_as(expected, model)
                assert fingerprint(model) == fingerprint(expected)
                assert fingerprints(model) == fingerprints(expected)


def pieces_are_filled_or_refused_and_whole_parameters_filled() -> None:
    whole = build()
    assert_functions_know_pieces()
    init_model_(whole, 3)
    for original in (True, False):
        for strategy in (ShardingStrategy.FULL_SHARD, ShardingStrategy.NO_SHARD):
            options = {"use_orig_params": original, "sharding_strategy": strategy}
            model = wrapped(**options)
            shows_whole = original and strategy == ShardingStrategy.NO_SHARD
            if strategy == ShardingStrategy.FULL_SHARD:
                assert_filled_in_place(model, whole)
                model = wrapped(**options)
            init_model_(whole, 3)
            if not shows_whole:
                if strategy == ShardingStrategy.NO_SHARD:
                    said = r"'' is a FullyShardedDataParallel.*summon_full_params.*fully_shard"
                    assert_refused(model, said)
                    assert_refused(model, "is a FullyShardedDataParallel", "llama")
                with Wrapper.summon_full_params(model):
                    init_model_(model, 3)
                    assert verify(model, 3)
            else:
                init_model_(model, 3)
                assert verify(model, 3)
            assert_refused(model.module, "FullyShardedDataParallel")
            if original:
                assert_refused(model.module[0], "may be a piece of the flat one.*pass that module")
            assert fingerprint(model) == fingerprint(whole), options
            with Wrapper.summon_full_params(model):
                assert all(map(torch.equal, values(model), values(whole)))
                with pytest.raises(ValueError, match="which keeps its dtypes; pass dtype= before"):
                    init_model_(model, 3, dtype=torch.bfloat16)
            model(torch.zeros(2, dtype=torch.int64))
            if not shows_whole:
                assert_refused(model, "is a FullyShardedDataParallel")
    assert_values_and_fingerprint(Language)
    for norm in (parametrizations.weight_norm, nn.utils.weight_norm):
        assert_values_and_fingerprint(lambda norm=norm: nn.Sequential(norm(nn.Linear(5, 7))))


CASES = (pieces_are_filled_or_refused_and_whole_parameters_filled,)
