"""What goes wrong when a sharded weight is initialised on the CPU by torch.nn.init, and what happens here.

    torchrun --nproc-per-node 2 examples/shards_that_differ.py

Both processes seed PyTorch with the same number, as its documentation asks, and fill a weight of which each
holds half the rows.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from convinit_ext import Key, init


def say(text: str) -> None:
    if dist.get_rank() == 0:
        print(text, flush=True)


def state_of(weight: torch.Tensor) -> str:
    whole = weight.full_tensor()
    repeated, rank = torch.equal(*whole.chunk(2)), torch.linalg.matrix_rank(whole)
    return f"the two processes have the same values: {repeated}, matrix of rank {rank}"


def main() -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    weight = distribute_tensor(torch.zeros(128, 256), mesh, [Shard(0)])

    torch.manual_seed(0)
    nn.init.kaiming_normal_(weight)
    say(f"torch.nn.init: {state_of(weight)}")

    torch.manual_seed(0)
    init.kaiming_normal_(weight)
    say(f"convinit_ext:  {state_of(weight)}")

    torch.manual_seed(0)
    whole = init.kaiming_normal_(torch.empty(128, 256))
    say(f"  the same as in one process: {torch.equal(weight.full_tensor(), whole)}")
    columns = distribute_tensor(torch.zeros(128, 256), mesh, [Shard(1)])
    init.kaiming_normal_(weight, key=Key(seed=7, name="layer.weight"))
    init.kaiming_normal_(columns, key=Key(seed=7, name="layer.weight"))
    same = torch.equal(weight.full_tensor(), columns.full_tensor())
    say(f"  the same whether rows or columns are cut: {same}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
