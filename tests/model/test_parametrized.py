"""Parametrized weights: of every kind, under wrappers, in any order of memory, tied, and alone."""

import copy

import pytest
import torch
from planning import fillings, make_plan
from states import assert_same_state
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from convinit_ext import Constant, Normal, fingerprint, init_model_, plan_model, save_model, verify
from convinit_ext.recipes import HE, TORCH, Rule

WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "module")


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


def layers() -> nn.Module:
    twice = nn.Linear(3, 4)
    parametrize.register_parametrization(twice, "weight", Twice())
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(3, 4)),
        weight_norm(nn.Linear(3, 4)),
        parametrizations.spectral_norm(nn.Linear(3, 4)),
        spectral_norm(nn.Linear(3, 4)),
        parametrizations.orthogonal(nn.Linear(4, 4)),
        twice,
    )


def wrapped(wrapper: str, model: nn.Module) -> nn.Module:
    outer = nn.Module()
    outer.add_module(wrapper, model)
    return outer


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_do_not_count(wrapper):
    plain, inner = layers(), layers()
    outer = wrapped(wrapper, inner)
    rules = [Rule(Constant(0.5), name="[0135].weight"), *TORCH]
    for model in (plain, outer):
        init_model_(model, 3, rules)
    assert_same_state(inner, plain.state_dict())
    assert torch.all(inner[5].parametrizations.weight.original == 0.5)
    assert verify(outer, 3, rules) and fingerprint(outer) == plan_model(outer, 3, rules).fingerprint()
    only = ["0.weight", "2.weight", "3.weight"]
    assert [row.name for row in init_model_(outer, 4, only=only).rows] == [
        row.name for row in init_model_(plain, 4, only=only).rows
    ]
    assert_same_state(inner, plain.state_dict())


@pytest.mark.parametrize("layout", ["transposed", "sliced"])
@pytest.mark.parametrize("dim", [0, 1, -1, None])
def test_the_order_of_memory_does_not_count(dim, layout, tmp_path):
    def build() -> nn.Module:
        return nn.Sequential(
            parametrizations.weight_norm(nn.Linear(70, 300), dim=dim),
            parametrizations.spectral_norm(nn.Linear(5, 70)),
        )

    plain, other = build(), build()
    for name in ("0.parametrizations.weight.original1", "1.parametrizations.weight.original"):
        weight = other.get_parameter(name)
        if layout == "transposed":
            weight.data = weight.data.t().contiguous().t()
        else:
            weight.data = torch.empty(2 * weight.shape[0], 3 * weight.shape[1])[::2, ::3]
    init_model_(plain, 3)
    init_model_(other, 3)
    assert_same_state(other, plain.state_dict())
    save_model(other, tmp_path / "a.safetensors", 3)
    assert fingerprint(other) == fingerprint(tmp_path / "a.safetensors")
    assert fingerprint(other) == plan_model(other, 3).fingerprint()
    assert verify(tmp_path / "a.safetensors", 3, model=other) and verify(plain.state_dict(), 3, model=other)


def test_a_magnitude_that_is_tied_to_its_direction():
    model = parametrizations.weight_norm(nn.Linear(1, 4))
    parts = model.parametrizations.weight
    parts.original0 = parts.original1
    before = parts.original0.detach().clone()
    for call in (init_model_, verify, plan_model):
        with pytest.raises(ValueError, match=r"original0', norm_of.*made of itself, since it is tied"):
            call(model)
    assert torch.equal(parts.original0, before)
    init_model_(model, 0, [Rule(Constant(2.0), name="*.original0"), *TORCH])
    assert torch.all(parts.original0 == 2.0)


@pytest.mark.parametrize("path", ["parametrizations", "parametrizations.weight"])
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize("outside", [None, "_orig_mod"])
def test_parts_without_their_layer(norm, path, outside):
    model = norm(nn.Linear(3, 4)).get_submodule(path)
    model = model if outside is None else wrapped(outside, model)
    with pytest.raises(ValueError, match=r"no rule for . parameters?:\n  .*original"):
        init_model_(model)
    report = init_model_(model, 0, [Rule(Normal())])
    assert {row.initialiser for row in report.rows} == {"normal_(0, 1)"}


def test_spectral_norm_without_its_weight():
    vectors = parametrizations.spectral_norm(nn.Linear(3, 4)).parametrizations.weight[0]
    with pytest.raises(ValueError, match="buffer '_u': its weight is not in this model"):
        init_model_(vectors)


def test_spectral_norms_vectors_start_anew_and_are_singular_vectors():
    model, other = (
        nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 5)), spectral_norm(nn.Linear(5, 4)))
        for _ in range(2)
    )
    for each in (model, other):
        each.train()
        each(torch.ones(2, 6))
    meta = nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 5)), spectral_norm(nn.Linear(5, 4))).to(
        "meta"
    )
    for each in (model, other, meta):
        init_model_(each, 4)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]) and torch.equal(
            tensor, meta.state_dict()[name]
        ), name
    model.eval()
    assert torch.linalg.matrix_norm(model[0].weight, 2).item() == pytest.approx(1.0, rel=0.02)
    assert model[1].weight_u.norm().item() == pytest.approx(1.0)
    vectors = {name: tensor.clone() for name, tensor in model.named_buffers()}
    init_model_(model, 5, only=["0.weight", "1.bias"])
    moved = [name for name, tensor in model.named_buffers() if not torch.equal(tensor, vectors[name])]
    assert moved == [f"0.parametrizations.weight.0.{name}" for name in ("_u", "_v")]
    init_model_(model, 5, only="1.weight")
    assert not torch.equal(model[1].weight_u, vectors["1.weight_u"])
    rows = fillings(model, "torch")
    assert rows["0.parametrizations.weight.original"] == make_plan(nn.Linear(6, 5)).rows[0].distribution
    assert rows["1.weight_orig"] == make_plan(nn.Linear(5, 4)).rows[0].distribution


@pytest.mark.parametrize("shape", [(4, 4), (6, 3), (3, 6)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_orthogonal_weight_is_orthogonal_and_a_function_of_the_seed(shape, dtype):
    model, other = (parametrizations.orthogonal(nn.Linear(*shape, dtype=dtype)) for _ in range(2))
    for each in (model, other):
        init_model_(each, 7)
    weight = model.weight.detach()
    square = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    torch.testing.assert_close(square, torch.eye(min(shape), dtype=dtype))
    assert torch.equal(weight, other.weight.detach())
    init_model_(other, 8)
    assert not torch.allclose(weight, other.weight.detach(), atol=1e-2)


def test_orthogonal_without_a_base_is_plain_where_that_means_something():
    free = parametrizations.orthogonal(nn.Linear(3, 3), orthogonal_map="cayley", use_trivialization=False)
    assert init_model_(free).rows[1].initialiser == "kaiming_uniform_(a=2.23607)"
    torch.testing.assert_close(free.weight @ free.weight.T, torch.eye(3))
    with pytest.raises(ValueError, match=r"no rule for 1 parameter:\n  parametrizations\.weight\.original"):
        init_model_(parametrizations.orthogonal(nn.Linear(4, 3), use_trivialization=False))


class Symmetric(nn.Module):
    def forward(self, matrix):
        return matrix.triu() + matrix.triu(1).T


def test_any_parametrization_of_one_tensor_has_the_plain_weight_behind_it():
    model = nn.Linear(4, 4)
    parametrize.register_parametrization(model, "weight", Symmetric())
    init_model_(model, 1, [Rule(Normal(0.0, 2.0), module=nn.Linear, parameter="weight"), *TORCH])
    assert torch.equal(model.weight, model.weight.T)
    assert make_plan(model, recipe=HE).rows[1].fans == (4, 4)


PARAMETRIZE = {
    name: getattr(parametrizations, name) for name in ("weight_norm", "spectral_norm", "orthogonal")
}


@pytest.mark.parametrize("parametrize", PARAMETRIZE.values(), ids=PARAMETRIZE)
def test_the_type_of_a_layer_chooses_what_its_weight_is_made_of(parametrize):
    model = nn.Sequential(parametrize(nn.Linear(4, 4)), nn.Conv1d(4, 4, 1))
    before = copy.deepcopy(model.state_dict())
    init_model_(model, 3, only=nn.Linear)
    now = copy.deepcopy(model.state_dict())
    touched = [name for name in now if not now[name].equal(before[name])]
    assert all(name.startswith("0.") for name in touched)
    assert any("parametrizations" in name for name in touched)
    init_model_(model, 4, skip=nn.Linear)
    assert_same_state(model[0], {name[2:]: now[name] for name in now if name.startswith("0.")})


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("recipe", ["torch", "he", "llama"])
def test_a_pruned_weight_has_the_plain_one_behind_it_and_keeps_its_mask(device, recipe):
    plain, model = (nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4)) for _ in range(2))
    prune.identity(prune.identity(model[0], "weight"), "bias")
    prune.identity(model[0], "weight")  # a second time: the hooks become a container
    model.to(device)
    kept = torch.rand(6, 8) > 0.5
    for leaf, mask in (("weight", kept), ("bias", torch.ones(6))):
        model[0].register_buffer(f"{leaf}_mask", mask)
    names = {"0.weight_orig": "0.weight", "0.bias_orig": "0.bias"}
    init_model_(model, 3, recipe, names=names)
    init_model_(plain, 3, recipe)
    assert torch.equal(model[0].weight_orig, plain[0].weight)
    assert torch.equal(model[0].bias_orig, plain[0].bias)
    assert model[0].weight_mask is kept
    given = torch.ones(2, 8)
    expected = nn.functional.linear(given, plain[0].weight * kept, plain[0].bias)
    torch.testing.assert_close(model[0](given), expected)
