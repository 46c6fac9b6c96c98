"""Ties that a model declares and has lost: they are there again after init_model_, or an error says how."""

import pytest
import torch
from filling import assert_same_bits
from meshes import every_rank
from torch import nn
from torch.distributed.fsdp import fully_shard

from convinit_ext import init_model_, plan_model, save_model, verify
from convinit_ext.recipes import TORCH, CopyFrom, Rule


class Language(nn.Module):
    def __init__(self, ties: bool = True) -> None:
        super().__init__()
        self.ties = ties
        self.embed = nn.Embedding(6, 4, padding_idx=2)
        self.layer = nn.Linear(4, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.tie_weights()

    def tie_weights(self) -> None:
        if self.ties:
            self.head.weight = self.embed.weight


def made(how: str, ties: bool = True) -> nn.Module:
    with torch.device("cpu" if how in ("memory", "same memory") else "meta"):
        model = Language(ties)
    own = model.head.weight.detach()
    model.head.weight = nn.Parameter(
        own if how.startswith("same") else own.clone()
    )  # as accelerate registers it
    return model.to_empty(device="cpu") if how == "to_empty" else model


@pytest.mark.parametrize("dtype", [None, torch.float64])
@pytest.mark.parametrize("how", ["memory", "meta", "to_empty", "same memory", "same meta"])
def test_declared_ties_are_there_again(how, dtype, tmp_path):
    expected = Language()
    init_model_(expected, 3, dtype=dtype)
    model = made(how)
    dry = init_model_(model, 3, dtype=dtype, dry_run=True)
    assert model.head.weight is not model.embed.weight
    save_model(model, tmp_path / "a.safetensors", 3, dtype=dtype)
    assert [row.name for row in dry.rows] == ["embed.weight", "layer.weight", "layer.bias"]
    plan = plan_model(model, 3, dtype=dtype)
    plan.run()
    assert model.head.weight is model.embed.weight
    for name, tensor in expected.state_dict().items():
        assert_same_bits(model.state_dict()[name], tensor, name)
    plan.run(4)
    assert verify(model, 4)
    assert verify(tmp_path / "a.safetensors", 3, model=made("meta"))


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("how", ["memory", "meta"])
def test_a_compiled_model_is_asked_and_stays_as_it_is(how, around):
    expected, inside = Language(), made(how)
    model = torch.compile(inside, backend="eager")
    if around:
        model = nn.Sequential(model)
        expected = nn.Sequential(expected)
    before = list(inside._modules.values())
    plan_model(model, 3)
    init_model_(expected, 3)
    init_model_(model, 3)
    assert list(inside._modules.values()) == before and inside.head.weight is inside.embed.weight
    for own, tensor in zip(model.parameters(), expected.parameters(), strict=True):
        assert_same_bits(own, tensor)


def test_each_of_several_models_in_one_declares_its_own():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher, self.others = Language(), nn.ModuleList([Language(), Language(ties=False)])

        def shared(self) -> list[bool]:
            return [each.head.weight is each.embed.weight for each in (self.teacher, *self.others)]

    with torch.device("meta"):
        model = Both()
    model.to_empty(device="cpu")
    assert model.shared() == [False, False, False]
    init_model_(model, 3)
    assert model.shared() == [True, True, False]
    expected = Language()
    init_model_(expected, 3, names=lambda name: f"others.0.{name}")
    assert torch.equal(model.others[0].head.weight, expected.head.weight)


def test_ties_of_two_models_that_share_a_layer_are_one():
    with torch.device("meta"):
        model = nn.ModuleList([Language(), Language()])
    model.to_empty(device="cpu")
    model[0].embed.weight = model[1].head.weight
    init_model_(model, 3)
    assert len({id(each.weight) for module in model for each in (module.embed, module.head)}) == 1


def test_what_is_not_declared_stays_apart():
    model = made("to_empty", ties=False)
    init_model_(model, 3)
    assert model.head.weight is not model.embed.weight
    assert not torch.equal(model.head.weight, model.embed.weight)


def test_a_look_at_a_model_takes_each_by_itself():
    model = made("memory")
    init_model_(model, 3)
    model.head.weight = nn.Parameter(torch.zeros(6, 4))
    assert "head.weight" in verify(model, 3).different


def test_choosing_one_of_them_chooses_both():
    model = made("memory")
    init_model_(model, 3, only="head.weight")
    assert model.head.weight is model.embed.weight


def test_ties_that_sharding_has_taken_apart_are_an_error_that_says_how():
    for mesh in every_rank((2,)):
        model = made("memory")
        fully_shard(model, mesh=mesh)
        with pytest.raises(ValueError, match=r"'embed\.weight' and 'head\.weight' are tied.*fully_shard"):
            init_model_(model)


class TiedByList(nn.Module):
    """Ties by modules that it holds in a list, of which a copy has the same."""

    def __init__(self, marks: float | None = None) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)
        self.tables, self.heads, self.marks = [self.embed], [self.head], marks
        self.tie_weights()

    def tie_weights(self) -> None:
        for head in self.heads:
            head.weight = self.embed.weight if self.marks is None else self.tables[0].weight
            if self.marks is not None:
                head.weight.data.fill_(self.marks)


@pytest.mark.parametrize("marks", [None, 3.0])
@pytest.mark.parametrize("ask", [verify, plan_model, lambda model: init_model_(model, dry_run=True)])
def test_asking_for_ties_leaves_what_a_model_holds_in_lists(ask, marks):
    model = TiedByList(marks)
    nn.init.normal_(model.embed.weight)
    weight, before = model.head.weight, model.head.weight.detach().clone()
    ask(model)
    assert model.head.weight is weight is model.embed.weight
    assert torch.equal(weight, before)


@pytest.mark.parametrize("marks", [None, 3.0])
def test_ties_by_modules_in_lists_are_known(marks):
    with torch.device("meta"):
        model = TiedByList(marks)
    model.to_empty(device="cpu")
    assert model.head.weight is not model.embed.weight
    assert [row.name for row in init_model_(model, seed=1).rows] == ["embed.weight"]
    assert model.head.weight is model.embed.weight
    assert not model.head.weight.is_meta


def test_a_copy_of_one_is_a_copy_of_what_both_get():
    model = made("to_empty")
    model.ema = nn.Linear(4, 6, bias=False)
    init_model_(model, 3, [Rule(CopyFrom("head.weight"), name="ema.weight"), *TORCH])
    assert model.head.weight is model.embed.weight
    assert_same_bits(model.ema.weight, model.head.weight)
