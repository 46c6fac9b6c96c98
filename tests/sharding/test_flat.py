"""Ranges of a tensor's row-major index, cut by hand: everywhere the values of the whole."""

import itertools

import pytest
import torch
from filling import assert_same_bits
from initialisers import ALL, FIXED, RANDOM, key_of, unset

from convinit_ext import Normal, Shard, init
from convinit_ext.model._values import Computed, Drawn, Given, Norm, Rounded, Same, whole
from convinit_ext.sharding import copy_whole_, parts

SHAPES = ((), (5,), (1,), (3, 4), (4, 1), (1, 3), (2, 3, 2), (3, 1, 2), (2, 2, 1, 3), (0, 4), (3, 0))


def ranges(shape):
    num_elements = torch.Size(shape).numel()
    for start, stop in itertools.combinations_with_replacement(range(num_elements + 1), 2):
        yield start, stop - start


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_range_is_a_few_boxes_of_the_whole(shape):
    numbers = torch.arange(torch.Size(shape).numel())
    for start, length in ranges(shape):
        for local in (numbers[start : start + length], numbers.repeat_interleave(2)[::2][start:][:length]):
            found = parts(local, Shard.flat(shape, start, length))
            assert len(found) <= max(1, 2 * len(shape) - 1)
            held = [element for part in found for element in part.tensor.flatten().tolist()]
            assert held == list(range(start, start + length))
            for part in found:
                begin, strides = part.box(shape)
                assert torch.equal(numbers.as_strided(part.tensor.shape, strides, begin), part.tensor)


@pytest.mark.parametrize("name", [*RANDOM, *FIXED])
def test_every_initialiser(name):
    function, shapes = ALL[name]
    shape = min(shapes, key=lambda shape: torch.Size(shape).numel())
    full = function(unset(shape), **key_of(name))
    some = list(ranges(shape))
    for start, length in some[:: max(1, len(some) // 60)]:
        shard = Shard.flat(shape, start, length)
        local = function(unset((length,)), shard=shard, **key_of(name))
        assert_same_bits(local, full.flatten()[start : start + length], (shape, start, length))


def kinds(shape, dtype):
    drawn = Drawn("a", shape, Normal())
    yield "drawn", drawn
    yield "a zero row", Drawn("a", shape, Normal(), shape[0] // 2)
    yield "rounded", Rounded(Drawn("a", shape, Normal()), torch.float64)
    yield "same", Same(3.0)
    yield "given", Given(torch.arange(torch.Size(shape).numel()).view(shape).to(dtype))
    yield "computed", Computed(str, lambda seed, dtype: whole(drawn, seed, shape, dtype))
    if len(shape) > 1:
        for dim in {0, len(shape) - 1}:
            source = (shape[0], *shape[1:])
            alike = tuple(size if at == dim else 1 for at, size in enumerate(shape))
            yield f"norm {dim}", (Norm(Drawn("b", source, Normal()), source, dtype, dim, dtype), alike)


@pytest.mark.parametrize("shape", [(7,), (3, 4), (4, 4), (2, 3, 2)], ids=str)
def test_every_kind_of_values(shape):
    for dtype in (torch.float32, torch.bfloat16):
        for name, values in kinds(shape, dtype):
            values, own = values if isinstance(values, tuple) else (values, shape)
            full = whole(values, 5, own, dtype).flatten()
            for start, length in ranges(own):
                local = torch.full((length,), torch.nan, dtype=dtype)
                for part in parts(local, Shard.flat(own, start, length)):
                    values.write_(5, part)
                assert_same_bits(local, full[start : start + length], (name, own, start, length))


def test_copies_of_the_whole():
    full = torch.arange(12.0).view(3, 4)
    local = torch.zeros(7)
    copy_whole_(local, full, Shard.flat((3, 4), 3, 7))
    assert torch.equal(local, torch.arange(3.0, 10.0))


def test_wrong_ranges():
    for start, length in ((0, 13), (12, 1), (13, 0)):
        with pytest.raises(ValueError, match=r"leave the full tensor of shape \[3, 4\], which has 12"):
            Shard.flat((3, 4), start, length)
    for start, length in ((-1, 3), (0, -3)):
        with pytest.raises(ValueError, match="must not be negative"):
            Shard.flat((3, 4), start, length)
    with pytest.raises(TypeError, match=r"length must be an int, not 1\.5"):
        Shard.flat((3, 4), 0, 1.5)
    shard = Shard.flat((3, 4), 2, 6)
    for local in (unset((2, 3)), unset((5,)), unset((6, 1))):
        with pytest.raises(
            ValueError, match=r"is a range of 6 elements, .* accepted is a tensor of shape \[6\]"
        ):
            init.normal_(local, shard=shard)
        assert local.isnan().all()
    with pytest.raises(TypeError, match="indices must be a range with step 1"):
        Shard((3, 4), (), indices=range(0, 6, 2))


def test_a_range_of_more_elements_than_memory_has():
    local = init.normal_(
        torch.empty(3), key=key_of("normal")["key"], shard=Shard.flat((1 << 30, 1 << 30), 5, 3)
    )
    full = init.normal_(torch.empty(1, 8), key=key_of("normal")["key"])
    assert torch.equal(local, full[0, 5:])
