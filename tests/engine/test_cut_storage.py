"""Tensors whose storage was resized, and ends before they do: nothing is written or read beyond it."""

from collections.abc import Callable

import pytest
import torch
from compiled_ops import KEYS, PARAMS
from filling import assert_same_bits
from torch import Tensor, nn

from convinit_ext import (
    Key,
    Normal,
    Shard,
    fingerprint,
    init,
    init_ensemble,
    init_model_,
    inspect_model,
    intercept,
    plan_model,
    save_model,
    verify,
)
from convinit_ext._engine import _C, is_plain
from convinit_ext._engine import _ops as ops
from convinit_ext.recipes import Preset, Rule

KEY = Key(0, "weight")
BOX = ops.Box(5, (200, 2))
RECIPE = [Rule(Normal())]


def cut(tensor: Tensor, missing: int) -> Tensor:
    """The tensor, after so many bytes have been taken from its storage's end."""
    storage = tensor.untyped_storage()
    storage.resize_(storage.nbytes() - missing)
    return tensor


CUT: dict[str, Callable[[], Tensor]] = {
    "rows": lambda: cut(torch.zeros(100, 100)[1:], 4),
    "by half": lambda: cut(torch.zeros(100, 100), 20_000),
    "more than one thread's": lambda: cut(torch.zeros(1000, 100)[10:], 4),
    "columns": lambda: cut(torch.zeros(100, 100)[:, 1::2], 4),
    "transposed": lambda: cut(torch.zeros(100, 100).t(), 4),
    "to nothing": lambda: cut(torch.zeros(100, 100), 40_000),
}


def model_of(weight: Tensor) -> nn.Module:
    model = nn.Module()
    model.weight = nn.Parameter(weight)
    return model


def intercepted(weight: Tensor) -> None:
    model = model_of(weight)
    with intercept(model, seed=0):
        nn.init.normal_(model.weight)


def intercepted_by_itself(weight: Tensor) -> None:
    with intercept(seed=0):
        nn.init.normal_(weight)


def made_norm_of(weight: Tensor) -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(*reversed(weight.shape)))
    layer.parametrizations.weight.original1 = nn.Parameter(weight)
    init_model_(layer, skip="*original1")


def settled_with(weight: Tensor) -> None:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(*reversed(weight.shape)))
    layer.parametrizations.weight.original = nn.Parameter(weight)
    init_model_(layer, only="*._[uv]")


USES: dict[str, Callable[[Tensor], object]] = {
    "normal_": init.normal_,
    "key": lambda weight: init.kaiming_uniform_(weight, key=KEY),
    "shard": lambda weight: init.normal_(weight, shard=Shard((2000, 200), (0, 0))),
    "orthogonal_": init.orthogonal_,
    "sparse_": lambda weight: init.sparse_(weight, 0.5),
    "identity_": init.identity_,
    "init_model_": lambda weight: init_model_(model_of(weight), 0, recipe=RECIPE),
    "verify": lambda weight: verify(model_of(weight), 0, recipe=RECIPE),
    "fingerprint": lambda weight: fingerprint(model_of(weight)),
    "intercept": intercepted,
    "intercept without a model": intercepted_by_itself,
    "given": lambda weight: init_model_(
        model_of(torch.ones(weight.shape)), recipe=[Rule(Preset(weight), name="weight")]
    ),
    "norm of": made_norm_of,
    "spectral norm": settled_with,
    "kept in a plan": lambda weight: plan_model(model_of(weight), skip="weight").fingerprint(),
    "kept in members": lambda weight: init_ensemble(model_of(weight), [0, 1], skip="weight"),
    "inspect_model": lambda weight: inspect_model(model_of(weight), torch.ones(1)),
    "fill_": lambda weight: ops.fill_([weight], KEYS, [Normal()]),
    "fill_one_": lambda weight: ops.fill_one_(weight, KEYS, 2, PARAMS),
    "fill_part_": lambda weight: ops.fill_one_(weight, KEYS, 2, PARAMS, BOX),
    "digest": lambda weight: ops.digest([weight], KEYS),
    "differences": lambda weight: ops.differences([weight], KEYS, [Normal()], [BOX]),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_cut_storage_is_refused(use):
    for make in CUT.values():
        weight, drawn = make(), torch.get_rng_state()
        with pytest.raises(
            (RuntimeError, ValueError), match=r"of \d+ bytes ends before the tensor does|no memory"
        ):
            use(weight)
        held = torch.empty(0).set_(weight.untyped_storage())
        assert not held.any()
        if use not in (made_norm_of, settled_with):  # whose models PyTorch draws
            assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize("make", CUT.values(), ids=CUT)
def test_cut_storage_is_not_saved(make, tmp_path):
    model = nn.BatchNorm1d(4)
    model.register_buffer("table", make())
    with pytest.raises(ValueError, match=r"'table': the tensor's storage"):
        save_model(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_rows_of_a_parameter_that_was_cut_since():
    model = model_of(torch.zeros(100, 100))
    rows = model.weight[2:]
    cut(model.weight, 4)
    with intercept(model, seed=0), pytest.raises(RuntimeError, match="ends before the tensor does"):
        nn.init.normal_(rows)


@pytest.mark.parametrize(
    "view",
    [lambda w: w, lambda w: w[1:], lambda w: w[:, 1:], lambda w: w.t()[2::3], lambda w: w[4, 5]],
    ids=["whole", "rows", "columns", "transposed", "last"],
)
def test_views_that_end_with_their_storage_are_filled(view):
    weight = torch.zeros(5, 6)
    assert is_plain(view(weight), any_strides=True)
    init.normal_(view(weight), key=KEY)
    assert_same_bits(view(weight), init.normal_(torch.empty(view(weight).shape), key=KEY))


def test_what_has_no_elements_or_is_no_tensor_is_not_plain():
    assert not is_plain(torch.empty(0, 5))
    assert not is_plain(None)
    with pytest.raises(RuntimeError, match="is_plain takes a tensor, two bools, and a set or None"):
        _C.is_plain(torch.empty(5))
