"""Plans: names, ties, keys, and every way in which a model can be wrong; nothing is allocated or written."""

import gc

import pytest
import torch
from planning import make_plan
from torch import nn

from convinit_ext import Constant, Normal, Uniform, init_model_, plan_model, save_model, verify
from convinit_ext._engine import UnsupportedTensorError
from convinit_ext.recipes import TORCH, Kaiming, Rule, Target

ANYTHING = [Rule(Constant(0.0))]


def names(model: nn.Module) -> list[str]:
    return [row.name for row in make_plan(model, recipe=ANYTHING).rows]


def holding(**tensors: torch.Tensor) -> nn.Module:
    module = nn.Module()
    for name, tensor in tensors.items():
        setattr(module, name, tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor))
    return module


def test_rows_come_in_the_order_and_with_the_names_of_named_parameters():
    model = nn.Transformer(8, 2, 2, 2, 16, batch_first=True)
    plan = make_plan(model, seed=5)
    assert [row.name for row in plan.rows] == [name for name, _ in model.named_parameters()]
    assert plan.seed == 5
    assert plan.new_bytes == 0


class Wrapped(nn.Module):
    """What torch.compile, FSDP and checkpointing do to a name."""

    def __init__(self, segment: str, inner: nn.Module) -> None:
        super().__init__()
        self.add_module(segment, inner)


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # importing torch._dynamo
@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.compile,
        lambda model: nn.DataParallel(torch.compile(model)),
        lambda model: torch.compile(nn.DataParallel(model)),
        lambda model: Wrapped("_fsdp_wrapped_module", model),
        lambda model: Wrapped("_checkpoint_wrapped_module", model),
    ],
)
def test_wrappers_do_not_change_a_name_at_the_top_or_below(wrap):
    inner = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert names(wrap(inner)) == names(inner)
    outer = nn.Sequential(nn.ReLU(), inner)
    expected = names(outer)
    outer[1] = wrap(inner)
    assert names(outer) == expected


def test_equal_canonical_names_are_refused_naming_both():
    model = holding(weight=torch.ones(2))
    model.add_module("_orig_mod", holding(weight=torch.ones(2)))
    with pytest.raises(ValueError, match=r"'weight' and '_orig_mod.weight' are both named 'weight'"):
        make_plan(model, recipe=ANYTHING)


def test_a_tied_parameter_is_one_row_under_its_first_name():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5))
    model[1].weight = model[0].weight
    plan = make_plan(model)
    assert [row.name for row in plan.rows] == ["0.weight", "1.bias"]
    assert plan.rows[0].distribution == Normal()
    assert plan.rows[0].held[0].places == [(model[0], "weight"), (model[1], "weight")]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_two_parameters_on_the_same_memory_are_tied(device):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).to(device)
    model[1].weight = nn.Parameter(model[0].weight.detach())
    assert names(model) == ["0.weight", "0.bias", "1.bias"]
    assert [held.path for held in make_plan(model).rows[0].held] == ["0.weight", "1.weight"]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_parameters_that_share_a_part_of_their_memory_are_refused(device):
    whole = torch.ones(4, 3, device=device)
    with pytest.raises(ValueError, match="'a' and 'b' overlap in memory"):
        make_plan(holding(a=whole, b=whole[1:]), recipe=ANYTHING)
    with pytest.raises(ValueError, match="'a' and 'b' overlap in memory"):
        make_plan(holding(a=whole, b=whole.view(3, 4)), recipe=ANYTHING)
    assert names(holding(a=whole[:2], b=whole[2:])) == ["a", "b"]


def test_parameters_without_elements_share_nothing():
    nothing = torch.ones(0, 3)
    assert names(holding(a=nothing, b=nothing.view(3, 0))) == ["a", "b"]


@pytest.mark.parametrize("meta", [False, True], ids=["cpu", "meta"])
@pytest.mark.parametrize(
    ("lazy", "names"),
    [
        (lambda: nn.LazyBatchNorm1d(affine=False), r"1\.running_mean, 1\.running_var"),
        (lambda: nn.LazyLinear(4), r"1\.weight, 1\.bias"),
        (nn.LazyBatchNorm2d, r"1\.weight, 1\.bias, 1\.running_mean, 1\.running_var"),
    ],
    ids=["buffers", "parameters", "both"],
)
@pytest.mark.parametrize(
    "do",
    [
        init_model_,
        lambda model: init_model_(model, dry_run=True),
        lambda model: init_model_(model, only="0", dtype=torch.bfloat16),
        lambda model: verify(model, seed=0),
        lambda model: save_model(model, "never.safetensors"),
        plan_model,
    ],
    ids=["init_model_", "dry_run", "only", "verify", "save_model", "plan_model"],
)
def test_lazy_parameters_and_buffers_are_named(do, lazy, names, meta, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with torch.device("meta" if meta else "cpu"):
        model = nn.Sequential(nn.Linear(2, 2), lazy())
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match=f"without a shape yet: {names}; run their lazy modules"):
        do(model)
    assert meta or torch.equal(model[0].weight, before)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tensor", "said"),
    [(torch.ones(3, dtype=torch.int32), "torch.int32"), (torch.eye(3).to_sparse(), "torch.sparse_coo")],
    ids=["integer", "sparse"],
)
def test_tensors_that_cannot_be_filled_are_named(tensor, said):
    model = holding(fine=torch.ones(2), odd=nn.Parameter(tensor, requires_grad=False))
    with pytest.raises(UnsupportedTensorError, match=f"parameter 'odd': .*{said}"):
        make_plan(model, recipe=ANYTHING)


def test_a_parameter_that_overlaps_itself_is_named():
    model = holding(odd=torch.ones(3, 1).expand(3, 4))
    with pytest.raises(RuntimeError, match="'odd': unsupported operation: more than one element"):
        make_plan(model, recipe=ANYTHING)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"model": [1]}, TypeError, "torch.nn.Module, not list"),
        ({"seed": 2**64}, ValueError, "seed must be in"),
        ({"seed": 1.5}, TypeError, "seed must be an int"),
        ({"recipe": "chef"}, ValueError, "'chef'"),
        ({"fan": "both"}, ValueError, "'both'"),
        ({"dtype": torch.int8}, ValueError, "torch.int8"),
        ({"dtype": "float32"}, TypeError, "torch.dtype, not str"),
        ({"device": "meta"}, ValueError, "'meta'"),
        ({"device": "toaster"}, ValueError, "'toaster'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_named(arguments, error, said):
    with pytest.raises(error, match=said):
        make_plan(**{"model": nn.Sequential(), **arguments})


def test_meta_buffers_that_nobody_can_rebuild_are_all_named():
    with torch.device("meta"):
        model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(2, 2))
        model.register_buffer("frequencies", torch.ones(4), persistent=False)
        model[1].register_buffer("mask", torch.ones(2, 2))
        model.register_buffer("nothing", torch.ones(0))
    with pytest.raises(
        ValueError, match=r"(?s)2 buffers on the meta.*frequencies \[4\] of Seq.*1\.mask \[2, 2\] of Linear"
    ):
        make_plan(model)
    assert model[1].weight.is_meta


def test_new_bytes_counts_what_will_be_allocated():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
    assert make_plan(model).new_bytes == 4 * (32 + 4 + 8 + 8) + 8
    assert make_plan(model, dtype=torch.bfloat16).new_bytes == 2 * (32 + 4 + 8 + 8) + 8
    assert make_plan(nn.Linear(8, 4), dtype=torch.float64).new_bytes == 8 * 36


class Named(Kaiming):
    """An initialiser that looks at more than the shape."""

    def __call__(self, target: Target) -> Constant:
        return Constant(float(target.name.split(".")[0]))


def test_layers_of_one_shape_are_asked_one_by_one_where_their_initialiser_may_tell_them_apart():
    model = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(3)))
    for init in (Named(), lambda target: Constant(float(target.name.split(".")[0]))):
        rows = make_plan(model, recipe=[Rule(init)]).rows
        assert [row.distribution.value for row in rows] == [0.0, 1.0, 2.0]


def test_layers_of_one_shape_have_their_own_fans_dtypes_and_rules():
    layers = (nn.Conv1d(4, 8, 1), nn.Conv1d(8, 8, 1, groups=2), nn.ConvTranspose1d(8, 4, 1), nn.Linear(4, 8))
    layers[2].weight.data = torch.zeros(8, 4, 1)
    rows = [row for row in make_plan(nn.Sequential(*layers), recipe="he").rows if row.fans]
    assert [row.fans for row in rows] == [(4, 8), (4, 4), (8, 4), (4, 8)]
    assert len({row.distribution.std for row in rows}) == 2
    wide = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).half())
    with pytest.raises(ValueError, match=r"'1\.weight'.*float16 cannot hold"):
        make_plan(wide, recipe=[Rule(Uniform(-1e5, 1e5), parameter="weight"), Rule(Constant(0.0))])
    mine = make_plan(wide, recipe=[Rule(Normal(0.0, 2.0), name="0.*"), Rule(Normal(0.0, 3.0))]).rows
    assert [row.std for row in mine] == [2.0, 2.0, 3.0, 3.0]


WRITING = {
    "orthogonal_": lambda target: nn.init.orthogonal_(target.tensor),
    "by the module": lambda target: nn.init.normal_(target.module.weight),
    "data": lambda target: target.tensor.data.fill_(9.0),
    "reads": lambda target: target.tensor.std().item(),
}


@pytest.mark.parametrize("door", ["plan_model", "dry_run", "init_model_", "verify", "save_model"])
@pytest.mark.parametrize("kind", WRITING)
def test_what_a_rules_function_writes_does_not_reach_the_model(kind, door, tmp_path):
    model = nn.Sequential(nn.Linear(4, 4))
    before = model[0].weight.detach().clone()
    function = WRITING[kind]

    def where(target):
        target.tensor.data.fill_(9.0)
        return isinstance(target.tensor, nn.Parameter) and target.tensor.shape == (4, 4)

    rules = [Rule(function, where=where), *TORCH]
    doors = {
        "plan_model": lambda: plan_model(model, 0, rules),
        "dry_run": lambda: init_model_(model, 0, rules, dry_run=True),
        "init_model_": lambda: init_model_(model, 0, rules),
        "verify": lambda: verify(model, 0, rules),
        "save_model": lambda: save_model(model, tmp_path, 0, rules),
    }
    with pytest.raises((ValueError, RuntimeError), match=r"parameter '0\.weight', <lambda>: .*meta"):
        doors[door]()
    assert torch.equal(model[0].weight, before)


def test_a_rules_function_sees_the_parameters_attributes_and_its_own_module():
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].weight.tag = "mine"

    def init(target):
        assert target.module is model[0] and target.tensor.tag == "mine" and target.tensor.requires_grad
        return torch.full(target.tensor.shape, 2.0)

    init_model_(model, 0, [Rule(init, parameter="weight"), *TORCH])
    assert model[0].weight.eq(2).all()


@pytest.mark.parametrize("was_enabled", [True, False])
@pytest.mark.parametrize("do", [make_plan, plan_model, init_model_, verify])
def test_the_garbage_collector_rests_while_a_plan_is_made(do, was_enabled):
    seen = []

    def rule(target):
        seen.append(gc.isenabled())
        if target.parameter == "bias":
            raise ValueError("mine")
        return Constant(0.0)

    try:
        if not was_enabled:
            gc.disable()
        do(nn.Linear(2, 2, bias=False), 0, [Rule(rule)])
        assert gc.isenabled() == was_enabled
        with pytest.raises(ValueError, match="mine"):
            do(nn.Linear(2, 2), 0, [Rule(rule)])
        assert gc.isenabled() == was_enabled and not any(seen)
    finally:
        gc.enable()


def test_the_many_objects_of_a_plan_are_not_walked_once_it_is_made():
    model = nn.ModuleList(nn.Linear(2, 2) for _ in range(1500))
    walks = []
    gc.collect()
    gc.callbacks.append(lambda *_: walks.append(1))
    try:
        plan = make_plan(model, 0)
        after = [[each] for each in range(10)]
    finally:
        gc.callbacks.pop()
    assert not walks and len(plan.rows) == 3000 and len(after) == 10


def test_what_a_caller_has_frozen_stays_so_while_a_plan_is_made():
    gc.freeze()
    try:
        make_plan(nn.ModuleList(nn.Linear(2, 2) for _ in range(1500)), 0)
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_buffers_start_anew_at_every_run(dtype, step):
    """Constants of dtypes that the engine knows, others and strided ones, all with the parameters' fill."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm1d(4)).to(dtype)
    model[2].running_var = torch.ones(4 * step, dtype=dtype)[::step]
    model[2].register_buffer("flags", torch.zeros(3, dtype=torch.bool))
    rules = [Rule(Constant(0.3), buffer="running_var"), Rule(Constant(1.0), buffer="flags"), *TORCH]
    plan = plan_model(model, 5, rules)
    for seed in (5, 6):
        with torch.no_grad():
            for each in (*model.parameters(), *model.buffers()):
                each.copy_(torch.full_like(each, 7))
        plan.run(seed)
        assert verify(model, seed, rules)
        assert [int(each.num_batches_tracked) for each in model[1:]] == [0, 0]
        for each in model[1:]:
            assert torch.equal(each.running_var, torch.full((4,), 0.3, dtype=dtype))
            assert not each.running_mean.any()
        assert model[2].flags.all()
