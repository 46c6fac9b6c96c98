"""What verify cannot look at is named before anything is read, and is never taken for equal or different."""

import contextlib

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from verified import Net, on_meta

from convinit_ext import Uniform, plan_model, save_model, verify
from convinit_ext._engine import UnsupportedTensorError
from convinit_ext.recipes import Preset, Rule


def quantised() -> nn.Module:
    model = nn.Linear(3, 3)
    model.scales = nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)
    return model


def complex_buffer() -> nn.Module:
    model = nn.Module()
    model.register_buffer("waves", torch.zeros(2, dtype=torch.complex128))
    return model


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (
            lambda: verify(on_meta(), 0),
            ValueError,
            r"(?s)11 tensors on the meta device.*embed\.weight.*path, mod",
        ),
        (lambda: verify(quantised(), 0), UnsupportedTensorError, r"'scales': cannot verify .*torch\.int8"),
        (
            lambda: verify({"weight": torch.ones(2, 2).to_sparse()}, 0, model=nn.Linear(2, 2, bias=False)),
            UnsupportedTensorError,
            r"'weight': cannot verify a tensor of layout torch\.sparse_coo",
        ),
        (
            lambda: verify({"weight": torch.ones(2, 2).int()}, 0, model=nn.Linear(2, 2, bias=False)),
            UnsupportedTensorError,
            r"tensor 'weight': cannot verify a tensor of dtype torch\.int32",
        ),
        (
            lambda: verify({"weight": torch.ones(2, 2, device="meta")}, 0, model=nn.Linear(2, 2, bias=False)),
            ValueError,
            r"(?s)1 tensor on the meta device.*weight",
        ),
        (
            lambda: verify(complex_buffer(), 0, [Rule(Preset(torch.zeros(2)), buffer="waves")]),
            UnsupportedTensorError,
            r"tensor 'waves': cannot verify a tensor of dtype torch\.complex128",
        ),
        (lambda: verify({"a": 3}, 0, model=nn.Linear(2, 2)), TypeError, "'a' is a int"),
        (lambda: verify({3: torch.ones(1)}, 0, model=nn.Linear(2, 2)), TypeError, "strings, and 3 is not"),
        (
            lambda: verify({"a": torch.ones(1), "module.a": torch.ones(1)}, 0, model=nn.Linear(2, 2)),
            ValueError,
            "two tensors are named 'a'",
        ),
        (lambda: verify({}, 0), TypeError, "pass model="),
        (lambda: verify("model.safetensors", 0), TypeError, "pass model="),
        (lambda: verify(3, 0), TypeError, "not int"),
        (lambda: verify(Net(), 0, model=Net()), TypeError, "no model= with it"),
        (lambda: verify(Net(), 2**64), ValueError, "seed must be in"),
        (lambda: verify(Net(), 0, "chef"), ValueError, "'chef'"),
        (lambda: verify(Net(), 0, only="nothing.*"), ValueError, "only chooses nothing"),
        (
            lambda: verify(nn.Linear(2, 2).half(), 0, [Rule(Uniform(-1e6, 1e6))]),
            ValueError,
            r"'weight': torch\.float16 cannot hold",
        ),
        (
            lambda: verify(
                nn.Linear(2, 2).half().state_dict(), 0, [Rule(Uniform(-1e6, 1e6))], model=nn.Linear(2, 2)
            ),
            ValueError,
            r"'weight': torch\.float16 cannot hold",
        ),
    ],
    ids=range(18),
)
def test_what_cannot_be_verified_is_named(call, error, said):
    with pytest.raises(error, match=said):
        call()


def test_what_cannot_be_verified_of_a_file_is_named_with_the_file(tmp_path):
    model = nn.Linear(2, 2)
    path = tmp_path / "a.safetensors"
    save_file(model.half().state_dict(), path)
    with pytest.raises(ValueError, match=r"a\.safetensors: .*'weight': torch\.float16 cannot hold"):
        verify(path, 0, [Rule(Uniform(-1e6, 1e6))], model=model.float())


def test_of_many_names_an_error_shows_the_first():
    with pytest.raises(ValueError, match=r"(?s)^30 tensors .*\n  9.weight\n  9.bias\n  and 10 more\nA model"):
        verify(nn.Sequential(*(nn.Linear(2, 2, device="meta") for _ in range(15))))


def test_memory_that_was_taken_away_is_not_read():
    model = nn.Linear(3, 3)
    model.weight.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="'weight': the tensor's storage holds no memory"):
        verify(model, 0)


@pytest.mark.parametrize("inside", [True, False])
def test_fake_tensors_have_no_values(tmp_path, inside):
    mode = FakeTensorMode()
    with mode:
        model = nn.Linear(4, 3)
        plan = plan_model(model)
    with mode if inside else contextlib.nullcontext():
        with pytest.raises(ValueError, match="or fake, have no values to verify"):
            verify(model)
        with pytest.raises(ValueError, match="'weight' is fake: it has no values"):
            plan.fingerprint()
    with mode, pytest.raises(ValueError, match="'weight' is fake: it has no values"):
        save_model(model, tmp_path / "folder")
    assert not list(tmp_path.iterdir())
