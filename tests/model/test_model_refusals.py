"""Models and rules that are refused: the parameter or buffer is named, and every tensor is as it was."""

import json
import math
import warnings

import pytest
import torch
from filling import freed
from meshes import every_rank
from states import assert_refused
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from convinit_ext import (
    Constant,
    Normal,
    TruncatedNormal,
    Uniform,
    fingerprint,
    init,
    init_model_,
    plan_model,
    save_model,
    verify,
)
from convinit_ext._engine import _ops as ops
from convinit_ext.recipes import TORCH, CopyFrom, Preset, Recipe, Rule


def test_parameters_of_other_dtypes_are_named_together():
    def quantised(size):
        layer = nn.Linear(size, 2)
        layer.weight = nn.Parameter(torch.ones(2, size, dtype=torch.uint8), requires_grad=False)
        return layer

    model = nn.Sequential(quantised(2), nn.Linear(2, 2), *(quantised(2) for _ in range(30)))
    with pytest.raises(
        NotImplementedError, match=r"dtype torch\.uint8.*skip=\['0\.weight', '2\.weight'"
    ) as said:
        init_model_(model)
    assert str(said.value).endswith("'20.weight' and 11 more] leaves them as they are")
    init_model_(model, skip=[f"{index}.weight" for index in (0, *range(2, 32))])


@pytest.mark.parametrize("flag", ["no", "False", None, 1, 0.0], ids=repr)
def test_what_is_neither_yes_nor_no_is_refused(flag, tmp_path):
    model, table = nn.Linear(4, 4), {"rules": [{"init": "builtins:exit"}]}
    (tmp_path / "mine.json").write_text(json.dumps(table))
    before = fingerprint(model)
    for name, asked in {
        "dry_run": lambda: init_model_(model, dry_run=flag),
        "check_ranks": lambda: init_model_(model, check_ranks=flag),
        "check_ranks of verify": lambda: verify(model, check_ranks=flag),
        "overwrite": lambda: save_model(model, tmp_path / "new", overwrite=flag),
        "allow_code": lambda: Recipe.load(tmp_path / "mine.json", allow_code=flag),
        "allow_code of a table": lambda: Recipe.from_dict(table, allow_code=flag),
        "allow_unused": lambda: Recipe(TORCH, allow_unused=flag),
        "defaults": lambda: Recipe(TORCH, defaults=flag),
    }.items():
        with pytest.raises(TypeError, match=rf"^{name.split()[0]} must be True or False, not {flag!r}$"):
            asked()
    assert fingerprint(model) == before and not (tmp_path / "new").exists()


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


def model_with(buffer: torch.Tensor) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3))
    model.register_buffer("q", buffer)
    return model


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


WIDE = [
    (
        Normal(0.0, 1e4),
        Normal(0.0, 9600.0),
        torch.float16,
    ),  # the largest lies 6.76 from the mean
    (Normal(7e4), Normal(6e4), torch.float16),
    (Normal(0.0, 100.0), Normal(0.0, 66.0), torch.float8_e4m3fn),
    (Normal(1e308, 1e307), Normal(0.0, 2e307), torch.float64),
    (TruncatedNormal(0.0, 1e4, a=-7e4), TruncatedNormal(0.0, 1e6, cut=0.06), torch.float16),
    (TruncatedNormal(0.0, 1e4, a=7e4, b=math.inf), TruncatedNormal(1e5, 1e4, b=6e4), torch.float16),
]


@pytest.mark.parametrize(("init", "fits", "dtype"), WIDE)
def test_normals_of_which_a_dtype_would_make_infinities(init, fits, dtype):
    said = rf"'0\.bias': {dtype} cannot hold normal values of mean .* and std .*; its largest number is"
    recipe = [Rule(init, name="0.bias"), *TORCH]
    assert_refused(model_with(torch.zeros(4)), ValueError, said, recipe=recipe, dtype=dtype)
    model = nn.Linear(100, 100, bias=False)
    init_model_(model, recipe=[Rule(fits)], dtype=dtype)
    assert model.weight.double().isfinite().all()


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
        (torch.zeros(4, dtype=torch.bits8), torch.ones(4), TypeError, "values of torch.float32 cannot be"),
        (torch.zeros(4, dtype=torch.int8), torch.full((4,), 300.0), ValueError, "torch.int8 cannot hold 300"),
        (torch.zeros(4, dtype=torch.uint8), torch.tensor([0, 0, 0, -1]), ValueError, "from 0 to 255"),
        (torch.zeros(4, dtype=torch.int8), torch.full((4,), 0.5), ValueError, "holds whole numbers alone"),
        (QUANTISED, Constant(1.0), TypeError, "a quantised tensor .torch.qint8.; accepted is a dense"),
        (torch.zeros(4).to_sparse(), Constant(1.0), TypeError, "a torch.sparse_coo tensor; acc"),
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
    with pytest.raises(TypeError, match=r"^Preset needs a dense tensor, and not a torch\.sparse_coo tensor$"):
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


def test_spectral_norm_of_a_sharded_weight():
    for mesh in every_rank((2,)):
        model = nn.Sequential(nn.Linear(4, 4), spectral_norm(nn.Linear(4, 4)))
        fully_shard(model, mesh=mesh)
        with pytest.raises(ValueError, match="its weight is a DTensor, and spectral_norm needs the whole"):
            init_model_(model, 0)


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
