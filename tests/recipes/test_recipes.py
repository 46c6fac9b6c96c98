"""Recipes: `torch` does what every module of torch.nn does to itself; `he`, `xavier`; the order of rules."""

import inspect
import math
import re

import pytest
import torch
from planning import fillings, make_plan
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from convinit_ext import Constant, Normal, Uniform, init_model_
from convinit_ext.recipes import Rule, Target, Xavier

stats = pytest.importorskip("scipy.stats")


def each(kinds: str, *arguments, **keywords) -> list[tuple]:
    return [(getattr(nn, kind), arguments, keywords) for kind in kinds.split()]


# Every type of torch.nn that has parameters, with arguments that make all of them: type, arguments, keywords.
MODULES = [
    *each("Linear", 7, 5),
    *each("Linear", 7, 5, bias=False),
    *each("Bilinear", 3, 4, 5),
    *each("LazyLinear", 5),
    *each("Conv2d Conv3d ConvTranspose1d ConvTranspose3d", 4, 6, 3),
    *each("Conv1d ConvTranspose2d", 4, 6, 3, groups=2),
    *each("LazyConv1d LazyConv2d LazyConv3d", 6, 3),
    *each("LazyConvTranspose1d LazyConvTranspose2d LazyConvTranspose3d", 6, 3),
    *each("Embedding EmbeddingBag", 9, 4),
    *each("RNN", 3, 4, num_layers=2, bidirectional=True),
    *each("RNNBase", "LSTM", 3, 4),
    *each("LSTM", 3, 4, proj_size=2),
    *each("GRU RNNCell LSTMCell GRUCell", 3, 4),
    *each("RNNCellBase", 3, 4, True, 3),
    *each("MultiheadAttention", 8, 2, add_bias_kv=True),
    *each("MultiheadAttention", 8, 2, kdim=6, vdim=4),
    *each("MultiheadAttention", 8, 2, bias=False),
    *each("TransformerEncoderLayer TransformerDecoderLayer", 8, 2, 16),
    *each("Transformer", 8, 2, 1, 1, 16, batch_first=True),
    *each("BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm RMSNorm", 4),
    *each("LazyBatchNorm1d LazyBatchNorm2d LazyBatchNorm3d"),
    *each("InstanceNorm1d InstanceNorm2d InstanceNorm3d", 4, affine=True),
    *each("LazyInstanceNorm1d LazyInstanceNorm2d LazyInstanceNorm3d", affine=True),
    *each("LayerNorm", (3, 4)),
    *each("LayerNorm", 4, bias=False),
    *each("GroupNorm", 2, 4),
    *each("PReLU", 3, init=0.125),
    *each("AdaptiveLogSoftmaxWithLoss", 16, 20, [5, 10], head_bias=True),
    *(each("LinearCrossEntropyLoss", 4, 5, bias=True) if hasattr(nn, "LinearCrossEntropyLoss") else []),
]
# Made of a module that is given, so their parameters are that module's.
CONTAINERS = {
    nn.TransformerEncoder: (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
    nn.TransformerDecoder: (nn.TransformerDecoderLayer(8, 2, 16), 2),
}
# What else a constructor of torch.nn asks for; every other argument is tried as 4.
ARGUMENTS = {"dims": (0, 1), "unflattened_size": (2, 2), "dim": 0, "padding": 1}
KEYWORDS = {nn.FractionalMaxPool2d: {"output_size": 2}, nn.FractionalMaxPool3d: {"output_size": 2}}
LAZY = [case for case in MODULES if issubclass(case[0], nn.modules.lazy.LazyModuleMixin)]
READY = [case for case in MODULES if case not in LAZY and case[0] not in (nn.RNNCellBase,)]


def case_id(case) -> str:
    kind, _, keywords = case
    return "-".join([kind.__name__, *map(str, keywords)])


class Fills(TorchDispatchMode):
    """Remembers the last fill of every place in memory, as the distribution that it is of."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[int, object] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name == "uniform_":
            self.last[args[0].data_ptr()] = Uniform(*map(float, args[1:3]))
        elif name == "normal_":
            self.last[args[0].data_ptr()] = Normal(*map(float, (args[1:] + (0.0, 1.0)[len(args) - 1 :])))
        elif name in ("fill_", "zero_"):
            self.last[args[0].data_ptr()] = Constant(float(args[1]) if name == "fill_" else 0.0)
        result = func(*args, **(kwargs or {}))
        if name == "clone" and args[0].data_ptr() in self.last:  # layers that are copies of one
            self.last[result.data_ptr()] = self.last[args[0].data_ptr()]
        return result


def public_modules() -> list[type[nn.Module]]:
    named = (getattr(torch.nn.modules, name) for name in torch.nn.modules.__all__)
    return [each for each in named if inspect.isclass(each) and issubclass(each, nn.Module)]


def guessed(kind: type[nn.Module]) -> nn.Module:
    required = [
        each.name
        for each in inspect.signature(kind).parameters.values()
        if each.default is each.empty and each.kind in (each.POSITIONAL_OR_KEYWORD, each.POSITIONAL_ONLY)
    ]
    arguments = CONTAINERS.get(kind, [ARGUMENTS.get(name, 4) for name in required])
    return kind(*arguments, **KEYWORDS.get(kind, {}))


@pytest.mark.filterwarnings("ignore:.*nn.Container|`NLLLoss2d`:FutureWarning")
def test_every_module_of_torch_nn_with_parameters_is_listed_here():
    for kind in public_modules():
        if kind in {each for each, _, _ in MODULES}:
            continue
        module = guessed(kind)  # a new type that cannot be made so belongs into MODULES or ARGUMENTS
        if kind not in CONTAINERS:
            assert not list(module.parameters()), (
                f"{kind.__name__} has parameters: add it to MODULES, and a rule to TORCH"
            )


def test_lazy_modules_become_modules_that_are_listed():
    assert {kind.cls_to_become for kind, _, _ in LAZY} <= {kind for kind, _, _ in MODULES}


@pytest.mark.parametrize("case", READY, ids=case_id)
def test_torch_recipe_fills_with_the_very_distributions_of_reset_parameters(case):
    kind, arguments, keywords = case
    torch.manual_seed(0)
    with Fills() as fills:
        theirs = kind(*arguments, **keywords)
    plan = make_plan(theirs)
    assert [row.name for row in plan.rows] == [name for name, _ in theirs.named_parameters()]
    for row in plan.rows:
        assert fills.last[row.tensor.data_ptr()] == row.distribution, row.name
    ours = kind(*arguments, **keywords)
    init_model_(ours, seed=1)
    for row, mine in zip(plan.rows, ours.parameters(), strict=True):
        mine, other = (each.detach().flatten().double().numpy() for each in (mine, row.tensor))
        if other.std() == 0:
            assert (mine == other).all(), row.name
        else:
            assert stats.ks_2samp(mine, other, method="asymp").pvalue > 1e-5, row.name


class GatedAttention(nn.MultiheadAttention):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.gate = nn.Linear(width, width)


@pytest.mark.parametrize("kind", [GatedAttention, torch.ao.nn.quantizable.MultiheadAttention])
def test_torch_recipe_has_them_for_other_layers_inside_attention(kind):
    with Fills() as fills:
        module = kind(8, 2)
    for row in make_plan(module).rows:
        assert fills.last[row.tensor.data_ptr()] == row.distribution, row.name


def distribution_of(module: nn.Module, recipe, fan="true", parameter="weight"):
    return fillings(module, recipe, fan=fan)[parameter]


@pytest.mark.parametrize(
    ("module", "true", "torchs"),
    [
        (nn.Conv2d(8, 16, 3), 16 * 9, 16 * 9),
        (nn.Conv2d(8, 16, 3, groups=4), 4 * 9, 16 * 9),
        (nn.ConvTranspose2d(8, 16, 3), 16 * 9, 8 * 9),
        (nn.ConvTranspose2d(8, 16, 3, groups=4), 4 * 9, 8 * 9),
        (nn.Linear(10, 1), 10, 10),
    ],
    ids=["plain", "grouped", "transposed", "grouped-transposed", "linear"],
)
def test_he_scales_convolutions_by_fan_out_true_or_torchs_and_linear_layers_by_fan_in(module, true, torchs):
    assert distribution_of(module, "he") == Normal(0.0, math.sqrt(2.0) / math.sqrt(true))
    assert distribution_of(module, "he", fan="torch") == Normal(0.0, math.sqrt(2.0) / math.sqrt(torchs))
    assert distribution_of(module, "he", parameter="bias") == Constant(0.0)


@pytest.mark.parametrize("module", [nn.Linear(8, 16), nn.Conv1d(8, 16, 1), nn.ConvTranspose1d(8, 16, 1)])
def test_xavier_is_glorots_uniform(module):
    bound = math.sqrt(3.0) * math.sqrt(2.0 / 24.0)
    assert distribution_of(module, "xavier") == Uniform(-bound, bound)
    assert distribution_of(module, "xavier", parameter="bias") == Constant(0.0)


def test_torch_recipe_keeps_torchs_fans_whatever_the_call_says():
    module = nn.ConvTranspose2d(8, 16, 3)
    assert distribution_of(module, "torch", fan="true") == distribution_of(module, "torch", fan="torch")


@pytest.mark.parametrize("case", READY, ids=case_id)
def test_other_recipes_cover_torch_nn_too(case):
    kind, arguments, keywords = case
    with torch.device("meta"):
        module = kind(*arguments, **keywords)
    for recipe in ("he", "xavier", "lecun", "trunc_normal"):
        make_plan(module, recipe=recipe)


@pytest.mark.parametrize("recipe", ["he", "xavier", "lecun"])
@pytest.mark.parametrize(
    "model",
    [
        nn.MultiheadAttention(8, 2, add_bias_kv=True),
        nn.MultiheadAttention(8, 2, kdim=6, vdim=4),
        nn.TransformerEncoderLayer(8, 2, 16),
        nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
        GatedAttention(8, 2),
    ],
    ids=lambda model: type(model).__name__,
)
def test_attention_is_left_to_the_torch_recipe_and_linear_layers_are_not(model, recipe):
    """But for the fans of what it packs: one projection is [8, 8]."""
    torchs = {row.name: row for row in make_plan(model, recipe="torch").rows}
    glorot = math.sqrt(3.0) * math.sqrt(2.0 / 16.0)
    for row in make_plan(model, recipe=recipe).rows:
        name = row.name
        if name.endswith("in_proj_weight"):
            assert (row.distribution, row.fans) == (Uniform(-glorot, glorot), (8, 8)), name
            assert torchs[name].fans == (8, 24)
        elif re.search(r"(^|\.)(in_proj_|out_proj\.|[qkv]_proj_|bias_[kv]$|norm)", name):
            assert row.distribution == torchs[name].distribution, name
        else:
            linear = model.get_submodule(name.rpartition(".")[0])
            leaf = name.rpartition(".")[2]
            assert row.distribution == distribution_of(linear, recipe, parameter=leaf), name


def test_first_matching_rule_wins_and_defaults_come_last():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.MultiheadAttention(4, 1))
    rules = [
        Rule(Constant(0.5), name="1.weight"),
        Rule(Normal(0.0, 0.02), module=nn.Linear, parameter="weight"),
        Rule(Xavier("normal"), where=lambda target: target.parameter == "in_proj_weight"),
    ]
    plan = make_plan(model, recipe=rules)
    texts = {row.name: row.initialiser for row in plan.rows}
    assert texts == {
        "0.weight": "normal_(0, 0.02)",
        "0.bias": "zeros_",
        "1.weight": "constant_(0.5)",
        "1.bias": "zeros_",
        "2.weight": "ones_",
        "2.bias": "zeros_",
        "3.in_proj_weight": "xavier_normal_",
        "3.in_proj_bias": "zeros_",
        "3.out_proj.weight": "normal_(0, 0.02)",
        "3.out_proj.bias": "zeros_",
    }
    assert plan.recipe == "custom"


def test_a_function_sees_the_target():
    seen: list[Target] = []

    def depth_scaled(target: Target) -> Normal:
        seen.append(target)
        return Normal(0.0, 1.0 / target.fans()[0])

    model = nn.Sequential(nn.Sequential(nn.Linear(4, 8, bias=False)))
    (row,) = make_plan(model, recipe=[Rule(depth_scaled, name="*.weight")]).rows
    assert row.distribution == Normal(0.0, 0.25)
    assert row.initialiser == "depth_scaled"
    (target,) = seen
    assert (target.name, target.parameter, target.module) == ("0.0.weight", "weight", model[0][0])
    assert target.parents == (model, model[0])
