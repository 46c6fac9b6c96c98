"""verify on state dicts: which name is which parameter's, and what is missing, unexpected or misshapen."""

import torch
from torch import nn
from verified import SEED, made, on_meta

from convinit_ext import init_model_, verify


def test_a_state_dict_goes_by_canonical_names():
    model = made(dtype=torch.bfloat16)
    state = {f"module._orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    found = verify(state, SEED, model=on_meta())
    assert found and len(found.rows) == len(list(model.parameters())) + 3
    assert {row.dtype for row in found.rows} == {"bfloat16", "int64"}
    state["extra._extra_state"] = object()
    del state["module._orig_mod.embed.weight"]  # the head's name is left
    assert [row.name for row in verify(state, SEED, model=on_meta()).rows][-3] != "embed.weight"
    assert "head.weight" in verify(state, SEED, model=on_meta()).unmoved


def test_each_copy_of_a_tied_parameter_is_looked_at():
    state = {name: tensor.clone() for name, tensor in made().state_dict().items()}
    assert {"embed.weight", "head.weight"} <= set(verify(state, SEED, model=on_meta()).unmoved)
    state["head.weight"][18, 5] = 0.0
    found = verify(state, SEED, model=on_meta())
    assert found.different == ("head.weight",) and "embed.weight" in found.unmoved


def test_missing_unexpected_and_misshapen_tensors_are_problems():
    state = made().state_dict()
    del state["conv.bias"], state["norm.running_mean"]
    state["lora.weight"] = torch.zeros(2)
    state["head.bias"] = torch.zeros(18)
    found = verify(state, SEED, model=on_meta())
    assert not found and not found.different
    assert [(problem.name, problem.kind) for problem in found.problems] == [
        ("conv.bias", "missing"),
        ("norm.running_mean", "missing"),
        ("lora.weight", "unexpected"),
        ("head.bias", "shape"),
    ]
    assert "its shape is [18], and the model's [19]" in str(found)
    assert "4 more problems" in found.summary()
    assert verify(state, SEED, model=on_meta(), only=["conv.weight", "back"])
    assert not verify(state, SEED, model=on_meta(), skip=["conv.bias", "norm", "head.bias"])
    del state["lora.weight"]
    assert verify(state, SEED, model=on_meta(), skip=["conv.bias", "norm", "head.bias"])


def test_the_dtype_counts_where_it_is_said():
    model = made(dtype=torch.float16)
    assert verify(model, SEED) and verify(model, SEED, dtype=torch.float16)
    found = verify(model, SEED, dtype=torch.float32)
    assert {problem.kind for problem in found.problems} == {"dtype"}
    assert "it is torch.float16, and not torch.float32" in str(found)
    assert [row.name for row in found.rows] == ["norm.num_batches_tracked"]


def test_names_map_to_the_keys_that_the_model_was_made_with():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    init_model_(model, 4, names={"0": "8", "1": "9"})
    assert verify(model, 4, names={"0": "8", "1": "9"})
    assert len(verify(model, 4).different) == 4
