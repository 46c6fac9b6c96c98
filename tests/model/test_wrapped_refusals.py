"""What PyTorch's wrappers would lose or undo of an initialisation, and what they would not."""

import pytest
import torch
from meshes import every_rank
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from convinit_ext import init_model_, plan_model, save_model


def test_fsdp_modules_that_have_run(tmp_path):
    for mesh in every_rank((2,)):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        fully_shard(model, mesh=mesh)
        init_model_(model, 0, dtype=torch.float64)
        init_model_(model, 0, dtype=torch.float32)
        model(torch.zeros(2, 4))
        with pytest.raises(ValueError, match=r"holds gathered parameters.*call its reshard\(\) first"):
            init_model_(model, 0)
        model.reshard()
        init_model_(model, 0, dtype=torch.float32)  # which it has
        with pytest.raises(ValueError, match=r"has run under FSDP2.*pass dtype= before"):
            init_model_(model, 0, dtype=torch.float64)
        assert save_model(model, tmp_path, dtype=torch.float64).files  # which changes nothing of the model


def test_new_memory_of_what_ddp_has_hooks_on(tmp_path):
    said = r"module '0' is a DistributedDataParallel.* before it is wrapped"
    for _ in every_rank((2,)):
        for device, dtype in (("cpu", torch.bfloat16), ("meta", None)):
            inner = nn.Linear(3, 3, device=device)
            inner.bias.requires_grad_(False)
            model = nn.Sequential(DistributedDataParallel(inner, init_sync=False), nn.Linear(3, 3))
            for plans in (init_model_, plan_model):
                with pytest.raises(ValueError, match=said):
                    plans(model, 0, dtype=dtype, frozen="draw")
            assert inner.weight.device.type == device and inner.weight.dtype == torch.float32
            init_model_(model, 0, dtype=dtype, only=["1", "0.bias"], frozen="draw")
            assert save_model(model, tmp_path / device, dtype=dtype, frozen="draw").files
        init_model_(DistributedDataParallel(nn.Linear(3, 3), init_sync=False), 0, dtype=torch.float32)
