"""Orthogonal initialisers against the value contract's section 8, and against what they are for."""

import functools
import math
import random
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import reference_orthogonal as ref
import torch
from filling import DTYPES, assert_same_bits
from init_functions import untouched
from torch import nn

from convinit_ext import Key, init
from convinit_ext._engine import make_orthogonal_

KEY = Key(3, "lstm.weight_hh_l0")
ONE_STRIP = [(1, 1), (1, 5), (5, 1), (2, 2), (3, 7), (23, 23), (24, 24), (30, 24), (24, 31), (200, 3)]
SEVERAL = [(25, 25), (26, 48), (48, 48), (49, 49), (65, 50), (47, 90), (73, 72)]
OTHER_DTYPES = [dtype for dtype in DTYPES.values() if dtype not in (torch.float32, torch.float64)]


@functools.cache
def expected(shape, dtype=torch.float32, gain=1.0, blocks=1):
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    rows, columns = shape[0], math.prod(shape[1:])
    normals = init.normal_(torch.empty(rows, columns, dtype=exact), key=KEY)
    made = torch.from_numpy(np.ascontiguousarray(ref.orthogonal(normals.numpy(), gain, blocks)))
    return made.to(exact).to(dtype).view(shape)


def error(matrix):
    """The largest element of Q' Q - I."""
    matrix = matrix.double() if len(matrix) >= matrix.shape[1] else matrix.double().T
    return (matrix.T @ matrix - torch.eye(matrix.shape[1])).abs().max().item()


def test_the_reference_s_fma_rounds_once():
    numbers = random.Random(0)

    def draw():
        return numbers.choice((-1, 1)) * math.ldexp(numbers.getrandbits(53), numbers.randint(-80, -20))

    for _ in range(3000):
        x, y = draw(), draw()
        product = Fraction(x) * Fraction(y)
        # near, and where one ends just between two doubles
        z = numbers.choice((draw(), -float(product) * numbers.choice((1, 1 + 2.0**-52, 0.5, 2.0**30))))
        assert ref.fma(x, y, z) == float(product + Fraction(z)), (x, y, z)
    assert ref.fma(1 + 2.0**-30, 1 - 2.0**-30, -1.0) == -(2.0**-60)


# Bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_the_contract_s(dtype, isa):
    for shape in ONE_STRIP + SEVERAL:
        assert_same_bits(init.orthogonal_(torch.empty(shape, dtype=dtype), key=KEY), expected(shape, dtype))


@pytest.mark.parametrize("dtype", OTHER_DTYPES)
@pytest.mark.parametrize("fill", [init.orthogonal_, init.delta_orthogonal_])
def test_narrow_types_hold_the_rounding_of_float32(fill, dtype):
    made = fill(torch.empty(9, 7, 2, dtype=dtype), 1.7, key=KEY)
    assert_same_bits(made, fill(torch.empty(9, 7, 2), 1.7, key=KEY).to(dtype))


def test_true_is_one_block():
    assert_same_bits(init.orthogonal_(torch.empty(4, 3), key=KEY, blocks=True), expected((4, 3)))


@pytest.mark.parametrize("gain", [0.3, -2, 0, torch.tensor(0.7, dtype=torch.float64), np.float64(1.1)])
def test_the_gain_is_multiplied_before_rounding(gain):
    made = init.orthogonal_(torch.empty(8, 5, 3), gain, key=KEY)
    assert_same_bits(made, expected((8, 5, 3), gain=float(gain)))


def test_values_do_not_depend_on_threads(num_threads, isa):
    """Several strips, and several matrices beside each other, on more threads or fewer."""
    for shape, blocks in [((180, 97), 1), ((100, 170), 1), ((3 * 130, 130), 3), ((12 * 2, 9), 12)]:
        made = init.orthogonal_(torch.empty(shape), key=KEY, blocks=blocks)
        assert torch.get_num_threads() == num_threads
        torch.set_num_threads(1)
        assert_same_bits(made, init.orthogonal_(torch.empty(shape), key=KEY, blocks=blocks))
        torch.set_num_threads(num_threads)


def test_values_do_not_depend_on_the_float_environment():
    tiny = torch.randn(1, 60, 30) * 1e-41
    expected, made = tiny.clone(), tiny.clone()
    make_orthogonal_(expected, 1e-39)
    assert expected.count_nonzero() > 1000
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot flush denormals")
    try:
        make_orthogonal_(made, 1e-39)
    finally:
        torch.set_flush_denormal(False)
    assert_same_bits(made, expected)


@pytest.mark.parametrize("blocks", [1, 2, 3, 6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_blocks_are_rows_of_one_draw(blocks, dtype):
    made = init.orthogonal_(torch.empty(12, 2, 3, dtype=dtype), 0.5, key=KEY, blocks=blocks)
    assert_same_bits(made, expected((12, 2, 3), dtype, 0.5, blocks))


AXES = {  # and the matrices that a weight [4, 6, 5] has
    "none said": ({}, lambda w: w.reshape(1, 4, 30)),
    "experts, outputs first": ({"batch_axis": 0}, lambda w: w),
    "experts, inputs first": ({"batch_axis": 0, "in_axis": 1}, lambda w: w.transpose(0, 2, 1)),
    "x @ w": ({"in_axis": (0, 1), "out_axis": -1}, lambda w: w.transpose(2, 0, 1).reshape(1, 5, 24)),
    "heads": ({"in_axis": 1, "out_axis": (0, 2)}, lambda w: w.transpose(0, 2, 1).reshape(1, 20, 6)),
    "a kernel": ({"in_axis": 2, "out_axis": 1}, lambda w: w.transpose(1, 0, 2).reshape(1, 6, 20)),
    "columns": ({"in_axis": (), "out_axis": 1, "batch_axis": (0, 2)},
                lambda w: w.transpose(0, 2, 1)[..., None]),
    "blocks": ({"out_axis": [0], "batch_axis": [1], "blocks": 2},
               lambda w: w.reshape(2, 2, 6, 5).transpose(0, 2, 1, 3)),
}  # fmt: skip


@pytest.mark.parametrize(("axes", "matrices"), AXES.values(), ids=AXES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_axes_say_which_matrices_are_orthogonal(axes, matrices, dtype):
    """The draw is that without axes; each matrix of it becomes orthogonal by itself, where it lies."""
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    drawn = init.normal_(torch.empty(4, 6, 5, dtype=exact), key=KEY).double().numpy()
    place = matrices(np.arange(4 * 6 * 5).reshape(4, 6, 5))
    expected = np.empty(4 * 6 * 5)
    for each in place.reshape(-1, *place.shape[-2:]):
        expected[each] = ref.orthogonal(drawn.ravel()[each], 1.5)
    for weight in (torch.empty(4, 6, 5, dtype=dtype), torch.empty(5, 6, 4, dtype=dtype).permute(2, 1, 0)):
        made = init.orthogonal_(weight, 1.5, key=KEY, **axes)
        assert_same_bits(made, torch.from_numpy(expected).view(4, 6, 5).to(exact).to(dtype))


def test_pytorch_s_axes_said_aloud_change_no_bit():
    plain = init.orthogonal_(torch.empty(6, 4, 3), key=KEY)
    for axes in ({"in_axis": 1, "out_axis": 0}, {"out_axis": (-3,)}, {"batch_axis": []}):
        assert_same_bits(init.orthogonal_(torch.empty(6, 4, 3), key=KEY, **axes), plain, axes)


@pytest.mark.parametrize("columns", [[], [0], [2, 3], [29], list(range(30))], ids=str)
def test_columns_of_zeros_leave_it_orthonormal(columns, isa):
    matrix = torch.randn(33, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix[:, columns] = 0
    made = matrix.clone().unsqueeze(0)
    make_orthogonal_(made, 1.0)
    assert_same_bits(made[0], torch.from_numpy(ref.orthogonal(matrix.numpy())))
    assert error(made[0]) < 1e-14


# What it is for


@pytest.mark.parametrize("shape", [(512, 512), (300, 700), (700, 300), (4, 1000), (257, 255)], ids=str)
def test_it_is_orthogonal(shape):
    assert error(init.orthogonal_(torch.empty(shape), key=KEY)) < 1e-6
    assert error(init.orthogonal_(torch.empty(shape, dtype=torch.float64), key=KEY)) < 1e-13


@pytest.mark.parametrize("shape", [(90, 60), (60, 90), (1, 1)], ids=str)
def test_it_is_the_factor_whose_triangle_has_a_positive_diagonal(shape):
    normals = init.normal_(torch.empty(shape, dtype=torch.float64), key=KEY)
    q = init.orthogonal_(torch.empty(shape, dtype=torch.float64), key=KEY)
    r = q.T @ normals if shape[0] >= shape[1] else q @ normals.T
    assert r.tril(-1).abs().max() < 1e-12
    assert (r.diagonal() > 0).all()


def test_gates_are_orthogonal_each_by_itself():
    weight = init.orthogonal_(nn.LSTM(8, 40).weight_hh_l0, key=KEY, blocks=4)
    assert max(error(gate.detach()) for gate in weight.chunk(4)) < 1e-6
    assert not torch.equal(*weight.chunk(4)[:2])


def test_the_distribution_is_uniform():
    """Haar's: the trace of power k has mean 0 or 1, and variance k (Diaconis & Shahshahani 1994)."""
    made = init.orthogonal_(torch.empty(1500 * 20, 20), key=KEY, blocks=1500).view(1500, 20, 20)
    for power in (1, 2, 3):
        traces = torch.linalg.matrix_power(made, power).diagonal(dim1=1, dim2=2).sum(1)
        assert traces.mean().item() == pytest.approx(1 - power % 2, abs=0.15)
        assert traces.var().item() == pytest.approx(power, rel=0.15)


# Refusals


@pytest.mark.skipif(sys.platform != "linux", reason="only there a process can limit its memory")
def test_too_little_memory_is_an_error_that_leaves_the_tensor():
    script = """
import resource, torch
from convinit_ext import init
tensor = torch.zeros(5000, 4000)
init.orthogonal_(torch.empty(300, 300))
with open("/proc/self/statm") as pages:
    used = int(pages.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 120_000_000,) * 2)
try:
    init.orthogonal_(tensor)
except RuntimeError as error:
    print(error, tensor.any().item())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "out of memory: a matrix is made orthogonal in a float64 copy of it False" in done.stdout, done


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"blocks": 0}, ValueError, "blocks must be 1 or more, but found 0"),
        ({"blocks": 5}, ValueError, "blocks must divide dim 0, but found 12 and blocks=5"),
        ({"blocks": 2.0}, TypeError, "blocks must be an int, not 2.0"),
        ({"blocks": None}, TypeError, "blocks must be an int, not None"),
        ({"batch_axis": 3}, ValueError, r"batch_axis has 3, and shape \[12, 4, 2\] only axes -3 to 2"),
        ({"batch_axis": 0, "out_axis": -3}, ValueError, "axis 0 is in both batch_axis and out_axis"),
        ({"batch_axis": (0, 1)}, ValueError, "no axis .* is left for in_axis"),
        ({"batch_axis": 0, "blocks": 2}, ValueError, "blocks=2 .* it is in batch_axis"),
        ({"in_axis": 0.0}, TypeError, "in_axis must be an int or a tuple of ints, not 0.0"),
    ],
    ids=str,
)
def test_axes_and_blocks_that_are_none(given, error, said):
    untouched(lambda: torch.ones(12, 4, 2), lambda w, _: init.orthogonal_(w, **given), error, said)
