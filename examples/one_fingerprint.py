"""Is this the model of seed 42? One number says it, on eight processes and on one.

torchrun --nproc-per-node 8 examples/one_fingerprint.py
python examples/one_fingerprint.py
"""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from convinit_ext import fingerprint, init_model_


def build() -> nn.Module:
    block = [nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(nn.Conv2d(3, 64, 7), *block, *block, nn.Flatten(), nn.Linear(1000, 10))


def main() -> None:
    with torch.device("meta"):
        model = build()
    rank = 0
    if "RANK" in os.environ:  # by torchrun
        dist.init_process_group("gloo")
        rank = dist.get_rank()
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    init_model_(model, seed=42, recipe="he")
    number = fingerprint(model)  # one all-reduce of 128 bytes; every process has the number
    if rank == 0:
        print(number)

    with torch.no_grad():  # the lowest bit of one weight, wherever it is
        local = model[0].weight
        local = local.to_local() if hasattr(local, "to_local") else local
        if rank == 0:
            local.view(torch.int32).view(-1)[0] ^= 1
    changed = fingerprint(model)
    if rank == 0:
        print(f"after one bit flipped on one process: {changed}")
    if dist.is_initialized():
        dist.barrier()  # a process that ends while others still talk to it can make them abort
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
