"""Saved models load where they come from; many processes share the files; memory stays small."""

import subprocess
import sys

import pytest
import torch
from meshes import every_rank
from real_models import bert, gpt2, mixtral, t5, tied_llama, unet, vit
from safetensors.torch import load_file
from saving import ANY
from states import assert_same_state
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.tensor import Replicate, Shard, distribute_module, distribute_tensor

from convinit_ext import fingerprint, init_model_, plan_model, save_model, verify
from convinit_ext.checkpoint._safetensors import open_weights


@pytest.mark.parametrize("build", [tied_llama, bert, gpt2, t5, vit, mixtral])
@pytest.mark.parametrize("max_shard_size", ["5GB", "40KB"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_transformers_loads_it(tmp_path, build, max_shard_size, dtype):
    with torch.device("meta"):
        model = build()
    said = model.config.to_dict()
    save_model(model, tmp_path, 7, ANY, dtype, max_shard_size=max_shard_size)
    assert model.config.to_dict() == said
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    expected = build()
    init_model_(expected, 7, ANY, dtype=dtype)
    assert_same_state(loaded, expected.state_dict())
    auto = pytest.importorskip("transformers").AutoConfig.from_pretrained(tmp_path)
    assert auto.architectures == [type(model).__name__]


@pytest.mark.filterwarnings("ignore")  # its own
@pytest.mark.parametrize("max_shard_size", ["5GB", "900KB"])
def test_diffusers_loads_it(tmp_path, max_shard_size):
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        model = unet()
    save_model(model, tmp_path, 7, max_shard_size=max_shard_size)
    names = {each.name for each in tmp_path.iterdir()}
    assert "config.json" in names
    assert ("diffusion_pytorch_model.safetensors" in names) == (max_shard_size == "5GB")
    assert ("diffusion_pytorch_model.safetensors.index.json" in names) == (max_shard_size != "5GB")
    expected = unet()
    init_model_(expected, 7)
    assert_same_state(diffusers.UNet2DModel.from_pretrained(tmp_path), expected.state_dict())
    assert not save_model(model, tmp_path, 7, max_shard_size=max_shard_size).num_bytes


def values_of(path):
    """Every tensor of a saved model, read by this package."""
    return open_weights(path).tensors


def test_a_sharded_model_is_saved_whole(tmp_path):
    """By each rank of a mesh as if it were alone: no rank's shard decides a value."""

    def build():
        return nn.Sequential(nn.Embedding(10, 6, padding_idx=4), nn.Linear(6, 7))

    expected = build()
    init_model_(expected, 3)
    for rank, mesh in enumerate(every_rank((2, 2))):

        def cut(name, module, mesh):
            for leaf, tensor in list(module._parameters.items()):
                placements = (Shard(0), Shard(1) if tensor.dim() > 1 else Replicate())
                sharded = distribute_tensor(tensor, mesh, placements, src_data_rank=None)
                setattr(module, leaf, nn.Parameter(sharded))

        with torch.device("meta"):
            model = build()
        distribute_module(model, mesh, cut)
        from convinit_ext.checkpoint import _save as saving

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(saving, "place", lambda group: (0, 1))
            patch.setattr(saving, "gathered", lambda value, group: [value])
            patch.setattr(saving, "members", lambda group: [0])
            patch.setattr(saving, "together", lambda work, group: work())
            save_model(model, tmp_path / f"{rank}.safetensors", 3)
            with pytest.raises(TypeError, match=r"'0\.weight' is a DTensor that is not filled as a whole"):
                save_model(model, tmp_path / "part.safetensors", 3, skip="0")
            mark = distribute_tensor(torch.arange(3.0), mesh, [Replicate()] * 2, src_data_rank=None)
            model.register_buffer("mark", mark)  # of which each rank has all
            save_model(model, tmp_path / f"{rank}.safetensors", 3, overwrite=True)
        saved = values_of(tmp_path / f"{rank}.safetensors")
        assert saved["mark"].tolist() == [0, 1, 2]
        assert all(saved[name].equal(tensor) for name, tensor in expected.state_dict().items())


MEASURED = """
import re, sys, torch
from convinit_ext import save_model
from safetensors.torch import load_file
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
with torch.device("meta"):
    model = nn.Embedding(2**18, 1024, padding_idx=5)

def peak():  # not getrusage's maximum, which counts the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

before = peak()
report = save_model(model, sys.argv[1], dtype=torch.bfloat16, max_shard_size="500MB")
print(report.num_bytes, peak() - before)
"""


def test_memory_does_not_grow_with_the_model(tmp_path):
    """537 MB in one tensor."""
    try:
        printed = subprocess.run(
            [sys.executable, "-c", MEASURED, str(tmp_path / "out")],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        saved, grown = map(int, printed.split())
        assert saved > 2**29
        assert grown < 0.25 * 2**29, printed
    finally:
        for each in (tmp_path / "out").glob("*"):
            each.unlink()


class Fused(nn.Module):
    """As torchtitan's fused projections: their state dict has the parts."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(4, 6, bias=False)
        self.register_state_dict_post_hook(self.split)

    @staticmethod
    def split(module, state, prefix, local_metadata) -> None:
        first, second = state.pop(f"{prefix}both.weight").clone().chunk(2)
        state.update({f"{prefix}first.weight": first, f"{prefix}second.weight": second})


def test_what_a_hook_makes_of_parameters_is_refused(tmp_path):
    model = nn.Sequential(Fused(), nn.Linear(4, 4))
    said = r"has 0\.first\.weight, 0\.second\.weight, which a hook makes, in place of 0\.both\.weight"
    for refuses in (lambda: save_model(model, tmp_path / "a", 3), lambda: plan_model(model, 3).fingerprint()):
        with pytest.raises(ValueError, match=said):
            refuses()
    assert not (tmp_path / "a").exists()
    save_model(model, tmp_path / "a", 3, skip="0")  # they stay as they are


class Actor(nn.Module):
    """Holds a network under the word that DDP has for what it wraps, as modules of tensordict do."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        nn.DataParallel,
        lambda model: checkpoint_wrapper(nn.DataParallel(model)),
        lambda model: nn.DataParallel(checkpoint_wrapper(model)),
    ],
)
def test_a_model_whose_own_attribute_is_called_as_a_wrappers_loads_its_file(tmp_path, wrap):
    path = tmp_path / "model.safetensors"
    model, expected = wrap(Actor()), Actor()
    plan = plan_model(model, 5)
    save_model(model, path, 5)
    expected.load_state_dict(load_file(path))
    init_model_(model, 5)
    assert_same_state(model.get_submodule(walked(model)), expected.state_dict())
    assert fingerprint(model) == fingerprint(path) == plan.fingerprint()
    for other in (model, Actor()):
        assert verify(path, seed=5, model=other)


def walked(model: nn.Module) -> str:
    return next(name for name, each in model.named_modules() if isinstance(each, Actor))
