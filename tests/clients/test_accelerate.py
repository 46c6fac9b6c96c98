"""accelerate itself: models that it prepares, builds without memory and moves away."""

import contextlib
import itertools
from functools import partial

import pytest

pytest.importorskip("accelerate")

import torch
from accelerate import Accelerator, cpu_offload, disk_offload, dispatch_model, init_empty_weights
from accelerate.hooks import remove_hook_from_submodules
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, compile_regions
from clients import assert_all_hold, assert_refused, assert_same_values, run_cases
from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

from convinit_ext import Key, fingerprint, init, init_model_, intercept, plan_model, save_model, verify


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6, padding_idx=2)
        self.blocks = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 11, bias=False)
        self.tie_weights()

    def tie_weights(self) -> None:
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def whole_of(seed: int) -> Net:
    whole = Net()
    init_model_(whole, seed)
    return whole


def prepared_models_keep_their_keys() -> None:
    accelerator = Accelerator(cpu=True)
    for build in (Net, lambda: torch.compile(Net(), backend="eager"), lambda: compile_regions(Net())):
        model = accelerator.prepare(build())
        assert isinstance(model, nn.parallel.DistributedDataParallel)
        init_model_(model, 3, check_ranks=True)
        assert_same_values(accelerator.unwrap_model(model), whole_of(3))
        assert fingerprint(model) == plan_model(model, 3).fingerprint() == fingerprint(whole_of(3))
        assert verify(model, 3, check_ranks=True)
        with intercept(model, seed=4):
            embedding = nn.init.normal_(next(model.parameters()))
        assert torch.equal(embedding, init.normal_(torch.empty(11, 6), key=Key(4, "embed.weight")))


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 4))


def sharded_models_are_filled() -> None:
    for version, is_empty in itertools.product((1, 2), (True, False)):
        AcceleratorState._reset_state()
        accelerator = Accelerator(cpu=True)
        accelerator.state.device = torch.device("cpu")
        accelerator.state.distributed_type = DistributedType.FSDP  # which it chooses where there is a GPU
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=version,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["Linear"],
            cpu_ram_efficient_loading=False,
        )
        whole = layers()
        with init_empty_weights() if is_empty else contextlib.nullcontext():
            model = layers()
        assert next(model.parameters()).is_meta == is_empty
        kinds = (FullyShardedDataParallel, FSDPModule)
        model, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        assert isinstance(model, kinds[version - 1])
        init_model_(model, 3, check_ranks=True)
        init_model_(whole, 3)
        assert fingerprint(model) == fingerprint(whole) == plan_model(whole, 3).fingerprint()
        assert verify(model, 3) and not verify(model, 4)
        assert torch.equal(model(torch.ones(2, 8)), whole(torch.ones(2, 8)))
        assert_refused("gathered|before its first forward pass", partial(init_model_, model, 4))
    AcceleratorState._reset_state()


CASES = (prepared_models_keep_their_keys, sharded_models_are_filled)


def test_on_two_processes():
    assert_all_hold(__file__, CASES)


def main() -> None:
    run_cases(CASES)


@pytest.mark.parametrize("include_buffers", [False, True])
def test_models_without_memory_are_tied_again(include_buffers, tmp_path):
    with init_empty_weights(include_buffers=include_buffers):
        model = Net()
    assert include_buffers == (model.head.weight is model.embed.weight)
    save_model(model, tmp_path / "a.safetensors", 3)
    init_model_(model, 3)
    assert model.head.weight is model.embed.weight
    assert_same_values(model, whole_of(3))
    assert fingerprint(model) == fingerprint(whole_of(3)) == fingerprint(tmp_path / "a.safetensors")
    tokens = torch.arange(11)
    assert torch.equal(model(tokens), whole_of(3)(tokens))


def offloaded_to_cpu(model: nn.Module, folder) -> nn.Module:
    return cpu_offload(model, execution_device="cpu")


def offloaded_to_disk(model: nn.Module, folder) -> nn.Module:
    disk_offload(model, folder, execution_device="cpu")
    return model


def dispatched(model: nn.Module, folder) -> nn.Module:
    places = {"embed": "cpu", "head": "cpu", "norm": "cpu", "blocks.0": "disk", "blocks.1": "disk"}
    return dispatch_model(model, places, main_device="cpu", offload_dir=folder)


@pytest.mark.parametrize("offload", [offloaded_to_cpu, offloaded_to_disk, dispatched])
def test_what_hooks_hold_is_refused_by_name(offload, tmp_path):
    model = offload(whole_of(3), tmp_path)
    tokens = torch.arange(11)
    before = model.eval()(tokens)
    said = r"'(embed\.weight|blocks\.0\.weight)': accelerate has offloaded it.*remove_hook_from_submodules"
    assert_refused(said, lambda: init_model_(model, 4), lambda: plan_model(model, 4))
    assert_refused("meta", lambda: fingerprint(model))
    assert torch.equal(model(tokens), before)
    remove_hook_from_submodules(model)
    init_model_(model, 4)
    assert_same_values(model, whole_of(4))


def test_hooks_that_hold_nothing_are_no_matter():
    model = dispatch_model(Net(), {"": "cpu"}, force_hooks=True)
    init_model_(model, 3)
    assert_same_values(model, whole_of(3))
