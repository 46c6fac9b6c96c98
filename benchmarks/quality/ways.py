"""The ways by which one_fingerprint.py has a model initialised in this environment. Each is a JSON line.

python benchmarks/quality/ways.py --processes NUMBER [--small] [--models NAME ...] [--ways NAME ...]

With 0 processes a model is filled in one piece, by each instruction set. Otherwise each way of sharding is
filled by as many processes (gloo), and they all have to say the same. So many --orders take turns. --ways
are of either kind.
"""

from __future__ import annotations

import argparse
import enum
import gc
import itertools
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from five_models import CASES, ORDERS, SEED, UNITS, Case, Experts
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from convinit_ext import _C, fingerprint, init_model_

try:
    import deepspeed
except ImportError:
    deepspeed = None
else:
    deepspeed.ops.__compatible_ops__.clear()  # it would compile operators of its own for minutes

BY_ROWS = ("o_proj", "down_proj", "project", "conv3", "out_proj")  # cut by inputs, the others by outputs
Build = Callable[..., nn.Module]


def cut(module: nn.Module, mesh: DeviceMesh, dim: int) -> None:
    for leaf, parameter in list(module._parameters.items()):
        if parameter is not None and parameter.ndim > 1:
            part = distribute_tensor(parameter.detach(), mesh, [Shard(dim)], src_data_rank=None)
            setattr(module, leaf, nn.Parameter(part))


def tensor_parallel(model: nn.Module, mesh: DeviceMesh) -> None:
    """PyTorch's own for linear layers and embeddings; convolutions are cut in the same way."""
    for path, module in list(model.named_modules()):
        is_by_rows = path.endswith(BY_ROWS)
        if isinstance(module, (nn.Linear, nn.Embedding)):
            parallelize_module(module, mesh, RowwiseParallel() if is_by_rows else ColwiseParallel())
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            cut(module, mesh, int(is_by_rows))


def fsdp2(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    for module in model.modules():
        if isinstance(module, UNITS):
            fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def square(first: str, second: str) -> DeviceMesh:
    """Return a mesh of two axes: of 4 processes 2 by 2, of 8 2 by 4."""
    size = dist.get_world_size()
    rows = 2 if size > 2 else 1
    return init_device_mesh("cpu", (rows, size // rows), mesh_dim_names=(first, second))


def by_fsdp2(build: Build) -> nn.Module:
    return fsdp2(build(), init_device_mesh("cpu", (dist.get_world_size(),)))


def by_tp(build: Build) -> nn.Module:
    model = build()
    tensor_parallel(model, init_device_mesh("cpu", (dist.get_world_size(),)))
    return model


def by_fsdp2_and_tp(build: Build) -> nn.Module:
    model, mesh = build(), square("dp", "tp")
    tensor_parallel(model, mesh["tp"])
    return fsdp2(model, mesh["dp"])


def by_hsdp(build: Build) -> nn.Module:
    return fsdp2(build(), square("copies", "shards"))


def by_ep(build: Build) -> nn.Module | None:
    """Cut experts by dimension 0, and everything by FSDP2 along the other axis; None without experts."""
    model, mesh = build(), square("dp", "ep")
    experts = [module for module in model.modules() if isinstance(module, Experts)]
    for module in experts:
        cut(module, mesh["ep"], 0)
    return fsdp2(model, mesh["dp"]) if experts else None


class Status(enum.Enum):
    NOT_AVAILABLE = 2


def by_zero3(build: Build) -> nn.Module:
    """A stand-in: placeholders with the attributes that DeepSpeed's have."""
    model, size = build(), dist.get_world_size()
    for number, (name, parameter) in enumerate(list(model.named_parameters())):
        path, _, leaf = name.rpartition(".")
        holder = nn.Parameter(torch.empty(0, dtype=parameter.dtype))
        holder.ds_id, holder.ds_shape, holder.ds_numel = number, parameter.shape, parameter.numel()
        holder.ds_tensor = torch.empty(-(-parameter.numel() // size), dtype=parameter.dtype)
        holder.ds_status, holder.ds_process_group = Status.NOT_AVAILABLE, None
        setattr(model.get_submodule(path), leaf, holder)
    for module in model.modules():  # buffers are whole
        for leaf, buffer in list(module._buffers.items()):
            module._buffers[leaf] = torch.empty_like(buffer, device="cpu")
    return model


def by_deepspeed(build: Build) -> nn.Module | None:
    """ZeRO-3 by DeepSpeed itself, which partitions each module as it is built, in memory; None without it."""
    if deepspeed is None:
        return None
    half = next(build().parameters()).dtype == torch.bfloat16
    os.environ["LOCAL_RANK"] = str(dist.get_rank())  # which it reads
    config = {"train_batch_size": dist.get_world_size(), "zero_optimization": {"stage": 3}}
    with deepspeed.zero.Init(config_dict_or_path=config | {"bf16": {"enabled": half}}):
        return build(device="cpu")


def by_fsdp1(build: Build) -> nn.Module:
    return FullyShardedDataParallel(
        build(),
        auto_wrap_policy=ModuleWrapPolicy(UNITS),
        param_init_fn=lambda module: module.to_empty(device="cpu", recurse=False),
        device_id=torch.device("cpu"),
        use_orig_params=True,
    )


WAYS: dict[str, Callable[[Build], nn.Module | None]] = {
    "FSDP2": by_fsdp2,
    "TP": by_tp,
    "FSDP2+TP": by_fsdp2_and_tp,
    "HSDP": by_hsdp,
    "EP+FSDP2": by_ep,
    "ZeRO-3, a stand-in": by_zero3,
    "ZeRO-3, DeepSpeed": by_deepspeed,
    "FSDP1": by_fsdp1,
}


TOO_LARGE = {("Mixtral", "FSDP1"), ("Mixtral", "ZeRO-3, DeepSpeed")}  # a layer whole in every process, twice


def built(case: Case, small: bool, order: str, device: str = "meta") -> nn.Module:
    with torch.device(device):
        return case.made(small, order)


def found(case: Case, model: nn.Module) -> str:
    init_model_(model, SEED, case.recipe)
    return fingerprint(model)


def check_is_sharded(model: nn.Module, num_elements: int) -> None:
    """Raise RuntimeError if this process holds as many elements as the whole model has."""
    held = 0
    for parameter in model.parameters():
        held += getattr(parameter, "ds_tensor", getattr(parameter, "_local_tensor", parameter)).numel()
    if dist.get_world_size() > 1 and held >= num_elements:
        raise RuntimeError(f"a rank holds {held} of {num_elements} elements")


def in_one_piece(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    chosen = [isa for isa in _C.available_isas() if isa in options.ways]
    for name, isa in itertools.product(options.models, chosen):
        case = CASES[name]
        _C.force_isa(isa)
        for order in ORDERS[: options.orders]:
            said = found(case, built(case, options.small, order))
            yield {"way": isa, "order": order, "model": name, "fingerprint": said}


def as_rank(rank: int, options: argparse.Namespace, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=options.processes
    )
    turn = itertools.count(options.processes.bit_length())
    chosen = [way for way in options.ways if way in WAYS]
    for name, way in itertools.product(options.models, chosen):
        if not options.small and options.processes > 1 and (name, way) in TOO_LARGE:
            continue
        case = CASES[name]
        for _ in range(options.orders):
            order = ORDERS[next(turn) % len(ORDERS)]
            model = WAYS[way](partial(built, case, options.small, order))
            if model is None:
                break
            check_is_sharded(model, sum(map(torch.numel, built(case, options.small, order).parameters())))
            said: list[Any] = [None] * options.processes
            dist.all_gather_object(said, found(case, model))
            if rank == 0:
                agreed = said[0] if len(set(said)) == 1 else f"ranks differ: {sorted(set(said))}"
                say({"way": way, "order": order, "model": name, "fingerprint": agreed})
            del model
            gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def say(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    ways = [*_C.available_isas(), *WAYS]
    parser.add_argument("--ways", nargs="+", choices=ways, default=ways)
    parser.add_argument("--orders", type=int, default=len(ORDERS))
    options = parser.parse_args()
    say({"torch": torch.__version__, "deepspeed": getattr(deepspeed, "__version__", None)})
    if options.processes == 0:
        for row in in_one_piece(options):
            say(row)
        return
    with tempfile.TemporaryDirectory() as folder:
        start = torch.multiprocessing.start_processes
        start(as_rank, (options, folder), nprocs=options.processes, start_method="fork")


if __name__ == "__main__":
    main()
