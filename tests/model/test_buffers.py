"""Buffers of meta models: rules for them, what modules offer themselves, and those that nobody can know."""

import types

import pytest
import torch
from meshes import every_rank
from reference import layer_key, reference
from states import assert_refused
from torch import nn
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from convinit_ext import Constant, Normal, Uniform, fingerprint, init_model_, plan_model, save_model, verify
from convinit_ext.recipes import TORCH, CopyFrom, Preset, Rule


def with_buffers(device: str = "meta", **buffers: torch.Tensor) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2))
    for name, tensor in buffers.items():
        model[0].register_buffer(name, tensor.to(device))
    return model.to(device)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_rules_for_buffers_say_values_distributions_and_functions(device):
    model = with_buffers(
        device,
        scale=torch.ones(3),
        table=torch.zeros(2, 2),
        order=torch.zeros(4, dtype=torch.int64),
        phases=torch.zeros(5),
    )
    rules = [
        Rule(Constant(0.5), buffer="sc*"),
        Rule(Preset(torch.tensor([[1.0, 2.0], [3.0, 4.0]])), buffer="table", module=nn.Linear),
        Rule(lambda target: torch.arange(target.tensor.shape[0]), buffer="order", name="0.*"),
        Rule(Uniform(-0.5, 0.25), buffer="phases", where=lambda target: target.module.in_features == 2),
        *TORCH,
    ]
    init_model_(model, 9, rules, names={"0.phases": "other"})
    layer = model[0]
    assert layer.scale.tolist() == [0.5] * 3
    assert layer.table.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert layer.order.tolist() == [0, 1, 2, 3] and layer.order.dtype == torch.int64
    drawn = reference((5,), *layer_key(9, "other"), ("uniform", -0.5, 0.25), "float32")
    assert torch.equal(layer.phases, torch.from_numpy(drawn))
    assert layer.weight.abs().max() < 1  # rules for buffers are for buffers alone


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_checkpoint_wrapped_module", "module"])
def test_rules_name_buffers_without_wrappers(wrapper):
    model = nn.Module()
    model.add_module(wrapper, with_buffers(scale=torch.ones(3)))
    init_model_(model, 9, [Rule(Constant(0.5), buffer="scale", name="0.scale"), *TORCH])
    assert torch.equal(model.get_submodule(f"{wrapper}.0").scale, torch.full((3,), 0.5))


def test_rules_for_parameters_are_not_for_buffers():
    model = with_buffers("cpu", scale=torch.full((3,), 7.0))
    init_model_(model, recipe=[Rule(Constant(0.0))])
    assert model[0].scale.tolist() == [7.0] * 3


@pytest.mark.parametrize(
    ("init", "error", "said"),
    [
        (lambda target: torch.ones(2), ValueError, r"'0.scale', .*has shape \[2\], not \[3\]"),
        (lambda target: torch.ones(3, device="meta"), ValueError, "'0.scale', .*meta device"),
        (lambda target: 1 / 0, ValueError, "'0.scale', .*division"),
        (lambda target: None, TypeError, "'0.scale', .*distribution or a tensor, not None"),
        (CopyFrom("0.weight"), TypeError, "'0.scale', .*not CopyFrom"),
        (Normal(), TypeError, "'0.scale', .*cannot draw values of torch.int32"),
    ],
)
def test_wrong_rules_for_buffers_are_named_and_nothing_is_written(init, error, said):
    dtype = torch.int32 if isinstance(init, Normal) else torch.float32
    model = with_buffers("cpu", scale=torch.ones(3, dtype=dtype))
    assert_refused(model, error, said, recipe=[Rule(init, buffer="scale"), *TORCH])


class Rotary(nn.Module):
    """As in transformers 5; its class in transformers 4 kept the second tensor as an attribute."""

    def __init__(self, config, second_is_buffer: bool = True) -> None:
        super().__init__()
        self.config, self.rope_type = config, "default"
        self.register_buffer("inv_freq", self.compute_default_rope_parameters(config)[0], persistent=False)
        if second_is_buffer:
            self.register_buffer("original_inv_freq", self.inv_freq.clone(), persistent=False)
        else:
            self.original_inv_freq = self.inv_freq

    @staticmethod
    def compute_default_rope_parameters(config, device=None, **_):
        return config.theta ** -(torch.arange(0, 8, 2, device=device) / 8), 1.0


class OldRotary(Rotary):
    def __init__(self, config) -> None:
        nn.Module.__init__(self)
        self.config, self.rope_init_fn = config, self.compute_default_rope_parameters
        self.register_buffer("inv_freq", self.rope_init_fn(config)[0], persistent=False)
        self.original_inv_freq = self.inv_freq


@pytest.mark.parametrize("kind", [Rotary, OldRotary])
def test_rotary_embeddings_are_rebuilt_by_their_own_function(kind):
    config = types.SimpleNamespace(theta=500.0)
    eager = kind(config)
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2), kind(config))
        init_model_(model)
    for name in ("inv_freq", "original_inv_freq"):
        assert torch.equal(getattr(model[1], name), getattr(eager, name)), name
    assert model[1].inv_freq.device.type == "cpu"


class Pretrained(nn.Module):
    """A model whose _init_weights writes parameters, draws, and rebuilds buffers, as in transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.layer.register_buffer("mask", torch.ones(3, 3).tril(), persistent=False)
        self.layer.register_buffer("unknown", torch.ones(2))

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.weight.data.normal_()
            nn.init.zeros_(module.bias)
            module.mask.copy_(torch.ones(3, 3).tril())
            torch.rand(3)


def test_what_a_models_own_init_weights_writes_is_taken_and_nothing_else_is_touched():
    with torch.device("meta"):
        model = Pretrained()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"1 buffer on the meta device:\n  layer\.unknown \[2\] of Linear"):
        init_model_(model)
    assert model.layer.mask.is_meta and model.layer.weight.is_meta
    model.layer.weight = nn.Parameter(torch.full((3, 3), 9.0))
    del model.layer.unknown
    init_model_(model, only=["layer.bias", "layer.mask"])
    assert model.layer.weight.eq(9).all()
    assert torch.equal(model.layer.mask, torch.ones(3, 3).tril())
    assert torch.equal(torch.get_rng_state(), before)


class Lookup(nn.Module):
    def __init__(self, method: str) -> None:
        super().__init__()
        setattr(type(self), method, Lookup.rebuild)
        self.rebuild()

    def rebuild(self) -> None:
        self.register_buffer("index", torch.arange(4).view(2, 2).t())


@pytest.mark.parametrize(
    "method",
    ["init_non_persistent_buffers", "_init_buffers", "define_relative_position_index", "_init_self_buffers"],
)
def test_methods_that_make_buffers_are_asked(method):
    kind = type("Named", (Lookup,), {})
    with torch.device("meta"):
        model = kind(method)
    init_model_(model)
    assert model.index.tolist() == [[0, 2], [1, 3]]


@pytest.mark.parametrize("placement", [Replicate(), Shard(0), Shard(1)])
def test_buffers_that_are_dtensors_are_made_anew_too(placement):
    kind = type("Named", (Lookup,), {})
    for mesh in every_rank((3,)):
        model, whole = kind("_init_buffers"), torch.tensor([[0, 2], [1, 3]])
        held = distribute_tensor(whole, mesh, [placement], src_data_rank=None).to_local().contiguous()
        before = torch.full_like(held, 7)
        buffer = DTensor.from_local(before, mesh, [placement], run_check=False, shape=(2, 2), stride=(2, 1))
        model.register_buffer("index", buffer, persistent=False)
        init_model_(model)
        assert torch.equal(model.index.to_local(), held)
        assert not model.state_dict()  # it stays what it was, although the method registers one that is there


class Counting(nn.Module):
    def __init__(self, start: float) -> None:
        super().__init__()
        self.start = start
        self._init_buffers()

    def _init_buffers(self) -> None:
        self.register_buffer("counts", torch.full((4,), self.start), persistent=False)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_of_a_sum_that_ranks_have_terms_of_zeros_are_known_alone(device):
    for mesh in every_rank((2,)):
        model = Counting(0.0)
        terms = torch.full((4,), 7.0, device=device)
        model.counts = DTensor.from_local(terms, mesh, [Partial()], run_check=False)
        init_model_(model)
        assert model.counts.placements == (Partial(),) and not model.counts.to_local().any()
        model = Counting(1.0)
        model.counts = DTensor.from_local(terms, mesh, [Partial()], run_check=False)
        with pytest.raises(RuntimeError, match=r"buffer 'counts': .*is a sum that nobody can fill"):
            init_model_(model)


def test_positions_and_token_types_are_clear_by_their_names():
    with torch.device("meta"):
        model = nn.Embedding(9, 2)
        model.register_buffer("position_ids", torch.arange(9).expand(1, -1))
        model.register_buffer("token_type_ids", torch.zeros(1, 9, dtype=torch.int64))
    init_model_(model)
    assert torch.equal(model.position_ids, torch.arange(9)[None])
    model.position_ids[0, 0] = 5  # memory of its own for every element
    assert not model.token_type_ids.any()
    model.register_buffer("position_ids", torch.ones(2, 9, dtype=torch.int64, device="meta"))
    model.register_buffer("token_type_ids", torch.ones(1, 9, device="meta"))
    with pytest.raises(
        ValueError, match=r"(?s)2 buffers.*position_ids \[2, 9\].*token_type_ids \[1, 9\].*buffer=\.\.\."
    ):
        init_model_(model)


class DetrFrozenBatchNorm2d(nn.Module):
    """As in transformers and torchvision: four buffers, no parameters."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.full((3,), 7.0))


def test_a_frozen_batch_norm_on_the_meta_device_starts_as_batch_norm_does():
    with torch.device("meta"):
        model = nn.Sequential(DetrFrozenBatchNorm2d())
    init_model_(model)
    for name, value in model[0].named_buffers():
        assert torch.equal(value, torch.full((3,), float(name in ("weight", "running_var")))), name
    here = DetrFrozenBatchNorm2d()
    init_model_(here)
    assert all(value.eq(7).all() for value in here.buffers())  # it may have been loaded


def with_a_buffer_of(view) -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_buffer("seen", view(layer.weight.data))
    return layer


@pytest.mark.parametrize("is_around", [False, True])  # a state dict then has the buffer first
def test_a_buffer_that_is_a_parameter_counts_once_in_a_plan_as_in_memory_and_in_files(tmp_path, is_around):
    model = with_a_buffer_of(lambda weight: weight)
    if is_around:
        model = nn.Sequential(nn.Linear(4, 4))
        model.register_buffer("seen", model[0].weight.data)
    planned = plan_model(model, seed=1).fingerprint()
    save_model(model, tmp_path / "saved", seed=1)
    assert verify(tmp_path / "saved", seed=1, model=model)
    init_model_(model, seed=1)
    assert torch.equal(model.seen, next(model.parameters()))
    assert fingerprint(model) == planned == fingerprint(tmp_path / "saved")


def test_a_buffer_that_is_a_part_of_a_parameter_is_not_saved_with_the_values_of_before(tmp_path):
    model = with_a_buffer_of(lambda weight: weight[1:])
    with pytest.raises(ValueError, match=r"buffer 'seen' is a part of the memory of parameter 'weight'"):
        save_model(model, tmp_path / "saved", seed=1)
    with pytest.raises(ValueError, match="buffer 'seen'"):
        plan_model(model, seed=1).fingerprint()


@pytest.mark.parametrize("view", [lambda weight: weight, lambda weight: weight[2]])
def test_dtype_leaves_no_buffer_behind_in_the_memory_of_a_parameter(view):
    model = with_a_buffer_of(view)
    before = model.weight.detach().clone()
    with pytest.raises(ValueError, match="buffer 'seen' shares the memory of parameter 'weight'"):
        init_model_(model, dtype=torch.bfloat16)
    assert torch.equal(model.weight, before)
    init_model_(model, dtype=torch.float32)
    apart = torch.zeros(8, 4)
    model.weight.data, model.seen = apart[:4], apart[4:]
    init_model_(model, dtype=torch.bfloat16)
    assert model.seen.dtype == model.weight.dtype == torch.bfloat16


def test_running_statistics_start_anew_whichever_name_comes_first():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.register_buffer("shown", model[1].running_var)
    model.shown.fill_(3)
    init_model_(model)
    assert model[1].running_var.tolist() == [1, 1]
    assert model.shown is model[1].running_var
