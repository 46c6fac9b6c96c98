"""only=, skip=, names=, dry runs and plans that run again: what is touched, and which key counts."""

import re

import numpy as np
import pytest
import torch
from reference import layer_key, reference
from states import assert_refused
from torch import nn

from convinit_ext import Constant, Normal, Uniform, fingerprint, init_model_, plan_model
from convinit_ext.model import _api as model_module
from convinit_ext.recipes import TORCH, CopyFrom, Preset, Rule

DRAWN = [Rule(Uniform(-0.5, 0.25))]  # the reference has a uniform's bits


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.stem = nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4))
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in tensors}


def changed(model: nn.Module, **arguments) -> list[str]:
    """What a call changes of a model whose every tensor is 9."""
    with torch.no_grad():
        for _, tensor in (*model.named_parameters(), *model.named_buffers()):
            tensor.fill_(9)
    report = init_model_(model, **arguments)
    now = [name for name, tensor in state(model).items() if not tensor.eq(9).all()]
    buffers = {name for name, _ in model.named_buffers()}
    assert [row.name for row in report.rows] == [name for name in now if name not in buffers]
    return now


def test_a_name_with_brackets_or_stars_is_that_name_alone():
    model = nn.ModuleDict({key: nn.Linear(2, 2, bias=False) for key in ("a[0]", "a0", "a*", "re:x", "[")})
    names = [name for name, _ in model.named_parameters()]
    for name in names:
        assert changed(model, only=name) == changed(model, only=name.removesuffix(".weight")) == [name]
        assert changed(model, skip=[name]) == [other for other in names if other != name]
        assert changed(model, only={name: [1]}) == [name]
    assert changed(model, only=["a?.weight"]) == ["a0.weight", "a*.weight"]  # no name: a glob


STATISTICS = ["stem.1.running_mean", "stem.1.running_var", "stem.1.num_batches_tracked"]
STEM = ["stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias"]


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("embed.weight", ["embed.weight"]),
        ("head.weight", ["embed.weight"]),  # by its second name
        ("head", ["embed.weight"]),
        ("experts.1", ["experts.1.weight", "experts.1.bias"]),
        ("module.experts.1", ["experts.1.weight", "experts.1.bias"]),
        ("experts.[02].b*", ["experts.0.bias", "experts.2.bias"]),
        ("stem", [*STEM, *STATISTICS]),
        ("s*.1", ["stem.1.weight", "stem.1.bias", *STATISTICS]),
        ("stem.1.weight", ["stem.1.weight"]),
        ("stem.1.running_mean", ["stem.1.running_mean"]),
        (re.compile(r"^[^e].*\d\.weight$"), ["stem.0.weight", "stem.1.weight"]),
        (nn.BatchNorm1d, ["stem.1.weight", "stem.1.bias", *STATISTICS]),
        (["experts.0.bias", re.compile("^embed")], ["embed.weight", "experts.0.bias"]),
        ([], []),
    ],
)  # fmt: skip
def test_only_what_is_chosen_changes(only, names):
    assert changed(Net(), only=only) == names


def test_modules_choose_themselves_and_lists_of_modules_are_modules():
    model = Net()
    assert changed(model, only=model.stem) == [*STEM, *STATISTICS]
    assert len(changed(model, only=model.experts)) == 6
    assert changed(model, only=[model.experts[0], model.head]) == [
        "embed.weight", "experts.0.weight", "experts.0.bias",
    ]  # fmt: skip


def test_skip_wins_over_only_and_holds_for_every_name_of_a_tied_parameter():
    everything = changed(Net())
    assert changed(Net(), skip="stem") == [name for name in everything if not name.startswith("stem")]
    assert "embed.weight" not in changed(Net(), skip="head.*")
    assert changed(Net(), only="experts", skip=["*.bias", "experts.2"]) == [
        "experts.0.weight",
        "experts.1.weight",
    ]
    assert changed(Net(), only="stem", skip="*.bias") == [
        "stem.0.weight", "stem.1.weight", *STATISTICS,
    ]  # fmt: skip
    assert changed(Net(), skip=nn.BatchNorm1d) == [
        name for name in everything if not name.startswith("stem.1")
    ]


def test_tied_by_memory_one_name_chooses_or_protects_both():
    model = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)])
    model[1].weight = nn.Parameter(model[0].weight.detach())
    init_model_(model, 4, DRAWN, only="1.*")
    assert key_of(model[1].weight, "0.weight", seed=4)
    assert init_model_(model, 5, DRAWN, skip="1.*").rows == ()


def test_every_module_that_holds_a_tied_parameter_chooses_or_protects_it():
    model = Net()
    model.decoder = nn.Sequential(model.head, nn.Linear(4, 4))
    own = ["embed.weight", "decoder.1.weight", "decoder.1.bias"]
    assert changed(model, only=model.decoder) == changed(model, only="decoder") == own
    assert not {*own} & {*changed(model, skip=model.decoder)}
    assert "embed.weight" in changed(model, only=nn.Linear)
    assert "embed.weight" not in changed(model, skip=nn.Linear)


def test_what_a_checkpoint_lacked_is_initialised_and_the_rest_loaded():
    trained, model = Net(), Net()
    init_model_(trained, 1)
    checkpoint = {name: tensor for name, tensor in trained.state_dict().items() if "experts.1" not in name}
    missing = model.load_state_dict(checkpoint, strict=False).missing_keys
    init_model_(model, 1, only=missing)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_a_meta_model_keeps_what_is_not_chosen_on_meta():
    with torch.device("meta"):
        model = Net()
    init_model_(model, only="stem", dtype=torch.bfloat16)
    there = {
        name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if not tensor.is_meta
    }
    assert there == {*STEM, *STATISTICS}
    assert model.embed.weight.dtype == torch.float32
    init_model_(model, skip="stem")
    assert not any(tensor.is_meta for tensor in model.parameters())
    assert model.head.weight is model.embed.weight


def test_what_is_not_chosen_need_not_be_fillable_or_covered():
    model = Net()
    model.table = nn.Parameter(torch.ones(3, dtype=torch.int64), requires_grad=False)
    model.scale = nn.Parameter(torch.ones(3))
    model.sparse = nn.Parameter(torch.eye(3).to_sparse())
    assert len(init_model_(model, only="stem").rows) == 4


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"only": "stm.*"}, ValueError, r"only chooses nothing by 'stm\.\*'"),
        ({"only": ["stem", "nothing"]}, ValueError, "nothing by 'nothing'"),
        ({"skip": re.compile("^weight$")}, ValueError, r"skip chooses nothing by '\^weight\$'"),
        ({"only": nn.Conv3d}, ValueError, "Conv3d"),
        ({"only": nn.Linear(2, 2)}, ValueError, "Linear that is not part of the model"),
        ({"only": lambda target: False}, TypeError, "must be globs, .*, not <function"),
        ({"only": ""}, ValueError, "empty pattern"),
        ({"only": re.compile("")}, ValueError, r"only re\.compile\(''\) is an empty pattern; '\*' fits all"),
        ({"skip": ["stem", re.compile("", re.IGNORECASE)]}, ValueError, "skip .* is an empty pattern"),
        ({"skip": "layers[0"}, ValueError, "never closed"),
        ({"only": re.compile(b"x")}, TypeError, "not on bytes"),
        ({"only": 3}, TypeError, "not 3"),
        ({"skip": nn.Parameter(torch.ones(99, 99))}, TypeError, r"not Parameter containing:(?s:.{,250})$"),
        ({"fan": np.ones(2)}, ValueError, r"fan must be one of .* not array\(\[1\., 1\.\]\)"),
        ({"frozen": np.ones(2)}, ValueError, r"frozen must be .* not array\(\[1\., 1\.\]\)"),
        ({"skip": [torch.ones(1)]}, TypeError, "tensor"),
        ({"names": 3}, TypeError, "dict or a function of a name, not int"),
        ({"names": {"experts": 3}}, TypeError, "'experts': 3"),
        ({"names": {"expert": "mlp"}}, ValueError, "no parameter is called or begins with 'expert'"),
        (
            {"names": {"experts.1": "experts.0"}},
            ValueError,
            "'experts.0.weight' and 'experts.1.weight' would both",
        ),
        ({"names": lambda name: "same"}, ValueError, "both get the key of 'same'"),
        ({"names": lambda name: None}, TypeError, "'embed.weight' becomes None"),
        ({"names": lambda name: "_orig_mod"}, ValueError, "becomes '_orig_mod'"),
    ],
)
def test_wrong_choices_and_names_are_named_and_nothing_is_written(arguments, error, said):
    assert_refused(Net(), error, said, **arguments)


def key_of(tensor: torch.Tensor, name: str, seed: int = 0) -> bool:
    """Whether a tensor that DRAWN filled has the key of this name."""
    expected = reference(tuple(tensor.shape), *layer_key(seed, name), ("uniform", -0.5, 0.25), "float32")
    return torch.equal(tensor.detach(), torch.from_numpy(expected))


def test_names_make_the_keys_exactly_by_the_longest_prefix_or_by_a_function():
    model = Net()
    init_model_(model, recipe=DRAWN, names={"experts": "mlps.", "experts.1": "old", "experts.2.bias": "b"})
    assert key_of(model.experts[0].weight, "mlps.0.weight")
    assert key_of(model.experts[1].weight, "old.weight")
    assert key_of(model.experts[2].bias, "b")
    assert key_of(model.experts[2].weight, "mlps.2.weight")
    assert key_of(model.embed.weight, "embed.weight")
    init_model_(model, recipe=DRAWN, names=lambda name: "module.stage1." + name.replace("experts", "e"))
    assert (
        key_of(model.experts[0].weight, "module.stage1.e.0.weight") is False
    )  # wrappers leave mapped names too
    assert key_of(model.experts[0].weight, "stage1.e.0.weight")


def test_an_empty_prefix_is_one_of_every_name_and_can_be_taken_away():
    model = Net()
    report = init_model_(model, recipe=DRAWN, names={"": "stage1"})
    assert key_of(model.stem[0].bias, "stage1.stem.0.bias")
    assert report.rows[0].name == "embed.weight"  # the model's own
    init_model_(model, recipe=DRAWN, names={"stem": ""})
    assert key_of(model.stem[0].bias, "0.bias")


def test_of_tied_parameters_the_first_name_counts_and_names_can_choose_another():
    model = Net()
    init_model_(model, recipe=DRAWN)
    assert key_of(model.head.weight, "embed.weight")
    init_model_(model, recipe=DRAWN, names={"embed.weight": "head.weight"})
    assert key_of(model.embed.weight, "head.weight")


def test_a_dry_run_is_the_report_and_touches_nothing(monkeypatch):
    with torch.device("meta"):
        meta = Net()
    monkeypatch.setattr(model_module, "run", None)
    planned = init_model_(meta, 3, dtype=torch.float16, dry_run=True)
    assert all(tensor.is_meta for tensor in (*meta.parameters(), *meta.buffers()))
    monkeypatch.undo()
    done = init_model_(meta, 3, dtype=torch.float16)
    assert planned.rows == done.rows
    assert planned.dry and not done.dry
    assert "planned, nothing done; recipe torch, seed 3" in str(planned)
    assert planned.to_dict()["dry"] is True
    model = Net()
    before = state(model)
    init_model_(model, dry_run=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(model).items())
    with pytest.raises(ValueError, match="'nothing'"):
        init_model_(model, only="nothing", dry_run=True)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_plan_runs_again_with_its_seed_and_with_others(device):
    rules = [
        Rule(CopyFrom("experts.0.weight"), name="experts.1.weight"),
        Rule(Preset(torch.ones(4)), name="experts.*.bias"),
        *TORCH,
    ]
    with torch.device(device):
        model = Net()
    plan = plan_model(model, 5, rules, dtype=torch.bfloat16)
    assert next(model.parameters()).device.type == device
    assert "experts.0.weight" in str(plan)
    pointers = None
    for seed, given in ((5, None), (6, 6), (5, None)):
        report = plan.run(given)
        fresh = Net()
        init_model_(fresh, seed, rules, dtype=torch.bfloat16)
        assert all(torch.equal(tensor, state(fresh)[name]) for name, tensor in state(model).items())
        assert report.seed == seed and report.rows == plan.report.rows and not report.dry
        now = [parameter.data_ptr() for parameter in model.parameters()]
        assert pointers in (None, now)  # in place from the second time on
        pointers = now
        model.stem[1].running_mean.add_(1)


def test_a_plan_that_ran_leaves_buffers_of_the_new_dtype_alone():
    model = nn.Linear(2, 2)
    model.register_buffer("table", torch.tensor([0.1, 0.2]))
    plan = plan_model(model, dtype=torch.bfloat16)
    plan.run()
    model.table.add_(1)
    before = model.table.clone()
    plan.run(2)
    assert model.table.dtype == torch.bfloat16 and torch.equal(model.table, before)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
@pytest.mark.parametrize("made", [torch.jit.script, lambda layer: torch.jit.trace(layer, torch.ones(1, 3))])
def test_a_plan_of_a_script_module(made):
    model = made(nn.Linear(3, 2))
    plan = plan_model(model, seed=0, recipe=DRAWN)
    plan.run()
    expected = reference((2, 3), *layer_key(0, "weight"), ("uniform", -0.5, 0.25), "float32")
    assert torch.equal(model.weight.detach(), torch.from_numpy(expected))
    assert plan.fingerprint() == fingerprint(model)
    model.bias = nn.Parameter(torch.zeros(2))
    with pytest.raises(RuntimeError, match="bias"):
        plan.run()


def test_a_plan_of_a_model_that_changed_since_is_refused():
    for change in (
        lambda model: setattr(model.experts[0], "weight", nn.Parameter(torch.ones(4, 4))),
        lambda model: model.half(),
        lambda model: setattr(model.stem[1], "running_mean", torch.ones(4)),
        lambda model: model.to("meta"),
        lambda model: setattr(model.head, "_parameters", dict(nn.Linear(4, 4)._parameters)),
    ):
        model = Net()
        plan = plan_model(model)
        plan.run()
        change(model)
        before = state(model)
        for asked in (plan.run, plan.fingerprint):
            with pytest.raises(RuntimeError, match=r"changed since it was planned, '\w+.*'.*plan it again"):
                asked()
        assert all(
            tensor.is_meta or torch.equal(tensor, before[name]) for name, tensor in state(model).items()
        )
    with pytest.raises(ValueError, match="seed must be in"):
        plan_model(Net()).run(seed=2**64)


def test_running_again_is_cheaper_than_planning_again(monkeypatch):
    plan = plan_model(Net(), recipe=[Rule(Constant(1.0))])
    monkeypatch.setattr(model_module, "make_plan", None)
    plan.run(3)


def test_errors_about_many_names_list_the_first():
    model = nn.ModuleList(nn.Linear(2, 2) for _ in range(300))
    for index, layer in enumerate(model):
        layer.register_parameter(f"odd{index}", nn.Parameter(torch.ones(2)))
    many = [f"other{index}" for index in range(300)]
    for options, said in (
        ({"recipe": "he"}, "no rule for 300 parameters"),
        ({"recipe": [Rule(Normal())], "names": dict.fromkeys(many, "x")}, r"begins with .* and 280 more"),
        ({"recipe": [Rule(Normal())], "only": many}, "only chooses nothing by .* and 280 more"),
        ({"recipe": [Rule(Normal())], "skip": many}, "skip chooses nothing by .* and 280 more"),
        ({"recipe": [Rule(Normal())], "only": {"0.weight": range(2, 300)}}, "has no row 2"),
    ):
        with pytest.raises(ValueError, match=said) as raised:
            plan_model(model, **options)
        assert len(str(raised.value)) < 3000
    lazy = nn.ModuleList(nn.LazyLinear(2) for _ in range(300))
    with pytest.raises(ValueError, match=r"without a shape yet: .* and 580 more"):
        plan_model(lazy)
