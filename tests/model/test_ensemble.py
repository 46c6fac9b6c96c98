"""init_ensemble: each slice is what init_model_ makes of that seed; for vmap; what is refused."""

import pytest
import torch
from filling import assert_same_bits
from meshes import every_rank
from torch import nn
from torch.distributed.tensor import distribute_tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import parametrizations

from convinit_ext import Constant, Normal, init_ensemble, init_model_
from convinit_ext._engine import _ops as ops
from convinit_ext.recipes import TORCH, CopyFrom, Kaiming, Preset, Rule

SEEDS = [3, 0, -1, 3, 2**64 - 2]


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


def tied() -> nn.Module:
    model = nn.ModuleDict({"embed": nn.Embedding(7, 4, padding_idx=2), "head": nn.Linear(4, 7)})
    model["head"].weight = model["embed"].weight
    return model


def tied_by_memory() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = nn.Parameter(model[0].weight.detach())
    return model


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].weight.requires_grad_(False)
    return model


def with_buffers() -> nn.Module:
    model = nn.Linear(3, 3)
    model.register_buffer("steps", torch.arange(3))
    model.register_buffer("noise", torch.zeros(3, 2), persistent=False)
    return model


def orthogonal() -> nn.Module:
    return parametrizations.orthogonal(nn.Linear(4, 4))


ON_CPU = (with_buffers, tied_by_memory, orthogonal)  # what PyTorch does not build, or tie, on the meta device
CASES = {
    "cnn": (cnn, {}),
    "he": (cnn, {"recipe": "he"}),
    "lstm": (lambda: nn.LSTM(3, 4), {}),
    "attention": (lambda: nn.MultiheadAttention(8, 2), {"recipe": "xavier"}),
    "tied, padded": (tied, {}),
    "tied by memory": (tied_by_memory, {}),
    "frozen, kept": (frozen, {"frozen": "keep"}),
    "frozen, drawn": (frozen, {"frozen": "draw"}),
    "bfloat16": (cnn, {"dtype": torch.bfloat16}),
    "float64": (cnn, {"dtype": torch.float64}),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(3, 4)), {}),
    "spectral_norm": (lambda: parametrizations.spectral_norm(nn.Linear(3, 4)), {}),
    "orthogonal": (orthogonal, {}),
    "buffers": (with_buffers, {"recipe": [Rule(Normal(), buffer="noise"), *TORCH]}),
    "buffers of another dtype": (with_buffers, {"dtype": torch.float16}),
    "only": (cnn, {"only": "3"}),
    "skip": (cnn, {"skip": ["1", "5.bias"]}),
    "names": (cnn, {"names": lambda name: f"blocks.8.{name}"}),
    "nothing drawn": (lambda: nn.BatchNorm1d(3), {}),
    "no elements": (lambda: nn.Linear(0, 3), {}),
    "rules": (
        cnn,
        {
            "recipe": [
                Rule(Preset(torch.arange(5.0)), name="5.bias"),
                Rule(CopyFrom("5.bias"), name="9.bias", allow_unused=True),
                Rule(CopyFrom("1.bias"), name="1.weight"),
                Rule(Constant(0.3), name="1.bias"),
                Rule(Kaiming(mode="fan_out"), name="3.weight"),
                *TORCH,
            ]
        },
    ),
}


def tensors_of(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


@pytest.mark.parametrize("on_meta", [False, True], ids=["cpu", "meta"])
@pytest.mark.parametrize(("make", "arguments"), CASES.values(), ids=CASES)
@pytest.mark.filterwarnings("ignore:Initializing zero-element", "ignore:no write to a parameter")
def test_a_slice_is_what_init_model_makes_of_the_seed(make, arguments, on_meta):
    if on_meta and ({"only", "skip", "frozen"} & arguments.keys() or make in ON_CPU):
        pytest.skip("there is none, or it keeps what it holds, which is nothing there")

    def made() -> nn.Module:
        torch.manual_seed(0)
        with torch.device("meta" if on_meta else "cpu"):
            return make()

    model, as_it_was = made(), made()
    params, buffers = init_ensemble(model, SEEDS, **arguments)
    for tensor, before in zip(tensors_of(model), tensors_of(as_it_was), strict=True):
        assert tensor.is_meta if on_meta else torch.equal(tensor, before), "the model stays as it is"
    assert list(params) == [name for name, _ in model.named_parameters()]
    assert list(buffers) == [name for name, _ in model.named_buffers()]
    for member, seed in enumerate(SEEDS):
        one = made()
        init_model_(one, seed, **arguments)
        for name, tensor in one.named_parameters():
            assert_same_bits(params[name][member], tensor, (seed, name))
            assert params[name].requires_grad == tensor.requires_grad and params[name].is_leaf
        for name, tensor in one.named_buffers():
            assert torch.equal(buffers[name][member], tensor), (seed, name)
            assert buffers[name].dtype == tensor.dtype
    assert all(each.is_contiguous() for each in (*params.values(), *buffers.values()))


def test_it_is_what_pytorch_stacks_and_vmap_runs():
    models = [cnn() for _ in range(4)]
    for seed, model in enumerate(models):
        init_model_(model, seed)
        model.eval()
    theirs = stack_module_state(models)
    with torch.device("meta"):
        base = cnn().eval()
    ours = init_ensemble(base, range(4))
    for their, our in zip(theirs, ours, strict=True):
        assert their.keys() == our.keys()
        for name, tensor in their.items():
            assert torch.equal(tensor, our[name]) and tensor.requires_grad == our[name].requires_grad
    x = torch.randn(2, 1, 6, 6)
    outputs = vmap(lambda params, buffers: functional_call(base, (params, buffers), x))(*ours)
    for model, output in zip(models, outputs, strict=True):
        torch.testing.assert_close(model(x), output)
    outputs.sum().backward()
    assert all(each.grad is not None and each.grad.shape == each.shape for each in ours[0].values())


def test_nothing_is_shared_between_members_nor_with_the_model():
    model = frozen()
    for seeds in ([5], [5, 5]):
        params, _ = init_ensemble(model, seeds, frozen="keep")
        with torch.no_grad():
            for stack in params.values():
                stack[0] = 77.0
        assert not any((parameter == 77).any() for parameter in model.parameters())
        assert not any((stack[1:] == 77).any() for stack in params.values())


def test_all_members_are_drawn_by_one_call(monkeypatch):
    calls = []
    fill = ops.fill_encoded_
    monkeypatch.setattr(
        ops, "fill_encoded_", lambda tensors, *more: calls.append(len(tensors)) or fill(tensors, *more)
    )
    init_ensemble(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), range(64))
    assert calls == [64 * 4]


def test_seeds_are_checked():
    model = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="seeds is empty"):
        init_ensemble(model, [])
    with pytest.raises(TypeError, match="seeds must be a sequence of ints, one for each member, not 3"):
        init_ensemble(model, 3)
    with pytest.raises(TypeError, match="seed must be an int, not float"):
        init_ensemble(model, [0, 1.0])
    with pytest.raises(ValueError, match=r"seed must be in \[-2\*\*63, 2\*\*64\), but found"):
        init_ensemble(model, [0, 2**64])
    assert init_ensemble(model, torch.arange(3))[0]["weight"].shape == (3, 3, 3)


def test_parts_of_larger_tensors_are_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 4))
    for mesh in every_rank((2,)):
        model[0].weight = nn.Parameter(distribute_tensor(torch.empty(4, 4), mesh, src_data_rank=None))
        with pytest.raises(ValueError, match=r"'0\.weight' is a part of a larger tensor"):
            init_ensemble(model, range(2))


def test_what_would_stay_on_the_meta_device_is_refused_by_name():
    with torch.device("meta"):
        model = cnn()
    with pytest.raises(ValueError, match=r"'0\.weight' is on the meta device and would stay there"):
        init_ensemble(model, range(2), only="3")


def test_more_than_there_is_memory_for_is_refused(monkeypatch):
    monkeypatch.setattr("convinit_ext.model._run.available_memory", lambda: 100)
    with pytest.raises(MemoryError, match="the model needs 480 B of new memory"):
        init_ensemble(nn.Linear(3, 3), range(10))
