"""What init's functions refuse, or cannot fill, leaves tensors and generators as they were."""

import functools
import re

import pytest
import torch
from filling import freed
from init_functions import RANDOM
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from convinit_ext import Constant, Key, Shard, Uniform, fingerprint, init, init_model_, verify
from convinit_ext._engine import SUPPORTED_DTYPES
from convinit_ext._engine import _ops as ops
from convinit_ext.recipes import Rule


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


@pytest.mark.usefixtures("untouched_generator")
@pytest.mark.parametrize("function", [lambda w: init.sparse_(w, 0.5), lambda w: init.identity_(w, 2.0)])
def test_float8_where_pytorch_lacks_operations(function):
    tensor = torch.zeros(4, 4).to(torch.float8_e5m2)
    with pytest.raises(TypeError, match=r"cannot fill torch\.float8_e5m2; accepted are wider"):
        function(tensor)
    assert not tensor.float().any()


@pytest.mark.parametrize("dtype", SUPPORTED_DTYPES)
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


@pytest.mark.parametrize(
    ("shape", "offset"),
    [
        ((1, 2**62, 4), (range(0, 1, 3), range(2**60, 2**60 + 1), 0)),
        ((3, 2**61, 4), (range(0, 1, 4), 2**60, 0)),
        ((3, 2**64, 4), (0, 2**60, 0)),
    ],
)
@pytest.mark.parametrize("fill", [init.normal_, functools.partial(init.trunc_normal_, cut=1.0)])
def test_only_indices_that_are_there_are_counted(shape, offset, fill):
    weight, wanted = torch.zeros(1, 1, 4), torch.zeros(1, 4)
    fill(weight, key=Key(0, "weight"), shard=Shard(shape, offset))
    fill(wanted, key=Key(0, "weight"), shard=Shard((2**60 + 1, 4), (2**60, 0)))
    assert torch.equal(weight[0], wanted)


@pytest.mark.parametrize(("groups", "error"), [(0, ValueError), (-2, ValueError), (2.0, TypeError)])
def test_groups_of_a_shard(groups, error):
    with pytest.raises(error, match=f"groups.*{groups}"):
        init.dirac_(torch.zeros(2, 3, 1), groups, shard=Shard((4, 3, 1), (2, 0, 0)))


MEMBERS = {name: functools.partial(fill, key=Key(0, "weight")) for name, fill in RANDOM.items()}
MEMBERS |= {"drawn": init.normal_, "identity_": init.identity_}


@pytest.mark.parametrize("name", MEMBERS)
def test_members_of_a_batch(name):
    for randomness in ["error", "same", "different"]:
        members = torch.zeros(2, 3, 3)
        drawn = torch.get_rng_state()
        with pytest.raises(RuntimeError, match=r"torch\.vmap has batched.*Call init outside of vmap"):
            torch.func.vmap(MEMBERS[name], randomness=randomness)(members)
        assert not members.any()
        assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize("name", sorted(set(MEMBERS) - {"drawn"}))
def test_new_tensors_inside_of_vmap_have_equal_values(name):
    fill = MEMBERS[name]
    members = torch.func.vmap(lambda member: member + fill(torch.empty(3, 3)))(torch.zeros(2, 3, 3))
    assert torch.equal(members[0], fill(torch.empty(3, 3)))
    assert torch.equal(members[1], members[0])


@pytest.mark.parametrize(
    "fill",
    [
        init.zeros_,
        init.ones_,
        lambda member: init.constant_(member, 2.0),
        init.eye_,
        lambda m: init.dirac_(m[..., None]),
    ],
    ids=["zeros_", "ones_", "constant_", "eye_", "dirac_"],
)
def test_constants_of_members_of_a_batch(fill):
    members = torch.full((2, 3, 3), 7.0)
    torch.func.vmap(fill)(members)
    expected = torch.full((3, 3), 7.0)
    fill(expected)
    assert torch.equal(members, torch.stack([expected, expected]))


@pytest.mark.usefixtures("untouched_generator")
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
    "fill", [init.zeros_, init.ones_, init.eye_, init.identity_, lambda w: init.constant_(w, 2.0)]
)
def test_fake_tensors_outside_their_mode_take_constants(fill):
    fake_weight = FakeTensorMode().from_tensor(torch.zeros(4, 3))
    assert fill(fake_weight) is fake_weight
    fake_kernel = fake_weight[..., None]
    assert init.dirac_(fake_kernel) is fake_kernel


@pytest.mark.parametrize(("fill", "shape"), [(init.eye_, (3, 3)), (init.dirac_, (3, 3, 1))])
def test_ones_on_a_diagonal_are_of_dense_tensors(fill, shape):
    weight = torch.full(shape, 7.0).to_sparse()
    with pytest.raises(NotImplementedError, match=r"layout torch\.sparse_coo"):
        fill(weight)
    assert torch.equal(weight.to_dense(), torch.full(shape, 7.0))


@pytest.mark.parametrize(
    ("shape", "strides", "overlap"),
    [
        ((1 << 20, 1 << 20), (1, 1), True),
        ((4, 3), (2, 3), True),
        ((4, 4), (2, 3), True),
        ((3, 4), (2, 3), False),
        ((2, 2), (3, 2), False),
        ((2, 3), (3, 2), False),
        ((2, 3), (3, 4), False),
    ],
)
def test_views_whose_strides_do_not_nest(shape, strides, overlap):
    """Of 2^40 places nobody could sort all: they are counted first."""
    memory = torch.zeros(1 << 21)
    view = memory.as_strided(shape, strides)
    if overlap:
        with pytest.raises(RuntimeError, match="single memory location"):
            init.normal_(view, key=Key(0, "weight"))
        assert not memory.any()
    else:
        init.normal_(view, key=Key(0, "weight"))
        assert torch.equal(view, init.normal_(torch.empty(shape), key=Key(0, "weight")))
        assert memory.count_nonzero() == view.numel()


def test_whole_models_and_values_inside_transforms_of_torch_func():
    layer, other = nn.Linear(3, 3), nn.Linear(3, 3)
    doors = {
        "fill": lambda: init_model_(layer),
        "verify": lambda: verify(layer),
        "digest": lambda: fingerprint(layer),
        "verify ": lambda: verify({"weight": layer.weight, "bias": torch.ones(3)}, model=other),
    }

    def member(weight: torch.Tensor) -> torch.Tensor:
        layer._parameters["weight"] = weight
        for do, ask in doors.items():
            with pytest.raises(RuntimeError, match=rf"'weight': cannot {do.strip()} a tensor (inside|that)"):
                ask()
        return (weight * 1).sum()

    torch.func.grad(member)(torch.zeros(3, 3))
    torch.func.vmap(member)(torch.zeros(2, 3, 3))
