"""padding_idx: the row is zero whatever rule decides for the weight, unless the rule says which row."""

import numpy as np
import pytest
import torch
from torch import nn

from convinit_ext import Constant, Normal, Uniform, init_model_, verify
from convinit_ext.recipes import TORCH, CopyFrom, Kaiming, Preset, Recipe, RowZeroed, Rule

NARROW = Normal(0.0, 0.02)


class ByName(nn.Module):
    """An embedding that is known by its type's name."""

    def __init__(self, rows: int, size: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.padding_idx = padding_idx
        self.weight = nn.Parameter(torch.ones(rows, size))


class VocabEmbedding(ByName): ...


class Derived(nn.Embedding): ...


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag, Derived, VocabEmbedding])
@pytest.mark.parametrize(
    "rule",
    [
        Rule(NARROW, parameter="weight"),
        Rule(Kaiming("normal"), name="0.weight"),
        Rule(lambda target: Uniform(1.0, 2.0), parameter="weight", label="mine"),
        Rule(Constant(3.0), parameter="*"),
        Recipe.from_dict({"rules": [{"init": "normal_(1, 0.1)", "parameter": "weight"}]}).rules[0],
        None,
    ],
    ids=["normal", "kaiming", "function", "constant", "file", "torch"],
)
@pytest.mark.parametrize("padding", [0, 8, -2])
def test_the_padding_row_is_zero_by_any_rule_and_the_report_says_so(kind, rule, padding):
    if rule is None and kind is VocabEmbedding:
        pytest.skip("the recipe torch does not know it")
    recipe, row = [*([rule] if rule else []), *TORCH], padding % 9
    model, plain = nn.Sequential(kind(9, 4, padding_idx=padding)), nn.Sequential(kind(9, 4))
    report = init_model_(model, seed=3, recipe=recipe)
    init_model_(plain, seed=3, recipe=recipe)
    assert report.rows[0].initialiser.endswith(f", row {row} zero")
    assert not model[0].weight[row].any() and plain[0].weight[row].all()
    others = [each for each in range(9) if each != row]
    assert torch.equal(model[0].weight[others], plain[0].weight[others])
    assert verify(model, seed=3, recipe=recipe)


@pytest.mark.parametrize("given", [np.int64(2), torch.tensor(2), np.int32(-7)], ids=repr)
def test_the_padding_row_may_be_an_integer_of_numpy_or_a_tensor(given):
    model = nn.Sequential(ByName(9, 4), VocabEmbedding(9, 4), nn.Embedding(9, 4))
    for each in model:
        each.padding_idx = given
    init_model_(model, recipe=[Rule(NARROW, parameter="weight")])
    assert [each.weight[2].any().item() for each in model] == [True, False, False]


def test_what_is_no_padding_row_makes_no_row_zero():
    model = nn.Sequential(*(nn.Embedding(9, 4) for _ in range(4)))
    with torch.device("meta"):
        on_meta = torch.tensor(2)
    for each, given in zip(model, (True, torch.tensor([2, 3]), on_meta, 2.0), strict=True):
        each.padding_idx = given
    init_model_(model)
    assert all(each.weight.any(dim=1).all() for each in model)


@pytest.mark.parametrize("recipe", ["llama", "gpt", "trunc_normal"])
def test_types_known_by_name_have_it_in_the_recipes_that_know_them(recipe):
    model = nn.Sequential(VocabEmbedding(9, 4, padding_idx=2))
    if recipe == "trunc_normal":
        recipe = [Rule(NARROW, parameter="weight"), *TORCH]
    init_model_(model, recipe=recipe)
    assert not model[0].weight[2].any() and model[0].weight[[0, 1, 3]].all()


def test_equal_shapes_with_and_without_padding_are_told_apart():
    model = nn.Sequential(
        nn.Embedding(9, 4), nn.Embedding(9, 4, padding_idx=0), nn.Embedding(9, 4, padding_idx=1)
    )
    init_model_(model, recipe=[Rule(NARROW, module=nn.Embedding)])
    assert model[0].weight.all() and model[1].weight[1:].all() and not model[1].weight[0].any()
    assert not model[2].weight[1].any() and model[2].weight[0].all()


@pytest.mark.parametrize("source", [None, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_copy_has_the_padding_row_of_its_own_module(source, dtype):
    model = nn.Sequential(
        nn.Embedding(5, 4, padding_idx=source), nn.Embedding(5, 4, padding_idx=1, dtype=dtype)
    )
    init_model_(model, recipe=[Rule(CopyFrom("0.weight"), name="1.weight"), Rule(NARROW, name="0.weight")])
    rows = [0, 2, 3, 4]
    assert torch.equal(model[1].weight[rows], model[0].weight[rows].to(dtype))
    assert not model[1].weight[1].any()
    assert bool(model[0].weight[1].any()) == (source is None)


def test_a_copy_of_another_padding_row_is_an_error():
    model = nn.Sequential(nn.Embedding(5, 4, padding_idx=0), nn.Embedding(5, 4, padding_idx=1))
    with pytest.raises(ValueError, match=r"'1.weight' has padding row 1 .* '0.weight', whose row 0 is zero"):
        init_model_(model, recipe=[Rule(CopyFrom("0.weight"), name="1.weight"), *TORCH])


@pytest.mark.parametrize("first", ["head", "embed"])
def test_a_tied_pair_has_it_whichever_holder_comes_first(first):
    model = nn.ModuleDict({first: nn.Linear(4, 9, bias=False) if first == "head" else nn.Embedding(9, 4, 3)})
    model["embed"] = model["embed"] if first == "embed" else nn.Embedding(9, 4, padding_idx=3)
    model["head"] = model["head"] if first == "head" else nn.Linear(4, 9, bias=False)
    for share in (True, False):  # one Parameter, or two of one memory
        weight = model["embed"].weight
        model["head"].weight = weight if share else nn.Parameter(weight.detach())
        init_model_(model)
        assert not model["head"].weight[3].any() and model["head"].weight[[0, 1, 2, 4]].all()


def test_what_a_rule_itself_says_counts():
    given = torch.ones(5, 4)
    model = nn.Sequential(*(nn.Embedding(5, 4, padding_idx=0) for _ in range(3)))
    rules = [
        Rule(lambda target: RowZeroed(NARROW, 2), name="0.weight"),
        Rule(Preset(given), name="1.weight"),
        Rule(lambda target: given, name="2.weight"),
    ]
    init_model_(model, recipe=rules)
    assert model[0].weight[0].all() and not model[0].weight[2].any()
    assert torch.equal(model[1].weight, given) and torch.equal(model[2].weight, given)
