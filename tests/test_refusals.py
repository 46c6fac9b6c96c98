"""What is refused leaves everything as it was: tensors, models, and the generator that a key comes from."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from meshes import every_rank
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils.parametrizations import spectral_norm

from convinit_ext import Constant, Normal, Shard, Uniform, init, init_model_, intercept, plan_model
from convinit_ext.recipes import TORCH, Preset, Rule


@pytest.fixture
def untouched_generator():
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("untouched_generator")
@pytest.mark.parametrize("size", [4, 60_000])
def test_bounds_that_a_dtype_cannot_hold_draw_nothing(size):
    for dtype, bound in ((torch.float16, 1e9), (torch.float8_e4m3fn, 500.0), (torch.float32, 1e39)):
        tensor = torch.zeros(size, dtype=dtype)
        with pytest.raises(RuntimeError, match="expects bounds that the tensor's dtype can hold"):
            init.uniform_(tensor, -bound, bound)
        with pytest.raises(RuntimeError, match="expects bounds"):
            init.uniform_(tensor, -bound, bound, shard=Shard((2 * size,), (0,)))
        assert not tensor.float().any()


@pytest.mark.usefixtures("untouched_generator")
def test_elements_that_overlap_draw_nothing():
    tensor = torch.zeros(20).as_strided((4, 4), (2, 3))
    with pytest.raises(RuntimeError, match="single memory location"):
        init.normal_(tensor)
    assert not tensor.any()


def test_strides_that_only_look_as_if_they_overlapped_are_filled():
    tensor = torch.zeros(20).as_strided((2, 3), (3, 4))
    init.normal_(tensor)
    assert tensor.count_nonzero() == 6


@pytest.mark.usefixtures("untouched_generator")
@pytest.mark.parametrize("function", [lambda w: init.sparse_(w, 0.5), lambda w: init.identity_(w, 2.0)])
def test_float8_where_pytorch_lacks_operations(function):
    tensor = torch.zeros(4, 4).to(torch.float8_e5m2)
    with pytest.raises(TypeError, match=r"cannot fill torch\.float8_e5m2; accepted are wider"):
        function(tensor)
    assert not tensor.float().any()


def model_with(buffer: torch.Tensor) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3))
    model.register_buffer("q", buffer)
    return model


def assert_refused(model: nn.Module, error: type[Exception], said: str, **arguments: object) -> None:
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for refuses in (init_model_, plan_model, functools.partial(init_model_, dry_run=True)):
        with pytest.raises(error, match=said):
            refuses(model, 1, **arguments)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == before[name].dtype, name
        assert torch.equal(parameter, before[name]), name


def test_buffers_that_cannot_be_written():
    drawn = [Rule(Normal(), buffer="q"), *TORCH]
    assert_refused(
        model_with(torch.zeros(1).expand(4)), RuntimeError, "buffer 'q'.*single memory", recipe=drawn
    )
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with torch.inference_mode():
        model[1].running_mean = torch.zeros(3)
    assert_refused(model, RuntimeError, r"buffer '1\.running_mean'.*inference tensor")


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorch warns of both kinds
    QUANTISED = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    NESTED = torch.nested.nested_tensor([torch.ones(1)] * 3)


def freed(*shape: int) -> torch.Tensor:
    tensor = torch.ones(shape)
    tensor.untyped_storage().resize_(0)
    return tensor


def fake(*shape: int) -> torch.Tensor:
    with FakeTensorMode():
        return torch.ones(shape)


@pytest.mark.parametrize(
    ("buffer", "init", "error", "said"),
    [
        (torch.zeros(4).half(), Constant(1e9), ValueError, "torch.float16 cannot hold Constant"),
        (torch.zeros(4).half(), Uniform(-1e5, 1e5), ValueError, "torch.float16 cannot hold Uniform"),
        (torch.zeros(4, dtype=torch.uint8), Constant(-1.0), ValueError, "torch.uint8 cannot hold"),
        (torch.zeros(4, dtype=torch.int64), Constant(1e30), ValueError, "torch.int64 cannot hold"),
        (torch.zeros(4, dtype=torch.bits8), torch.ones(4), ValueError, "cannot hold values of torch.float32"),
        (QUANTISED, Constant(1.0), TypeError, "a quantised tensor .torch.qint8.; accepted is a dense"),
        (
            torch.zeros(4).to_sparse(),
            Constant(1.0),
            TypeError,
            "a torch.sparse_coo tensor; acc",
        ),
        (torch.zeros(4), QUANTISED, TypeError, "a quantised tensor cannot be copied"),
        (torch.zeros(4), torch.ones(4).to_sparse(), TypeError, "a torch.sparse_coo tensor"),
        (torch.zeros(4), torch.ones(4) * 1j, TypeError, "are complex, and accepted are real"),
        (torch.zeros(4), freed(4), ValueError, "storage holds no memory"),
        (torch.zeros(4), fake(4), ValueError, "a fake tensor has no values"),
    ],
)
def test_rules_that_a_buffer_cannot_hold(buffer, init, error, said):
    values = (lambda target: init) if isinstance(init, torch.Tensor) else init
    assert_refused(
        model_with(buffer), error, f"buffer 'q'.*{said}", recipe=[Rule(values, buffer="q"), *TORCH]
    )


def test_a_dtype_that_is_asked_for_counts():
    rules = [Rule(Constant(1e9), buffer="q"), *TORCH]
    assert_refused(
        model_with(torch.zeros(4)), ValueError, "float16 cannot hold", recipe=rules, dtype=torch.float16
    )


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        (QUANTISED[:3], TypeError, "a quantised tensor cannot be copied"),
        (NESTED, TypeError, "a nested tensor cannot be copied"),
        (torch.zeros(3, dtype=torch.bits8), TypeError, "values of torch.bits8 cannot be copied"),
        (fake(3), ValueError, "a fake tensor has no values"),
        (freed(3), ValueError, "storage holds no memory"),
    ],
    ids=["quantised", "nested", "bits", "fake", "freed"],
)
@pytest.mark.parametrize("wrap", [Preset, lambda values: lambda target: values], ids=["preset", "function"])
def test_presets_without_values_that_can_be_copied(values, error, said, wrap):
    rules = [Rule(wrap(values), name="0.bias"), *TORCH]
    assert_refused(nn.Sequential(nn.Linear(3, 3)), error, rf"parameter '0\.bias'.*{said}", recipe=rules)


@pytest.mark.parametrize("normed", [spectral_norm, old_spectral_norm])
def test_spectral_norm_in_float8(normed):
    model = nn.Sequential(nn.Linear(4, 4), normed(nn.Linear(4, 4)))
    assert_refused(
        model, ValueError, r"buffer '1\..*PyTorch has no norm of torch.float8_e5m2", dtype=torch.float8_e5m2
    )


@pytest.mark.parametrize("values", [torch.eye(3).to_sparse(), torch.eye(3) * 1j], ids=["sparse", "complex"])
def test_presets_are_dense_and_real(values):
    with pytest.raises(TypeError, match="Preset needs a dense tensor of real numbers"):
        Preset(values)


def test_names_may_be_a_function_that_knows_the_parameters_alone():
    model, renamed = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), nn.Sequential(nn.Linear(3, 3))
    mapping = {name: name.replace("0.", "7.") for name, _ in model.named_parameters()}
    init_model_(model, 3, names=mapping.__getitem__)
    init_model_(renamed, 3, names={"module.0": "7"})
    assert torch.equal(model[0].weight, renamed[0].weight)
    del mapping["0.bias"]
    assert_refused(
        model, ValueError, r"names: the function knows no name for '0\.bias'", names=mapping.__getitem__
    )


def test_intercept_takes_one_model():
    with pytest.raises(TypeError, match="intercept takes one model"):
        intercept(nn.Linear(2, 2), nn.Linear(2, 2))


def test_spectral_norm_of_a_sharded_weight():
    for mesh in every_rank((2,)):
        model = nn.Sequential(nn.Linear(4, 4), spectral_norm(nn.Linear(4, 4)))
        fully_shard(model, mesh=mesh)
        with pytest.raises(ValueError, match="its weight is a DTensor, and spectral_norm needs the whole"):
            init_model_(model, 0)


def test_fsdp_modules_that_have_run():
    for mesh in every_rank((2,)):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        fully_shard(model, mesh=mesh)
        init_model_(model, 0, dtype=torch.float64)
        init_model_(model, 0, dtype=torch.float32)
        model(torch.zeros(2, 4))
        with pytest.raises(ValueError, match=r"holds gathered parameters.*call its reshard\(\) first"):
            init_model_(model, 0)
        model.reshard()
        init_model_(model, 0)
        with pytest.raises(ValueError, match=r"has run under FSDP2.*pass dtype= before"):
            init_model_(model, 0, dtype=torch.float64)
