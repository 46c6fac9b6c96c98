"""Networks that start as copies of another are warned about once, by name, where they would come apart."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from convinit_ext import init_model_
from convinit_ext.recipes import TORCH, CopyFrom, Rule


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))


def pair(online: str, target: str, frozen: bool = False) -> nn.Module:
    model = nn.Module()
    model.add_module(online, network())
    model.add_module(target, copy.deepcopy(model.get_submodule(online)).requires_grad_(not frozen))
    return model


def averaged() -> nn.Module:
    model = nn.Module()
    model.net = network()
    model.ema = AveragedModel(model.net)
    return model


@pytest.mark.parametrize(
    ("model", "source", "target"),
    [
        (pair("q_net", "q_net_target"), "q_net", "q_net_target"),
        (pair("cv2", "one2one_cv2"), "cv2", "one2one_cv2"),
        (pair("encoder_q", "encoder_k", frozen=True), "encoder_q", "encoder_k"),
        (pair("a", "b", frozen=True), "a", "b"),
        (averaged(), "net", "ema"),
    ],
)
def test_copies_that_come_apart_are_named_once(model, source, target):
    of = rf"'{target}.0.weight' of '{source}.0.weight'"
    said = rf"{of}.*CopyFrom\('{source}.0.weight'\), name='{target}.0.weight'"
    with pytest.warns(UserWarning, match=said) as warned:
        init_model_(model, frozen="draw")
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_model_(model, frozen="draw")  # they are no copies any more


def test_an_encoder_that_is_a_copy_of_another_is_named():
    model = nn.Module()
    model.online = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 2)
    model.target = copy.deepcopy(model.online)
    with pytest.warns(UserWarning, match=r"'target\.layers\.0\.linear1\.weight' of 'online\.layers\.0"):
        init_model_(model)


def test_a_copy_that_is_kept_is_left_behind():
    model = pair("a", "b", frozen=True)
    with pytest.warns(UserWarning, match=r"'b\.0\.weight' of 'a\.0\.weight'"):
        init_model_(model, frozen="keep")


def test_copies_that_stay_equal_and_layers_that_repeat_are_not_warned_about():
    repeated = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 3)
    kept = nn.Module()  # the layer that was cloned, as many a constructor keeps it
    kept.layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    kept.encoder = nn.TransformerEncoder(kept.layer, 1)
    constant = nn.Module()
    constant.a, constant.b = nn.Linear(8, 8), nn.Linear(8, 8)
    for layer in (constant.a, constant.b):
        nn.init.ones_(layer.weight)
    model = pair("q_net", "q_net_target")
    copies = Rule(lambda target: CopyFrom(target.name.replace("_target", "")), name="q_net_target.*")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_model_(repeated)
        init_model_(kept)
        init_model_(constant)
        init_model_(model, recipe=[copies, *TORCH])
    assert torch.equal(model.q_net[0].weight, model.q_net_target[0].weight)


def test_what_memory_happens_to_hold_is_no_copy():
    """As after to_empty(), where two parameters may get the memory of tensors that were equal."""
    model = pair("q_net", "q_net_target").to("meta").to_empty(device="cpu")
    for parameter in model.parameters():
        values = torch.arange(parameter.numel()) if parameter.ndim > 1 else torch.rand(parameter.numel())
        parameter.data.view(-1).copy_(values)  # which PyTorch does not count
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_model_(model)
