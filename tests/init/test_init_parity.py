"""convinit_ext.init against torch.nn.init: the same names, signatures, warnings, errors and effects.

What PyTorch's own tests expect of torch.nn.init is restated here too.
"""

import importlib.util
import inspect
import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from convinit_ext import Key, init
from convinit_ext.distributions import Axes

pytestmark = pytest.mark.usefixtures("seeded")

THEIRS = torch.nn.init
PUBLIC = [name for name, value in vars(THEIRS).items() if inspect.isfunction(value) and name[0] != "_"]
HELPERS = [
    "_calculate_fan_in_and_fan_out",
    "_calculate_correct_fan",
    "_no_grad_uniform_",
    "_no_grad_normal_",
    "_no_grad_trunc_normal_",
    "_no_grad_fill_",
    "_no_grad_zero_",
]
RANDOM = {
    "uniform_",
    "normal_",
    "trunc_normal_",
    "xavier_uniform_",
    "xavier_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "orthogonal_",
    "sparse_",
}
WITH_FANS = {"xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"}
DEPRECATED = [name for name in PUBLIC if f"{name}_" in PUBLIC]
KEY = Key(0, "conv.weight")

# Names and signatures


@pytest.mark.parametrize("name", PUBLIC + HELPERS)
def test_every_name_is_here_with_the_same_signature(name):
    theirs = list(inspect.signature(getattr(THEIRS, name)).parameters.values())
    ours = list(inspect.signature(getattr(init, name)).parameters.values())
    shared, extra = ours[: len(theirs)], ours[len(theirs) :]
    assert [(p.name, p.kind, p.default) for p in shared] == [(p.name, p.kind, p.default) for p in theirs]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in extra)
    expected = {"key", "shard"} if name in RANDOM else {"shard"} if name in ("eye_", "dirac_") else set()
    expected |= {"groups"} if name in WITH_FANS else set()
    expected |= {*Axes._fields} if name in (*WITH_FANS, "orthogonal_") else set()
    expected |= {"cut", "corrected"} if name == "trunc_normal_" else set()
    assert {p.name for p in extra} == expected


def test_all_lists_what_torch_lists_and_the_extras():
    extras = {"variance_scaling_", "lecun_normal_", "lecun_uniform_", "delta_orthogonal_", "identity_"}
    assert set(init.__all__) == set(PUBLIC) | extras
    assert all(callable(getattr(init, name)) and getattr(init, name).__doc__ for name in init.__all__)


def test_a_name_that_a_newer_torch_has_is_passed_on(monkeypatch):
    def brand_new_(tensor):
        return tensor

    monkeypatch.setattr(THEIRS, "brand_new_", brand_new_, raising=False)
    monkeypatch.setattr(THEIRS, "__all__", [*PUBLIC, "brand_new_"], raising=False)
    spec = importlib.util.spec_from_file_location("init_under_newer_torch", init.__file__)
    newer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(newer)
    assert newer.brand_new_ is brand_new_
    assert "brand_new_" in newer.__all__
    assert newer.normal_ is not THEIRS.normal_


# Effects, side by side


CALLS = {
    "uniform_": lambda m, w: m.uniform_(w, -2.0, 3.0),
    "normal_": lambda m, w: m.normal_(w, 1, 2),
    "trunc_normal_": lambda m, w: m.trunc_normal_(w, std=0.5),
    "xavier_uniform_": lambda m, w: m.xavier_uniform_(w, 2.0),
    "xavier_normal_": lambda m, w: m.xavier_normal_(w),
    "kaiming_uniform_": lambda m, w: m.kaiming_uniform_(w, 0.1, "FAN_OUT"),
    "kaiming_normal_": lambda m, w: m.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
    "orthogonal_": lambda m, w: m.orthogonal_(w, gain=2),
    "sparse_": lambda m, w: m.sparse_(w, 0.5),
    "constant_": lambda m, w: m.constant_(w, 3.0),
    "ones_": lambda m, w: m.ones_(w),
    "zeros_": lambda m, w: m.zeros_(w),
    "eye_": lambda m, w: m.eye_(w),
    "dirac_": lambda m, w: m.dirac_(w.unsqueeze(2)),
    "_no_grad_uniform_": lambda m, w: m._no_grad_uniform_(w, 0.0, 1.0),
    "_no_grad_normal_": lambda m, w: m._no_grad_normal_(w, 0.0, 1.0),
    "_no_grad_trunc_normal_": lambda m, w: m._no_grad_trunc_normal_(w, 0.0, 1.0, -1.0, 1.0),
}
ONE_WRITE = {
    "uniform_",
    "normal_",
    "xavier_uniform_",
    "xavier_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
}


@pytest.mark.parametrize("name", CALLS)
def test_effect_on_a_parameter(name):
    effects = []
    for module in (THEIRS, init):
        weight = torch.nn.Parameter(torch.full((6, 4), 77.0))
        returned = CALLS[name](module, weight)
        assert returned is weight or name == "dirac_"
        assert not (weight == 77).any()
        written = weight._version if name in ONE_WRITE else weight._version > 0
        effects.append(
            (weight.requires_grad, weight.is_leaf, weight.grad_fn, weight.grad, weight.stride(), written)
        )
    assert effects[0] == effects[1]


@pytest.mark.parametrize("name", CALLS)
def test_effect_within_autograd(name):
    for module in (THEIRS, init):
        base = torch.zeros(6, 4, requires_grad=True)
        weight = base * 1.0
        squared = weight.square()
        CALLS[name](module, weight.detach())
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            squared.sum().backward()


MISUSES = {
    "one dimension, xavier": lambda m: m.xavier_normal_(torch.zeros(3)),
    "no dimension, xavier": lambda m: m.xavier_uniform_(torch.zeros(())),
    "one dimension, kaiming": lambda m: m.kaiming_normal_(torch.zeros(3)),
    "no dimension, kaiming": lambda m: m.kaiming_uniform_(torch.zeros(())),
    "one dimension, orthogonal": lambda m: m.orthogonal_(torch.zeros(3)),
    "three dimensions, sparse": lambda m: m.sparse_(torch.zeros(3, 3, 3), 0.1),
    "three dimensions, eye": lambda m: m.eye_(torch.zeros(3, 3, 3)),
    "two dimensions, dirac": lambda m: m.dirac_(torch.zeros(3, 3)),
    "groups, dirac": lambda m: m.dirac_(torch.zeros(3, 3, 3), 2),
    "no elements, xavier": lambda m: m.xavier_normal_(torch.zeros(0, 0)),
    "mode": lambda m: m.kaiming_normal_(torch.zeros(3, 3), mode="fan_avg"),
    "mode before dimensions": lambda m: m.kaiming_uniform_(torch.zeros(3), mode="fan"),
    "mode is not a string": lambda m: m.kaiming_normal_(torch.zeros(3, 3), mode=None),
    "nonlinearity": lambda m: m.kaiming_normal_(torch.zeros(3, 3), nonlinearity="swish"),
    "slope is a bool": lambda m: m.kaiming_normal_(torch.zeros(3, 3), a=True),
    "slope is a list": lambda m: m.kaiming_normal_(torch.zeros(3, 3), a=[1]),
    "slope is NaN": lambda m: m.kaiming_normal_(torch.zeros(3, 3), a=math.nan),
    "gain": lambda m: m.calculate_gain("swish"),
    "bounds": lambda m: m.uniform_(torch.zeros(3), 2.0, 1.0),
    "bounds are NaN": lambda m: m.uniform_(torch.zeros(3), math.nan, 1.0),
    "bounds of the dtype": lambda m: m.uniform_(torch.zeros(3, dtype=torch.float16), 0.0, 1e6),
    "negative std": lambda m: m.normal_(torch.zeros(3), 0.0, -1.0),
    "std is NaN": lambda m: m.normal_(torch.zeros(3), 0.0, math.nan),
    "std is a string": lambda m: m.normal_(torch.zeros(3), 0.0, "1"),
    "negative gain, normal": lambda m: m.xavier_normal_(torch.zeros(3, 3), -1.0),
    "negative gain, uniform": lambda m: m.xavier_uniform_(torch.zeros(3, 3), -1.0),
    "truncation bounds": lambda m: m.trunc_normal_(torch.zeros(3), a=2.0, b=1.0),
    "integers": lambda m: m.kaiming_uniform_(torch.zeros(3, 3, dtype=torch.int64)),
    "booleans": lambda m: m.normal_(torch.zeros(3, 3, dtype=torch.bool)),
    "sparse layout": lambda m: m.normal_(torch.zeros(3, 3).to_sparse()),
    "overlap": lambda m: m.normal_(torch.zeros(3).expand(2, 3)),
    "no tensor": lambda m: m.kaiming_normal_(None),
    "no generator": lambda m: m.normal_(torch.zeros(3), generator=3),
}
SAME_WORDS = {
    "one dimension, xavier",
    "one dimension, kaiming",
    "one dimension, orthogonal",
    "three dimensions, sparse",
    "mode",
    "slope is a bool",
    "slope is a list",
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_misuse_raises_what_it_raises_in_torch(misuse):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception) as theirs:  # noqa: PT011
            MISUSES[misuse](THEIRS)
        with pytest.raises(theirs.type) as ours:
            MISUSES[misuse](init)
    if misuse in SAME_WORDS:
        assert str(ours.value) == str(theirs.value)


# Warnings: category, words, and the line of the caller


@pytest.mark.parametrize("name", ["kaiming_uniform_", "kaiming_normal_"])
@pytest.mark.parametrize("shape", [(0, 1), (3, 0), (0,)])
def test_zero_elements_are_warned_of(name, shape):
    weight = torch.empty(shape, requires_grad=True)
    for module in (THEIRS, init):
        with pytest.warns(UserWarning, match="Initializing zero-element tensors is a no-op") as caught:
            assert getattr(module, name)(weight) is weight
        assert [warning.filename for warning in caught] == [__file__]
    assert weight._version == 0


@pytest.mark.parametrize(
    "name", ["uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_"]
)
def test_zero_elements_without_a_warning(name):
    weight = torch.empty(0, 3)
    assert getattr(init, name)(weight) is weight
    assert weight._version == 1


ARGUMENTS = {"constant": (2.0,), "sparse": (0.3,)}


@pytest.mark.parametrize("name", DEPRECATED)
def test_deprecated_names(name):
    shape = (3, 3, 3) if name == "dirac" else (3, 3)
    arguments = ARGUMENTS.get(name, ())
    texts = []
    for module in (THEIRS, init):
        weight = torch.empty(shape)
        with pytest.warns(FutureWarning, match=f"`nn.init.{name}` is now deprecated") as caught:
            assert getattr(module, name)(weight, *arguments) is weight
        assert caught[0].filename == __file__
        texts.append(str(caught[0].message))
    assert texts[0] == texts[1]
    assert getattr(init, name).__name__ == name
    if name == "kaiming_normal":
        with pytest.warns(FutureWarning):
            old = init.kaiming_normal(torch.empty(4, 3), 0.1, mode="fan_out", key=KEY)
        assert torch.equal(old, init.kaiming_normal_(torch.empty(4, 3), 0.1, "fan_out", key=KEY))


# Overrides


class Recorder(torch.Tensor):
    """Handles every function by writing down its name and arguments."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        calls.append((func.__name__, args, kwargs))
        return "handled"


calls: list[tuple[str, tuple, dict]] = []


@pytest.mark.parametrize("name", ["uniform_", "normal_", "kaiming_uniform_", "constant_"])
def test_overrides_see_what_they_see_from_torch(name):
    weight = torch.empty(3, 3).as_subclass(Recorder)
    calls.clear()
    assert CALLS[name](THEIRS, weight) == CALLS[name](init, weight) == "handled"
    assert calls[0][:2] == calls[1][:2]
    theirs, ours = calls[0][2], calls[1][2]
    assert theirs.pop("tensor") is ours.pop("tensor") is weight
    assert theirs == ours


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_every_random_function_can_be_overridden(name):
    calls.clear()
    arguments = {"sparsity": 0.1} if name == "sparse_" else {}
    extras = {"key": KEY} | ({"groups": 3} if name in WITH_FANS else {})
    weight = torch.empty(3, 3).as_subclass(Recorder)
    assert getattr(init, name)(weight, **arguments, **extras) == "handled"
    assert calls[0][0] == name
    assert extras.items() <= calls[0][2].items()


class Plain(torch.Tensor):
    """A subclass that changes nothing."""


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_a_subclass_without_an_override_is_filled(name):
    arguments = {"sparsity": 0.1} if name == "sparse_" else {}
    weight = torch.empty(4, 3).as_subclass(Plain)
    assert getattr(init, name)(weight, key=KEY, **arguments) is weight
    plain = getattr(init, name)(torch.empty(4, 3), key=KEY, **arguments)
    assert torch.equal(weight.as_subclass(torch.Tensor), plain)


def test_under_a_function_mode():
    with torch.device("meta"):
        weight = init.kaiming_uniform_(torch.empty(4, 3, device="cpu"), key=KEY)
    assert torch.equal(weight, init.kaiming_uniform_(torch.empty(4, 3), key=KEY))


# What is not random


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (5, 3)])
def test_constants_and_eye(shape):
    assert torch.equal(init.constant_(torch.empty(shape), 1.5), torch.full(shape, 1.5))
    assert torch.equal(init.ones_(torch.empty(shape)), torch.ones(shape))
    assert torch.equal(init.zeros_(torch.empty(shape)), torch.zeros(shape))
    assert torch.equal(init.eye_(torch.empty(shape)), torch.eye(*shape))


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("name", ["zeros_", "ones_", "constant_"])
def test_constants_record_nothing_and_leave_gradients_as_they_were(name, enabled):
    def called(library: Any) -> nn.Parameter:
        weight = nn.Parameter(torch.full((3, 2), 7, dtype=torch.float8_e5m2))
        with torch.set_grad_enabled(enabled):
            assert CALLS[name](library, weight) is weight
            with pytest.raises((TypeError, RuntimeError)):
                getattr(library, name)(weight, "no number")
            assert torch.is_grad_enabled() is enabled
        assert weight.grad_fn is None
        return weight

    ours, theirs = called(init), called(THEIRS)
    assert ours._version == theirs._version
    assert torch.equal(ours.float(), theirs.float())


@pytest.mark.parametrize("num_kernel_dims", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 3])
def test_dirac_passes_each_group_s_inputs_on(num_kernel_dims, groups):
    weight = init.dirac_(torch.empty((9, 2) + (3,) * num_kernel_dims), groups)
    assert weight.count_nonzero() == weight.sum() == 2 * groups
    convolve = (torch.conv1d, torch.conv2d, torch.conv3d)[num_kernel_dims - 1]
    image = torch.randn((4, 2) + (5,) * num_kernel_dims)
    output = convolve(image, weight)
    inner = image[(slice(None), slice(None)) + (slice(1, -1),) * num_kernel_dims]
    for channels in output.chunk(groups, dim=1):
        assert torch.equal(channels[:, :2], inner)
        assert channels[:, 2:].count_nonzero() == 0
