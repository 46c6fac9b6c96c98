"""The configuration beside the weights says what from_pretrained makes: whose class, a dtype of models."""

import json

import pytest
import torch
from meshes import every_rank
from real_models import tied_llama, unet
from saving import ANY
from states import assert_same_state
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrizations import weight_norm

from convinit_ext import init_model_, save_model
from convinit_ext.checkpoint._layout import base_name, config_files


def parametrized(model: nn.Module) -> nn.Module:
    model.weight = nn.Parameter(torch.ones(2, 2))
    return weight_norm(model)


WRAPPED = {
    "none": lambda model: model,
    "fully_shard": fully_shard,
    "weight_norm": parametrized,
    "compile": torch.compile,
    "checkpoint": checkpoint_wrapper,
    "ddp": lambda model: DistributedDataParallel(checkpoint_wrapper(model)),
    "compiled checkpoint": lambda model: torch.compile(checkpoint_wrapper(model)),
    "fsdp 1": lambda model: FullyShardedDataParallel(
        model, device_id=torch.device("cpu"), use_orig_params=True
    ),
}


@pytest.mark.filterwarnings("ignore")  # of the wrappers, and diffusers' own
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("build", [tied_llama, unet])
def test_the_class_is_the_users(build, wrap):
    model = build()
    name, expected = base_name(model), config_files(model, torch.float32)
    for _ in every_rank((1,)):
        wrapped = wrap(model)
        assert base_name(wrapped) == name
        assert config_files(wrapped, torch.float32) == expected
    said = json.loads(expected["config.json"])
    assert said.get("_class_name") == "UNet2DModel" or said["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16, torch.float8_e5m2], ids=str)
def test_float8_weights_are_loaded_into_a_wider_model(tmp_path, own):
    model = tied_llama().to(own)
    save_model(model, tmp_path, 7, ANY, torch.float8_e5m2)
    loaded = type(model).from_pretrained(tmp_path)
    expected = tied_llama()
    init_model_(expected, 7, ANY, dtype=torch.float8_e5m2)
    assert_same_state(loaded, expected.to(own if own.itemsize > 1 else torch.float32).state_dict())
