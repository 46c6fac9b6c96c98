"""Tensors that were computed from a parameter, whose fill the parameter would not see."""

import pytest
import torch
from meshes import every_rank
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn import utils
from torch.nn.utils import parametrizations, prune

from convinit_ext import Key, init, intercept

KEY = Key(0, "weight")
LOST = "nothing else would see the values"
LAYERS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "prune": lambda layer: prune.random_unstructured(layer, "weight", 0.5),
    "the older weight_norm": utils.weight_norm,
}
FILLS = {
    "normal_": lambda weight: init.normal_(weight, key=KEY),
    "drawn": init.uniform_,
    "kaiming_normal_": init.kaiming_normal_,
    "orthogonal_": init.orthogonal_,
    "sparse_": lambda weight: init.sparse_(weight, 0.5),
    "eye_": init.eye_,
    "identity_": init.identity_,
    "zeros_": init.zeros_,
    "ones_": init.ones_,
    "constant_": lambda weight: init.constant_(weight, 2.0),
}
COPIES = {
    "indexed": lambda table: table[torch.tensor([1, 2])],
    "masked": lambda table: table[table == 0],
    "cast": lambda table: table.half(),
    "reshaped": lambda table: table.t().reshape(-1),
    "view of a copy": lambda table: table.clone().view(-1),
}
VIEWS = {
    "itself": lambda table: table,
    "view": lambda table: table.view(-1),
    "transposed": lambda table: table.t(),
    "chunk": lambda table: table.chunk(2)[1],
    "rows": lambda table: table[1:3],
    "row of a view": lambda table: table.view(2, 2, 4)[1],
    "data": lambda table: table.data,
    "detached": lambda table: table.detach(),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("wrap", LAYERS.values(), ids=LAYERS)
def test_weights_behind_a_parametrization(wrap):
    for fill in FILLS.values():
        weight = wrap(nn.Linear(4, 4)).weight
        before, drawn = weight.clone(), torch.get_rng_state()
        with pytest.raises(RuntimeError, match=LOST):
            fill(weight)
        assert torch.equal(weight, before)
        assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_copies_of_a_parameter(copy):
    table = nn.Parameter(torch.zeros(4, 4))
    with pytest.raises(RuntimeError, match=LOST):
        init.normal_(copy(table))
    wanted = copy(table).detach()
    assert init.normal_(wanted, key=KEY).any()


@pytest.mark.parametrize("no_grad", [False, True])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_views_of_a_parameter_are_filled(view, no_grad):
    table = nn.Parameter(torch.zeros(4, 4))
    with torch.set_grad_enabled(not no_grad):
        filled = init.normal_(view(table), key=KEY)
    assert table.count_nonzero() == filled.numel()
    assert table.grad_fn is None


def test_all_parts_that_chunk_gives_are_filled():
    """Of which autograd says no more once one of them has changed."""
    table = nn.Parameter(torch.zeros(4, 4))
    for part in table.chunk(2):
        for fill in (FILLS["normal_"], init.ones_, init.orthogonal_, FILLS["sparse_"], init.eye_):
            fill(part)
    assert table.any(dim=1).all()


def test_functions_of_torch_func_fill_their_copies():
    gradient = torch.func.grad(lambda weight: init.normal_(weight.clone(), key=KEY).sum())
    assert gradient(torch.zeros(3)).shape == (3,)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(
    ("placement", "kept"), [(Shard(0), False), (Shard(1), True), (Replicate(), True)], ids=str
)
def test_slices_of_a_dtensor(placement, kept, requires_grad):
    for mesh in every_rank((2,)):
        table = distribute_tensor(torch.zeros(4, 4), mesh, [placement]).requires_grad_(requires_grad)
        for part in (table[1:3], table[1]):
            if kept:
                init.normal_(part, key=KEY)
                assert table.detach().to_local().any()
            else:
                with pytest.raises(RuntimeError, match=LOST):
                    init.normal_(part, key=KEY)
        init.normal_(table.view(16), key=KEY)
        assert table.detach().to_local().all()


def from_local(table):
    return DTensor.from_local(table.to_local(), table.device_mesh, table.placements, run_check=False)


CONVERTED = {
    "full_tensor": lambda table: table.full_tensor(),
    "a view of full_tensor": lambda table: table.full_tensor()[1:],
    "redistribute to replicas": lambda table: table.redistribute(placements=[Replicate()]),
    "redistribute to rows": lambda table: table.redistribute(placements=[Shard(0)]),
    "redistribute as it is": lambda table: table.redistribute(placements=table.placements),
    "to_local": lambda table: table.to_local(),
    "a view of to_local": lambda table: table.to_local().view(-1),
    "from_local": from_local,
    "a copy of to_local": lambda table: table.to_local().clone(),
}
COPIED = {
    ("full_tensor", Shard(0)),
    ("a view of full_tensor", Shard(0)),
    ("redistribute to replicas", Shard(0)),
    ("redistribute to rows", Replicate()),
    ("a copy of to_local", Shard(0)),
    ("a copy of to_local", Replicate()),
}


@pytest.mark.parametrize("placement", [Shard(0), Replicate()], ids=str)
@pytest.mark.parametrize("name", CONVERTED)
def test_what_dtensors_are_converted_to(name, placement):
    for fill in [FILLS["normal_"], FILLS["drawn"], init.ones_]:
        for mesh in every_rank((2,)):
            table = distribute_tensor(torch.zeros(4, 4), mesh, [placement]).zero_().requires_grad_()
            if (name, placement) in COPIED:
                with pytest.raises(RuntimeError, match=LOST):
                    fill(CONVERTED[name](table))
                assert not table.detach().to_local().any()
            else:
                fill(CONVERTED[name](table))
                assert table.detach().to_local().any()
                assert table.grad_fn is None
            with torch.no_grad():  # what it was computed from is known to nobody
                assert fill(CONVERTED[name](table)).any()


@pytest.mark.parametrize("wrap", LAYERS.values(), ids=LAYERS)
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_inside_intercept(wrap):
    for name in ["normal_", "uniform_", "trunc_normal_", "xavier_normal_", "orthogonal_", "eye_", "ones_"]:
        model = nn.Sequential(wrap(nn.Linear(4, 4)))
        weight = model[0].weight
        before = {key: value.clone() for key, value in model.state_dict().items()}
        for block in ((model, 3), (None, 3), (model,), ()):
            with intercept(*block):
                for lost in (weight, weight[:2]):
                    with pytest.raises(RuntimeError, match=LOST):
                        getattr(nn.init, name)(lost)
                plain = nn.Linear(4, 4)
                getattr(nn.init, name)(plain.weight)
                getattr(nn.init, name)(plain.weight[:2])
        after = model.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)
