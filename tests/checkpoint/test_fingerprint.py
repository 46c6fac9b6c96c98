"""fingerprint against docs/fingerprint.md in numpy, and what it must not depend on, or must."""

import functools
import itertools
import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import reference_fingerprint as reference
import torch
from meshes import MESHES, every_rank, placements
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import convinit_ext
from convinit_ext import fingerprint, fingerprints, init_model_
from convinit_ext._engine import UnsupportedTensorError
from convinit_ext._engine import _digest as digests
from convinit_ext.sharding import _ranks as ranks

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
]
# Around the ends of words, chunks and units, and more than one piece of work.
SHAPES = [(), (1,), (3,), (0, 4), (5, 7), (2, 3, 3, 3), (1023,), (1024,), (1025,), (70, 1100), (300_001,)]


def tensor_of(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Random bits, so that every bit of the words is used."""
    if not math.prod(shape):
        return torch.empty(shape, dtype=dtype)
    numbers = np.random.default_rng(seed).integers(0, 256, math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    if dtype == torch.bool:
        numbers &= 1
    return torch.from_numpy(numbers).view(dtype).reshape(shape)


@functools.cache
def expected(shape: tuple[int, ...], dtype: torch.dtype, name: str = "") -> str:
    """What the contract says of tensor_of, which no instruction set has a part in."""
    return reference.of_tensor(tensor_of(shape, dtype), name)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.embed = nn.Embedding(11, 16)
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scratch", torch.randn(4), persistent=False)


@pytest.fixture
def model() -> Model:
    model = Model()
    init_model_(model, seed=5)
    return model


def contents(model: nn.Module) -> dict[str, Tensor]:
    """What counts of Model."""
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    del tensors["head.weight"]
    return tensors


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_tensor(isa: str, dtype: torch.dtype):
    for shape in SHAPES:
        tensor = tensor_of(shape, dtype)
        assert fingerprint(tensor) == expected(shape, dtype), shape
        assert fingerprint(tensor, "a.b") == expected(shape, dtype, "a.b"), shape


def test_the_tables_first_words():
    """Golden: the contract's numbers themselves."""
    assert [int(word) for word in reference.table()[:4]] == [0xF01E0264, 0xCFF15816, 0xD95899A5, 0xE39F03A6]
    assert 0 not in reference.table()


def test_golden():
    tensors = {"a": torch.arange(5000.0), "b": torch.ones(3, 2, dtype=torch.bfloat16)}
    assert fingerprint(tensors) == "6e831d8edd1fc55e87579790affa953d"


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda tensor: tensor.to(memory_format=torch.channels_last),
    "transposed": lambda tensor: tensor.transpose(0, 3).contiguous().transpose(0, 3),
    "every second": lambda tensor: tensor.repeat_interleave(2, dim=3)[..., ::2],
    "off the alignment": lambda tensor: torch.cat([tensor.flatten()[:1], tensor.flatten()])[1:].view(
        tensor.shape
    ),
    "columns": lambda tensor: torch.cat([tensor, tensor], dim=3)[..., : tensor.shape[3]],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.complex128], ids=str)
def test_memory_layouts(isa: str, dtype: torch.dtype):
    for shape in ((2, 3, 3, 3), (70, 9, 5, 130), (1, 33, 1, 7)):
        tensor = tensor_of(shape, dtype)
        for name, layout in LAYOUTS.items():
            assert fingerprint(layout(tensor)) == expected(shape, dtype), (name, shape)


def test_expanded_and_conjugated_views():
    row = tensor_of((1, 9))
    assert fingerprint(row.expand(5, 9)) == reference.of_tensor(row.expand(5, 9).contiguous())
    numbers = torch.randn(6, 3, dtype=torch.complex64)
    assert fingerprint(numbers.conj()) == reference.of_tensor(numbers.conj().resolve_conj())
    assert fingerprint(numbers.conj().imag) == reference.of_tensor(numbers.conj().imag.resolve_neg())


def test_threads(num_threads: int):
    shape = (1_000_003,)
    assert fingerprint(tensor_of(shape, torch.bfloat16)) == expected(shape, torch.bfloat16)


def test_model(model: Model):
    expected = reference.of_tensors(contents(model))
    assert fingerprint(model) == expected
    assert fingerprint(model.state_dict()) == expected
    assert fingerprints(model) == {
        name: reference.of_tensor(tensor, name) for name, tensor in contents(model).items()
    }


def test_wrappers_and_order_do_not_count(model: Model):
    expected, state = fingerprint(model), contents(model)
    assert fingerprint(dict(reversed(state.items()))) == expected
    assert fingerprint({f"module.{name}": tensor for name, tensor in state.items()}) == expected
    assert fingerprint({f"_orig_mod.{name}": tensor for name, tensor in state.items()}) == expected
    assert fingerprint(model.to(memory_format=torch.channels_last)) == expected


def test_an_empty_model_and_empty_tensors():
    assert fingerprint({}) == reference.of_tensors({})
    empty = {"a": torch.empty(0, 3), "b": torch.empty(2, 0, dtype=torch.int64)}
    assert fingerprint(empty) == reference.of_tensors(empty)
    assert len({fingerprint({}), fingerprint(empty), fingerprint({"a": torch.empty(3, 0)})}) == 3


def test_tensors_without_elements_that_have_several_names():
    shared, other = nn.PReLU(0), nn.PReLU(0)
    shared.register_buffer("nothing", torch.empty(0))
    tied = nn.Module()
    tied.weight = shared.weight
    model = nn.Sequential(shared, shared, tied, other)
    assert list(fingerprints(model)) == ["0.weight", "0.nothing", "3.weight"]
    assert fingerprints(model.state_dict()) == fingerprints(model)
    assert fingerprint(model.state_dict()) == fingerprint(model)


def test_every_bit_counts():
    for dtype in (torch.float32, torch.bfloat16, torch.uint8, torch.float64):
        tensor = tensor_of((1030,), dtype)
        before = fingerprint(tensor)
        data = tensor.view(torch.uint8)
        for byte, bit in itertools.product((0, 1, 7, len(data) // 2, len(data) - 1), range(8)):
            data[byte] ^= 1 << bit
            assert fingerprint(tensor) != before, (dtype, byte, bit)
            data[byte] ^= 1 << bit
        assert fingerprint(tensor) == before


def test_a_bit_changes_every_sum():
    """The contract says so: all four sums, for the top bit too."""
    head = digests.header("", torch.float32, (4096,))
    tensor = torch.zeros(4096)
    for place in (0, 1, 1023, 1024, 4095):
        tensor.view(torch.int32)[place] = -(2**31)
        assert (digests.sums_of([head], [tensor], [None]) != 0).all()
        tensor.zero_()


def test_swaps_count(model: Model):
    before = fingerprint(model)
    with torch.no_grad():
        flat = model.embed.weight.view(-1)
        flat[[3, 170]] = flat[[170, 3]]
    assert fingerprint(model) != before
    state = contents(model)
    bias, weight = state["norm.bias"], state["norm.weight"]
    assert fingerprint(state) != fingerprint(state | {"norm.bias": weight, "norm.weight": bias})
    swapped = tensor_of((4096,))
    chunks = swapped.view(4, 1024)[[1, 0, 2, 3]].reshape(-1)
    assert fingerprint(chunks) != fingerprint(swapped)


def test_names_shapes_and_dtypes_count():
    zeros = torch.zeros(2, 6)
    different = [
        {"a": zeros},
        {"b": zeros},
        {"a": zeros.view(6, 2)},
        {"a": zeros.view(12)},
        {"a": zeros.to(torch.int32)},
        {"a": zeros, "b": torch.zeros(0)},
        {"a": -zeros},  # the sign of zero is a bit
    ]
    assert len({fingerprint(each) for each in different}) == len(different)
    assert fingerprint(zeros) not in {fingerprint({"": zeros}), fingerprint(zeros, "a")}


@pytest.mark.parametrize("mesh_shape", MESHES, ids=str)
def test_sums_of_shards_add_up(mesh_shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    """Every rank's share, on a mesh without processes: what an all-reduce would add up."""
    whole = tensor_of((7, 10, 3), torch.bfloat16)
    heads = [digests.header("w", whole.dtype, whole.shape)]
    expected = digests.sums_of(heads, [whole], [None])
    for cut in placements(mesh_shape):
        if all(isinstance(each, Replicate) for each in cut):
            continue
        shares = []

        def added(self: ranks.Ranks, own: ranks.Words, shares: list = shares) -> ranks.Words:
            shares.append(own)
            return np.zeros_like(own)

        monkeypatch.setattr(ranks.Ranks, "_added", added)
        for mesh in every_rank(mesh_shape):
            fingerprint({"w": distribute_tensor(whole, mesh, cut, src_data_rank=None)})
        assert len(shares) == math.prod(mesh_shape)
        counted, failed = np.sum(shares, axis=0, dtype=np.uint64)
        assert (counted == expected[0]).all(), cut
        assert not np.any(failed), cut


def test_parameters_on_a_mesh_and_on_an_axis_of_it(monkeypatch: pytest.MonkeyPatch):
    """What lies on an axis alone is there once for every place on the other, and counts once."""
    whole = {"both": tensor_of((8, 4)), "one": tensor_of((6, 5), seed=1), "plain": tensor_of((3,), seed=2)}
    heads = [digests.header(name, tensor.dtype, tensor.shape) for name, tensor in whole.items()]
    expected = digests.sums_of(heads, list(whole.values()), [None] * 3)
    shares = []
    monkeypatch.setattr(ranks.Ranks, "_added", lambda self, own: shares.append(own) or np.zeros_like(own))
    for mesh in every_rank((2, 4)):
        flat = mesh.mesh.flatten()
        row = [int(rank) for rank in flat.view(2, 4)[mesh.get_coordinate()[0]]]
        axis = torch.distributed.device_mesh.DeviceMesh("cpu", row)
        fingerprint(
            {
                "both": distribute_tensor(whole["both"], mesh, [Shard(0), Shard(1)], src_data_rank=None),
                "one": distribute_tensor(whole["one"], axis, [Shard(0)], src_data_rank=None),
                "plain": whole["plain"],
            }
        )
    counted, failed = np.sum(shares, axis=0, dtype=np.uint64)
    assert (counted == expected[:2].sum(axis=0, dtype=np.uint64)).all()
    assert not np.any(failed)


def test_unsharded_models_do_not_communicate(model: Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ranks.dist, "all_reduce", pytest.fail)
    expected = fingerprint(contents(model))
    for mesh in every_rank((2,)):
        state = {
            name: DTensor.from_local(tensor, mesh, [Replicate()], run_check=False)
            for name, tensor in contents(model).items()
        }
        assert fingerprint(state) == expected


def test_files(model: Model, tmp_path):
    state = contents(model)
    save_file(state, tmp_path / "model.safetensors")
    assert fingerprint(tmp_path / "model.safetensors") == fingerprint(model)
    assert fingerprint(str(tmp_path)) == fingerprint(model)
    assert fingerprints(tmp_path) == fingerprints(model)


def test_index(model: Model, tmp_path):
    items = list(contents(model).items())
    files = {"model-00001-of-00002.safetensors": items[:3], "model-00002-of-00002.safetensors": items[3:]}
    for name, part in files.items():
        save_file(dict(part), tmp_path / name)
    weight_map = {key: name for name, part in files.items() for key, _ in part}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert fingerprint(index) == fingerprint(tmp_path) == fingerprint(model)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (nn.Linear(2, 2, device="meta"), ValueError, r"tensor 'weight': .* on the meta device"),
        (torch.empty(2, device="meta"), ValueError, r"the tensor: .* on the meta device"),
        (nn.LazyLinear(2), ValueError, r"'weight' has no shape yet"),
        (
            {"b": torch.ones(2), "a": torch.ones(2).to_sparse()},
            UnsupportedTensorError,
            r"'a': cannot digest a tensor of layout torch.sparse_coo",
        ),
        ({"a": {"b": torch.ones(2)}}, TypeError, r"'a' must be a tensor, not dict"),
        ({3: torch.ones(2)}, TypeError, "names of a dict of tensors are strings, and 3 is not"),
        (
            {"module.a": torch.ones(2), "a": torch.zeros(2)},
            ValueError,
            r"two tensors are named 'a' once wrappers are removed; 'a' is one of them",
        ),
        (7, TypeError, r"cannot take a fingerprint of a int; accepted are a tensor, a module, a dict"),
    ],
    ids=str,
)
def test_refusals(target: object, error: type[Exception], message: str):
    for function in (fingerprint, fingerprints):
        if isinstance(target, Tensor) and function is fingerprints:
            continue
        with pytest.raises(error, match=message):
            function(target)


def test_refusal_of_fake_tensors():
    with FakeTensorMode(), pytest.raises(ValueError, match="fake tensor: it has no values"):
        fingerprint(torch.empty(2))


def test_a_name_is_for_a_tensor(model: Model):
    with pytest.raises(ValueError, match="name= is for one tensor"):
        fingerprint(model, name="model")


def test_extra_state_does_not_count():
    state = {"a": torch.ones(2)}
    assert fingerprint(state | {"layer._extra_state": {"x": 1}}) == fingerprint(state)


def test_version():
    assert convinit_ext.FINGERPRINT_VERSION == 1
