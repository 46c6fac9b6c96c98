"""init_model_ on models whose parameters are DTensors: rules of every kind, on every rank of a mesh."""

import warnings
import weakref

import pytest
import torch
from filling import assert_same_bits
from meshes import every_rank
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_module, distribute_tensor
from torch.distributed.tensor import Shard as Cut
from torch.nn.utils.parametrizations import weight_norm
from torch.testing._internal.common_distributed import spawn_threads_and_init_comms

from convinit_ext import Constant, Normal, fingerprint, init_model_, plan_model, verify
from convinit_ext.recipes import TORCH, CopyFrom, Preset, Rule

CUTS = [Cut(0), Cut(1)]


def build() -> nn.Module:
    model = nn.Module()
    model.first = nn.Linear(7, 5)
    model.second = nn.Linear(7, 5)
    model.table = nn.Embedding(9, 4, padding_idx=6)
    model.copy = nn.Embedding(9, 4).double()
    return model


def sharded(mesh, model: nn.Module) -> nn.Module:
    for module in model.modules():
        for leaf, parameter in list(module._parameters.items()):
            if parameter is not None:
                cuts = [cut if cut.dim < parameter.ndim else Cut(0) for cut in CUTS]
                cut = distribute_tensor(parameter.detach(), mesh, cuts, src_data_rank=None)
                setattr(module, leaf, nn.Parameter(cut))
    return model


def assert_is_part_of(model: nn.Module, whole: nn.Module) -> None:
    for name, expected in whole.named_parameters():
        parameter = model.get_parameter(name)
        part = distribute_tensor(
            expected.detach(), parameter.device_mesh, parameter.placements, src_data_rank=None
        )
        assert_same_bits(parameter.to_local(), part.to_local(), name)


RECIPE = [
    Rule(CopyFrom("first.weight"), name="second.weight"),
    Rule(CopyFrom("table.weight"), name="copy.weight"),
    Rule(Preset(torch.arange(5.0)), name="first.bias"),
    *TORCH,
]


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_copies_presets_and_padding_rows(meta, dtype):
    whole = build()
    init_model_(whole, 3, RECIPE, dtype=dtype)
    assert torch.equal(whole.first.weight, whole.second.weight)
    assert torch.equal(whole.copy.weight, whole.table.weight.to(whole.copy.weight.dtype))
    for mesh in every_rank((2, 3)):
        with torch.device("meta" if meta else "cpu"):
            model = sharded(mesh, build())
        report = init_model_(model, 3, RECIPE, dtype=dtype)
        assert_is_part_of(model, whole)
        assert verify(model, 3, RECIPE)
        assert report.num_elements == 7 * 5 * 2 + 5 * 2 + 9 * 4 * 2
        assert report.num_bytes == sum(p.to_local().nbytes for p in model.parameters())


def test_a_report_says_what_is_of_the_whole_and_what_is_here():
    whole = init_model_(build(), 3, RECIPE)
    assert not whole.is_part and "152 elements, 752 B in " in whole.summary()
    for mesh in every_rank((2, 2)):
        model = sharded(mesh, build())
        held = sum(each.to_local().numel() * each.element_size() for each in model.parameters())
        report = init_model_(model, 3, RECIPE)
        assert report.is_part and report.num_bytes == held < whole.num_bytes
        assert f"152 elements of the whole, {held} B of it in this process in " in report.summary()
        assert [row.shape for row in report.rows] == [row.shape for row in whole.rows]
        copies = distribute_module(nn.Linear(7, 5), mesh)
        assert "40 elements, 160 B in " in init_model_(copies, 3).summary()


def test_a_plan_runs_again_and_a_part_alone():
    whole = build()
    init_model_(whole, 5)
    init_model_(whole, 6, only="first")
    for mesh in every_rank((2, 2)):
        model = sharded(mesh, build())
        plan = plan_model(model, 4)
        plan.run()
        plan.run(seed=5)
        init_model_(model, 6, only="first")
        assert_is_part_of(model, whole)


@pytest.mark.parametrize("dim", [0, 1, None])
def test_a_norm_of_a_tensor_that_is_cut_in_any_way(dim):
    whole = nn.Sequential(nn.Linear(4, 4), weight_norm(nn.Linear(6, 4), dim=dim))
    init_model_(whole, 5)
    for mesh in every_rank((2,)):
        for cut in (Cut(0), Cut(1)):
            model = nn.Sequential(nn.Linear(4, 4), weight_norm(nn.Linear(6, 4), dim=dim))
            parts = model[1].parametrizations.weight
            direction = distribute_tensor(parts.original1.detach(), mesh, [cut], src_data_rank=None)
            parts.original1 = nn.Parameter(direction)
            init_model_(model, 5)
            norm = parts.original0.clone()
            assert norm.equal(whole[1].parametrizations.weight.original0)
            with pytest.raises(ValueError, match=r"original0.*needs the whole of .*original1', a DTensor"):
                init_model_(model, 6, only="1.parametrizations.weight.original0")
            assert parts.original0.equal(norm)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("meta", [False, True])
def test_weight_norm_of_whole_rows(meta, dtype):
    def layers() -> nn.Module:
        return nn.Sequential(weight_norm(nn.Conv1d(3, 7, 2)), nn.utils.weight_norm(nn.Linear(4, 5)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the older form
        whole = layers()
        init_model_(whole, 3, dtype=dtype)
        for mesh in every_rank((4,)):
            with torch.device("meta" if meta else "cpu"):
                model = layers()
            fully_shard(model, mesh=mesh)
            init_model_(model, 3, dtype=dtype)
            assert_is_part_of(model, whole)


def test_wrong_placements_and_presets_are_named():
    for mesh in every_rank((2,)):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        before = model[0].weight.clone()
        partial = DTensor.from_local(torch.zeros(4, 4), mesh, [Partial()], run_check=False)
        model[1].weight = nn.Parameter(partial)
        with pytest.raises(RuntimeError, match=r"parameter '1\.weight': a DTensor with placement Partial"):
            init_model_(model, 0)
        assert torch.equal(model[0].weight, before)
        with pytest.raises(TypeError, match="Preset needs the whole tensor"):
            Preset(distribute_tensor(torch.zeros(4), mesh, [Cut(0)], src_data_rank=None))


def test_a_tied_dtensor_is_filled_once_and_stays_tied():
    for mesh in every_rank((2,)):
        for device in ("cpu", "meta"):
            with torch.device(device):
                model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8, bias=False))
                weight = distribute_tensor(torch.zeros(8, 4), mesh, [Cut(0)], src_data_rank=None)
            model[0].weight = model[1].weight = nn.Parameter(weight)
            report = init_model_(model, 2, [Rule(Normal(), name="0.weight"), Rule(Constant(1.0))])
            assert [row.name for row in report.rows] == ["0.weight"]
            assert model[0].weight is model[1].weight
            assert model[0].weight.to_local().std() > 0.2


def test_the_statistics_of_a_model_that_was_distributed_start_anew():
    whole = nn.Sequential(nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4))
    init_model_(whole, 3)
    for mesh in every_rank((3,)):
        model = nn.Sequential(nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4))
        model[1].running_mean.fill_(7.0)
        distribute_module(model, mesh)  # which makes copies of buffers too
        init_model_(model, 3)
        for name, tensor in model.state_dict().items():
            assert isinstance(tensor, DTensor)
            assert_same_bits(tensor.to_local(), whole.state_dict()[name], name)


VALUES = torch.arange(45.0).view(9, 5)


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("start", [Constant(2.0), Normal(), Preset(VALUES), lambda target: VALUES])
def test_rules_fill_the_buffers_of_a_mesh(meta, start):
    def build() -> nn.Module:
        model = nn.Linear(2, 2)
        model.register_buffer("table", torch.zeros(9, 5))
        return model

    recipe, whole = [Rule(start, buffer="table"), *TORCH], build()
    init_model_(whole, 3, recipe)
    for mesh in every_rank((2, 3)):
        for cuts in ([Cut(0), Cut(1)], [Cut(0), Cut(0)], [Replicate(), Cut(1)]):
            with torch.device("meta" if meta else "cpu"):
                model = build()
                model.table = distribute_tensor(model.table, mesh, cuts, src_data_rank=None)
            plan = plan_model(model, 3, recipe)
            mark = plan.fingerprint()
            plan.run()
            part = distribute_tensor(whole.table, mesh, cuts, src_data_rank=None)
            assert_same_bits(model.table.to_local(), part.to_local(), str(cuts))
            assert mark == fingerprint(whole)
            assert verify(model, 3, recipe)


def test_buffers_of_a_mesh_that_cannot_be_filled_are_named():
    for mesh in every_rank((2,)):
        model = nn.BatchNorm1d(4)
        model.running_var = DTensor.from_local(torch.ones(4), mesh, [Partial()], run_check=False)
        with pytest.raises(RuntimeError, match=r"buffer 'running_var': .*Partial\(sum\) on 2 ranks"):
            init_model_(model, 0)
        model.running_mean = distribute_tensor(torch.zeros(4), mesh, [Replicate()], src_data_rank=None)
        cut = distribute_tensor(torch.ones(4), mesh, [Cut(0)], src_data_rank=None)
        with pytest.raises(TypeError, match=r"buffer 'running_mean', <lambda>: Preset needs the whole"):
            init_model_(model, 0, [Rule(lambda target, cut=cut: cut, buffer="running_mean"), *TORCH])
        assert model.weight.eq(1.0).all() and not model.running_mean.to_local().any()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_an_optimizer_made_before_goes_on_with_the_same_parameters(device, dtype):
    for mesh in every_rank((2,)):
        with torch.device(device):
            model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, bias=False))
        fully_shard(model, mesh=mesh)
        model[1].weight.note = "kept"
        before = list(model.parameters())
        init_model_(model, 3, dtype=dtype)
        init_model_(model, 4, dtype=dtype)
        for old, new in zip(before, model.parameters(), strict=True):
            assert old is new and not old.is_meta and old.dtype == (dtype or torch.float32)
            assert isinstance(old, nn.Parameter) and isinstance(old, DTensor)
        assert model[1].weight.note == "kept"
        assert verify(model, 4)


def test_a_parameter_that_cannot_stay_the_same_object_is_named():
    for mesh in every_rank((2,)):
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(4, 4, bias=False))
        fully_shard(model, mesh=mesh)
        before = model[0].weight
        held = weakref.ref(before)
        with pytest.warns(UserWarning, match=r"new objects now.*optimizers.*: '0\.weight'"):
            init_model_(model)
        assert held() is before and model[0].weight is not before and verify(model)


@pytest.mark.filterwarnings("ignore")  # of PyTorch's, on what it gathers
def test_ranks_that_are_threads():
    """As PyTorch's own tests have them: their process group has no store."""
    whole = build()
    init_model_(whole, 3)

    @spawn_threads_and_init_comms(world_size=2)
    def check(_):
        model = build()
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        init_model_(model, 3, check_ranks=True)
        assert verify(model, 3, check_ranks=True)
        assert fingerprint(model) == fingerprint(whole)

    check(None)
