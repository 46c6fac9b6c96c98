"""intercept on DTensors: a parameter is found whatever its placements, and each rank has its part of it.

So have slices of it along dimensions that are not cut, and slices of the local tensor.
"""

import itertools
import re
import warnings
from math import prod

import pytest
import torch
from filling import assert_same_bits
from meshes import every_rank
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

from convinit_ext import Key, init, intercept

NUM_RANKS = 4
PLACEMENTS = [Shard(0), Shard(1), Replicate()]


def distributed_layer(mesh, placement) -> nn.Linear:
    layer = nn.Linear(6, 8)
    weight = distribute_tensor(layer.weight.detach(), mesh, [placement], src_data_rank=None)
    layer.weight = nn.Parameter(weight)
    return layer


CALLS = {
    "uniform_": lambda w: nn.init.uniform_(w),
    "method": lambda w: w.data.uniform_(),
    "kaiming_normal_": lambda w: nn.init.kaiming_normal_(w),
    "trunc_normal_": lambda w: nn.init.trunc_normal_(w, std=0.02),
    "orthogonal_": lambda w: nn.init.orthogonal_(w),
    "sparse_": lambda w: nn.init.sparse_(w, 0.3),
    "eye_": lambda w: nn.init.eye_(w),
    "zeros_": lambda w: nn.init.zeros_(w),
    "ones_": lambda w: nn.init.ones_(w),
    "constant_": lambda w: nn.init.constant_(w, 0.5),
    "a second time": lambda w: nn.init.normal_(nn.init.uniform_(w)),
    "local": lambda w: (w.to_local() if isinstance(w, DTensor) else w).detach().uniform_(),
}


@pytest.mark.parametrize("placement", PLACEMENTS, ids=str)
def test_each_rank_has_its_part_of_the_whole(placement):
    whole = {}
    for name, call in CALLS.items():
        alone = nn.Linear(6, 8)
        with intercept(alone, seed=0):
            call(alone.weight)
        whole[name] = alone.weight.detach()
    for rank, mesh in enumerate(every_rank((NUM_RANKS,))):
        for name, call in CALLS.items():
            layer = distributed_layer(mesh, placement)
            with intercept(layer, seed=0):
                call(layer.weight)
            part = distribute_tensor(whole[name], mesh, [placement], src_data_rank=None)
            assert torch.equal(layer.weight.to_local(), part.to_local()), (name, rank)


@pytest.mark.parametrize("placement", PLACEMENTS, ids=str)
@pytest.mark.parametrize("function", [nn.init.uniform_, nn.init.dirac_])
def test_a_dtensor_of_no_model_is_a_part_of_one_tensor_that_follows_the_generator(function, placement):
    with intercept(seed=4):
        alone = function(torch.empty(8, 6, 3))
    for rank, mesh in enumerate(every_rank((NUM_RANKS,))):
        weight = distribute_tensor(torch.empty(8, 6, 3), mesh, [placement], src_data_rank=None)
        with intercept(seed=4):
            function(weight)
        part = distribute_tensor(alone, mesh, [placement], src_data_rank=None)
        assert torch.equal(weight.to_local(), part.to_local()), rank


# Slices. SHAPE's rows are uneven for every mesh here, and on the last ranks of (8,) there are none.

SHAPE = (7, 6, 4)
CUTS = [
    ((NUM_RANKS,), (Shard(0),)),
    ((NUM_RANKS,), (Shard(1),)),
    ((NUM_RANKS,), (Replicate(),)),
    ((8,), (Shard(0),)),
    ((8,), (Shard(1),)),
    ((2, 2), (Shard(0), Shard(1))),
    ((2, 2), (Replicate(), Shard(0))),
    ((2, 2), (Shard(0), Shard(0))),
    ((2, 2), (_StridedShard(0, split_factor=2), Shard(0))),
    ((2, 2), (Shard(0), _StridedShard(0, split_factor=2))),
    ((2, 2), (Shard(1), _StridedShard(1, split_factor=2))),
]
SLICES = {
    "last": lambda w: w[:, :, 1:3],
    "every other": lambda w: w[:, :, ::2],
    "one": lambda w: w[:, :, 2],
    "transposed": lambda w: w.transpose(0, 2)[1:],
}
LOCAL_SLICES = {
    "rows": lambda w: w[1:],
    "one row": lambda w: w[0],
    "columns": lambda w: w[:, 1:],
    "transposed": lambda w: w.transpose(0, 1)[:, :, 1:3],
    "every other": lambda w: w[::2, :, 1::2],
    "flat": lambda w: w.view(-1)[3:],
    "flat rows": lambda w: w.view(w.shape[0], -1),
    "diagonal": lambda w: w.diagonal(dim1=0, dim2=2),
}


def indices(mesh, placement) -> torch.Tensor:
    """Where in the whole the elements of this rank are."""
    numbers = torch.arange(prod(SHAPE)).reshape(SHAPE)
    return distribute_tensor(numbers, mesh, placement, src_data_rank=None).to_local()


def sharded(mesh, placement) -> nn.ParameterDict:
    whole = torch.full(SHAPE, torch.nan)
    parameter = nn.Parameter(distribute_tensor(whole, mesh, placement, src_data_rank=None))
    return nn.ParameterDict({"w": parameter})


def filled(name: str) -> torch.Tensor:
    return init.normal_(torch.empty(SHAPE), key=Key(0, name)).flatten()


def assert_filled(local, places, view, name="w") -> None:
    """That the elements of a view of a local tensor are those of the named fill, and no others are."""
    assert_same_bits(view(local), filled(name)[view(places)])
    untouched = torch.ones(local.shape, dtype=torch.bool)
    view(untouched).fill_(False)
    assert local[untouched].isnan().all()


@pytest.mark.parametrize(("mesh_shape", "placement"), CUTS, ids=str)
def test_a_slice_of_a_dtensor_is_a_part_of_the_whole(mesh_shape, placement):
    for mesh in every_rank(mesh_shape):
        places = indices(mesh, placement)
        for view in SLICES.values():
            model = sharded(mesh, placement)
            with intercept(model, seed=0), torch.no_grad():
                nn.init.normal_(view(model["w"]))
                after = torch.empty(3).normal_()
            assert_filled(model["w"].to_local(), places, view)
            assert_same_bits(after, init.normal_(torch.empty(3), generator=torch.Generator().manual_seed(0)))


def are_a_box(places: torch.Tensor) -> bool:
    """Whether indices are at regular steps along each dimension."""
    return all(len(places.diff(dim=dim).unique()) <= 1 for dim in range(places.dim()))


@pytest.mark.parametrize(("mesh_shape", "placement"), CUTS, ids=str)
def test_a_slice_of_a_local_tensor_is_a_part_of_the_whole(mesh_shape, placement):
    for mesh in every_rank(mesh_shape):
        model, places = sharded(mesh, placement), indices(mesh, placement)
        of_model = (lambda w: w.to_local().detach(), lambda w: w._local_tensor, lambda w: w.data.to_local())
        for view, local_of in itertools.product(LOCAL_SLICES.values() if places.numel() else (), of_model):
            local = local_of(model["w"]).fill_(torch.nan)
            with intercept(model, seed=0):
                if are_a_box(view(places)):
                    view(local).normal_()
                    assert_filled(local, places, view)
                else:
                    with pytest.raises(RuntimeError, match=r"'w' inside intercept.*on this rank"):
                        view(local).normal_()
                    assert local.isnan().all()


def test_slices_have_numbers_and_their_fills_other_versions():
    for mesh in every_rank((NUM_RANKS,)):
        model = sharded(mesh, [Shard(1)])
        places, slice_of = indices(mesh, [Shard(1)]), SLICES["last"]
        with intercept(model, seed=0), torch.no_grad():
            view = slice_of(model["w"])
            before = view._version, model["w"]._version
            assert view.normal_() is view
            after = view._version, model["w"]._version
            assert all(late > early for early, late in zip(before, after, strict=True))
            view.normal_()
            assert_filled(model["w"].to_local(), places, slice_of, "w#1")
            nn.init.normal_(model["w"])
            assert_same_bits(model["w"].to_local(), filled("w#2")[places])
            slice_of(model["w"].to_local()).normal_()
            assert_same_bits(slice_of(model["w"].to_local()), filled("w#3")[slice_of(places)])


@pytest.mark.parametrize(
    "function", [lambda w: nn.init.orthogonal_(w), lambda w: nn.init.sparse_(w[:, :, 0], 0.3)]
)
def test_matrices_of_slices(function):
    """A DTensor's slice is no other matrix on each rank: what it is, the generator says."""
    for mesh in every_rank((NUM_RANKS,)):
        model = sharded(mesh, [Shard(0)])
        with intercept(model, seed=0), torch.no_grad():
            function(model["w"][:, :, 1:3])
        whole = torch.full((7, 6, 2), torch.nan)
        with intercept(seed=0):
            function(whole)
        wanted = distribute_tensor(whole, mesh, [Shard(0)], src_data_rank=None).to_local()
        assert_same_bits(model["w"].to_local()[:, :, 1:3], wanted)


def test_a_model_without_a_seed_on_several_ranks():
    """Each rank would draw a seed of its own."""
    for mesh in every_rank((NUM_RANKS,)):
        layer = distributed_layer(mesh, Shard(0))
        before, state = layer.weight.to_local().clone(), torch.get_rng_state()
        refused = pytest.raises(ValueError, match=r"4 ranks.*parts of 'weight' with.*pass the same seed=")
        with refused, intercept(layer):
            nn.init.normal_(layer.weight)
        assert torch.equal(layer.weight.to_local(), before)
        assert torch.equal(torch.get_rng_state(), state)
        whole = nn.Linear(2, 2)
        warned = pytest.warns(UserWarning, match="4 ranks.*replicas.*pass the same seed=")
        with warned as said, intercept(whole):
            nn.init.normal_(whole.weight)
        assert said[0].filename == __file__
        with intercept():  # follows the generator, as PyTorch's own
            nn.init.normal_(whole.weight)


def test_a_constant_in_a_copy_of_a_slice_is_named():
    """As of the padding row of an embedding, which PyTorch leaves as it is."""
    for mesh in every_rank((2,)):
        model = nn.Sequential(nn.Embedding(6, 4, padding_idx=1), nn.Linear(4, 4))
        fully_shard(model, mesh=mesh)
        with warnings.catch_warnings(record=True) as said, intercept(model, seed=0):
            warnings.simplefilter("always")
            for _ in range(2):
                model[0].reset_parameters()
            with torch.no_grad():
                model[1].weight[:, 1].fill_(0.0)  # no copy
                model[1].bias.data[1:].zero_()
        names = [re.search(r"a slice of '(.*)' along .* is a copy", str(each.message))[1] for each in said]
        assert names == ["0.weight", "1.bias"]
        assert not model[1].weight.to_local()[:, 1].any()


def test_parameters_that_fsdp2_gathered_are_refused():
    for mesh in every_rank((2,)):
        model = nn.Sequential(nn.Linear(4, 4))
        fully_shard(model, mesh=mesh)
        with intercept(model, seed=0):
            nn.init.normal_(model[0].weight)
            model.unshard()
            with pytest.raises(ValueError, match=r"module '' holds gathered parameters.*reshard\(\) first"):
                nn.init.normal_(model[0].weight)
            before = model[0].bias.detach().clone()
            for name in ("zeros_", "ones_", "constant_"):
                with pytest.raises(ValueError, match="holds gathered parameters"):
                    CALLS[name](model[0].bias)
            with pytest.raises(ValueError, match="holds gathered parameters"), torch.no_grad():
                model[0].bias.zero_()
            assert torch.equal(model[0].bias, before)
        with pytest.raises(ValueError, match="holds gathered parameters"), intercept(model, seed=0):
            pass
        model.reshard()
        with intercept(model, seed=0):
            nn.init.normal_(model[0].weight)
