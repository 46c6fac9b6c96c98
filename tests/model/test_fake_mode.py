"""Tensors with memory inside FakeTensorMode, where operations only pretend: fills do as PyTorch's own.

What fills a whole model, or reads values, says that it cannot.
"""

import copy

import pytest
import torch
from filling import assert_same_bits
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from convinit_ext import Key, fingerprint, fingerprints, init, init_model_, plan_model, save_model, verify
from convinit_ext._engine import UnsupportedTensorError

FILLS = ("uniform_", "normal_", "trunc_normal_", "kaiming_normal_", "orthogonal_", "eye_", "zeros_")


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))


def unchanged(model: nn.Module, before: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        assert_same_bits(tensor, before.state_dict()[name], name)
        assert not isinstance(tensor, FakeTensor)


@pytest.fixture(params=[False, True], ids=["strict", "lenient"])
def mode(request: pytest.FixtureRequest) -> FakeTensorMode:
    """One that refuses other tensors than fake ones, and one that takes them for fake."""
    return FakeTensorMode(allow_non_fake_inputs=request.param)


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("name", FILLS)
def test_fills_do_as_those_of_torch(mode, name, size):
    weight = torch.full((size // 5, 5), 7.0)
    for module in (nn.init, init):
        with mode:
            if not mode.allow_non_fake_inputs:
                with pytest.raises(AssertionError, match="convert all Tensors to FakeTensors first"):
                    getattr(module, name)(weight)
            elif not (module is nn.init and name == "trunc_normal_"):  # it looks at values, and fails
                assert getattr(module, name)(weight) is weight
        assert bool((weight == 7).all())


def test_nothing_is_drawn(mode):
    weight, generator = torch.zeros(4), torch.Generator()
    states = torch.get_rng_state(), generator.get_state()
    with mode:
        for given in ({}, {"generator": generator}, {"key": Key(0, "w")}):
            if mode.allow_non_fake_inputs:
                init.normal_(weight, **given)
            else:
                with pytest.raises(AssertionError):
                    init.normal_(weight, **given)
    assert torch.equal(states[0], torch.get_rng_state()) and torch.equal(states[1], generator.get_state())


@pytest.mark.parametrize("given", [{}, {"dtype": torch.float64}, {"only": "1"}], ids=str)
def test_a_model_with_memory_is_not_filled(mode, given):
    model = build()
    before, plan = copy.deepcopy(model), plan_model(model, **given)
    name = "1.weight" if "only" in given else "0.weight"
    for fill in (lambda: init_model_(model, 7, **given), plan.run, lambda: plan.run(progress=True)):
        with mode, pytest.raises(UnsupportedTensorError, match=f"^'{name}': cannot fill it inside Fake"):
            fill()
        unchanged(model, before)


def test_a_plan_of_one_call_and_a_buffer_alone(mode):
    linear, norm = nn.Linear(5, 3), nn.BatchNorm1d(3, affine=False)
    norm.running_mean.fill_(4)
    plans = plan_model(linear), plan_model(norm)
    plans[0].run()
    before = copy.deepcopy((linear, norm))
    with mode:
        for plan, name in zip(plans, ("weight", "running_mean"), strict=True):
            with pytest.raises(UnsupportedTensorError, match=f"^'{name}': cannot fill it inside Fake"):
                plan.run(3)
    for model, other in zip((linear, norm), before, strict=True):
        unchanged(model, other)


def test_plans_and_fake_models_go_on(mode):
    model, meta = build(), nn.Linear(3, 2, device="meta")
    expected = init_model_(model, 7, dry_run=True).rows
    with mode:
        assert plan_model(model, 7).report.rows == init_model_(model, 7, dry_run=True).rows == expected
        for other in (build(), nn.Linear(3, 2, device="meta")):
            init_model_(other, 7)
            assert all(isinstance(tensor, FakeTensor) for tensor in other.state_dict().values())
        with pytest.raises(UnsupportedTensorError, match=r"^'weight': cannot fill it inside FakeTensorMode"):
            init_model_(meta, 7)
    assert meta.weight.is_meta and not isinstance(meta.weight, FakeTensor)


def test_values_are_not_read(mode, tmp_path):
    model = build()
    init_model_(model, 7)
    state, plan = model.state_dict(), plan_model(model, 7)
    path = tmp_path / "model.safetensors"
    save_model(model, path, 7)
    with mode:
        for read in (
            lambda: fingerprint(model),
            lambda: fingerprint(state),
            lambda: fingerprint(model[0].weight),
            lambda: fingerprint(path),
            lambda: fingerprints(model),
            plan.fingerprint,
            lambda: verify(model, 7),
            lambda: verify(state, 7, model=model),
            lambda: verify(path, 7, model=model),
            lambda: save_model(model, tmp_path / "folder", 7),
        ):
            with pytest.raises(RuntimeError, match=r"cannot .* inside FakeTensorMode"):
                read()
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]
    assert verify(path, 7, model=model) and verify(model, 7)
