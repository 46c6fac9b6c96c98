"""What is refused leaves everything as it was: tensors, models, and the generator that a key comes from."""

from __future__ import annotations

import functools
import inspect
import math
import re
import time
import warnings

import pytest
import torch
from meshes import every_rank
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from convinit_ext import (
    Constant,
    Key,
    Normal,
    Shard,
    Uniform,
    fingerprint,
    init,
    init_model_,
    intercept,
    plan_model,
    verify,
)
from convinit_ext._engine import _ops as ops
from convinit_ext.recipes import TORCH, CopyFrom, Preset, Rule


def sparse(weight):
    return init.sparse_(weight, 0.5)


@pytest.fixture
def untouched_generator():
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("function", [init.ones_, init.zeros_, init.eye_, init.identity_, init.constant_])
def test_constants_are_not_written_to_freed_memory(function):
    values = {"val": 2.0} if function is init.constant_ else {}
    for tensor in (freed(4, 4), nn.Parameter(freed(4, 4))):
        with pytest.raises(RuntimeError, match="holds no memory"):
            function(tensor, **values)
    with pytest.raises(RuntimeError, match="holds no memory"):
        init.dirac_(freed(4, 4, 3))


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


def inference_tensor(*shape):
    with torch.inference_mode():
        return torch.zeros(shape)


def freed(*shape: int) -> torch.Tensor:
    tensor = torch.ones(shape)
    tensor.untyped_storage().resize_(0)
    return tensor


def negated(*shape, dtype=torch.complex64):
    return torch.ones(shape, dtype=dtype).conj().imag


def test_strides_that_only_look_as_if_they_overlapped_are_filled():
    assert init.normal_(torch.zeros(20).as_strided((2, 3), (3, 4))).count_nonzero() == 6
    with pytest.raises(RuntimeError, match="single memory location"):
        init.normal_(torch.zeros(20).as_strided((4, 4), (2, 3)))


@pytest.mark.usefixtures("untouched_generator")
@pytest.mark.parametrize("size", [4, 60_000])
@pytest.mark.parametrize(
    "function", [init.normal_, init.trunc_normal_, init.kaiming_uniform_, init.orthogonal_, sparse]
)
def test_tensors_that_cannot_be_written_draw_nothing(function, size):
    with pytest.raises(RuntimeError, match="inference tensor outside InferenceMode"):
        function(inference_tensor(size, 2))
    with pytest.raises(RuntimeError, match="holds no memory"):
        function(freed(size, 2))


@pytest.mark.usefixtures("untouched_generator")
@pytest.mark.parametrize("gain", ["a", "0.5", None, 2j, [1.0]])
@pytest.mark.parametrize("function", [init.orthogonal_, init.delta_orthogonal_])
def test_a_gain_that_is_no_number_draws_nothing(function, gain):
    tensor = torch.zeros(4, 4, 1)
    with pytest.raises(TypeError, match=re.escape(f"gain must be a number, not {gain!r}")):
        function(tensor, gain)
    assert not tensor.any()


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
    for refuses in (init_model_, plan_model, functools.partial(init_model_, dry_run=True)):
        with pytest.raises(error, match=said):
            refuses(model, 1, **arguments)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == before[name].dtype, name
        assert torch.equal(parameter, before[name]), name


TOO_LARGE = [
    (torch.float16, 65505.0),
    (torch.bfloat16, -3.4e38),
    (torch.float32, 1e300),
    (torch.float8_e4m3fn, 449.0),
    (torch.float8_e5m2, -57345.0),
]


@pytest.mark.parametrize(("dtype", "value"), TOO_LARGE)
def test_constants_that_a_dtype_cannot_hold(dtype, value):
    with pytest.raises(RuntimeError, match="without overflow"):
        torch.empty(2, dtype=dtype).fill_(value)
    recipe = [Rule(Constant(value), name="0.bias"), *TORCH]
    said = rf"'0\.bias': {dtype} cannot hold the constant .*; its largest number is"
    assert_refused(model_with(torch.zeros(4)), ValueError, said, recipe=recipe, dtype=dtype)
    with pytest.raises(ValueError, match=said):
        plan_model(model_with(torch.zeros(4)).to(dtype), recipe=recipe)
    tensors = [torch.zeros(3), torch.zeros(3, dtype=dtype)]
    with pytest.raises(RuntimeError, match=f"dtype {dtype} cannot hold the constant"):
        ops.fill_(tensors, torch.zeros(2, 2, dtype=torch.int64), [Normal(), Constant(value)])
    assert not any(tensor.float().any() for tensor in tensors)


@pytest.mark.parametrize("dtype", ops.SUPPORTED_DTYPES)
def test_the_largest_constants(dtype):
    largest = torch.finfo(dtype).max
    tensors = [torch.zeros(3, dtype=dtype), torch.zeros(3, dtype=dtype)]
    ops.fill_(tensors, torch.zeros(2, 2, dtype=torch.int64), [Constant(largest), Constant(-largest)])
    assert [tensor.double().tolist() for tensor in tensors] == [[largest] * 3, [-largest] * 3]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_float8_uniform_may_be_wider_than_its_largest_number(dtype):
    bound = torch.finfo(dtype).max
    weight, wanted = torch.empty(64, dtype=dtype), torch.empty(64)
    init.uniform_(wanted, -bound, bound, key=Key(0, "weight"))
    assert torch.equal(
        init.uniform_(weight, -bound, bound, key=Key(0, "weight")).float(), wanted.to(dtype).float()
    )
    model = nn.ParameterDict({"weight": torch.empty(64, dtype=dtype)})
    init_model_(model, seed=0, recipe=[Rule(Uniform(-bound, bound))])
    assert torch.equal(model["weight"].float(), wanted.to(dtype).float())
    with pytest.raises(RuntimeError, match="bounds that the tensor's dtype can hold"):
        init.uniform_(weight, -bound, 1.1 * bound)
    with pytest.raises(ValueError, match="cannot hold uniform values"):
        init_model_(model, seed=0, recipe=[Rule(Uniform(-1.1 * bound, bound))])


def test_a_copy_that_its_own_dtype_cannot_hold():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).half())
    recipe = [Rule(Constant(1e9), name="0.bias"), Rule(CopyFrom("0.bias"), name="1.bias"), *TORCH]
    said = r"parameter '1\.bias', copy_from\('0\.bias'\): torch\.float16 cannot hold the constant 1e\+09"
    assert_refused(model, ValueError, said, recipe=recipe)


@pytest.mark.parametrize(
    ("init", "said"), [(Constant(1e30), "the constant 1e\\+30"), (Uniform(-1e9, 1e9), "uniform values")]
)
def test_buffers_whose_dtype_cannot_hold_a_rule_s_values(init, said):
    model = model_with(torch.zeros(4, dtype=torch.float16))
    said_of_it = f"buffer 'q': torch.float16 cannot hold {said}"
    assert_refused(model, ValueError, said_of_it, recipe=[Rule(init, buffer="q"), *TORCH])


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


def fake(*shape: int) -> torch.Tensor:
    with FakeTensorMode():
        return torch.ones(shape)


@pytest.mark.parametrize(
    ("buffer", "init", "error", "said"),
    [
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


def test_presets_are_dense():
    with pytest.raises(TypeError, match=r"^Preset needs a dense tensor$"):
        Preset(torch.eye(3).to_sparse())


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


@pytest.mark.parametrize(
    "function",
    [
        init.normal_,
        init.trunc_normal_,
        init.kaiming_normal_,
        init.kaiming_uniform_,
        init.variance_scaling_,
        init.orthogonal_,
        init.sparse_,
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_shards_and_keys_are_looked_at_where_nothing_is_filled(function, device):
    given = {"sparsity": 0.5} if function is init.sparse_ else {}
    weight = torch.zeros(4, 3, device=device)
    for shard, said in (
        (Shard((0, 3), (0, 0)), "shard= leaves the full tensor"),
        (
            Shard((0, 3, 3), (0, 0, 0)),
            "tensors with 2 dimensions" if function is init.sparse_ else "shard= is of 3 dimensions",
        ),
        (Shard((4, 3), (2, 0)), "shard= leaves the full tensor"),
    ):
        with pytest.raises(ValueError, match=said):
            function(weight, **given, shard=shard)
    whole = torch.zeros(4, 3, device="meta") if device == "meta" else torch.zeros(0, 3)
    with pytest.raises(TypeError, match=r"key must be a convinit_ext\.Key, not int"):
        function(whole, **given, key=3)


@pytest.mark.usefixtures("untouched_generator")
@pytest.mark.parametrize(
    ("shape", "offset"),
    [
        ((2**62, 3), (2**62 - 4, 0)),
        ((2**40, 2**40), (2**30, 0)),
        ((4, 3, 2**62), (0, 0, 0)),
        ((2**63, 3), ((2**63 - 2**34) // 3 - 1, 0)),  # which starts below the limit
    ],
)
def test_shards_that_reach_beyond_what_can_be_counted(shape, offset):
    weight = torch.zeros(4, 3, 1)[..., : len(shape)].reshape((4, 3, 1)[: len(shape)])
    with pytest.raises(
        ValueError, match=r"row-major indices from \d+ to \d+, .* accepted are less than 2\*\*63 - 2\*\*34"
    ):
        init.normal_(weight, shard=Shard(shape, offset))
    assert not weight.any()


@pytest.mark.parametrize(("groups", "error"), [(0, ValueError), (-2, ValueError), (2.0, TypeError)])
def test_groups_of_a_shard(groups, error):
    with pytest.raises(error, match=f"groups.*{groups}"):
        init.dirac_(torch.zeros(2, 3, 1), groups, shard=Shard((4, 3, 1), (2, 0, 0)))


def test_fake_tensors_outside_their_mode():
    with FakeTensorMode():
        model, weight = nn.Linear(3, 3), torch.empty(3, dtype=torch.float16)
        init_model_(model)
    with pytest.raises(TypeError, match=r"'weight': cannot fill a fake tensor outside its Fake"):
        init_model_(model)
    with pytest.raises(RuntimeError, match=r"uniform_ expects bounds .*float16 .*from=-1000000000\.0"):
        init.uniform_(weight, -1e9, 1e9)


@pytest.mark.parametrize(
    "values",
    [torch.eye(3).to_sparse(), torch.eye(3) * 1j, torch.eye(3, device="meta")],
    ids=["sparse", "complex", "meta"],
)
def test_a_function_that_returns_no_preset_is_named_with_its_parameter(values):
    error = ValueError if values.is_meta else TypeError
    rules = [Rule(lambda target: values, name="0.weight", label="mine"), *TORCH]
    said = (
        "its tensor is on the meta device" if values.is_meta else "Preset needs a |the preset's values are c"
    )
    said = rf"parameter '0\.weight', (mine|preset): ({said})"
    assert_refused(nn.Sequential(nn.Linear(3, 3)), error, said, recipe=rules)


def test_a_function_that_raises_is_named_with_what_it_was_asked_about():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    for rule, said in (
        (Rule(lambda target: 1 + "", name="0.weight", label="mine"), r"parameter '0\.weight', mine: unsupp"),
        (
            Rule(lambda target: 1 + "", buffer="running_mean", label="mine"),
            r"buffer '1\.running_mean', mine: ",
        ),
    ):
        assert_refused(model, TypeError, said, recipe=[rule, *TORCH])


def test_inference_parameters_are_named():
    with torch.inference_mode():
        inner = nn.Linear(3, 3)
    said = r"parameter '1\.weight': Inplace update to inference tensor"
    assert_refused(nn.Sequential(nn.Linear(3, 3), inner), RuntimeError, said)


@pytest.mark.parametrize(
    ("dtype", "skip", "said"),
    [
        (None, None, "float32, torch.float32 and torch.bfloat16"),
        (torch.float64, "*original", "float64, torch.float64 and torch.bfloat16"),
        (torch.bfloat16, "*_v", None),  # then they do not start anew
        (torch.bfloat16, "*_u", "bfloat16, torch.float32 and torch.bfloat16"),
        (torch.bfloat16, None, None),
    ],
)
def test_spectral_norm_needs_one_dtype(dtype, skip, said):
    model = nn.Sequential(nn.Linear(4, 4), spectral_norm(nn.Linear(4, 4)))
    original = model[1].parametrizations.weight.original
    original.data = original.data.to(torch.bfloat16)
    if said is None:
        init_model_(model, 1, dtype=dtype, skip=skip)
    else:
        said = rf"buffer '1\.parametrizations\.weight\.0\._v'.*in one dtype, and they would be torch\.{said}"
        assert_refused(model, ValueError, said, dtype=dtype, skip=skip)


def test_spectral_norm_of_several_parts():
    model = nn.Sequential(nn.Linear(4, 4), spectral_norm(weight_norm(nn.Linear(4, 4))))
    assert_refused(model, ValueError, r"buffer '1\.parametrizations.*its weight is made of several parts")
    init_model_(model, 1, skip=["*_u", "*_v"])


MEMBERS = {
    **{
        name: functools.partial(getattr(init, name), key=Key(0, "weight"))
        for name in init.__all__
        if name.endswith("_") and "key" in inspect.signature(getattr(init, name)).parameters
    },
    "drawn": init.normal_,
    "sparse_": functools.partial(init.sparse_, sparsity=0.5, key=Key(0, "weight")),
    "eye_": init.eye_,
    "identity_": init.identity_,
}


@pytest.mark.parametrize("randomness", ["error", "same", "different"])
@pytest.mark.parametrize("name", MEMBERS)
def test_members_of_a_batch(name, randomness):
    members = torch.zeros(2, 3, 3, 1) if name == "delta_orthogonal_" else torch.zeros(2, 3, 3)
    drawn = torch.get_rng_state()
    with pytest.raises(RuntimeError, match=r"torch\.vmap has batched.*Call init outside of vmap"):
        torch.func.vmap(MEMBERS[name], randomness=randomness)(members)
    assert not members.any()
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize("name", sorted(set(MEMBERS) - {"drawn"}))
def test_new_tensors_inside_of_vmap_have_equal_values(name):
    fill, shape = MEMBERS[name], (3, 3, 1) if name == "delta_orthogonal_" else (3, 3)
    members = torch.func.vmap(lambda member: member + fill(torch.empty(shape)))(torch.zeros(2, *shape))
    assert torch.equal(members[0], fill(torch.empty(shape)))
    assert torch.equal(members[1], members[0])


@pytest.mark.parametrize(
    "fill",
    [
        init.zeros_,
        init.ones_,
        lambda member: init.constant_(member, 2.0),
        lambda m: init.dirac_(m[..., None]),
    ],
    ids=["zeros_", "ones_", "constant_", "dirac_"],
)
def test_constants_of_members_of_a_batch(fill):
    members = torch.full((2, 3, 3), 7.0)
    torch.func.vmap(fill)(members)
    expected = torch.full((3, 3), 7.0)
    fill(expected)
    assert torch.equal(members, torch.stack([expected, expected]))


@pytest.mark.parametrize(
    "given",
    [{}, {"key": Key(0, "weight")}, {"generator": torch.Generator()}],
    ids=["alone", "key", "generator"],
)
@pytest.mark.parametrize(
    "fill",
    [init.normal_, init.kaiming_uniform_, init.orthogonal_, functools.partial(init.sparse_, sparsity=0.5)],
)
def test_fake_tensors_outside_their_mode_are_filled_with_nothing(fill, given):
    fake_weight = FakeTensorMode().from_tensor(torch.zeros(4, 3))
    assert fill(fake_weight, **given) is fake_weight
    if fill is init.normal_:
        fill(fake_weight, **given, shard=Shard((8, 3), (4, 0)))


@pytest.mark.parametrize(
    ("shape", "strides", "overlap"),
    [((5000, 5000), (1, 1), True), ((4, 3), (2, 3), True), ((3, 4), (2, 3), False), ((2, 2), (3, 2), False)],
)
def test_views_whose_strides_do_not_nest(shape, strides, overlap):
    memory = torch.zeros(10_000)
    view = memory.as_strided(shape, strides)
    if overlap:
        started = time.perf_counter()
        with pytest.raises(RuntimeError, match="single memory location"):
            init.normal_(view, key=Key(0, "weight"))
        assert not memory.any()
        assert time.perf_counter() - started < 0.5
    else:
        init.normal_(view, key=Key(0, "weight"))
        assert torch.equal(view, init.normal_(torch.empty(shape), key=Key(0, "weight")))


def test_lazily_cloned_memory_is_read_where_it_is():
    model = nn.Linear(8, 8)
    init_model_(model, 0)
    model.weight.data = torch._lazy_clone(model.weight.data)
    assert verify(model, 0)
    fingerprint(model)
    assert torch._C._is_cow_tensor(model.weight)


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_the_sign_of_a_zero_bound_is_that_of_this_call(zero):
    init.uniform_(torch.empty(4), -zero, 1e-46, key=Key(0, "weight"))
    filled = init.uniform_(torch.empty(4), zero, 1e-46, key=Key(0, "weight"))
    assert torch.signbit(filled).tolist() == [math.copysign(1.0, zero) < 0] * 4
