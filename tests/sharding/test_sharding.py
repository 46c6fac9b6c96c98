"""Every initialiser on DTensors and on hand-cut shards: each rank has, to the bit, its part of the whole."""

import functools

import pytest
import torch
from filling import assert_same_bits
from initialisers import ALL, FIXED, KEY, RANDOM, key_of, unset
from meshes import every_rank, placements
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor
from torch.distributed.tensor import Shard as Cut

from convinit_ext import Shard, fingerprint, init


def part_of(whole: Tensor, mesh, cuts) -> Tensor:
    return distribute_tensor(whole, mesh, cuts, src_data_rank=None).to_local()


def assert_every_rank_has_its_part(mesh_shape, shape, function, some=1, **more) -> None:
    whole = function(unset(shape), **more)
    for mesh in every_rank(mesh_shape):
        for placement in placements(mesh_shape, min(2, len(shape)))[::some]:
            tensor = distribute_tensor(unset(shape), mesh, placement, src_data_rank=None)
            assert function(tensor, **more) is tensor
            assert_same_bits(tensor.to_local(), part_of(whole, mesh, placement), (placement, shape))


@pytest.mark.parametrize("name", ALL)
def test_dtensors(name):
    function, shapes = ALL[name]
    for shape in shapes:
        assert_every_rank_has_its_part((4,), shape, function, **key_of(name))
        assert_every_rank_has_its_part((2, 3), shape, function, some=3, **key_of(name))


@pytest.mark.parametrize("name", [*RANDOM, *FIXED])
def test_shards_by_hand(name):
    function, shapes = ALL[name]
    more = key_of(name)
    for shape in shapes:
        whole = function(unset(shape), **more)
        cuts = [range(1, shape[0]), [range(2), range(shape[0] - 1, shape[0])], range(0, shape[0], 2)]
        for cut in cuts:
            rows = torch.cat([torch.tensor(each) for each in (cut if isinstance(cut, list) else [cut])])
            local = unset((len(rows), *shape[1:]))
            shard = Shard(shape, (cut, *(0 for _ in shape[1:])))
            assert function(local, shard=shard, **more) is local
            assert_same_bits(local, whole[rows], (shape, cut))


def test_a_linear_of_megatron_has_the_fans_of_the_whole():
    whole = init.xavier_normal_(torch.empty(48, 32), key=KEY)
    for rank in range(4):
        shard = Shard.split((48, 32), 0, rank, 4, stride=3)
        local = init.xavier_normal_(torch.empty(12, 32), key=KEY, shard=shard)
        assert_same_bits(local, torch.cat(whole.chunk(12)[rank::4]))


def test_dtypes_and_memory_formats():
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        whole = init.normal_(torch.empty(6, 4, 3, 3, dtype=dtype), key=KEY)
        for mesh in every_rank((2, 2)):
            full = torch.zeros(6, 4, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
            tensor = distribute_tensor(full, mesh, [Cut(0), Cut(1)], src_data_rank=None)
            init.normal_(tensor, key=KEY)
            assert_same_bits(tensor.to_local(), part_of(whole, mesh, [Cut(0), Cut(1)]))


@pytest.mark.parametrize("name", RANDOM)
def test_without_a_key_all_ranks_draw_the_same_one(name):
    """The ranks' default generators have one seed: they stay in step, also where a rank holds nothing."""
    function, shapes = RANDOM[name]
    torch.manual_seed(11)
    whole = function(unset(shapes[0]))
    state = torch.get_rng_state()
    other = function(unset(shapes[0]), generator=torch.Generator().manual_seed(4))
    for mesh in every_rank((8,)):
        tensor = distribute_tensor(unset(shapes[0]), mesh, [Cut(0)], src_data_rank=None)
        torch.manual_seed(11)
        function(tensor)
        assert_same_bits(tensor.to_local(), part_of(whole, mesh, [Cut(0)]))
        assert torch.equal(torch.get_rng_state(), state), tensor.to_local().shape
        function(tensor, generator=torch.Generator().manual_seed(4))
        assert_same_bits(tensor.to_local(), part_of(other, mesh, [Cut(0)]))
        nothing = distribute_tensor(torch.zeros(0, 3), mesh, [Cut(0)], src_data_rank=None)
        init.normal_(nothing)
        assert torch.equal(torch.get_rng_state(), state)


def test_autograd_sees_the_change_and_nothing_else():
    for mesh in every_rank((2,)):
        tensor = torch.nn.Parameter(distribute_tensor(unset((4, 4)), mesh, [Cut(0)], src_data_rank=None))
        for function in (RANDOM["normal"][0], FIXED["eye"][0], RANDOM["orthogonal"][0], RANDOM["sparse"][0]):
            before = tensor._version, tensor.to_local()._version
            function(tensor)
            assert (tensor._version > before[0]) and (tensor.to_local()._version > before[1]), function
        assert tensor.requires_grad and tensor.is_leaf and tensor.grad is None


def test_meta_and_fake_dtensors_are_left_alone():
    for mesh in every_rank((2,)):
        with torch.device("meta"):
            tensor = distribute_tensor(torch.empty(4, 4), mesh, [Cut(0)], src_data_rank=None)
        for name in ("uniform", "normal", "trunc_normal", "kaiming_normal", "orthogonal", "sparse", "eye"):
            assert ALL[name][0](tensor) is tensor
        assert tensor.to_local().is_meta
    with FakeTensorMode():
        local = torch.empty(2, 4)
        assert init.normal_(local, shard=Shard((4, 4), (2, 0)), key=KEY) is local


@pytest.mark.parametrize("function", [RANDOM["normal"][0], FIXED["eye"][0], RANDOM["orthogonal"][0]])
def test_wrong_calls_leave_the_tensor_as_it_was(function):
    more = {} if function is FIXED["eye"][0] else {"key": KEY}
    local = unset((4, 4))
    with pytest.raises(ValueError, match="leaves the full tensor"):
        function(local, shard=Shard((6, 4), (3, 0)), **more)
    with pytest.raises(TypeError, match=r"shard must be a convinit_ext\.Shard, not tuple"):
        function(local, shard=(0, 0), **more)
    for mesh in every_rank((2,)):
        partial = DTensor.from_local(local, mesh, [Partial()], run_check=False)
        state = torch.get_rng_state()
        with pytest.raises(RuntimeError, match="a sum that nobody can fill"):
            function(partial)
        whole = distribute_tensor(local, mesh, [Replicate()], src_data_rank=None)
        with pytest.raises(TypeError, match="placements say where it sits"):
            function(whole, shard=Shard((4, 4), (0, 0)))
        with pytest.raises((TypeError, NotImplementedError), match="int64"):
            function(distribute_tensor(local.long(), mesh, [Cut(0)], src_data_rank=None))
        assert torch.equal(torch.get_rng_state(), state)
    assert local.isnan().all()


def test_a_constant_other_than_zero_is_no_sum_of_itself():
    for mesh in every_rank((2,)):
        partial = DTensor.from_local(unset((4, 4)), mesh, [Partial()], run_check=False)
        for function in (init.ones_, functools.partial(init.constant_, val=2.0)):
            with pytest.raises(RuntimeError, match="a sum that nobody can fill"):
                function(partial)
        assert partial.to_local().isnan().all()
        assert init.zeros_(partial).to_local().eq(0).all()


def test_ranks_that_one_process_stands_for():
    local_tensors = pytest.importorskip("torch.distributed._local_tensor")
    for mesh in every_rank((2,)):
        with local_tensors.LocalTensorMode(2):
            tensor = distribute_tensor(unset((3, 4)), mesh, [Cut(0)], src_data_rank=None)
            for fills in (init.normal_, init.eye_, init.orthogonal_):
                with pytest.raises(TypeError, match=r"inside LocalTensorMode.* a process for each rank"):
                    fills(tensor)
            with pytest.raises(TypeError, match="the tensor: cannot fill or read a DTensor inside"):
                fingerprint(tensor)


def test_a_local_tensor_that_has_to_be_waited_for():
    whole = init.normal_(unset((8, 3)), key=KEY)
    for mesh in every_rank((1,)):
        waiting = AsyncCollectiveTensor(unset((8, 3)))
        tensor = DTensor.from_local(unset((8, 3)), mesh, [Replicate()], run_check=False)
        tensor._local_tensor = waiting
        init.normal_(tensor, key=KEY)
        assert torch.equal(waiting.elem, whole) and type(tensor._local_tensor) is AsyncCollectiveTensor
        assert fingerprint(tensor) == fingerprint(whole)
