"""only= with rows: they have the values of the whole tensor, and nothing else changes, on shards too."""

import copy

import pytest
import torch
from filling import assert_same_bits
from meshes import every_rank, placements
from torch import nn
from torch.distributed.tensor import distribute_tensor
from torch.nn.utils.parametrizations import weight_norm

from convinit_ext import Normal, fingerprint, init_ensemble, init_model_, plan_model, save_model, verify
from convinit_ext.recipes import TORCH, CopyFrom, Preset, Rule

TABLE = torch.randn(12, 4, generator=torch.Generator().manual_seed(5))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 4, padding_idx=9)
        self.experts = nn.Parameter(torch.rand(6, 4, 4))
        self.convs = nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6))
        self.normed = weight_norm(nn.Linear(4, 6))
        self.copied, self.given = nn.Embedding(12, 4), nn.Embedding(12, 4)
        self.head = nn.Linear(4, 12, bias=False)
        self.head.weight = self.embed.weight


RULES = [
    Rule(Normal(), name="experts"),
    Rule(CopyFrom("embed.weight"), name="copied.*"),
    Rule(Preset(TABLE), name="given.*"),
    *TORCH,
]
ROWS = {  # by what chooses them, the rows of the parameters that it chooses
    "embed.weight": (slice(7, None), range(7, 12)),
    "head": ([3, -1, 4, 3], (3, 4, 11)),  # by its second name
    "experts": (torch.tensor([5, 0]), (0, 5)),
    "convs": (slice(1, 5, 2), (1, 3)),
    "normed": (slice(-2, None), (4, 5)),
    "*ed.weight": (range(2), (0, 1)),
    "given": (slice(0, 1), (0,)),
}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("chosen", ROWS)
def test_rows_have_the_values_of_the_whole_and_nothing_else_changes(chosen, dtype, tmp_path):
    given, rows = ROWS[chosen]
    whole, model = Net(), Net()
    init_model_(whole, 7, RULES, dtype=dtype)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    buffers = [each.clone() for each in model.buffers()]
    save_model(model, tmp_path / "model.safetensors", 7, RULES, dtype, only={chosen: given})
    plan = plan_model(model, 7, RULES, dtype=dtype, only={chosen: given})
    planned = plan.fingerprint()
    report = plan.run()
    assert report.rows and all("alone" in row.initialiser for row in report.rows)
    names = {row.name for row in report.rows}
    for name, parameter in model.named_parameters():
        expected = before[name]
        if name in names:
            expected = expected.to(dtype or expected.dtype)
            expected[list(rows)] = whole.get_parameter(name).detach()[list(rows)]
        assert_same_bits(parameter.detach(), expected, name)
    assert all(map(torch.equal, buffers, model.buffers()))
    assert planned == fingerprint(model) == fingerprint(tmp_path / "model.safetensors")
    plan.run(8)
    plan.run(7)
    assert planned == fingerprint(model)


def test_several_ways_to_choose_one_are_taken_together_and_whole_ones_are_whole():
    only = {"embed.weight": [1], "head.*": slice(4, 6), "convs": slice(None), "e?perts": slice(0, 6)}
    model = Net()
    report = init_model_(model, recipe=RULES, only=only)
    texts = {row.name: row.initialiser for row in report.rows}
    assert texts["embed.weight"] == "normal_(0, 1), row 9 zero, 3 rows of 1 to 5 alone"
    assert texts["experts"] == "normal_(0, 1)" and "alone" not in texts["convs.0.weight"]
    assert not model.convs[1].running_mean.any()
    texts = [init_model_(Net(), only={"embed": rows}).rows[0].initialiser for rows in ([2], slice(2, 4))]
    assert texts == ["normal_(0, 1), row 9 zero, row 2 alone", "normal_(0, 1), row 9 zero, rows 2 to 3 alone"]
    with torch.no_grad():
        model.convs[1].running_mean.fill_(3.0)
    report = init_model_(model, only={nn.BatchNorm2d: slice(0, 2), model.copied: [0]}, skip="copied")
    assert [row.name for row in report.rows] == ["convs.1.weight", "convs.1.bias"]
    assert model.convs[1].running_mean.eq(3).all()


def test_two_names_that_are_one_without_wrappers_choose_the_rows_of_both():
    model = Net()
    report = init_model_(model, only={"embed.weight": slice(0, 2), "module.embed.weight": [4]})
    assert report.rows[0].initialiser.endswith("3 rows of 0 to 4 alone")


def test_names_make_the_keys_of_rows_too():
    old, new = nn.Embedding(8, 4), nn.Embedding(12, 4)
    init_model_(new, 7, names={"": "embed"}, only={"weight": slice(8, None)})
    model = nn.ModuleDict({"embed": nn.Embedding(12, 4)})
    init_model_(model, 7)
    assert_same_bits(new.weight[8:].detach(), model["embed"].weight[8:].detach())
    init_model_(old, 7, names={"": "embed"})
    assert_same_bits(
        old.weight.detach(), model["embed"].weight[:8].detach()
    )  # rows do not know how many follow


def test_verify_looks_at_these_rows_alone(tmp_path):
    model, only = Net(), {"embed.weight": slice(7, None), "experts": [0, 5]}
    init_model_(model, 7, RULES, only=only)
    model.experts.data[3] = 0.0
    model.embed.weight.data[0] = 0.0
    found = verify(model, 7, RULES, only=only)
    assert (
        found and found.num_elements == 5 * 4 + 2 * 16 and "of some tensors a part alone" in found.summary()
    )
    assert not verify(model, 7, RULES, only="experts")
    assert not verify(model, 8, RULES, only=only)
    made = {"given": [2, 5], "normed": slice(1, 3)}  # rows of given values, and of norms
    init_model_(model, 7, RULES, only=made)
    assert verify(model, 7, RULES, only=made) and not verify(model, 7, RULES, only={"given": [1]})
    save_model(model, tmp_path / "model.safetensors", 7, RULES, only=only)
    with torch.device("meta"):
        assert verify(tmp_path / "model.safetensors", 7, RULES, only=only, model=Net())
    model.experts.data[5, 1, 2] = 0.0
    found = verify(model, 7, RULES, only=only)
    assert found.different == ("experts",) and found.rows[0].first_index == (5, 1, 2)
    assert found.rows[0].verdict == "1 of 32 differ"


@pytest.mark.parametrize("rows", [slice(3, None), [0, 5, 2, 6]], ids=str)
@pytest.mark.parametrize("mesh_shape", [(4,), (2, 2)])
def test_shards(mesh_shape, rows):
    whole, held = nn.Embedding(7, 5, padding_idx=5), torch.rand(7, 5)
    init_model_(whole, 3)
    expected = held.clone()
    expected[rows] = whole.weight.detach()[rows]
    for mesh in every_rank(mesh_shape):
        for placement in placements(mesh_shape):
            model = nn.Embedding(7, 5, padding_idx=5)
            sharded, wanted = (
                distribute_tensor(each, mesh, placement, src_data_rank=None)
                for each in (held.clone(), expected)
            )
            model.weight = nn.Parameter(sharded)
            init_model_(model, 3, only={"weight": rows})
            assert_same_bits(model.weight.to_local().detach(), wanted.to_local(), placement)
            assert verify(model, 3, only={"weight": rows})
            if all(each.is_replicate() for each in placement):  # each process has all of it
                plan = plan_model(model, 3, only={"weight": rows})
                assert plan.fingerprint() == fingerprint({"weight": expected})
                continue
            with pytest.raises(TypeError, match="'weight' is a DTensor that is not filled as a whole"):
                plan_model(model, 3, only={"weight": rows}).fingerprint()
            with pytest.raises(RuntimeError, match="'weight' is a DTensor that is not filled as a whole"):
                save_model(model, "never.safetensors", 3, only={"weight": rows})


def test_ranges_of_flattened_parameters():
    whole, held = nn.Embedding(7, 5), torch.rand(7, 5)
    init_model_(whole, 3)
    expected = held.clone()
    expected[2:4] = whole.weight.detach()[2:4]
    for mesh in every_rank((3,)):
        start = 12 * mesh.get_rank()
        model = nn.Embedding(7, 5)
        weight = model.weight
        weight.ds_id, weight.ds_shape, weight.data = 0, weight.shape, torch.empty(0)  # as DeepSpeed's ZeRO-3
        weight.ds_tensor = torch.zeros(12)
        weight.ds_tensor[: 35 - start] = held.flatten()[start : start + 12]
        init_model_(model, 3, only={"weight": slice(2, 4)})
        assert_same_bits(weight.ds_tensor[: 35 - start], expected.flatten()[start : start + 12], start)


def test_members_of_an_ensemble():
    model = Net()
    only = {"embed.weight": slice(7, None), "experts": [0, 5], "normed": [1], "given": [2]}
    params, _ = init_ensemble(model, [4, 9], RULES, only=only)
    for member, seed in enumerate((4, 9)):
        one = copy.deepcopy(model)
        init_model_(one, seed, RULES, only=only)
        for name, parameter in one.named_parameters():
            assert_same_bits(params[name][member].detach(), parameter.detach(), name)


@pytest.mark.parametrize(
    ("only", "error", "said"),
    [
        (
            {"embed.weight": slice(12, None)},
            ValueError,
            r"'embed\.weight' of shape \[12, 4\] has none of these",
        ),
        (
            {"embed.weight": []},
            ValueError,
            r"'embed\.weight' of shape \[12, 4\] has none of these rows: \[\]",
        ),
        ({"embed.weight": [3, 12]}, ValueError, r"'embed\.weight' of shape \[12, 4\] has no row 12"),
        ({"embed.weight": slice(0, 3, 0)}, TypeError, r"only\['embed\.weight'\]: rows are a slice or"),
        ({"embed.weight": [-13]}, ValueError, r"'embed\.weight' of shape \[12, 4\] has no row -13"),
        (
            {"embed.weight": 3},
            TypeError,
            r"only\['embed.weight'\]: rows are a slice or their numbers, .* not 3",
        ),
        ({"embed.weight": "3"}, TypeError, r"only\['embed.weight'\]: rows are a slice or their numbers"),
        ({"embed.weight": [1.5]}, TypeError, r"only\['embed.weight'\]: rows are a slice or their numbers"),
        ({"embed.weight": torch.ones(12) > 0}, TypeError, "rows are a slice or their numbers"),
        ({"embed.weight": torch.ones(1, 1).long()}, TypeError, "rows are a slice or their numbers"),
        ({"embed.weight": slice(0.5, None)}, TypeError, "rows are a slice or their numbers"),
        ({"embed.wight": slice(2)}, ValueError, r"only chooses nothing by 'embed\.wight'"),
        ({"convs.1.running_mean": slice(2)}, ValueError, r"only chooses nothing by 'convs\.1\.running_mean'"),
        ({"scale": slice(2)}, ValueError, r"'scale' of shape \[\] has no rows; choose it whole"),
        ({3: slice(2)}, TypeError, "only must be globs"),
    ],
    ids=str,
)
def test_what_are_no_rows(only, error, said):
    model = Net()
    model.scale = nn.Parameter(torch.tensor(2.0))
    before = [each.detach().clone() for each in model.parameters()]
    for do in (init_model_, plan_model, verify):
        with pytest.raises(error, match=said):
            do(model, 7, [Rule(Normal(), name="scale"), *RULES], only=only)
    assert all(map(torch.equal, before, model.parameters()))


def test_rows_of_what_has_no_values_and_of_skip(tmp_path):
    with torch.device("meta"):
        model = Net()
    said = r"'embed\.weight' of shape \[12, 4\] is on the meta device: its other rows have no values"
    for do in (init_model_, lambda model, **only: save_model(model, tmp_path / "new", **only)):
        with pytest.raises(ValueError, match=said):
            do(model, only={"embed.weight": slice(7, None)})
    with pytest.raises(TypeError, match="skip= takes no rows, only= does"):
        init_model_(Net(), skip={"embed.weight": slice(7, None)})


def test_rows_that_differ_are_no_copies_that_come_apart():
    model = nn.ModuleDict({"online": nn.Linear(8, 8)})
    model["target"] = copy.deepcopy(model["online"])
    init_model_(model, only={"online": slice(0, 1), "target": slice(0, 1)})  # without a warning
