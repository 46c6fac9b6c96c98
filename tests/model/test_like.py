"""like=: the stages of a traced pipeline have the whole model's values."""

import pytest
import torch
from filling import assert_same_bits
from torch import nn

from convinit_ext import init_model_, plan_model, save_model, verify


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8, padding_idx=3)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight


class InterpreterModule(nn.Module):
    """As torch.distributed.pipelining traces a module: its names stay, and its type is lost."""


def traced(module: nn.Module) -> nn.Module:
    stage = InterpreterModule()
    for leaf, parameter in module._parameters.items():
        stage.register_parameter(
            leaf, None if parameter is None else nn.Parameter(parameter.detach().clone())
        )
    for leaf, buffer in module._buffers.items():
        stage.register_buffer(leaf, buffer.clone())
    for name, child in module.named_children():
        stage.add_module(name, traced(child))
    return stage


def without(model: nn.Module, name: str) -> nn.Module:
    delattr(model, name)
    return model


def whole(seed: int | None = None) -> nn.Module:
    with torch.device("meta" if seed is None else "cpu"):
        model = Net()
    if seed is not None:
        init_model_(model, seed)
    return model


def test_stages_have_the_values_of_the_whole(tmp_path):
    expected = whole(5)
    for left_out in ("head", "embed"):  # the head alone is tied to what another stage holds
        stage = without(traced(Net()), left_out)
        stage.norm.running_mean.fill_(9.0)
        with pytest.raises(ValueError, match="like=model"):
            init_model_(stage, 5)
        init_model_(stage, 5, like=whole())
        for name, tensor in stage.state_dict().items():
            assert_same_bits(tensor, expected.state_dict()[name], name)
        assert verify(stage, 5, like=whole())
        assert plan_model(stage, 6, like=whole()).run(5).seed == 5
        save_model(stage, tmp_path / f"{left_out}.safetensors", 5, like=whole())


def test_what_the_other_model_has_not_is_named():
    stage = traced(Net())
    stage.extra = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="no parameters called extra"):
        init_model_(stage, like=whole())
    stage = traced(Net())
    stage.norm.weight = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=r"'norm\.weight' has shape \[2\], and in the model of like= \[8\]"):
        init_model_(stage, like=whole())
    with pytest.raises(TypeError, match="like must be a"):
        init_model_(stage, like="meta")


@pytest.mark.parametrize(
    "build", [lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU()), lambda: nn.Linear(4, 4)]
)
def test_a_module_of_torch_export_is_told_so(build):
    model = build()
    exported = torch.export.export(model, (torch.ones(2, 4),)).module()
    with pytest.raises(ValueError, match=r"Tracing took their modules' types away: pass like=model"):
        init_model_(exported)
    init_model_(exported, 7, like=model)
    init_model_(model, 7)
    for name, parameter in model.named_parameters():
        assert torch.equal(exported.get_parameter(name), parameter)
