"""Which axes are what: fans of every assignment, in every function that has fans; blocks; what is refused."""

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from filling import assert_same_bits
from init_functions import Recorder, untouched

from convinit_ext import Key, Shard, init
from convinit_ext.distributions import fan_of, fans

KEY = Key(3, "experts.weight")
ROLES = ("in_axis", "out_axis", "batch_axis", "kernel")
SHAPES = [(5,), (3, 4), (3, 4, 5), (2, 3, 4, 5)]
# Every way to say of each axis what it is: 4 ** n of n axes.
ASSIGNMENTS = [(shape, roles) for shape in SHAPES for roles in itertools.product(ROLES, repeat=len(shape))]
# Of each function: how it is called, and the std of its values by its fans.
FUNCTIONS = {
    "xavier_uniform_": ({"gain": 2.0}, lambda i, o: 2 * math.sqrt(2 / (i + o))),
    "xavier_normal_": ({}, lambda i, o: math.sqrt(2 / (i + o))),
    "kaiming_uniform_": ({"mode": "fan_out"}, lambda i, o: math.sqrt(2 / o)),
    "kaiming_normal_": ({"nonlinearity": "relu"}, lambda i, o: math.sqrt(2 / i)),
    "variance_scaling_": ({"scale": 3.0, "mode": "fan_avg"}, lambda i, o: math.sqrt(6 / (i + o))),
    "lecun_normal_": ({}, lambda i, o: math.sqrt(1 / i)),
    "lecun_uniform_": ({}, lambda i, o: math.sqrt(1 / i)),
}


def axes_of(roles) -> dict[str, tuple[int, ...]]:
    return {role: tuple(axis for axis, each in enumerate(roles) if each == role) for role in ROLES[:3]}


def counted(shape, axes, blocks=1) -> tuple[int, int]:
    """Count fans on the weight itself: how many of its elements one output has, and one input.

    Each element of an array of ones goes to the output, and to the input, that it belongs to.
    """
    ones = np.ones(shape)
    if blocks != 1:
        ones = ones[: shape[0] // blocks]
    each = []
    for ends in ("out_axis", "in_axis"):
        stay = {*axes[ends], *axes["batch_axis"]}
        summed = ones.sum(axis=tuple(axis for axis in range(ones.ndim) if axis not in stay))
        each.append(int(summed.flat[0]))
    return each[0], each[1]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fans_of_every_assignment_of_axes(shape):
    for _, roles in (each for each in ASSIGNMENTS if each[0] == shape):
        axes = axes_of(roles)
        assert fans(shape, **axes) == counted(shape, axes), axes
        behind = {role: tuple(axis - len(shape) for axis in given) for role, given in axes.items()}
        assert fans(shape, **behind) == counted(shape, axes), behind
        numbers = {role: given[0] if len(given) == 1 else list(given) for role, given in axes.items()}
        assert fans(shape, **numbers) == counted(shape, axes), numbers


@pytest.mark.parametrize(
    ("shape", "given", "meant"),
    [
        ((3, 4, 5), {}, ("out_axis", "in_axis", "kernel")),
        ((3, 4), {"in_axis": 0}, ("in_axis", "out_axis")),
        ((3, 4, 5), {"in_axis": -1}, ("out_axis", "kernel", "in_axis")),
        ((3, 4, 5), {"out_axis": 1}, ("in_axis", "out_axis", "kernel")),
        ((3, 4, 5), {"batch_axis": 0}, ("batch_axis", "out_axis", "in_axis")),
        ((3, 4, 5), {"batch_axis": 0, "in_axis": 1}, ("batch_axis", "in_axis", "out_axis")),
        ((2, 3, 4, 5), {"batch_axis": (0, 3)}, ("batch_axis", "out_axis", "in_axis", "batch_axis")),
    ],
)
def test_what_is_not_said_is_pytorchs_order_of_the_axes_that_are_left(shape, given, meant):
    assert fans(shape, **given) == counted(shape, axes_of(meant))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_the_std_of_these_fans(name):
    for roles in [each for shape, each in ASSIGNMENTS if shape == (3, 4, 5)]:
        arguments, std_of = FUNCTIONS[name]
        weight, axes = torch.empty(3, 4, 5, dtype=torch.float64), axes_of(roles)
        filled = getattr(init, name)(weight, **arguments, **axes, key=KEY)
        unit = getattr(init, name)(torch.empty(3, 4, 5, dtype=torch.float64), **arguments, key=KEY)
        scale = std_of(*counted((3, 4, 5), axes)) / std_of(4 * 5, 3 * 5)
        torch.testing.assert_close(filled, unit * scale, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_blocks_have_the_fans_of_one(name):
    arguments, std_of = FUNCTIONS[name]
    function = getattr(init, name)
    large = function(torch.empty(3 * 70, 50, 2), **arguments, blocks=3, key=KEY)
    unit = function(torch.empty(3 * 70, 50, 2), **arguments, key=KEY)
    torch.testing.assert_close(large, unit * (std_of(100, 140) / std_of(100, 420)))
    one = function(torch.empty(70, 50, 2), **arguments, key=KEY)
    torch.testing.assert_close(large[:70], one)  # the first block's elements have the indices of one alone
    assert large.std().item() == pytest.approx(std_of(100, 140), rel=0.02)


def test_blocks_of_axes_that_are_said():
    axes = {"in_axis": (), "out_axis": (0, 2), "batch_axis": 1}
    assert fans((6, 4, 5, 7), **axes, blocks=2) == counted((6, 4, 5, 7), axes | {"batch_axis": (1,)}, 2)
    assert fans((6, 4), out_axis=0, in_axis=1, blocks=6) == (4, 1)
    assert fans((4, 6), transposed=True, blocks=2) == (4, 3), "of a transposed layer dim 1 is the outputs"


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg", "fan_geo_avg"])
def test_the_variance_of_every_assignment_is_jaxs(mode):
    jax = pytest.importorskip("jax")
    key = jax.random.key(0)
    for shape, roles in ASSIGNMENTS:
        axes = axes_of(roles)
        if mode == "fan_geo_avg":
            std = math.sqrt(3 / fan_of(mode, *fans(shape, **axes)))
        else:
            given = jax.nn.initializers.variance_scaling(3.0, mode, "normal", **axes)(key, shape)
            std = float((given / jax.random.normal(key, shape)).flatten()[0])  # the same values, times it
        found = init.variance_scaling_(torch.empty(shape), 3.0, mode, **axes, key=KEY)
        torch.testing.assert_close(found, init.normal_(torch.empty(shape), std=std, key=KEY), msg=str(axes))


def test_einsum_weights_stacks_and_packed_layers_have_the_fans_that_they_multiply_with():
    """One output of the layer, with weights of ones and inputs of ones, is its fan_in."""
    heads, width, head = 4, 12, 3
    projection = torch.ones(heads, width, head)
    assert torch.einsum("d,hde->he", torch.ones(width), projection)[0, 0] == 12
    assert fans((heads, width, head), in_axis=1, out_axis=(0, 2)) == (12, 4 * 3)
    assert torch.einsum("he,hed->d", torch.ones(heads, head), projection.mT)[0] == 12
    assert fans((heads, head, width), in_axis=(0, 1), out_axis=2) == (4 * 3, 12)
    stacked, _ = torch.func.stack_module_state([torch.nn.Conv2d(5, 6, 3) for _ in range(7)])
    assert fans(stacked["weight"].shape, batch_axis=0) == (5 * 9, 6 * 9)
    assert fans(torch.nn.LSTM(5, 6).weight_ih_l0.shape, blocks=4) == (5, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pytorchs_axes_said_aloud_change_no_bit(dtype):
    for name, (arguments, _) in FUNCTIONS.items():
        weight = torch.empty(6, 4, 3, dtype=dtype)
        expected = getattr(init, name)(weight, **arguments, key=KEY).clone()
        for axes in ({"in_axis": 1, "out_axis": 0}, {"in_axis": (-2,)}, {"batch_axis": []}, {"blocks": True}):
            assert_same_bits(
                getattr(init, name)(weight, **arguments, **axes, key=KEY), expected, (name, axes)
            )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numpys_integers_are_axes_and_blocks(name):
    arguments, _ = FUNCTIONS[name]
    weight = torch.empty(4, 6, 5)
    for axes in (
        {"batch_axis": 0},
        {"batch_axis": 2, "in_axis": 1},
        {"in_axis": 2, "out_axis": 0},
        {"blocks": 2},
    ):
        expected = getattr(init, name)(weight, **arguments, **axes, key=KEY).clone()
        given = {axis: np.int64(each) for axis, each in axes.items()}
        assert_same_bits(getattr(init, name)(weight, **arguments, **given, key=KEY), expected, (name, axes))


WRONG = {
    "there is none": ({"in_axis": 3}, ValueError, r"in_axis has 3, and shape \[6, 4, 5\] only axes -3 to 2"),
    "nor behind": ({"batch_axis": (0, -4)}, ValueError, "batch_axis has -4"),
    "twice": ({"out_axis": (0, 1, -3)}, ValueError, "axis 0 is twice in out_axis"),
    "overlap": ({"in_axis": 0, "out_axis": (0, 1)}, ValueError, "axis 0 is in both in_axis and out_axis"),
    "overlap from behind": ({"in_axis": -1, "batch_axis": 2}, ValueError, "in both batch_axis and in_axis"),
    "none left": ({"batch_axis": (0, 1)}, ValueError, r"no axis of shape \[6, 4, 5\] is left for in_axis"),
    "no integer": ({"in_axis": 1.0}, TypeError, "in_axis must be an int or a tuple of ints, not 1.0"),
    "a name": ({"out_axis": "out"}, TypeError, "out_axis must be an int or a tuple of ints, not 'out'"),
    "integers of none": ({"batch_axis": (0, None)}, TypeError, r"batch_axis must be .* not \(0, None\)"),
    "an array": ({"batch_axis": np.array([0, 1])}, TypeError, r"batch_axis must be .* not array\(\[0, 1\]\)"),
    "arrays": ({"in_axis": np.array([0]), "out_axis": np.array([1, 2])}, TypeError, "in_axis must be an int"),
    "an array of blocks": ({"blocks": np.array([2, 2])}, TypeError, "blocks must be an int"),
    "blocks": ({"blocks": 4}, ValueError, "divisible by blocks, but found 6 and blocks=4"),
    "no blocks": ({"blocks": 0}, ValueError, "blocks must be 1 or more, but found 0"),
    "no whole blocks": ({"blocks": 1.5}, TypeError, "blocks must be an int, not 1.5"),
    "blocks of a batch": ({"blocks": 2, "batch_axis": 0}, ValueError, "blocks=2 .* it is in batch_axis"),
    "blocks of inputs": ({"blocks": 2, "in_axis": 0}, ValueError, "blocks=2 .* it is in in_axis"),
    "blocks of a kernel": ({"blocks": 2, "in_axis": 1, "out_axis": 2}, ValueError, "it is of the kernel"),
}  # fmt: skip


def refused(name, arguments, error, said):
    untouched(lambda: torch.ones(6, 4, 5), lambda w, _: getattr(init, name)(w, **arguments), error, said)


WITH_GROUPS = [{"in_axis": 1}, {"out_axis": 0}, {"batch_axis": 2}, {"blocks": 2}]


@pytest.mark.parametrize(("axes", "error", "said"), WRONG.values(), ids=WRONG)
def test_wrong_axes_are_named_before_anything_is_written(axes, error, said):
    for name in FUNCTIONS:
        refused(name, axes, error, said)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if "lecun" not in name])
def test_groups_say_another_layout(name):
    for axes in WITH_GROUPS:
        refused(name, {"groups": 2, **axes}, ValueError, "groups=2 says .* accepted is the one or the others")


def test_one_dimension_has_fans_where_both_axes_are_said():
    assert fans((5,), in_axis=0, out_axis=()) == (5, 1)
    assert fans((), in_axis=(), out_axis=()) == (1, 1)
    with pytest.raises(ValueError, match=r"blocks=2 says .* of the kernel"):
        fans((), in_axis=(), out_axis=(), blocks=2)
    for axes in ({"in_axis": 0}, {"out_axis": 0}, {"batch_axis": 0}, {"blocks": 5}):
        with pytest.raises(ValueError, match="fewer than 2 dimensions"):
            init.kaiming_normal_(torch.empty(5), **axes)


def test_a_shard_has_the_fans_of_the_whole():
    for axes in ({"blocks": 3}, {"batch_axis": 0, "in_axis": 1}):
        whole = init.xavier_normal_(torch.empty(12, 6, 4), **axes, key=KEY)
        part = torch.empty(5, 6, 2)
        init.xavier_normal_(part, **axes, key=KEY, shard=Shard((12, 6, 4), (4, 0, 2)))
        assert torch.equal(part, whole[4:9, :, 2:])
    with pytest.raises(ValueError, match="divisible by blocks, but found 12 and blocks=5"):
        init.xavier_normal_(torch.empty(5, 6), blocks=5, shard=Shard((12, 6), (0, 0)))


def test_compiled_code_takes_axes_and_cuts():
    def step(weight):
        given = {"batch_axis": 0, "in_axis": (1,), "key": KEY}
        filled = [
            getattr(init, name)(weight.clone(), **more, **given) for name, (more, _) in FUNCTIONS.items()
        ]
        for corrected in (False, True):
            filled.append(init.trunc_normal_(weight.clone(), cut=1.5, corrected=corrected, key=KEY))
        return filled

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(torch.empty(3, 4, 5)), step(torch.empty(3, 4, 5))))
    torch.compiler.reset()


@pytest.mark.parametrize("name", ["orthogonal_", *(name for name in FUNCTIONS if "lecun" not in name)])
def test_an_override_sees_axes_that_are_given_and_no_others(name):
    weight = torch.empty(6, 4, 5).as_subclass(Recorder)
    axes = {"in_axis": 0, "out_axis": (), "batch_axis": 1, "blocks": 2}
    assert axes.items() <= getattr(init, name)(weight, **axes).items()
    assert not getattr(init, name)(weight).keys() & {*axes, "groups", "key", "shard"}


@pytest.mark.parametrize("name", [*FUNCTIONS, "normal_", "orthogonal_", "eye_"])
def test_functions_are_found_where_they_are_public(name):
    function = getattr(init, name)
    assert (function.__module__, function.__qualname__) == ("convinit_ext.init", name)
    assert pickle.loads(pickle.dumps(function)) is function
