"""Run as ranks (test_on_processes.py) on 4 processes: what one rank cannot read is an error on all."""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from convinit_ext import fingerprint, fingerprints
from convinit_ext._engine import UnsupportedTensorError


def state(mesh: DeviceMesh) -> dict[str, Tensor]:
    whole = {"a": torch.arange(24.0).view(8, 3), "b": torch.ones(7, 2), "plain": torch.zeros(3)}
    cuts = {"a": [Shard(0), Replicate()], "b": [Replicate(), Shard(0)]}
    return whole | {
        name: distribute_tensor(whole[name], mesh, cut[: mesh.ndim], src_data_rank=None)
        for name, cut in cuts.items()
    }


def check(mesh: DeviceMesh, name: str, wrong: dict[int, Tensor], error: type[Exception], own: str) -> None:
    """Some ranks' memory of a tensor is not what its placements say, or is none."""
    rank = dist.get_rank()
    given = state(mesh)
    takes: list[Callable[[dict[str, Tensor]], object]] = [fingerprint, fingerprints]
    held = given[name]
    if isinstance(held, DTensor):
        takes.append(lambda tensors: fingerprint(tensors[name], name))
    if rank in wrong and isinstance(held, DTensor):
        held._local_tensor = wrong[rank]
    elif rank in wrong:
        given[name] = wrong[rank]
    others = f"rank {next(iter(wrong))}" if len(wrong) == 1 else f"{len(wrong)} ranks"
    said = own if rank in wrong else rf"^{others} could not read what it holds of the tensors"
    for take in takes:
        with pytest.raises(error if rank in wrong else RuntimeError, match=said):
            take(given)
    assert fingerprint(state(mesh)) == fingerprint({key: full(each) for key, each in state(mesh).items()})


def check_the_only_one(mesh: DeviceMesh) -> None:
    """A rank that can read none of what is shared does not leave the others waiting."""
    whole = torch.ones(8, 3)
    tensor = distribute_tensor(whole, mesh, [Shard(0)] * mesh.ndim, src_data_rank=None)
    is_wrong = dist.get_rank() == 1
    if is_wrong:
        tensor._local_tensor = tensor._local_tensor.to_sparse()
    for take in (fingerprint, fingerprints):
        said = "cannot digest|sparse" if is_wrong else "rank 1 could not read what it holds of the tensors"
        with pytest.raises((RuntimeError, NotImplementedError), match=f"(?i){said}"):
            take({"a": tensor})


def full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def what_one_rank_cannot_read() -> None:
    line, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2))
    for mesh in (line, square):
        misfit = "'a': a DTensor's dimension of size 8 has a local size of 5, which its cuts do not give"
        check(mesh, "a", {2: torch.ones(5, 3)}, RuntimeError, misfit)
        check(mesh, "a", {0: torch.ones(5, 3), 3: torch.ones(5, 3)}, RuntimeError, misfit)
        check(mesh, "a", {1: torch.ones(8, 2)}, RuntimeError, "'a': a DTensor's dimension of size")
        check(mesh, "a", {1: torch.ones(0, 3)}, RuntimeError, r"'a': a DTensor's local shape is \[0, 3\]")
        check(
            mesh,
            "a",
            {3: torch.ones(8 // mesh.shape[0], 3, device="meta")},
            ValueError,
            "'a': cannot digest a tensor on the meta device",
        )
        check(
            mesh,
            "plain",
            {1: torch.ones(3, device="meta")},
            ValueError,
            "'plain': cannot digest a tensor on the meta device",
        )
        check(mesh, "plain", {2: torch.ones(3).to_sparse()}, UnsupportedTensorError, "'plain': cannot digest")
        check_the_only_one(mesh)


CASES = (what_one_rank_cannot_read,)
