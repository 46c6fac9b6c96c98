"""Properties for any shape, memory order, part, seed and name: hypothesis looks for a counterexample.

How many examples it tries is the profile's, in conftest.py.
"""

import itertools
import math

import numpy as np
import pytest
import reference as ref
import torch
from filling import DTYPES, Backend, assert_same_bits, available_backends, values

hypothesis = pytest.importorskip("hypothesis")
given = hypothesis.given
st = pytest.importorskip("hypothesis.strategies")

BACKENDS = available_backends()

shapes = st.lists(st.integers(0, 9), min_size=0, max_size=5).map(tuple)
seeds = st.integers(-(2**63), 2**64 - 1)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
keys = st.builds(ref.layer_key, seeds, names)
dtypes = st.sampled_from(list(DTYPES))
# Uniform bounds, and their difference, are numbers of the tensor's type: at most 448 for float8_e4m3fn.
bounded = st.floats(-224.0, 224.0, width=32)
spreads = st.floats(2.0**-20, 1e6, width=32)
constants = st.tuples(st.just("constant"), bounded)
uniforms = st.tuples(st.just("uniform"), bounded, bounded).map(lambda d: (d[0], min(d[1:]), max(d[1:])))
normals = st.tuples(st.just("normal"), bounded, spreads)
truncations = st.tuples(st.just("truncated_normal"), bounded, spreads, bounded, bounded).map(
    lambda d: (*d[:3], min(d[3:]), max(d[3:]))
)
any_distribution = st.one_of(constants, uniforms, normals, truncations)
starts = st.one_of(
    st.integers(0, 100), st.integers(2**32 - 50, 2**32), st.integers(2**33 - 50, 2**34), st.integers(0, 2**62)
)


def run(backend: Backend, *arguments, **options) -> torch.Tensor:
    with backend.forced():
        return backend.fill(*arguments, **options)


@given(shapes, uniforms, dtypes, keys, starts)
def test_uniform_is_the_contract(shape, distribution, dtype, key, start):
    expected = ref.reference(shape, *key, distribution, dtype, start=start)
    for backend in BACKENDS:
        strides = torch.empty(shape, device="meta").stride()
        assert_same_bits(run(backend, shape, distribution, dtype, key, start, strides), expected, backend)


@given(st.data(), shapes, any_distribution, dtypes, keys)
def test_order_of_memory_does_not_matter(data, shape, distribution, dtype, key):
    order = data.draw(st.permutations(range(len(shape))))
    inverse = [order.index(dim) for dim in range(len(shape))]
    expected = run(BACKENDS[0], shape, distribution, dtype, key)
    for backend in BACKENDS:
        permuted = backend.empty([shape[dim] for dim in order], dtype).permute(inverse)
        with backend.forced():
            backend.fill_(permuted, distribution, key)
            assert_same_bits(permuted, expected, backend)
            backend.fill_(permuted, distribution, key)  # once more
        assert_same_bits(permuted, expected, backend)


@given(st.data(), shapes, any_distribution, dtypes, keys)
def test_a_slice_changes_alone(data, shape, distribution, dtype, key):
    cut = tuple(data.draw(step_slices(size)) for size in shape)
    for backend in BACKENDS:
        memory = backend.empty(shape, dtype).fill_(-3.5)
        viewed = torch.zeros(shape, dtype=torch.bool, device=backend.device)
        viewed[cut] = True
        with backend.forced():
            backend.fill_(memory[cut], distribution, key)
        assert_same_bits(memory[cut], run(backend, memory[cut].shape, distribution, dtype, key))
        assert bool(torch.all(memory[~viewed] == -3.5))


@st.composite
def step_slices(draw, size: int) -> slice:
    first = draw(st.integers(0, size))
    return slice(first, draw(st.integers(first, size)), draw(st.integers(1, 3)))


@given(st.data(), shapes, any_distribution, dtypes, keys)
def test_any_part_is_a_part_of_the_whole(data, shape, distribution, dtype, key):
    """Start and strides of a slice of the logical tensor give that slice, in memory of its own."""
    cut = tuple(data.draw(step_slices(size)) for size in shape)
    whole = run(BACKENDS[0], shape, distribution, dtype, key)
    part = values(whole)[cut]
    row_major = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
    start = sum(each.start * stride for each, stride in zip(cut, row_major, strict=True))
    strides = tuple(each.step * stride for each, stride in zip(cut, row_major, strict=True))
    for backend in BACKENDS:
        assert_same_bits(run(backend, part.shape, distribution, dtype, key, start, strides), part, backend)


@given(
    st.integers(0, 3000), st.lists(st.integers(0, 3000), max_size=6), any_distribution, dtypes, keys, starts
)
def test_any_cut_gives_the_same_whole(length, cuts, distribution, dtype, key, start):
    edges = sorted({0, length, *(cut for cut in cuts if cut < length)})
    for backend in BACKENDS:
        whole = run(backend, (length,), distribution, dtype, key, start)
        pieces = [
            values(run(backend, (after - before,), distribution, dtype, key, start + before))
            for before, after in itertools.pairwise(edges)
        ]
        assert_same_bits(np.concatenate([values(whole)[:0], *pieces]), whole, (backend, edges))


@given(any_distribution, st.sampled_from(["float32", "float64"]), keys)
def test_values_stay_in_bounds(distribution, dtype, key):
    name, *params = distribution
    real = np.float32 if dtype == "float32" else np.float64
    for backend in BACKENDS:
        filled = values(run(backend, (257,), distribution, dtype, key))
        assert np.isfinite(filled).all()
        if name == "uniform":
            low, high = (real(bound) for bound in params)
            assert np.all(filled >= low)
            assert np.all(filled < high) or low == high
        if name == "truncated_normal":
            assert np.all(filled >= real(params[2]))
            assert np.all(filled <= real(params[3]))
