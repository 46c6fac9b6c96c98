"""Every rank of a device mesh, one after the other in this process: DTensors without other processes.

PyTorch's fake process group answers no communication, so what is tested here needs none.
"""

import itertools
import math
from collections.abc import Iterator

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.distributed.tensor.placement_types import Placement, _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore

MESHES = ((4,), (2, 2), (2, 4), (2, 2, 2))


def every_rank(mesh_shape: tuple[int, ...]) -> Iterator[DeviceMesh]:
    """The mesh as each of its ranks sees it."""
    size = math.prod(mesh_shape)
    for rank in range(size):
        dist.init_process_group("fake", rank=rank, world_size=size, store=FakeStore())
        try:
            yield init_device_mesh("cpu", mesh_shape)
        finally:
            dist.destroy_process_group()
            _clear_sharding_prop_cache()  # what PyTorch remembers of operations has this rank's mesh in it


def placements(mesh_shape: tuple[int, ...], dims: int = 2) -> list[tuple[Placement, ...]]:
    """Every combination of cuts of the first `dims` dimensions, strided ones among them, and of copies."""
    kinds: list[Placement] = [Replicate()]
    for dim in range(dims):
        kinds += [Shard(dim), _StridedShard(dim, split_factor=2 + dim)]
    return list(itertools.product(kinds, repeat=len(mesh_shape)))
