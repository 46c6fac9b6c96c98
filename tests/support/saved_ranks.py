"""Run as ranks: the processes of a job save one model together."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from clients import shared_folder
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from convinit_ext import init_model_, save_model
from convinit_ext.checkpoint import _writer as file_writer
from convinit_ext.checkpoint._safetensors import open_weights


def build() -> nn.Module:
    return nn.Sequential(*(nn.Linear(6, 6 + index) for index in (0, 0, 0, 0, 1)))


def assert_saved(folder: Path, seed: int) -> None:
    model = build()
    init_model_(model, seed)
    tensors = open_weights(folder).tensors
    assert tensors.keys() == model.state_dict().keys()
    for name, expected in model.state_dict().items():
        values = tensors[name].flatten()
        assert values.equal(expected.flatten()), name


def each_writes_its_share(folder: Path) -> None:
    report = save_model(build(), folder, 7, max_shard_size=200)
    assert len(report.files) == 5
    assert {file.rank for file in report.files} == set(range(min(dist.get_world_size(), 5)))
    assert_saved(folder, 7)
    again = save_model(build(), folder, 7, max_shard_size=200)
    assert len(again.skipped) == 5 and not again.num_bytes


def sharded(folder: Path) -> None:
    with torch.device("meta"):
        model = build()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    save_model(model, folder, 8, max_shard_size=200)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert_saved(folder, 8)


def one_fails(folder: Path) -> None:
    write, last = file_writer._write, dist.get_world_size() - 1

    def full(descriptor: int, block: memoryview) -> int:
        raise OSError(28, "No space left on device")

    if dist.get_rank() == last:
        file_writer._write = full
    with pytest.raises(RuntimeError) as raised:
        save_model(build(), folder, 9, max_shard_size=200)
    file_writer._write = write
    assert str(raised.value).startswith(f"rank {last}: OSError: [Errno 28] No space left on device: ")
    assert not (folder / "model.safetensors.index.json").exists()
    dist.barrier()
    assert not list(folder.glob(".*"))
    dist.barrier()
    report = save_model(build(), folder, 9, max_shard_size=200)
    assert report.skipped and report.num_bytes
    assert_saved(folder, 9)


def something_in_the_way(folder: Path) -> None:
    if dist.get_rank() == 0:
        folder.mkdir()
        (folder / "README.md").write_text("precious")
    dist.barrier()
    with pytest.raises(RuntimeError) as raised:
        save_model(build(), folder, 9)
    assert str(raised.value).startswith("rank 0: WeightsError: ") and "README.md" in str(raised.value)
    assert [each.name for each in folder.iterdir()] == ["README.md"]


def seeds_that_differ(folder: Path) -> None:
    last = dist.get_world_size() - 1
    with pytest.raises(ValueError, match=f"other than on rank 0 it is on rank {last}; group="):
        save_model(build(), folder, 9 + dist.get_rank() // last)
    assert not folder.exists()


def groups_of_stages(folder: Path) -> None:
    """Half the ranks save one model and half another one, in one folder, and not at the same time."""
    size, rank = dist.get_world_size(), dist.get_rank()
    halves = [list(range(size // 2)), list(range(size // 2, size))]
    groups = [dist.new_group(half) for half in halves]
    stage = rank // (size // 2)
    report = save_model(build(), folder / f"stage{stage}", stage, max_shard_size=200, group=groups[stage])
    assert {file.rank for file in report.files} == set(halves[stage])
    with pytest.raises(ValueError, match=f"rank {rank} is not in the group"):
        save_model(build(), folder, group=groups[1 - stage])
    with pytest.raises(TypeError, match=r"group must be a torch.distributed.ProcessGroup, not str"):
        save_model(build(), folder, group="dp")
    dist.barrier()
    for each in (0, 1):
        assert_saved(folder / f"stage{each}", each)


CHECKS = (
    each_writes_its_share,
    sharded,
    one_fails,
    something_in_the_way,
    seeds_that_differ,
    groups_of_stages,
)


def they_save_together() -> None:
    folder = Path(shared_folder())
    for check in CHECKS:
        check(folder / check.__name__)
        dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(folder)


CASES = (they_save_together,)
