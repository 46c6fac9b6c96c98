"""Complex parameters: no distribution is theirs, given values are; all others are named at once."""

import pytest
import torch
from torch import nn

from convinit_ext import fingerprint, init_model_, plan_model, save_model, verify
from convinit_ext._engine import UnsupportedTensorError
from convinit_ext.recipes import TORCH, CopyFrom, Preset, Rule

WAVES = torch.randn(2, 3, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


class Spectral(nn.Module):
    def __init__(self, num: int = 2, device: str = "cpu") -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 2, dtype=torch.complex64, device=device) for _ in range(num))
        self.head = nn.Linear(2, 2, device=device)


def given(model: Spectral) -> list[Rule]:
    """Rules that say every complex parameter."""
    biases = [
        Rule(lambda target: torch.full(target.tensor.shape, 1 - 2j), name="layers.*.bias"),
        Rule(CopyFrom("layers.0.weight"), name="layers.[1-9]*.weight", allow_unused=True),
    ]
    return [Rule(Preset(WAVES), name="layers.0.weight"), *biases, *TORCH]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "do",
    [init_model_, plan_model, lambda model: save_model(model, "never.safetensors")],
    ids=["init_model_", "plan_model", "save_model"],
)
def test_all_that_have_no_values_are_named_with_how_to_leave_them(do, device, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = Spectral(12, device)
    before = {name: each.clone() for name, each in model.named_parameters()}
    said = (
        r"(?s)cannot draw 24 parameters of complex numbers:\n  layers\.0\.weight \[2, 3\] of torch\.complex64"
        r"\n  layers\.0\.bias.*layers\.9\.bias \[2\] of torch\.complex64\n  and 4 more\nAccepted are "
        r"real ones; give each .*Rule\(Preset\(tensor\), name='layers\.0\.weight'\)"
        r".*skip=\['layers\.0\.weight', .* and 4 more\]$"
    )
    with pytest.raises(UnsupportedTensorError, match=said):
        do(model)
    for name, each in model.named_parameters():
        assert each.is_meta or torch.equal(each, before[name])
    assert not list(tmp_path.iterdir())


def test_those_that_a_rule_draws_are_named_and_those_it_gives_are_not():
    model = Spectral()
    rules = [Rule(Preset(WAVES), name="layers.0.weight"), *TORCH]
    with pytest.raises(UnsupportedTensorError, match=r"cannot draw 3 param.*\n  layers\.0\.bias \[2\]"):
        init_model_(model, recipe=rules)
    with pytest.raises(
        TypeError, match=r"'layers\.0\.bias' of torch\.complex64 cannot copy from 'head\.bias' of"
    ):
        init_model_(model, recipe=[Rule(CopyFrom("head.bias"), name="layers.*.bias"), *given(model)])
    with pytest.raises(
        TypeError, match=r"'head\.bias' of torch\.float32 cannot copy from 'layers\.0\.bias' of"
    ):
        init_model_(model, recipe=[Rule(CopyFrom("layers.0.bias"), name="head.bias"), *given(model)])


def test_complex_values_are_no_real_parameters():
    with pytest.raises(TypeError, match=r"'head\.weight', preset: the preset's values are complex"):
        init_model_(Spectral(0), recipe=[Rule(Preset(torch.eye(2) * 1j), name="head.weight"), *TORCH])


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_given_values(device, dtype, tmp_path):
    model, plain = Spectral(device=device), Spectral(0)
    path = tmp_path / "model.safetensors"
    save_model(model, path, 7, given(model), dtype)
    plan = plan_model(model, 7, given(model), dtype=dtype)
    planned = plan.fingerprint()
    plan.run()
    init_model_(plain, 7, dtype=dtype)
    for layer in model.layers:
        assert torch.equal(layer.weight, WAVES)
        assert torch.equal(layer.bias, torch.full((2,), 1 - 2j))
    assert torch.equal(model.head.weight, plain.head.weight)
    assert planned == fingerprint(model) == fingerprint(path)
    assert plan.run().rows[0].dtype == "complex64"


def test_real_values_of_a_complex_parameter():
    model = Spectral(1)
    init_model_(model, recipe=[Rule(Preset(torch.ones(2, 3)), name="layers.0.weight"), *given(model)[1:]])
    assert torch.equal(model.layers[0].weight, torch.ones(2, 3, dtype=torch.complex64))


def test_they_stay_where_they_are_skipped_or_frozen():
    model = Spectral()
    before = model.layers[0].weight.detach().clone()
    init_model_(model, 7, skip="layers")
    assert verify(model, 7, skip="layers")
    model.layers.requires_grad_(False)
    init_model_(model, 8, frozen="keep", dtype=torch.bfloat16)
    assert torch.equal(model.layers[0].weight, before) and model.head.weight.dtype == torch.bfloat16


def test_verify_reads_real_ones_alone():
    model = Spectral()
    init_model_(model, 7, given(model))
    said = r"(?s)cannot verify 4 parameters of complex numbers:.*Accepted are real ones; leave them .*: skip="
    with pytest.raises(UnsupportedTensorError, match=said):
        verify(model, 7, given(model))
    assert verify(
        model, 7, [Rule(Preset(WAVES), name="layers.0.weight", allow_unused=True), *TORCH], skip="layers"
    )


def test_a_dtype_that_no_file_holds_is_named(tmp_path):
    model = nn.Sequential(nn.Linear(1, 1, bias=False, dtype=torch.complex128, device="meta"))
    with pytest.raises(TypeError, match=r"'0\.weight' is of torch\.complex128; a file holds BOOL"):
        save_model(model, tmp_path, recipe=[Rule(Preset(torch.ones(1, 1)), name="0.weight")])
