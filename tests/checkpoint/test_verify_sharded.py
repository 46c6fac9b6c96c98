"""verify on DTensors: each rank looks at what it holds, and says where in the whole tensor it differs."""

import warnings

import pytest
import torch
from meshes import every_rank, placements
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.utils.parametrizations import weight_norm

from convinit_ext import Normal, init_model_, verify
from convinit_ext.recipes import TORCH, Preset, Rule


@pytest.mark.parametrize("mesh_shape", [(4,), (2, 2)])
def test_the_first_difference_is_in_the_whole_tensor_on_every_kind_of_cut(mesh_shape):
    shape = (7, 5)
    indices = torch.arange(35).reshape(shape)
    recipe = [Rule(Normal())]
    for mesh in every_rank(mesh_shape):
        for cuts in placements(mesh_shape):
            model = nn.Module()
            model.weight = nn.Parameter(distribute_tensor(torch.zeros(shape), mesh, cuts, src_data_rank=None))
            init_model_(model, 3, recipe)
            held = distribute_tensor(indices, mesh, cuts, src_data_rank=None).to_local()
            found = verify(model, 3, recipe)
            assert found and found.rows[0].num_elements == held.numel() and found.rows[0].shape == shape
            if held.numel():
                change(model.weight, held, at=held.numel() // 2, recipe=recipe, model=model)
                change(model.weight, held, at=held.numel() - 1, recipe=recipe, model=model)


def change(weight: DTensor, held: torch.Tensor, at: int, recipe: list[Rule], model: nn.Module) -> None:
    local = weight.to_local().detach()
    place = tuple(int(each) for each in torch.unravel_index(torch.tensor(at), local.shape))
    before = local[place].clone()
    local[place] = 100.0
    (row,) = verify(model, 3, recipe).rows
    assert row.first_index == divmod(int(held[place]), 5), (weight.placements, place)
    assert (row.num_different, row.actual, row.expected) == (1, 100.0, float(before))
    local[place] = before


def layers() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the older form
        return nn.Sequential(
            weight_norm(nn.Conv1d(3, 7, 2)),
            nn.utils.weight_norm(nn.Linear(4, 5)),
            nn.Embedding(9, 4, padding_idx=6),
            nn.Linear(3, 9),
            nn.BatchNorm1d(9),
        )


RECIPE = [Rule(Preset(torch.arange(27.0).reshape(9, 3)), name="3.weight"), *TORCH]


def test_norms_presets_and_rows_of_zeros_of_sharded_models():
    whole = layers()
    init_model_(whole, 3, RECIPE)
    for mesh in every_rank((4,)):
        model = layers()
        fully_shard(model, mesh=mesh)
        init_model_(model, 3, RECIPE)
        found = verify(model, 3, RECIPE)
        assert found
        assert "of some tensors a part alone" in found.summary()
        assert verify(whole.state_dict(), 3, RECIPE, model=model)
        assert verify(model.state_dict(), 3, RECIPE, model=layers())  # of DTensors
        for parameter in model.parameters():
            parameter.to_local().detach().add_(1)
        held = {name for name, parameter in model.named_parameters() if parameter.to_local().numel()}
        found = verify(model, 3, RECIPE)
        assert {row.name for row in found.rows if row.equal and row.num_elements and "." in row.name} <= {
            "4.running_mean",
            "4.running_var",
            "4.num_batches_tracked",
        }
        assert set(found.different) == {row.name for row in found.rows if not row.equal} and len(
            found.different
        ) == len(held)


def test_a_sum_of_which_nobody_knows_the_terms_is_refused():
    for mesh in every_rank((2,)):
        model = nn.Linear(4, 4, bias=False)
        model.weight = nn.Parameter(DTensor.from_local(torch.zeros(4, 4), mesh, [Partial()], run_check=False))
        with pytest.raises(RuntimeError, match=r"'weight': a DTensor with placement Partial"):
            verify(model, 0)
        with pytest.raises(RuntimeError, match=r"'weight': a DTensor with placement Partial"):
            verify({"weight": model.weight}, 0, model=nn.Linear(4, 4, bias=False))
        model.weight = nn.Parameter(
            distribute_tensor(torch.zeros(4, 4), mesh, [Replicate()], src_data_rank=None)
        )
        assert verify(model, 0).different == ("weight",)
        cut = distribute_tensor(torch.zeros(4, 4, device="meta"), mesh, [Shard(0)], src_data_rank=None)
        model.weight = nn.Parameter(cut)
        with pytest.raises(ValueError, match="1 tensor on the meta device"):
            verify(model, 0)
