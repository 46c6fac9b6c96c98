"""Boxes: which indices of the logical tensor a tensor holds, against what PyTorch itself hands out."""

from __future__ import annotations

import pytest
import torch
from meshes import MESHES, every_rank, placements
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor
from torch.distributed.tensor import Shard as Cut
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

from convinit_ext import Shard
from convinit_ext.sharding._dtensor import Part, logical_shape, parts, without

SHAPES = ((7, 5), (8, 12), (1, 3), (13, 2))  # sizes that no mesh divides among them


def indices(part: Part, shape: tuple[int, ...]) -> torch.Tensor:
    """The linear index of every element of a part, as its box says."""
    box = part.box(shape)
    found = torch.tensor(box.start)
    for dim, (size, stride) in enumerate(zip(part.tensor.shape, box.strides, strict=True)):
        along = [1] * part.tensor.dim()
        along[dim] = size
        found = found + (torch.arange(size) * stride).view(along)
    return found


def assert_parts_hold_their_indices(found: list[Part], shape: tuple[int, ...], local: torch.Tensor) -> None:
    """`local` holds the linear indices: each part must say them, and together they are all of it."""
    for part in found:
        assert torch.equal(indices(part, shape), part.tensor), part
    assert sum(part.tensor.numel() for part in found) == local.numel()


@pytest.mark.parametrize("mesh_shape", MESHES, ids=str)
def test_dtensors_on_every_rank_of_every_mesh(mesh_shape):
    for mesh in every_rank(mesh_shape):
        for placement in placements(mesh_shape):
            for shape in SHAPES:
                full = torch.arange(shape[0] * shape[1]).reshape(shape)
                tensor = distribute_tensor(full, mesh, placement, src_data_rank=None)
                assert_parts_hold_their_indices(parts(tensor), shape, tensor.to_local())


def test_a_dtensor_of_many_dimensions():
    for mesh in every_rank((2, 2)):
        full = torch.arange(3 * 4 * 5 * 2).reshape(3, 4, 5, 2)
        for dims in ((0, 1), (3, 2), (1, 1), (2, 2)):
            tensor = distribute_tensor(full, mesh, [Cut(dim) for dim in dims], src_data_rank=None)
            assert_parts_hold_their_indices(parts(tensor), full.shape, tensor.to_local())


@pytest.mark.parametrize("mesh_shape", [(2, 2), (4, 2), (3, 2), (3, 4), (2, 2, 2)], ids=str)
def test_uneven_rows_under_fsdp_and_tensor_parallelism(mesh_shape):
    """FSDP2 cuts what tensor parallelism left: the later axis first, and each cut is a torch.chunk."""
    for mesh in every_rank(mesh_shape):
        named = DeviceMesh("cpu", mesh.mesh, mesh_dim_names=("dp", "cp", "tp")[-len(mesh_shape) :])
        data, tensor_parallel = named[named.mesh_dim_names[:-1]], named["tp"]
        for size in (7, 8, 9, 13, 17, 27):
            model = nn.Sequential(nn.Linear(4, size, bias=False))
            with torch.no_grad():
                model[0].weight.copy_(torch.arange(4 * size).view(size, 4))
            parallelize_module(model[0], tensor_parallel, ColwiseParallel(), src_data_rank=None)
            if len(mesh_shape) == 2:
                fully_shard(model, mesh=data)
            else:
                fully_shard(model, mesh=named["cp"])
            weight = model[0].weight
            assert_parts_hold_their_indices(
                [part._replace(tensor=part.tensor.long()) for part in parts(weight)],
                (size, 4),
                weight.to_local(),
            )


def test_contiguous_shards_are_one_part():
    for mesh in every_rank((2, 2)):
        for cuts in ([Cut(0), Cut(0)], [Cut(0), Cut(1)], [Replicate(), Cut(1)]):
            tensor = distribute_tensor(torch.zeros(8, 8), mesh, cuts, src_data_rank=None)
            assert len(parts(tensor)) == 1


def test_a_scalar_and_an_empty_dtensor():
    for mesh in every_rank((2,)):
        (part,) = parts(distribute_tensor(torch.tensor(3.0), mesh, [Replicate()], src_data_rank=None))
        assert part.box(()).start == 0
        assert parts(distribute_tensor(torch.zeros(0, 4), mesh, [Cut(0)], src_data_rank=None)) == []


def test_a_partial_sum_is_refused_unless_it_has_one_term():
    for mesh in every_rank((2, 1)):
        local = torch.zeros(4, 4)
        with pytest.raises(RuntimeError, match=r"Partial.*on 2 ranks"):
            parts(DTensor.from_local(local, mesh, [Partial(), Replicate()], run_check=False))
        scalar = DTensor.from_local(torch.zeros(()), mesh, [Partial(), Replicate()], run_check=False)
        with pytest.raises(RuntimeError, match="Partial"):
            parts(scalar)
        (part,) = parts(DTensor.from_local(local, mesh, [Replicate(), Partial()], run_check=False))
        assert part.ranges == (range(4), range(4))


def test_a_dtensor_needs_no_shard():
    for mesh in every_rank((2,)):
        tensor = distribute_tensor(torch.zeros(4, 4), mesh, [Cut(0)], src_data_rank=None)
        with pytest.raises(TypeError, match="placements say where it sits"):
            parts(tensor, Shard((8, 4), (0, 0)))


# Shards by hand


def numbered(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape)


def test_a_shard_by_its_offset():
    full = numbered(6, 7, 3)
    local = full[2:5, 4:, 1:3]
    assert_parts_hold_their_indices(parts(local, Shard((6, 7, 3), (2, 4, 1))), full.shape, local)
    assert logical_shape(local, Shard((6, 7, 3), (2, 4, 1))) == (6, 7, 3)


def test_a_shard_by_ranges():
    full = numbered(12, 5)
    fused = torch.cat([full[1:3], full[5:7], full[9:11]])
    shard = Shard((12, 5), ([range(1, 3), range(5, 7), range(9, 11)], 0))
    assert_parts_hold_their_indices(parts(fused, shard), full.shape, fused)
    assert len(parts(fused, shard)) == 3
    local = full[1::3, range(0, 5, 2)]
    found = parts(local, Shard((12, 5), (range(1, 12, 3), [range(1), range(2, 3), range(4, 5)])))
    assert_parts_hold_their_indices(found, full.shape, local)
    assert len(found) == 1


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_a_shard_as_megatron_cuts(dim, stride):
    full = numbered(12, 24)
    chunks = full.chunk(2 * stride, dim=dim)
    for rank in range(2):
        local = torch.cat(chunks[rank::2], dim=dim)
        shard = Shard.split(full.shape, dim, rank, 2, stride)
        assert_parts_hold_their_indices(parts(local, shard), full.shape, local)


def test_an_empty_shard_has_no_parts():
    assert parts(torch.zeros(0, 4), Shard((8, 4), (8, 0))) == []
    assert parts(torch.zeros(0, 4), Shard((8, 4), ([], 0))) == []


def test_without_one_row():
    full = numbered(12, 5)
    (part,) = parts(full[2:12:3], Shard((12, 5), (range(2, 12, 3), 0)))
    for row, kept in ((5, [[2], [8, 11]]), (2, [[5, 8, 11]]), (11, [[2, 5, 8]])):
        rest, one = without(part, row)
        assert [list(each.ranges[0]) for each in rest] == kept
        assert_parts_hold_their_indices([*rest, one], full.shape, full[2:12:3])
    assert without(part, 4) == ([part], None)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (((8, 4), (0,)), ValueError, "offset has 1 numbers, and shape"),
        (((8, -1), (0, 0)), ValueError, "must not be negative"),
        (((8, 4), (9, 0)), ValueError, "offset of 9 is outside a dimension of size 8"),
        (((8, 4), (0.5, 0)), TypeError, r"an offset must be an int, not 0\.5"),
        (((8, 4), (True, 0)), TypeError, "an offset must be an int, not True"),
        (((8, 4.0), (0, 0)), TypeError, r"a size of shape must be an int, not 4\.0"),
        (((8, 4), (range(4, 9), 0)), ValueError, r"range\(4, 9\) must rise, and stay inside"),
        (((8, 4), (range(4, 0, -1), 0)), ValueError, "must rise"),
        (((8, 4), ([3], 0)), TypeError, "list of ranges, not one with 3"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_wrong_shards_are_named(arguments, error, said):
    with pytest.raises(error, match=said):
        Shard(*arguments)


@pytest.mark.parametrize(
    ("shape", "shard", "said"),
    [
        ((3, 4), Shard((8, 4), (6, 0)), r"leaves the full tensor: dim 0 covers \[6, 9\) of 8"),
        ((4,), Shard((8, 4), (0, 0)), "of 2 dimensions, and the tensor of shape"),
        ((3, 4), Shard((8, 4), (range(2), 0)), "2 indices for dim 0, and the tensor has size 3"),
    ],
)
def test_shards_that_do_not_fit_are_named(shape, shard, said):
    with pytest.raises(ValueError, match=said):
        parts(torch.zeros(shape), shard)
    with pytest.raises(TypeError, match=r"shard must be a convinit_ext\.Shard, not tuple"):
        parts(torch.zeros(shape), (0, 0))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (((8, 4), 2, 0, 2), "no dim 2"),
        (((8, 4), 0, 2, 2), "no rank 2 of 2"),
        (((8, 4), 0, 0, 3), "size 8, which 3 equal parts do not make"),
        (((8, 4), 0, 0, 2, 0), "each with 0 parts"),
    ],
)
def test_wrong_splits_are_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        Shard.split(*arguments)
