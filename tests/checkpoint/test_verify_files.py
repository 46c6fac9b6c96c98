"""verify on weights files: the values of a file are compared block by block as it is read."""

import pytest
import torch
from filling import DTYPES
from real_models import resnet, tied_llama, unet
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from convinit_ext import Normal, init_model_, save_model, verify
from convinit_ext.checkpoint import _verdicts as verdicts
from convinit_ext.recipes import TORCH, Preset, Rule
from convinit_ext.recipes._initialisers import ONES

PRESET = torch.arange(60.0).reshape(12, 5).t()  # not contiguous
RECIPE = [Rule(Preset(PRESET), name="last.weight"), Rule(Preset(torch.arange(4.0)), buffer="steps"), *TORCH]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 5, padding_idx=4)
        self.normed = weight_norm(nn.Conv1d(5, 6, 3))
        self.last = nn.Linear(12, 5)
        self.head = nn.Linear(5, 9, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("steps", torch.zeros(4))
        self.register_buffer("mask", torch.ones(2, 2))


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return Net()


@pytest.fixture(params=[16, 36, 1 << 20])
def block_bytes(request, monkeypatch) -> int:
    """Regions of a few elements, and of all."""
    monkeypatch.setattr(verdicts, "_SCRATCH_BYTES", request.param)
    return request.param


def state(dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    model = Net()
    init_model_(model, 3, RECIPE, dtype=dtype)
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "head.weight"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_file_is_equal_to_what_was_saved_and_one_element_is_found(tmp_path, block_bytes, dtype):
    tensors, path = state(dtype), tmp_path / "model.safetensors"
    save_file({f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}, path)
    found = verify(path, 3, RECIPE, model=on_meta())
    assert found and found.num_elements == sum(t.numel() for t in tensors.values()) - 4
    assert found.unchecked == ("mask",)
    wrong = {
        "embed.weight": (4, 2),
        "last.weight": (3, 7),
        "normed.parametrizations.weight.original0": (5, 0, 0),
    }
    wrong |= {"steps": (3,), "last.bias": (4,)}
    expected = {name: float(tensors[name][index]) for name, index in wrong.items()}
    for name, index in wrong.items():
        tensors[name][index] = 100.0
    tensors["embed.weight"][8, 4] = 100.0
    save_file(tensors, path)
    rows = {row.name: row for row in verify(str(path), 3, RECIPE, model=on_meta()).rows if not row.equal}
    assert rows.keys() == wrong.keys()
    for name, row in rows.items():
        assert (row.first_index, row.actual, row.expected) == (wrong[name], 100.0, expected[name])
        assert row.num_different == 1 + (name == "embed.weight")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(tmp_path, dtype):
    model, path = nn.Linear(7, 5, bias=False), tmp_path / "model.safetensors"
    recipe = [Rule(Normal())]
    init_model_(model, 1, recipe, dtype=DTYPES[dtype])
    save_file(model.state_dict(), path)
    assert verify(path, 1, recipe, model=nn.Linear(7, 5, bias=False))
    assert not verify(path, 2, recipe, model=nn.Linear(7, 5, bias=False))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("build", [tied_llama, resnet, unet])
def test_what_other_libraries_saved(tmp_path, build, dtype):
    recipe = [Rule(ONES, name="*norm*.weight"), *TORCH]  # of transformers' own layers
    model = build()
    init_model_(model, 5, recipe, dtype=dtype)
    model.save_pretrained(tmp_path)
    with torch.device("meta"):
        same = build()
    found = verify(tmp_path, 5, recipe, model=same)
    assert found, found
    assert set(found.unmoved) >= {name for name, _ in model.named_parameters()}
    assert not verify(tmp_path, 6, recipe, model=same)


def renamed_by_a_hook() -> nn.Module:
    model = Net()
    model.register_state_dict_post_hook(lambda module, state, prefix, local: rename(state))
    return model


def rename(state: dict[str, torch.Tensor]) -> None:
    for name in list(state):
        state[f"model.{name}"] = state.pop(name)


def with_a_module_without_a_name() -> nn.Module:
    model = Net()
    model._modules[""] = nn.Linear(2, 3)  # add_module refuses it; named_parameters() and state_dict() differ
    return model


@pytest.mark.parametrize("build", [renamed_by_a_hook, with_a_module_without_a_name])
def test_what_is_saved_under_other_names_than_named_parameters_has(tmp_path, build):
    save_model(build(), tmp_path / "folder", 3, RECIPE)
    found = verify(tmp_path / "folder", 3, RECIPE, model=build())
    assert found
    assert len(found.rows) == len(build().state_dict()) - 2  # a tied one once, and no mask
    assert not verify(tmp_path / "folder", 4, RECIPE, model=build())
    assert not verify({"no": torch.ones(1), **build().state_dict()}, 3, RECIPE, model=build())


def test_what_a_hook_adds_to_a_state_dict_is_expected_in_its_file(tmp_path):
    model = Net()
    model.register_state_dict_post_hook(lambda module, state, *_: state.update(more=torch.ones(2)))
    save_model(model, tmp_path, 3, RECIPE)
    assert verify(tmp_path, 3, RECIPE, model=model)
    assert verify(tmp_path, 3, RECIPE, model=Net()).problems[0].name == "more"
