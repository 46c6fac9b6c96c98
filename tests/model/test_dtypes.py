"""dtype=: what stays float32 in half precision, as transformers' from_pretrained has it."""

import warnings

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from convinit_ext import Constant, init_model_, save_model
from convinit_ext.recipes import TORCH, Rule

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


class Router(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.wo = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("inv_freq", torch.ones(2), persistent=False)
        self.register_buffer("original_inv_freq", torch.ones(2), persistent=False)
        self.register_buffer("scale", torch.ones(2), persistent=False)


class Model(nn.Module):
    _keep_in_fp32_modules = ["wo"]  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Router()])
        self._keep_in_fp32_modules_strict = {"0.gate.w*t"}


RULES = [Rule(Constant(0.5), buffer="*"), *TORCH]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        (BF16, {"gate.weight"}),
        (F16, {"gate.weight", "wo.weight", "wo.bias"}),
        (F32, set()),
        (torch.float64, set()),
    ],
)
def test_frequencies_and_what_a_model_keeps_stay_float32_in_half_precision(dtype, kept, device):
    with torch.device(device):
        model = nn.Sequential(Model())
    init_model_(model, recipe=RULES, dtype=dtype)
    frequencies = {"inv_freq", "original_inv_freq"} if dtype.itemsize == 2 else set()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        short = name.removeprefix("0.layers.0.")
        assert tensor.dtype == (F32 if short in kept | frequencies else dtype), name
        assert tensor.dtype == dtype or not tensor.is_meta


def test_values_that_stay_float32_are_those_without_dtype(tmp_path):
    one, two = Model(), Model()
    init_model_(one, 7, RULES)
    init_model_(two, 7, RULES, dtype=BF16)
    assert torch.equal(one.layers[0].gate.weight, two.layers[0].gate.weight)
    assert torch.equal(one.layers[0].wo.weight.to(BF16), two.layers[0].wo.weight)
    save_model(Model(), tmp_path / "a.safetensors", 7, RULES, dtype=BF16)
    saved = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(saved[name], each) for name, each in two.named_parameters())


def test_a_tensor_that_is_half_precision_already_stays_so():
    model = Model().to(BF16)
    init_model_(model, recipe=RULES, dtype=BF16)
    assert {each.dtype for each in (*model.parameters(), *model.buffers())} == {BF16}


def test_kept_values_that_become_infinite_are_named():
    frozen = nn.Linear(3, 3).requires_grad_(False)
    model = nn.Sequential(nn.Linear(3, 3), frozen)
    model.register_buffer("mask", torch.tensor([-1e9, 0.0]))
    frozen.weight.fill_(7e4)
    with pytest.warns(
        UserWarning, match=r"become infinite: '1\.weight' \(.*float16 .*70000.*, 'mask' \(.*-1e"
    ):
        init_model_(model, dtype=F16, frozen="keep")
    model.register_buffer("mask", torch.tensor([-torch.inf, 6e4]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_model_(model.float(), dtype=BF16, frozen="keep")
