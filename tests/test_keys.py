"""keys.py: a seed and a name become words; a generator becomes words; names lose their wrappers."""

import dataclasses
import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch

from convinit_ext import CONTRACT_VERSION, Key, canonical_name, init, keys
from convinit_ext.keys import KeyRow, draw

given = pytest.importorskip("hypothesis").given
settings = pytest.importorskip("hypothesis").settings
st = pytest.importorskip("hypothesis.strategies")

SEEDS = st.integers(-(2**63), 2**64 - 1)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}(\.[a-z0-9_]{1,8}){0,3}", fullmatch=True).filter(
    lambda name: not any(wrapper in name for wrapper in ("module", "_orig_mod"))
)


@settings(deadline=None)
@given(SEEDS, NAMES)
def test_words_are_those_of_the_contract(seed, name):
    message = struct.pack("<Q", seed % 2**64) + name.encode("utf-8")
    digest = hashlib.blake2b(message, digest_size=16, person=b"convinit-v1").digest()
    assert Key(seed, name).words == struct.unpack("<QQ", digest)


def test_frozen_words():
    assert CONTRACT_VERSION == 1
    assert Key(0, "layer1.0.conv1.weight").words == (0x609E8C6FA241FF69, 0xF2B4242ED734D203)
    assert Key(-1, "gewicht.µ").words == (0x8FC49CE2E2DD0E34, 0x02770385FA0AD120)


REFUSED = [
    ((2**64, "a"), ValueError, rf"seed must be in \[-2\*\*63, 2\*\*64\), but found {2**64}"),
    ((-(2**63) - 1, "a"), ValueError, r"seed must be in \[-2\*\*63, 2\*\*64\)"),
    *(
        ((seed, "a"), TypeError, f"seed must be an int, not {type(seed).__name__}")
        for seed in (True, 1.0, "conv.weight", None, np.float32(1))
    ),
    ((0,), ValueError, "needs a parameter's name"),
    *(
        ((0, name), ValueError, "needs a parameter's name")
        for name in ("", "module", "module._orig_mod", "_fsdp_wrapped_module")
    ),
    *(
        ((0, name), TypeError, f"name must be a str, not {type(name).__name__}")
        for name in (None, 3, b"conv.weight")
    ),
    ((0, "conv.\ud800"), ValueError, r"name must be text that UTF-8 can hold, not 'conv\.\\ud800'"),
]


@pytest.mark.parametrize(("arguments", "error", "said"), REFUSED)
def test_what_makes_no_key(arguments, error, said):
    with pytest.raises(error, match=said):
        Key(*arguments)


def test_integers_of_any_kind_are_seeds():
    assert Key(np.int64(7), "a") == Key(torch.tensor(7), "a") == Key(7, "a")
    assert Key(-1, "a").words == Key(2**64 - 1, "a").words, "as torch.manual_seed counts"


def test_a_key_is_a_value():
    key = Key(seed=3, name="fc.weight")
    assert key == Key(3, "fc.weight")
    assert hash(key) == hash(Key(3, "fc.weight"))
    assert key not in (Key(4, "fc.weight"), Key(3, "fc.bias"))
    assert Key(name="fc.weight") == Key(0, "fc.weight")
    assert repr(key) == "Key(seed=3, name='fc.weight')"
    assert pickle.loads(pickle.dumps(key)).words == key.words
    with pytest.raises(dataclasses.FrozenInstanceError):
        key.seed = 4


def test_a_key_in_a_symbolic_trace():
    class Noise(torch.nn.Module):
        def forward(self, x):
            return init.normal_(x, key=Key(7, "w"))

    traced = torch.fx.symbolic_trace(Noise())
    assert torch.equal(traced(torch.empty(5)), init.normal_(torch.empty(5), key=Key(7, "w")))


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("conv.weight", "conv.weight"),
        ("_orig_mod.conv.weight", "conv.weight"),
        ("module.conv.weight", "conv.weight"),
        ("module.module.conv.weight", "conv.weight"),
        ("module._orig_mod.conv.weight", "conv.weight"),
        ("_orig_mod.module.conv.weight", "conv.weight"),
        ("_fsdp_wrapped_module.layers.0._fsdp_wrapped_module.weight", "layers.0.weight"),
        ("layers.0._checkpoint_wrapped_module.weight", "layers.0.weight"),
        ("layers.0._orig_mod._checkpoint_wrapped_module.weight", "layers.0.weight"),
        ("backbone.module.weight", "backbone.module.weight"),
        ("modules.weight", "modules.weight"),
        ("my_orig_mod.weight", "my_orig_mod.weight"),
    ],
)
def test_canonical_names(name, canonical):
    assert canonical_name(name) == canonical
    assert Key(0, name) == Key(0, canonical)
    assert canonical_name(canonical) == canonical


# As tensors


@settings(deadline=None)
@given(SEEDS, st.lists(NAMES, max_size=4))
def test_words_as_tensors_are_in_two_s_complement(seed, names):
    row, rows = KeyRow(seed), keys.of_names(seed, names)
    assert rows.shape == (len(names), 2)
    for name, words in zip(names, rows, strict=True):
        key = Key(seed, name)
        assert torch.equal(key.tensor(), words.view(1, 2))
        assert torch.equal(row.of(name), words.view(1, 2))
        assert tuple(words.numpy().view(np.uint64).tolist()) == key.words
    with torch.device("meta"):
        assert row.of("a").device.type == Key(seed, "a").tensor().device.type == "cpu"


# Drawn from a generator


def contract_draw(generator):
    return torch.empty(2, dtype=torch.int64).random_(-(2**63), None, generator=generator).view(1, 2)


def test_a_drawn_key_is_that_of_the_contract():
    for seed in range(5):
        ours, theirs = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
        for _ in range(3):
            assert torch.equal(draw(ours), contract_draw(theirs))
        assert torch.equal(ours.get_state(), theirs.get_state())


def test_the_default_generator_is_that_of_torch_manual_seed():
    torch.manual_seed(11)
    first, second = draw(), draw(None)
    assert torch.equal(first, contract_draw(torch.Generator().manual_seed(11)))
    assert not torch.equal(first, second)
    assert first.shape == (1, 2)
    assert first.dtype == torch.int64
    with torch.device("meta"):
        assert draw().device.type == "cpu"
    for generator in (0, "cpu", torch.random):
        with pytest.raises(TypeError, match=r"generator must be a torch\.Generator, not"):
            draw(generator)


def test_a_fake_tensor_has_a_fake_key():
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    with FakeTensorMode():
        weight = torch.empty(3, 3)
        assert isinstance(draw(), FakeTensor)
    state = torch.get_rng_state()
    assert isinstance(draw(None, weight), FakeTensor)
    assert torch.equal(torch.get_rng_state(), state)


class CudaGenerator:
    """What keys.py asks of a CUDA generator, without a GPU."""

    device = torch.device("cuda")

    def __init__(self, seed, offset):
        self.seed, self.offset = seed, offset

    def initial_seed(self):
        return self.seed

    def get_offset(self):
        return self.offset

    def set_offset(self, offset):
        self.offset = offset


def test_a_key_from_a_cuda_generator_is_a_hash_of_seed_and_offset():
    generator = CudaGenerator(seed=2**63 + 5, offset=8)
    drawn = keys._draw_from_cuda(generator)
    digest = hashlib.blake2b(
        struct.pack("<QQ", 2**63 + 5, 8), digest_size=16, person=b"convinit-v1-gen"
    ).digest()
    assert drawn.shape == (1, 2)
    assert tuple(drawn[0].tolist()) == struct.unpack("<qq", digest)
    assert generator.offset == 12
    assert not torch.equal(keys._draw_from_cuda(generator), drawn)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_cuda_generator():
    generator = torch.Generator("cuda").manual_seed(3)
    assert torch.equal(draw(generator), keys._draw_from_cuda(CudaGenerator(3, 0)))
    assert generator.get_offset() == 4
