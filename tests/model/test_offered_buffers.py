"""Buffers that a model's own code makes: fixed ones, and drawn ones, which follow the seed."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from convinit_ext import init_model_, plan_model


class Inner(nn.Module):
    """As in transformers: its model's _init_weights makes one buffer by a formula and draws another."""

    def __init__(self, persistent: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("table", torch.arange(4.0), persistent=persistent)
        self.register_buffer("noise", torch.zeros(5), persistent=persistent)


class Outer(nn.Module):
    def __init__(self, persistent: bool = False) -> None:
        super().__init__()
        self.inner = Inner(persistent)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Inner):
            module.table.copy_(torch.arange(4.0))
            nn.init.normal_(module.noise)


def on_meta(persistent: bool = False) -> Outer:
    with torch.device("meta"):
        return Outer(persistent)


def test_buffers_that_a_models_own_code_draws_follow_the_seed_and_their_name():
    made = []
    for torch_seed, seed, prefix in ((1, 0, ""), (2, 0, ""), (2, 1, ""), (2, 0, "other")):
        model = on_meta(persistent=True)
        torch.manual_seed(torch_seed)
        before = torch.get_rng_state()
        plan = plan_model(model, 7, names={"": prefix})
        plan.run(seed)
        assert torch.equal(torch.get_rng_state(), before)
        made.append(model.inner.noise)
        assert torch.equal(model.inner.table, torch.arange(4.0))
    assert torch.equal(made[0], made[1]) and made[0].unique().numel() == 5
    assert not torch.equal(made[0], made[2]) and not torch.equal(made[0], made[3])


BY_OTHERS = {
    "NumPy": lambda: torch.from_numpy(np.random.randn(5)),
    "Python": lambda: torch.tensor([random.random() for _ in range(5)]),
    "both": lambda: torch.rand(5) + random.random(),
}


@pytest.mark.parametrize("draw", BY_OTHERS.values(), ids=BY_OTHERS)
def test_what_the_code_draws_with_other_generators_follows_the_seed_too(draw, monkeypatch):
    monkeypatch.setattr(
        Outer, "_init_weights", lambda _, module: isinstance(module, Inner) and module.noise.copy_(draw())
    )
    made = []
    for state, seed in ((1, 0), (2, 0), (2, 1)):
        model = on_meta(persistent=True)
        model.inner.table = torch.zeros(4)
        random.seed(state)
        np.random.seed(state)
        before = random.getstate(), np.random.get_state()[1].tolist()
        init_model_(model, seed)
        assert before == (random.getstate(), np.random.get_state()[1].tolist())
        made.append(model.inner.noise)
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_what_no_seed_decides_is_listed(monkeypatch):
    def write(_: nn.Module, module: nn.Module) -> None:
        if isinstance(module, Inner):
            module.noise.copy_(torch.from_numpy(np.random.default_rng().normal(size=5)))

    monkeypatch.setattr(Outer, "_init_weights", write)
    with pytest.raises(ValueError, match=r"  inner\.noise \[5\] of Inner"):
        init_model_(on_meta(persistent=True))


@pytest.mark.parametrize("prepare", ["to_empty", "in place"])
def test_buffers_that_no_state_dict_has_are_rebuilt_where_they_hold_other_values(prepare):
    expected = on_meta()
    init_model_(expected, 3)
    model = on_meta().to_empty(device="cpu") if prepare == "to_empty" else Outer()
    model.inner.table.fill_(7.0)
    before = model.inner.table
    init_model_(model, 3)
    assert model.inner.table is before and torch.equal(before, torch.arange(4.0))
    assert torch.equal(model.inner.noise, expected.inner.noise)


def test_buffers_that_a_state_dict_has_are_not_overwritten_and_named_after_to_empty():
    trained = Outer(persistent=True)
    trained.inner.table.fill_(7.0)
    init_model_(trained, 3)
    assert trained.inner.table.eq(7).all() and trained.inner.noise.eq(0).all()
    empty = on_meta(persistent=True).to_empty(device="cpu")
    empty.inner.table = torch.full((4,), 7.0)  # new memory, of which nobody knows what it holds
    empty.register_buffer("scale", torch.ones(2), persistent=False)
    with pytest.warns(UserWarning, match=r"to_empty.*: scale, inner\.table, inner\.noise; "):
        init_model_(empty, 3)
    assert empty.inner.table.eq(7).all()
    init_model_(empty, 3)  # its parameters are written now: without a warning
    empty = on_meta(persistent=True).to_empty(device="cpu")
    init_model_(empty, only="*.weight")
    empty = on_meta(persistent=True).to_empty(device="cpu")
    empty.inner.table.fill_(7.0)
    with pytest.warns(UserWarning, match=r"to_empty.*: inner\.noise; "):
        init_model_(empty, 3)


def test_buffers_of_a_deep_copy_hold_what_they_should():
    model = Outer(persistent=True)
    model.register_buffer("scale", torch.full((2,), 5.0), persistent=False)
    model.inner.table.mul_(2)
    copied = copy.deepcopy(model)
    assert not copied.inner.linear.weight._version  # as after to_empty
    init_model_(copied, 3)  # without a warning
    assert copied.scale.eq(5).all() and torch.equal(copied.inner.table, model.inner.table)
