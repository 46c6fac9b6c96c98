"""A small CNN on scikit-learn's digits: the same seed gives the same first loss on 1 process and on 4.

    torchrun --nproc-per-node 1 examples/digits.py
    torchrun --nproc-per-node 4 examples/digits.py

The model is sharded by FSDP2 over the processes, and every step takes the same images whatever their number.
"""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from convinit_ext import init_model_

try:
    from sklearn.datasets import load_digits
except ImportError as missing:
    sys.exit(f"this example needs scikit-learn ({missing}): pip install scikit-learn")

BATCH, STEPS = 256, 60


def build() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 48, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48 * 4 * 4, 10),
    )


def main() -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    rank, size = dist.get_rank(), dist.get_world_size()
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)

    with torch.device("meta"):
        model = build()
    fully_shard(model, mesh=init_device_mesh("cpu", (size,)))
    init_model_(model, seed=0, recipe="he")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    for step in range(STEPS):
        batch = torch.arange(BATCH).add(step * BATCH).remainder(len(images)).chunk(size)[rank]
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach() * len(batch) / BATCH
        dist.all_reduce(mean)
        if rank == 0 and step in (0, STEPS - 1):
            print(f"{size} processes, step {step}: loss {mean.item():.6f}", flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
