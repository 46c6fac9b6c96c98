"""What is refused leaves everything as it was: tensors, models, and the generator that a key comes from."""

from __future__ import annotations

import pytest
import torch
from meshes import every_rank
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.utils.parametrizations import spectral_norm

from convinit_ext import Constant, Normal, Shard, init, init_model_, intercept
from convinit_ext.recipes import TORCH, Preset, Rule


def sparse(weight):
    return init.sparse_(weight, 0.5)


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


def inference_tensor(*shape):
    with torch.inference_mode():
        return torch.zeros(shape)


def without_memory(*shape):
    tensor = torch.zeros(shape)
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.usefixtures("untouched_generator")
@pytest.mark.parametrize("size", [4, 60_000])
@pytest.mark.parametrize(
    "function", [init.normal_, init.trunc_normal_, init.kaiming_uniform_, init.orthogonal_, sparse]
)
def test_tensors_that_cannot_be_written_draw_nothing(function, size):
    with pytest.raises(RuntimeError, match="inference tensor outside InferenceMode"):
        function(inference_tensor(size, 2))
    with pytest.raises(RuntimeError, match="holds no memory"):
        function(without_memory(size, 2))


@pytest.mark.usefixtures("untouched_generator")
@pytest.mark.parametrize("gain", ["a", None, 2j])
@pytest.mark.parametrize("function", [init.orthogonal_, init.delta_orthogonal_])
def test_a_gain_that_is_no_number_draws_nothing(function, gain):
    tensor = torch.zeros(4, 4, 1)
    said = "result type ComplexFloat" if gain == 2j else f"gain must be a number, not {gain!r}"
    with pytest.raises((TypeError, RuntimeError), match=said):
        function(tensor, gain)
    assert not tensor.any()


def negated(*shape, dtype=torch.complex64):
    return torch.ones(shape, dtype=dtype).conj().imag


@pytest.mark.parametrize("shape", [(1,), (4, 3)])
def test_parameters_that_show_their_memory_negated(shape):
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(shape))
    model[1].weight = nn.Parameter(negated(*shape))
    assert_refused(model, TypeError, r"parameter '1\.weight': cannot fill a view .* negated.*resolve_neg\(\)")


def test_buffers_that_show_their_memory_negated():
    drawn, ones = [Rule(Normal(), buffer="q"), *TORCH], [Rule(Constant(1.0), buffer="q"), *TORCH]
    assert_refused(model_with(negated(4)), ValueError, "buffer 'q': cannot draw .* negated", recipe=drawn)
    model = model_with(negated(4))
    init_model_(model, recipe=ones)
    assert model.q.eq(1.0).all()


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
    with pytest.raises(error, match=said):
        init_model_(model, 1, **arguments)
    for name, parameter in model.named_parameters():
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
