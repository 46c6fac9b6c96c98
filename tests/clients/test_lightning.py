"""Lightning itself: Fabric's wrapper and its strategies, and the Trainer's."""

import itertools
from functools import partial

import pytest

pytest.importorskip("lightning")

import lightning
import torch
from clients import assert_all_hold, assert_refused, assert_same_values, run_cases
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.fabric.strategies import ModelParallelStrategy
from lightning.fabric.wrappers import _FabricModule
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from convinit_ext import Key, fingerprint, init, init_model_, intercept, plan_model, save_model, verify


def built() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))


def whole_of(seed: int) -> nn.Module:
    whole = built()
    init_model_(whole, seed)
    return whole


def assert_keys_stay(fabric: Fabric, prefix: str) -> None:
    for build in (built, lambda: torch.compile(built(), backend="eager")):
        model = fabric.setup(build())
        assert isinstance(model, _FabricModule)
        assert next(iter(model.state_dict())) == "0.weight"  # what Fabric shows of it
        name = next(iter(dict(model.named_parameters())))
        assert name == f"_forward_module.{'' if build is built else '_orig_mod.'}{prefix}0.weight"
        init_model_(model, 3)
        assert_same_values(model, whole_of(3))
        assert fingerprint(model) == plan_model(model, 3).fingerprint() == fingerprint(whole_of(3))
        assert verify(model, 3) and not verify(model, 4)
        assert [row.name for row in init_model_(model, 4, only="0.weight").rows] == ["0.weight"]
        with intercept(model, seed=5):
            weight = nn.init.normal_(next(model.parameters()))
        assert torch.equal(weight, init.normal_(torch.empty(6, 8), key=Key(5, "0.weight")))


def test_the_keys_of_the_model_inside_stay(tmp_path):
    fabric = Fabric(accelerator="cpu", devices=1)
    assert_keys_stay(fabric, "")
    save_model(fabric.setup(built()), tmp_path / "a.safetensors", 3)
    assert fingerprint(tmp_path / "a.safetensors") == fingerprint(whole_of(3))


def test_models_that_are_built_empty():
    fabric = Fabric(accelerator="cpu", devices=1)
    with fabric.init_module(empty_init=True):
        model = built()
    init_model_(fabric.setup(model), 3)
    assert_same_values(model, whole_of(3))


def replicas_keep_their_keys() -> None:
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp", plugins=[TorchElasticEnvironment()])
    fabric.launch()
    assert fabric.world_size == 2
    assert_keys_stay(fabric, "module.")


class Module(lightning.LightningModule):
    def configure_model(self) -> None:
        self.layers = built()
        init_model_(self, 3)

    def training_step(self, batch, index):
        return self.layers(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def models_that_a_trainer_configures() -> None:
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        plugins=[TorchElasticEnvironment()],
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = torch.utils.data.DataLoader(torch.ones(8, 8), batch_size=2)
    model = Module()
    trainer.fit(model, data)
    whole = nn.ModuleDict({"layers": built()})
    init_model_(whole, 3)
    assert_same_values(model, whole)
    init_model_(trainer.strategy.model, 4)
    init_model_(whole, 4)
    assert_same_values(model, whole)


def sharded(model: nn.Module, mesh) -> nn.Module:
    return fully_shard(model, mesh=mesh["data_parallel"])


def sharded_and_filled(model: nn.Module, mesh) -> nn.Module:
    init_model_(sharded(model, mesh), 3)
    return model


def models_that_fabric_shards() -> None:
    for parallelize, is_empty in itertools.product((sharded, sharded_and_filled), (True, False)):
        fabric = Fabric(
            accelerator="cpu",
            devices=2,
            strategy=ModelParallelStrategy(parallelize, data_parallel_size=2, tensor_parallel_size=1),
            plugins=[TorchElasticEnvironment()],
        )
        fabric.launch()
        with fabric.init_module(empty_init=is_empty):
            model = built()
        model = fabric.setup(model)
        if parallelize is sharded:
            init_model_(model, 3, check_ranks=True)
        assert fingerprint(model) == plan_model(model, 3).fingerprint() == fingerprint(whole_of(3))
        assert verify(model, 3, check_ranks=True) and not verify(model, 4)
        with intercept(model, seed=5):
            weight = nn.init.normal_(next(model.parameters()))
        assert torch.equal(weight.full_tensor(), init.normal_(torch.empty(6, 8), key=Key(5, "0.weight")))
        model(torch.ones(2, 8))
        assert_refused("holds gathered parameters.*reshard", partial(init_model_, model, 4))
        model.reshard()
        init_model_(model, 4)
        model.eval()
        assert torch.equal(model(torch.ones(2, 8)), whole_of(4).eval()(torch.ones(2, 8)))


def models_that_the_older_fsdp_shards_inside_of_fabrics_wrapper() -> None:
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp", plugins=[TorchElasticEnvironment()])
    fabric.launch()
    for original in (True, False):
        inside = built()
        wrapped = FullyShardedDataParallel(inside, device_id=torch.device("cpu"), use_orig_params=original)
        model = _FabricModule(
            wrapped, fabric.strategy, original_module=inside
        )  # its own strategy needs a GPU
        init_model_(model, 3)
        assert fingerprint(model) == fingerprint(whole_of(3))
        assert verify(model, 3) and not verify(model, 4)
        if not original:
            held = dict(model.named_parameters())
            assert_refused("is the flat parameter of a Fully", partial(fingerprint, held))


CASES = (
    replicas_keep_their_keys,
    models_that_a_trainer_configures,
    models_that_fabric_shards,
    models_that_the_older_fsdp_shards_inside_of_fabrics_wrapper,
)


def test_on_two_processes():
    assert_all_hold(__file__, CASES)


def main() -> None:
    run_cases(CASES)
