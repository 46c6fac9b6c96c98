"""A recipe through every door: whole, on the meta device, in shards, in files, as members of a stack."""

import re
from collections.abc import Callable
from pathlib import Path

import torch
from filling import assert_same_bits
from meshes import every_rank
from states import assert_refused
from torch import nn
from torch.distributed.tensor import Shard as Cut
from torch.distributed.tensor import distribute_tensor

from convinit_ext import fingerprint, init_ensemble, init_model_, plan_model, save_model, verify
from convinit_ext.recipes import Recipe


def check_every_door(build: Callable[[], nn.Module], recipe: str | Recipe, folder: Path) -> nn.Module:
    """Check that all of them give the same bits, and that bfloat16 is their rounding; return the model."""
    model, narrow = build(), build()
    before = torch.get_rng_state()
    init_model_(model, 3, recipe)
    assert torch.equal(before, torch.get_rng_state())
    with torch.device("meta"):
        meta = build()
    plan = plan_model(meta, 3, recipe)
    assert plan.fingerprint() == fingerprint(model)
    save_model(meta, folder, 3, recipe)
    assert fingerprint(folder) == fingerprint(model)
    assert verify(model, 3, recipe) and verify(folder, 3, recipe, model=meta)
    plan.run()
    assert fingerprint(meta) == fingerprint(model)
    init_model_(narrow, 3, recipe, dtype=torch.bfloat16)
    members, _ = init_ensemble(build(), [1, 3], recipe)
    for name, each in model.named_parameters():
        assert_same_bits(narrow.get_parameter(name), each.detach().bfloat16(), name)
        assert_same_bits(members[name][1], each, name)
    _check_shards(build, recipe, model)
    return model


def _check_shards(build: Callable[[], nn.Module], recipe: str | Recipe, whole: nn.Module) -> None:
    for mesh in every_rank((2, 2)):
        model = build()
        for module in model.modules():
            for leaf, each in list(module.named_parameters(recurse=False)):
                cuts = [Cut(0), Cut(min(1, each.ndim - 1))]
                part = distribute_tensor(torch.zeros_like(each), mesh, cuts, src_data_rank=None)
                module._parameters[leaf] = nn.Parameter(part)
        init_model_(model, 3, recipe)
        for name, each in model.named_parameters():
            source = whole.get_parameter(name).detach()
            part = distribute_tensor(source, mesh, each.placements, src_data_rank=None)
            assert_same_bits(each.to_local(), part.to_local(), name)
        assert verify(model, 3, recipe)


def check_writes_nothing(model: nn.Module, recipe: object, error: type[Exception], said: str) -> None:
    """Check that a recipe is refused, and that the model holds what it held."""
    assert_refused(model, error, re.escape(said), recipe=recipe)
