"""Philox words: published known answers, and those of randomgen, an implementation that nobody here wrote."""

import numpy as np
import pytest
import reference as ref
from filling import Backend, assert_same_bits
from solved_words import PHILOX_KNOWN_ANSWERS

from convinit_ext import _C


def randomgen_words(block: int, key: int, stream: int, num_blocks: int) -> np.ndarray:
    """randomgen steps its 128-bit counter before each block, so it starts one before ours."""
    before = ((stream << 64) + block - 1) % 2**128
    generator = pytest.importorskip("randomgen").Philox(key=key, counter=before, number=4, width=32)
    return np.asarray(generator.random_raw(4 * num_blocks), dtype=np.uint64).reshape(num_blocks, 4)


@pytest.mark.parametrize(("counter", "key", "expected"), PHILOX_KNOWN_ANSWERS)
def test_known_answers(counter, key, expected):
    assert tuple(_C.philox(counter, key)) == expected


def test_words_equal_randomgen():
    for numbers in np.random.default_rng(1).integers(0, 2**64, (300, 3), dtype=np.uint64).tolist():
        block, key, stream = numbers
        counter = block % 2**32, block >> 32, stream % 2**32, stream >> 32
        ours = _C.philox(counter, (key % 2**32, key >> 32))
        assert list(ours) == randomgen_words(block, key, stream, 1)[0].tolist()
    for block in (0, 1, 2**32 - 3, 2**61):  # the reference's too
        blocks = np.arange(block, block + 8, dtype=np.uint64)
        assert np.array_equal(
            ref.words(blocks, 2**63 + 5, 2**64 - 7), randomgen_words(block, 2**63 + 5, 2**64 - 7, 8)
        )


@pytest.mark.parametrize("block", [0, 5, 2**32 - 300, 2**32 + 1, 2**60])
def test_uniform_elements_are_randomgen_words_in_order(backend: Backend, block):
    """Straight from another generator's words to our values: no reference in between."""
    key, stream = ref.layer_key(7, "features.0.weight")
    words = randomgen_words(block, key, stream, 600)
    single = backend.fill((2400,), ("uniform", 0.0, 1.0), "float32", (key, stream), start=4 * block)
    assert_same_bits(single, ((words.ravel() >> 8) * 2.0**-24).astype(np.float32))
    double = backend.fill((1200,), ("uniform", 0.0, 1.0), "float64", (key, stream), start=2 * block)
    joined = words[:, ::2] | words[:, 1::2] << np.uint64(32)
    assert_same_bits(double, (joined.ravel() >> 11) * 2.0**-53)


@pytest.mark.parametrize(
    ("counter", "key"),
    [((0, 0, 0), (0, 0)), ((0,) * 5, (0, 0)), ((0,) * 4, (0,)), ((2**32, 0, 0, 0), (0, 0))],
)
def test_malformed_counters_are_refused(counter, key):
    with pytest.raises((TypeError, ValueError)):
        _C.philox(counter, key)
