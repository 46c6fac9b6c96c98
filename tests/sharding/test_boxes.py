"""Boxes: which indices of the logical tensor a tensor holds, against what PyTorch itself hands out."""

import pytest
import torch
from meshes import MESHES, every_rank, placements
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor
from torch.distributed.tensor import Shard as Cut
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from convinit_ext import Shard
from convinit_ext.sharding import Part, logical_shape, parts, within

SHAPES = ((7, 5), (8, 12), (1, 3), (13, 2))  # sizes that no mesh divides among them


def numbered(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape)


def assert_parts_hold_their_indices(found: list[Part], shape: tuple[int, ...], local: Tensor) -> None:
    """`local` holds the linear indices: each part must say them, and together they are all of it."""
    for part in found:
        start, strides = part.box(shape)
        assert torch.equal(numbered(*shape).as_strided(part.tensor.shape, strides, start), part.tensor), part
    assert sum(part.tensor.numel() for part in found) == local.numel()


# An uneven strided shard that distribute_tensor leaves empty, and fully_shard would not, is on (3, 2).
@pytest.mark.parametrize("mesh_shape", [*MESHES, (3, 2)], ids=str)
def test_dtensors_on_every_rank_of_every_mesh(mesh_shape):
    for mesh in every_rank(mesh_shape):
        for cuts in placements(mesh_shape):
            for shape in SHAPES:
                tensor = distribute_tensor(numbered(*shape), mesh, cuts, src_data_rank=None)
                assert_parts_hold_their_indices(parts(tensor), shape, tensor.to_local())


@pytest.mark.parametrize("dims", [(0, 1), (3, 2), (1, 1), (2, 2), (None, 1)], ids=str)
def test_contiguous_shards_of_many_dimensions_are_one_part(dims):
    cuts = [Replicate() if dim is None else Cut(dim) for dim in dims]
    for mesh in every_rank((2, 2)):
        for shape in ((3, 4, 5, 2), (8, 8, 8, 8)):
            tensor = distribute_tensor(numbered(*shape), mesh, cuts, src_data_rank=None)
            assert_parts_hold_their_indices(parts(tensor), shape, tensor.to_local())
            assert len(parts(tensor)) == (tensor.to_local().numel() > 0)


@pytest.mark.parametrize("mesh_shape", [(2, 2), (4, 2), (3, 2), (3, 4), (2, 2, 2)], ids=str)
def test_uneven_rows_under_fsdp_and_tensor_parallelism(mesh_shape):
    """FSDP2 cuts what tensor parallelism left: the later axis first, and each cut is a torch.chunk."""
    for mesh in every_rank(mesh_shape):
        named = DeviceMesh("cpu", mesh.mesh, mesh_dim_names=("dp", "cp", "tp")[-len(mesh_shape) :])
        for size in (7, 8, 9, 13, 17, 27):
            model = nn.Sequential(nn.Linear(4, size, bias=False))
            with torch.no_grad():
                model[0].weight.copy_(numbered(size, 4))
            parallelize_module(model[0], named["tp"], ColwiseParallel(), src_data_rank=None)
            fully_shard(model, mesh=named["cp"])
            found = [part._replace(tensor=part.tensor.long()) for part in parts(model[0].weight)]
            assert_parts_hold_their_indices(found, (size, 4), model[0].weight.to_local())


def test_an_empty_tensor_under_fsdp_may_have_any_sizes():
    for mesh in every_rank((2, 2)):
        named = DeviceMesh("cpu", mesh.mesh, mesh_dim_names=("dp", "tp"))
        model = nn.Sequential(nn.Linear(1, 9, bias=False))
        parallelize_module(model[0], named["tp"], RowwiseParallel(), src_data_rank=None)
        fully_shard(model, mesh=named["dp"])
        assert (
            sum(part.tensor.numel() for part in parts(model[0].weight)) == model[0].weight.to_local().numel()
        )


def test_a_scalar_and_an_empty_dtensor():
    for mesh in every_rank((2,)):
        (part,) = parts(distribute_tensor(torch.tensor(3.0), mesh, [Replicate()], src_data_rank=None))
        assert part.box(()).start == 0
        assert parts(distribute_tensor(torch.zeros(0, 4), mesh, [Cut(0)], src_data_rank=None)) == []


def test_a_partial_sum_is_refused_unless_it_has_one_term():
    for mesh in every_rank((2, 1)):
        for local in (torch.zeros(4, 4), torch.zeros(())):
            with pytest.raises(RuntimeError, match=r"Partial.*on 2 ranks"):
                parts(DTensor.from_local(local, mesh, [Partial(), Replicate()], run_check=False))
        local = torch.zeros(4, 4)
        (part,) = parts(DTensor.from_local(local, mesh, [Replicate(), Partial()], run_check=False))
        assert part.ranges == (range(4), range(4))


# Shards by hand


def test_a_shard_by_its_offset():
    full, shard = numbered(6, 7, 3), Shard((6, 7, 3), (2, 4, 1))
    local = full[2:5, 4:, 1:3]
    assert_parts_hold_their_indices(parts(local, shard), full.shape, local)
    assert logical_shape(local, shard) == (6, 7, 3)
    for nowhere in ((8, 0), ([], 0)):
        assert parts(torch.zeros(0, 4), Shard((8, 4), nowhere)) == []


def test_a_shard_by_ranges():
    full = numbered(12, 5)
    fused = torch.cat([full[1:3], full[5:7], full[9:11]])
    found = parts(fused, Shard((12, 5), ([range(1, 3), range(5, 7), range(9, 11)], 0)))
    assert_parts_hold_their_indices(found, full.shape, fused)
    assert len(found) == 3
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


def test_within_some_rows_and_columns():
    full = numbered(12, 5)
    (part,) = parts(full[2:12:3], Shard((12, 5), (range(2, 12, 3), 0)))
    for row, kept in ((5, [[2], [8, 11]]), (2, [[5, 8, 11]]), (11, [[2, 5, 8]])):
        rest = list(within(part, (range(row), range(row + 1, 12))))
        (one,) = within(part, (range(row, row + 1),))
        assert [list(each.ranges[0]) for each in rest] == kept
        assert_parts_hold_their_indices([*rest, one], full.shape, full[2:12:3])
    assert not list(within(part, (range(4, 5),)))
    columns = list(within(part, (range(2), range(2, 5)), dim=1))
    assert [list(each.ranges[1]) for each in columns] == [[0, 1], [2, 3, 4]]
    assert_parts_hold_their_indices(columns, full.shape, full[2:12:3])


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
        ((8, (0, 0)), TypeError, "shape must have a number for each dimension, and 8 has none"),
        (((8, 4), 0), TypeError, "offset must have a number for each dimension, and 0 has none"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_wrong_shards_are_named(arguments, error, said):
    with pytest.raises(error, match=said):
        Shard(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((8, 0, 0, 2), "shape must have a number for each dimension, and 8 has none"),
        (((8, 4), "0", 0, 2), "dim must be an int, not '0'"),
        (((8, 4), 0, 0.0, 2), r"rank must be an int, not 0\.0"),
        (((8, 4), 0, 0, True), "num_ranks must be an int, not True"),
        (((8, 4), 0, 0, 2, torch.ones(2).long()), "stride must be an int, not tensor"),
    ],
)
def test_splits_of_no_numbers_are_named(arguments, said):
    with pytest.raises(TypeError, match=said):
        Shard.split(*arguments)


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
