"""init: values of keys and of generators, nothing drawn for nothing, groups, and what torch.nn.init lacks."""

import math
import threading
import warnings

import numpy as np
import pytest
import torch
from filling import assert_same_bits
from init_functions import DTYPES, KEY, RANDOM, filled_with, random_function
from reference import reference

from convinit_ext import Key, Normal, Shard, TruncatedNormal, Uniform, init
from convinit_ext._engine import _ops as ops
from convinit_ext.keys import draw

pytestmark = pytest.mark.usefixtures("seeded")

# Keys: values of a seed and a name, and of nothing else


@random_function
def test_a_key_decides_alone(fill):
    first = fill(torch.empty(6, 4), key=KEY).clone()
    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert torch.equal(fill(torch.empty(6, 4), key=Key(3, "module.conv.weight")), first)
    assert not torch.equal(fill(torch.empty(6, 4), key=Key(4, "conv.weight")), first)
    assert not torch.equal(fill(torch.empty(6, 4), key=Key(3, "conv.bias")), first)
    with torch.inference_mode():
        assert torch.equal(fill(torch.empty(6, 4), key=KEY), first)
    assert torch.equal(torch.get_rng_state(), state), "no generator takes part"
    with torch.inference_mode():
        assert fill(torch.empty(6, 4)).is_inference()


@pytest.mark.parametrize("dtype", DTYPES)
def test_keyed_values_are_those_of_the_contract(dtype):
    """Small, large and strided tensors, which go different ways."""
    name = str(dtype).removeprefix("torch.")
    large = torch.empty(ops.SMALL_BYTES // dtype.itemsize + 1, dtype=dtype)
    for weight in (torch.empty(5, 3, dtype=dtype), torch.empty(3, 5, dtype=dtype).T, large):
        expected = reference(tuple(weight.shape), *KEY.words, ("uniform", -1.0, 2.0), name)
        assert_same_bits(init.uniform_(weight, -1, 2, key=KEY), expected)
    truncated = init.trunc_normal_(torch.empty(5, 3, dtype=dtype), 0.5, 2, -1, 3, key=KEY)
    assert torch.equal(truncated, filled_with(TruncatedNormal(0.5, 2, -1, 3), (5, 3), dtype=dtype))


ZEROS = {
    "uniform_": (lambda w, zero: init.uniform_(w, zero, zero, key=KEY), Uniform(-0.0, -0.0)),
    "normal_": (lambda w, zero: init.normal_(w, zero, 0.0, key=KEY), Normal(-0.0, 0.0)),
    "xavier_uniform_": (lambda w, zero: init.xavier_uniform_(w, zero, key=KEY), Uniform(0.0, -0.0)),
    "trunc_normal_": (
        lambda w, zero: init.trunc_normal_(w, zero, 0.0, key=KEY),
        TruncatedNormal(-0.0, 0.0, -2.0, 2.0),
    ),
}


@pytest.mark.parametrize(("fill", "negative"), ZEROS.values(), ids=ZEROS)
def test_the_sign_of_a_zero_does_not_depend_on_an_earlier_call(fill, negative):
    for _ in range(2):
        fill(torch.empty(6, 4), 0.0)
        after = fill(torch.empty(6, 4), -0.0)
        assert_same_bits(after, filled_with(negative, (6, 4)))


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_the_sign_of_a_zero_bound_is_that_of_this_call(zero):
    init.uniform_(torch.empty(4), -zero, 1e-46, key=Key(0, "weight"))
    filled = init.uniform_(torch.empty(4), zero, 1e-46, key=Key(0, "weight"))
    assert torch.signbit(filled).tolist() == [math.copysign(1.0, zero) < 0] * 4


def test_a_number_held_by_a_tensor_is_read_at_every_call() -> None:
    number, size = torch.tensor(1.0), (10, 10)
    first = init.normal_(torch.empty(size), 0.0, number, key=KEY)
    xavier = init.xavier_normal_(torch.empty(size), number, key=KEY)
    number.fill_(2.0)
    assert torch.equal(init.normal_(torch.empty(size), 0.0, number, key=KEY), 2 * first)
    assert torch.equal(init.xavier_normal_(torch.empty(size), number, key=KEY), 2 * xavier)


NUMPY = [np.float16, np.float32, np.float64, np.int8, np.int64, np.longdouble]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", NUMPY)
def test_numbers_of_numpy(number, dtype):
    def same(fill, *numbers):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            given = fill(torch.empty(6, 4, dtype=dtype), *map(number, numbers), key=KEY)
        assert_same_bits(given, fill(torch.empty(6, 4, dtype=dtype), *map(float, numbers), key=KEY))

    same(init.uniform_, -100, 100)
    same(init.normal_, 0, 1)
    same(init.trunc_normal_, 0, 100, -100, 100)


def test_bounds_near_the_end_of_numpy_s_own_type():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bounds = np.float32(-3e38), np.float32(3e38)
        assert init.uniform_(torch.empty(9, dtype=torch.float64), *bounds, key=KEY).abs().max() > 1e38
        assert Normal(np.float32(3e38)).params == (float(np.float32(3e38)), 1.0, 0.0, 0.0)


# Generators: the draws of the value contract


@random_function
def test_the_default_generator(fill):
    torch.manual_seed(5)
    first = fill(torch.empty(6, 4)).clone()
    second = fill(torch.empty(6, 4)).clone()
    torch.manual_seed(5)
    assert torch.equal(fill(torch.empty(6, 4)), first), "torch.manual_seed reproduces a run"
    assert not torch.equal(first, second), "successive calls differ"


@random_function
def test_a_generator_of_the_caller_s(fill):
    torch.manual_seed(5)
    expected = fill(torch.empty(6, 4)).clone()
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(fill(torch.empty(6, 4), generator=generator), expected)
    assert torch.equal(torch.get_rng_state(), state), "the default one is left alone"
    assert torch.equal(generator.get_state(), state), "both drew the same"


def test_one_fill_draws_one_key():
    words = draw(torch.Generator().manual_seed(5))
    torch.manual_seed(5)
    assert torch.equal(init.normal_(torch.empty(5, 3)), filled_with(Normal(), (5, 3), words))


@pytest.mark.parametrize(
    "weight", [torch.nn.Parameter(torch.empty(5, 3)), torch.empty(3, 5).T, torch.empty(10, 3)[::2]]
)
def test_every_kind_of_tensor_draws_the_same(weight):
    torch.manual_seed(5)
    expected = init.normal_(torch.empty(5, 3))
    torch.manual_seed(5)
    assert torch.equal(init.normal_(weight), expected)


@random_function
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_a_view_that_shows_its_memory_negated(fill, dtype):
    for source in ({"key": KEY}, {"generator": torch.Generator().manual_seed(5)}):
        plain = torch.ones(6, 4, dtype=dtype).imag
        expected = fill(plain, **source).clone()
        if "generator" in source:
            source["generator"].manual_seed(5)
        whole = torch.ones(6, 4, dtype=dtype)
        weight = whole.conj().imag
        assert weight.is_neg()
        fill(weight, **source)
        assert torch.equal(weight, expected)
        assert weight._version > 0
        assert whole.real.eq(1).all(), "what is not viewed stays"


def test_a_part_that_shows_its_memory_negated():
    whole = init.normal_(torch.empty(6, 4), key=KEY)
    part = torch.ones(2, 4, dtype=torch.complex64).conj().imag
    assert torch.equal(init.normal_(part, key=KEY, shard=Shard((6, 4), (3, 0))), whole[3:5])


def test_threads_draw_their_own_keys():
    def fill_many(weights):
        for weight in weights:
            init.normal_(weight)

    torch.manual_seed(5)
    one_after_the_other = {tuple(init.normal_(torch.empty(4)).tolist()) for _ in range(400)}
    torch.manual_seed(5)
    weights = [[torch.empty(4) for _ in range(100)] for _ in range(4)]
    threads = [threading.Thread(target=fill_many, args=(part,)) for part in weights]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {tuple(weight.tolist()) for part in weights for weight in part} == one_after_the_other


def test_a_key_drawn_in_inference_mode_first():
    def first_in_this_thread():
        with torch.inference_mode():
            init.normal_(torch.empty(3))
        done.append(init.normal_(torch.empty(3)))

    done = []
    thread = threading.Thread(target=first_in_this_thread)
    thread.start()
    thread.join()
    assert done


# Nothing to fill: nothing drawn


@random_function
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_nothing_to_fill_draws_nothing(fill, device):
    shape = (0, 4) if device == "cpu" else (6, 4)
    generator = torch.Generator().manual_seed(5)
    states = torch.get_rng_state(), generator.get_state()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        for source in ({}, {"generator": generator}, {"key": KEY}):
            if fill is RANDOM["delta_orthogonal_"] and device == "cpu":
                continue  # no outputs are fewer than four inputs
            assert fill(torch.empty(shape, device=device), **source).shape == shape
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(generator.get_state(), states[1])


# Groups


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_fan_out_of_a_grouped_convolution(groups):
    weight, size = torch.empty(8, 3, 5, 5), 25 * 8 // groups
    expected = filled_with(Normal(0.0, math.sqrt(2.0) / math.sqrt(size)), weight.shape)
    assert torch.equal(init.kaiming_normal_(weight, mode="fan_out", groups=groups, key=KEY), expected)
    bound = math.sqrt(3.0) * (1.0 * math.sqrt(2.0 / float(75 + size)))
    expected = filled_with(Uniform(-bound, bound), weight.shape)
    assert torch.equal(init.xavier_uniform_(weight, groups=groups, key=KEY), expected)
    grouped = init.kaiming_uniform_(weight, groups=groups, key=KEY).clone()
    assert torch.equal(init.kaiming_uniform_(weight, key=KEY), grouped), "fan_in is that of one group"


# What peers have and torch.nn.init lacks


@pytest.mark.parametrize(
    ("mode", "fan"), [("fan_in", 450), ("fan_out", 270), ("fan_avg", 360), ("fan_geo_avg", 348.569)]
)
@pytest.mark.parametrize("distribution", ["normal", "uniform", "truncated_normal"])
def test_variance_scaling(mode, fan, distribution):
    weight = init.variance_scaling_(torch.empty(30, 50, 3, 3), 2.0, mode, distribution)
    assert weight.var().item() == pytest.approx(2.0 / fan, rel=0.05)
    limit = {"normal": 6.0, "uniform": math.sqrt(3), "truncated_normal": 2 / 0.87962566103423978}[
        distribution
    ]
    assert weight.abs().max() <= limit * math.sqrt(2.0 / fan) * (1 + 1e-6)


def test_kaiming_xavier_and_lecun_are_variance_scaling():
    def scaled(*arguments):
        return init.variance_scaling_(torch.empty(30, 50, 3, 3), *arguments, key=KEY)

    weight = torch.empty(30, 50, 3, 3)
    torch.testing.assert_close(init.kaiming_normal_(weight, key=KEY), scaled(2.0, "fan_in", "normal"))
    torch.testing.assert_close(init.xavier_uniform_(weight, key=KEY), scaled(1.0, "fan_avg", "uniform"))
    assert torch.equal(init.lecun_normal_(weight, key=KEY), scaled(1.0, "fan_in", "truncated_normal"))
    assert torch.equal(init.lecun_uniform_(weight, key=KEY), scaled(1.0, "fan_in", "uniform"))
    for fill in (init.variance_scaling_, init.lecun_normal_, init.lecun_uniform_):
        with pytest.warns(UserWarning, match="zero-element"):
            fill(torch.empty(0, 3))


@pytest.mark.parametrize("kernel", [(3,), (3, 5), (3, 1, 5), (2, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_delta_orthogonal_is_orthogonal_at_the_centre(kernel, dtype):
    weight = init.delta_orthogonal_(torch.full((8, 6, *kernel), 7.0, dtype=dtype), 0.5, key=KEY)
    centre = weight[(..., *((size - 1) // 2 for size in kernel))]
    assert torch.equal(centre, init.orthogonal_(torch.empty(8, 6, dtype=dtype), 0.5, key=KEY))
    assert weight.count_nonzero() == centre.count_nonzero() == 48
    torch.testing.assert_close(centre.T @ centre, 0.25 * torch.eye(6, dtype=dtype))


def test_identity():
    assert torch.equal(init.identity_(torch.empty(3, 5), 2.0), 2 * torch.eye(3, 5))
    assert torch.equal(init.identity_(torch.empty(6, 2, 3), groups=3), init.dirac_(torch.empty(6, 2, 3), 3))
    image = torch.randn(2, 4, 5, 5)
    assert torch.equal(torch.conv2d(image, init.identity_(torch.empty(4, 4, 3, 3)), padding="same"), image)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sparse_is_a_normal_fill_without_the_lowest_scores(dtype):
    for sparsity in [0.0, 0.3, 1.0, 1.5, 1e300, -0.5, -0.1, -2.0]:
        weight = init.sparse_(torch.empty(7, 5, dtype=dtype), sparsity, 2.0, key=KEY)
        expected = filled_with(Normal(0.0, 2.0), (7, 5), dtype=dtype)
        scores = filled_with(Uniform(), (7, 5), Key(3, "conv.weight#zeros"), torch.float64)
        for column in range(5):
            rows = sorted(range(7), key=lambda row, column=column: scores[row, column].item())
            expected[rows[: math.ceil(sparsity * 7)], column] = 0
        assert torch.equal(weight, expected)
        theirs = torch.nn.init.sparse_(torch.empty(7, 5, dtype=dtype), sparsity, 2.0)
        assert torch.equal((weight == 0).sum(dim=0), (theirs == 0).sum(dim=0))


def test_sparse_without_a_key_draws_two():
    generator = torch.Generator().manual_seed(5)
    init.sparse_(torch.empty(7, 5), 0.3, generator=generator)
    twice = torch.Generator().manual_seed(5)
    draw(twice), draw(twice)
    assert torch.equal(generator.get_state(), twice.get_state())
