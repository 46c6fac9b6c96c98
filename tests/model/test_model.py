"""init_model_: values, meta models, ties, dtypes, buffers, and that an error leaves the model as it was."""

import math

import pytest
import torch
from states import assert_same_state, snapshot
from torch import nn

from convinit_ext import Constant, Key, Uniform, fingerprint, init, init_model_, plan_model
from convinit_ext._engine import _ops as ops
from convinit_ext.cli._unet import FULL_WIDTH, UNet, num_parameters
from convinit_ext.recipes import TORCH, Rule


class Net(nn.Module):
    """A bit of everything that a meta model can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6, padding_idx=2)
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.rnn = nn.LSTM(6, 6, batch_first=True)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, images, words):
        pixels = self.norm(self.conv(images)).flatten(2).mean(2)
        states, _ = self.rnn(self.embed(words))
        return self.head(states + pixels[:, None])


def on_meta(make):
    with torch.device("meta"):
        return make()


def test_values_are_those_of_the_drop_in_functions_with_the_parameters_key():
    model = nn.Sequential()
    model.fc, model.conv = nn.Linear(9, 5), nn.Conv2d(4, 8, 3)
    model.lstm, model.attention = nn.LSTM(4, 4), nn.MultiheadAttention(4, 2)
    init_model_(model, seed=7)
    root5, empty = math.sqrt(5), torch.empty_like
    expected = {
        "fc.weight": lambda w, key: init.kaiming_uniform_(w, a=root5, key=key),
        "fc.bias": lambda w, key: init.uniform_(w, -1 / math.sqrt(9), 1 / math.sqrt(9), key=key),
        "conv.weight": lambda w, key: init.kaiming_uniform_(w, a=root5, key=key),
        "lstm.weight_hh_l0": lambda w, key: init.uniform_(w, -0.5, 0.5, key=key),
        "attention.in_proj_weight": lambda w, key: init.xavier_uniform_(w, key=key),
        "attention.in_proj_bias": lambda w, key: init.zeros_(w),
    }
    for name, fill in expected.items():
        parameter = model.get_parameter(name)
        assert torch.equal(parameter, fill(empty(parameter), Key(7, name))), name


def test_values_depend_on_names_alone_not_on_what_else_there_is():
    small, large = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4), nn.Conv2d(3, 3, 3))
    init_model_(small, 3)
    init_model_(nn.DataParallel(large), 3)
    assert_same_state(small, {name: large.state_dict()[name] for name in small.state_dict()})
    init_model_(small, 4)
    assert not torch.equal(small[0].weight, large[0].weight)


def test_a_meta_model_becomes_what_the_cpu_model_is():
    model, meta = Net(), on_meta(Net)
    init_model_(model, seed=2)
    report = init_model_(meta, seed=2)
    assert_same_state(meta, snapshot(model))
    assert not any(tensor.is_meta for tensor in (*meta.parameters(), *meta.buffers()))
    assert report.num_elements == sum(parameter.numel() for parameter in model.parameters())
    assert meta(torch.ones(2, 3, 4, 4), torch.tensor([[1, 2], [3, 4]])).shape == (2, 2, 11)
    assert meta.norm.num_batches_tracked.item() == 1


def test_a_meta_model_stays_tied_trainable_and_of_its_types():
    meta = on_meta(Net)
    meta.conv.weight.requires_grad_(False)
    meta.conv.bias.tag = "decays not"
    init_model_(meta, frozen="draw")
    assert meta.head.weight is meta.embed.weight
    assert isinstance(meta.conv.weight, nn.Parameter)
    assert not meta.conv.weight.requires_grad
    assert meta.conv.bias.requires_grad
    assert meta.conv.bias.tag == "decays not"
    assert meta.rnn._flat_weights[0] is meta.rnn.weight_ih_l0
    assert not meta.embed.weight[2].any()


def test_parameters_tied_by_their_memory_stay_tied():
    for device in ("cpu", "meta"):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).to(device)
        model[1].weight = nn.Parameter(model[0].weight.detach(), requires_grad=False)
        init_model_(model, dtype=torch.float64)
        assert model[0].weight.data_ptr() == model[1].weight.data_ptr()
        assert torch.equal(model[0].weight, model[1].weight)
        assert not model[1].weight.requires_grad


class Labelled(nn.Parameter):
    """A parameter type of one's own, with an argument of its own."""

    def __new__(cls, data, label):
        made = super().__new__(cls, data)
        made.label = label
        return made


def test_parameter_types_survive_the_meta_device():
    model = nn.Module()
    model.weight = Labelled(torch.empty(3, 3, device="meta"), "mine")
    init_model_(model, recipe=[Rule(Constant(2.0))])
    assert type(model.weight) is Labelled
    assert model.weight.label == "mine"
    assert model.weight.eq(2).all()


def test_memory_format_is_kept_and_does_not_change_a_value():
    plain = nn.Conv2d(8, 8, 3)
    init_model_(plain)
    for device in ("cpu", "meta"):
        last = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last).to(device)
        init_model_(last)
        assert last.weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(last.weight, plain.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_dtype_is_that_of_everything_that_floats(dtype, device):
    with torch.device(device):
        model = Net()
    before = dict(model.named_parameters())
    report = init_model_(model, seed=3, dtype=dtype)
    assert {row.dtype for row in report.rows} == {str(dtype).removeprefix("torch.")}
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model.norm.running_mean.dtype == dtype
    assert model.norm.num_batches_tracked.dtype == torch.int64
    if device == "cpu":
        assert all(before[name] is parameter for name, parameter in model.named_parameters())
    if dtype != torch.float64:
        full = Net()
        init_model_(full, seed=3)
        assert_same_state(model, snapshot(full.to(dtype)))


def test_dtype_takes_gradients_and_other_buffers_along():
    model = nn.Linear(2, 2)
    model.register_buffer("table", torch.tensor([0.1, 0.2]))
    model.register_buffer("phases", torch.ones(2, dtype=torch.complex64))
    model.weight.grad = torch.ones(2, 2)
    init_model_(model, dtype=torch.bfloat16)
    assert model.weight.grad.dtype == model.weight.dtype == torch.bfloat16
    assert torch.equal(model.table, torch.tensor([0.1, 0.2]).bfloat16())
    assert model.phases.dtype == torch.complex64


def test_running_statistics_start_anew():
    model = nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.InstanceNorm1d(3, track_running_stats=True))
    fresh = snapshot(model)
    for buffer in model.buffers():
        buffer.add_(3)
    init_model_(model)
    assert_same_state(model, fresh)


def test_parameters_are_written_in_place_and_autograd_notices():
    model = nn.Linear(4, 4)
    pointer, version = model.weight.data_ptr(), model.weight._version
    init_model_(model)
    assert model.weight.data_ptr() == pointer
    assert model.weight._version > version
    assert model.weight.requires_grad
    assert model.weight.is_leaf


def test_the_whole_model_is_one_call_into_the_engine(monkeypatch):
    calls = []
    fill_ = ops.fill_
    monkeypatch.setattr(ops, "fill_", lambda *arguments: (calls.append(arguments), fill_(*arguments)))
    init_model_(Net())
    assert len(calls) == 1


def test_progress_changes_no_value(capsys):
    pytest.importorskip("tqdm")
    model = UNet(32)
    init_model_(model, seed=5)
    expected = snapshot(model)
    init_model_(model, seed=6, progress=True)
    init_model_(model, seed=5, progress=True)
    assert_same_state(model, expected)
    assert "100%" in capsys.readouterr().err


def broken_models():
    """Models with one thing wrong, and what init_model_ is asked to do with them."""
    uncovered = Net()
    uncovered.extra = nn.Parameter(torch.ones(3))
    yield "no rule", uncovered, {}, ValueError
    integer = Net()
    integer.extra = nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)
    yield "integer", integer, {}, TypeError
    lazy = Net()
    lazy.extra = nn.LazyLinear(3)
    yield "lazy", lazy, {}, ValueError
    buffer = Net()
    buffer.register_buffer("table", torch.ones(2, device="meta"))
    yield "buffer", buffer, {}, ValueError
    overlapping = Net()
    overlapping.extra = nn.Linear(3, 3)
    overlapping.extra.weight = nn.Parameter(overlapping.conv.weight.detach().flatten()[:9].view(3, 3))
    yield "overlap", overlapping, {}, ValueError
    too_wide = [Rule(Uniform(0.0, 1e5), name="rnn.*"), *TORCH]
    yield "range", Net(), {"dtype": torch.float16, "recipe": too_wide}, ValueError
    yield "function", Net(), {"recipe": [*list(TORCH)[:3], Rule(lambda target: 1 / 0)]}, ValueError
    yield "seed", Net(), {"seed": -(2**63) - 1}, ValueError


@pytest.mark.parametrize(
    ("model", "arguments", "error"), [pytest.param(*rest, id=name) for name, *rest in broken_models()]
)
def test_an_error_leaves_the_model_as_it_was(model, arguments, error):
    before = {name: (id(tensor), tensor.dtype) for name, tensor in model.named_parameters()}
    values = {
        name: tensor.detach().clone()
        for name, tensor in model.named_parameters()
        if not nn.parameter.is_lazy(tensor)
    }
    model.norm.running_mean.fill_(7)
    with pytest.raises(error):
        init_model_(model, **arguments)
    assert before == {name: (id(tensor), tensor.dtype) for name, tensor in model.named_parameters()}
    for name, value in values.items():
        assert torch.equal(model.get_parameter(name), value)
    assert model.norm.running_mean.eq(7).all()


def test_modules_without_elements_and_models_without_parameters():
    with pytest.warns(UserWarning, match="zero-element"):
        model = nn.Sequential(nn.Linear(0, 3), nn.Conv2d(3, 4, 1))
    report = init_model_(model)
    assert model[0].bias.eq(0).all()  # as PyTorch: no input, no bound
    assert report.rows[0].num_bytes == 0
    assert init_model_(nn.ReLU()).rows == ()


def test_bundled_model_is_half_a_billion_parameters_and_scales_down():
    assert num_parameters(FULL_WIDTH) == pytest.approx(5e8, rel=0.15)
    with pytest.raises(ValueError, match="33"):
        UNet(33)
    assert num_parameters(32) < num_parameters(FULL_WIDTH) / 64


class Quantised(torch.Tensor):
    """A wrapper that makes its values of others in every operation, and cannot be taken apart."""

    @staticmethod
    def __new__(cls, values, dtype):
        wrapper = torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=dtype)
        wrapper.values = values
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].values, args[0].dtype)
        plain = [each.values.to(each.dtype) if isinstance(each, cls) else each for each in args]
        plain = [
            [each.values.to(each.dtype) if isinstance(each, cls) else each for each in arg]
            if isinstance(arg, list)
            else arg
            for arg in plain
        ]
        return function(*plain, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_weights_that_make_their_values_of_others_are_refused_by_name(dtype):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    values = torch.zeros(4, 4, dtype=torch.int8)
    model[1].weight = nn.Parameter(Quantised(values, dtype), requires_grad=False)
    before = model[0].weight.detach().clone()
    with pytest.raises(TypeError, match=r"parameter '1\.weight': .*skip='1\.weight'"):
        init_model_(model)
    assert torch.equal(model[0].weight, before)
    init_model_(model, skip="1.weight")
    assert not torch.equal(model[0].weight, before) and not values.any()
    with pytest.raises(TypeError, match=r"tensor '1\.weight': cannot digest a Quantised"):
        fingerprint(model)
    with pytest.raises(TypeError, match=r"'1\.weight' is a Quantised tensor; a file holds dense tensors"):
        plan_model(model, skip="1.weight").fingerprint()
