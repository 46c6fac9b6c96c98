"""init_model_, plans, fingerprint and verify inside compiled code: the graph breaks, and values are right."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from filling import assert_same_bits
from reference import layer_key, reference
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from convinit_ext import Key, fingerprint, fingerprints, init, init_model_, plan_model, save_model, verify

SEED = 7


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 3), nn.BatchNorm1d(3))


def check_values(model: nn.Module, seed: int = SEED) -> None:
    for name in ("weight", "bias"):
        tensor = model[0].get_parameter(name)
        key = layer_key(seed, f"0.{name}")
        assert_same_bits(tensor, reference(tuple(tensor.shape), *key, ("uniform", -0.25, 0.25), "float32"))
    assert_same_bits(model[1].weight, np.ones(3, dtype=np.float32))


def test_a_model_is_initialised_between_graphs():
    model = build()

    def step(x: Tensor) -> Tensor:
        y = x + 1
        report = init_model_(model, SEED)
        return model(y).sum() * 0 + report.num_elements

    compiled = torch.compile(step, backend="aot_eager")
    for _ in range(2):
        nn.init.zeros_(model[0].weight)
        assert compiled(torch.ones(2, 16)) == 16 * 3 + 3 + 6
        check_values(model)


def test_plans_between_graphs():
    model = build()
    plan, one_call = plan_model(model), plan_model(model[0], names=lambda name: f"0.{name}")

    def step(x: Tensor, seed: int, again: int) -> Tensor:
        y = x + 1
        plan.run(seed)
        one_call.run(seed=again)
        return y * plan_model(model).report.num_elements

    compiled = torch.compile(step, backend="aot_eager")
    for seed in (SEED, 8, 9):
        assert (compiled(torch.ones(2), seed, seed) == 2 * (16 * 3 + 3 + 6)).all()
        check_values(model, seed)
        compiled(torch.ones(2), 0, seed)
        check_values(model, seed)


def test_what_reads_values_between_graphs(tmp_path):
    model = build()
    init_model_(model, SEED)
    number = fingerprint(model)
    plan = plan_model(model, SEED)

    def step(x: Tensor) -> tuple[object, ...]:
        y = x + 1
        found = verify(model, SEED)
        saved = save_model(model, tmp_path, SEED)
        numbers = plan.fingerprint(), fingerprint(model)
        return (
            y * 2,
            bool(found),
            found.num_elements,
            len(saved.files),
            numbers,
            fingerprints(model),
            fingerprint(y),
        )

    y, *others = torch.compile(step, backend="aot_eager")(torch.ones(2))
    assert torch.equal(y, torch.full((2,), 4.0))
    assert others == [
        True,
        16 * 3 + 3 + 6 + 7,
        1,
        2 * (number,),
        fingerprints(model),
        fingerprint(torch.full((2,), 2.0)),
    ]


@pytest.mark.parametrize("name", ["init_model_", "run", "fingerprint", "verify"])
def test_in_one_graph_the_error_says_so(name):
    model = build()
    before, plan = copy.deepcopy(model.state_dict()), plan_model(model)
    call = {
        "init_model_": lambda: init_model_(model, SEED),
        "run": plan.run,
        "fingerprint": lambda: fingerprint(model),
        "verify": lambda: verify(model, SEED),
    }[name]

    def step(x: Tensor) -> Tensor:
        call()
        return x + 1

    with pytest.raises(RuntimeError, match=rf"convinit_ext\.(ModelPlan\.)?{name} runs between graphs"):
        torch.compile(step, fullgraph=True, backend="eager")(torch.ones(2))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_keys_of_changing_seeds_are_arguments_of_one_graph():
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x, key: init.normal_(x.clone(), key=key), backend=counter, fullgraph=True)
    for seed in range(12):
        key = Key(seed, "weight" if seed % 2 else "bias")
        assert torch.equal(compiled(torch.zeros(8), key), init.normal_(torch.zeros(8), key=key))
    assert counter.frame_count <= 2
