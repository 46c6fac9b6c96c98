"""A model born sharded, from the meta device: FSDP2 and tensor parallelism over a 2 x N mesh.

Weight by weight it is what one process gets.

    torchrun --nproc-per-node 4 examples/fsdp_and_tp.py            # CPU processes over gloo
    torchrun --nproc-per-node 4 examples/fsdp_and_tp.py cuda       # GPUs over nccl
"""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from convinit_ext import init_model_

WIDTH, LAYERS, SEED = 256, 4, 42


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


def build() -> nn.Module:
    return nn.Sequential(*(Block() for _ in range(LAYERS)))


def main() -> None:
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(dist.get_rank() % torch.cuda.device_count())
    if dist.get_world_size() % 2:
        raise SystemExit("the mesh is 2 x N: give an even number of processes")
    mesh = init_device_mesh(device, (2, dist.get_world_size() // 2), mesh_dim_names=("dp", "tp"))

    with torch.device("meta"):  # no memory yet
        model = build()
    for block in model:
        parallelize_module(block, mesh["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        fully_shard(block, mesh=mesh["dp"])
    fully_shard(model, mesh=mesh["dp"])
    report = init_model_(model, seed=SEED, recipe="he")  # each process fills its shards; nobody communicates

    whole = build().to(device)
    init_model_(whole, seed=SEED, recipe="he")
    same = all(
        torch.equal(sharded.full_tensor(), plain)
        for sharded, plain in zip(model.parameters(), whole.parameters(), strict=True)
    )
    x = torch.ones(2, WIDTH, device=device)
    torch.testing.assert_close(model(x), whole(x))
    if dist.get_rank() == 0:
        print(f"{report.num_elements:,} elements, of which this process holds {report.num_bytes // 4:,}")
        print(f"placements of a weight: {model[0].up.weight.placements}")
        print(f"the same weights as in one process: {same}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
