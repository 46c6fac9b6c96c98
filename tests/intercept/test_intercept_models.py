"""intercept on other people's models: every fill of their init code is taken, and its distribution kept."""

from typing import NamedTuple

import pytest
import torch
from filling import assert_same_bits
from real_models import convnextv2, gpt2, llama, resnet, run_init_code, timm_convnext, timm_vit, unet, vit
from torch import nn

from convinit_ext import Key, intercept
from convinit_ext._engine import _ops as ops
from convinit_ext.init._fill import fill_

SMALLEST_P = 1e-4
LARGE = 2000  # elements, for a comparison of distributions


BUILDS = [resnet, convnextv2, llama, vit, gpt2, unet, timm_vit, timm_convnext]

COMPUTED_FROM_FILLS = [timm_vit, timm_convnext]  # timm makes truncated normals from uniform values itself


def emptied(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    return model


def parameters_after_torch(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    run_init_code(emptied(model))
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


class Recorded(NamedTuple):
    """A fill that reached the engine, as its distribution."""

    address: int
    kind: int
    params: tuple[float, ...]


@pytest.fixture
def recorded(monkeypatch):
    """Every fill of a whole tensor that reaches the engine, in order."""
    fills: list[Recorded] = []

    def record(name, fill_one):
        def recording(tensor, key, kind, params, box=None):
            fills.append(Recorded(tensor.data_ptr(), kind, tuple(params)))
            fill_one(tensor, key, kind, params, box)

        monkeypatch.setattr(ops, name, recording)

    record("fill_one_", ops.fill_one_)
    record("fill_small_", ops.fill_small_)
    return fills


@pytest.mark.parametrize("build", BUILDS)
def test_every_fill_of_a_parameter_is_ours_and_has_its_name(build, recorded):
    model = build()
    first, second = parameters_after_torch(model, 1), parameters_after_torch(model, 2)
    random = {name for name in first if not torch.equal(first[name].nan_to_num(), second[name].nan_to_num())}
    assert random

    torch.manual_seed(3)
    before = torch.get_rng_state()
    recorded.clear()
    with intercept(emptied(model), seed=0):
        run_init_code(model)
    assert torch.equal(torch.get_rng_state(), before)

    fills = list(recorded)
    for name, parameter in model.named_parameters():
        mine = [each for each in fills if each.address == parameter.data_ptr()]
        if name not in random:
            assert torch.equal(parameter.nan_to_num(), first[name].nan_to_num()), name
            continue
        assert mine, name
        key = Key(0, name if len(mine) == 1 else f"{name}#{len(mine) - 1}")
        again = fill_(torch.empty_like(parameter), mine[-1], None, key)
        if build in COMPUTED_FROM_FILLS:  # by rising functions
            rising = parameter.detach().flatten()[again.flatten().argsort()].diff()
            assert (rising >= 0).all(), name
        else:
            assert_same_bits(torch.where(parameter == 0, again, parameter), again, name)  # 0: a padding row


@pytest.mark.parametrize("build", BUILDS)
def test_distributions_are_those_of_torch(build):
    stats = pytest.importorskip("scipy.stats")
    model = build()
    plain = parameters_after_torch(model, 1)
    with intercept(emptied(model), seed=0):
        run_init_code(model)
    compared = 0
    for name, parameter in model.named_parameters():
        ours, theirs = parameter.detach().flatten(), plain[name].flatten()
        if ours.numel() < LARGE or theirs.std() == 0 or theirs.isnan().any():
            continue
        assert stats.ks_2samp(ours.numpy(), theirs.numpy()).pvalue > SMALLEST_P, name
        compared += 1
    assert compared


@pytest.mark.parametrize("build", [resnet, llama, unet, timm_vit])
def test_a_model_built_inside_follows_the_seed(build):
    models = []
    for torch_seed in (1, 2):
        torch.manual_seed(torch_seed)
        with intercept(seed=0):
            models.append(build())
    for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other), name


def test_what_transformers_has_loaded_stays():
    model = llama()
    kept = model.model.layers[0].mlp.up_proj.weight
    kept._is_hf_initialized = True
    with torch.no_grad():
        kept.fill_(3.0)
    with intercept(model, seed=0):
        run_init_code(model)
    assert (kept == 3.0).all()
    assert (model.model.layers[1].mlp.up_proj.weight != 3.0).all()


def test_a_meta_model_that_gets_memory():
    with torch.device("meta"):
        model = llama()
    with intercept(model, seed=0):
        model.to_empty(device="cpu")
        run_init_code(model)
    other = llama()
    with intercept(other, seed=0):
        run_init_code(other)
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name
