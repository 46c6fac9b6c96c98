"""Wrong arguments of init's functions are named, and neither a tensor nor a generator is touched."""

import math

import pytest
import torch
from init_functions import KEY, RANDOM, random_function

from convinit_ext import init

pytestmark = pytest.mark.usefixtures("seeded")


class CudaGenerator(torch.Generator):
    """As far as a CPU fill looks at it, a generator on a GPU."""

    device = torch.device("cuda", 0)


def untouched(tensor_of, call, error, match):
    """The call raises, the tensor keeps every bit, and no generator moves."""
    generator = torch.Generator().manual_seed(5)
    tensor = tensor_of()
    before, version = tensor.clone(), tensor._version
    states = torch.get_rng_state(), generator.get_state()
    with pytest.raises(error, match=match):
        call(tensor, generator)
    assert tensor._version == version
    assert torch.equal(tensor.to_dense() if tensor.is_sparse else tensor, before.to_dense())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(generator.get_state(), states[1])


@random_function
def test_a_wrong_source_of_values(fill):
    for source, error, match in [
        (lambda g: {"key": KEY, "generator": g}, ValueError, "key= and generator="),
        (lambda g: {"key": "conv.weight"}, TypeError, "key must be a convinit_ext.Key, not str"),
        (lambda g: {"key": (3, "conv.weight")}, TypeError, "key must be a convinit_ext.Key, not tuple"),
        (lambda g: {"generator": 3}, TypeError, "generator must be a torch.Generator, not int"),
        (
            lambda g: {"generator": CudaGenerator()},
            RuntimeError,
            "Expected a 'cpu' device .* but found 'cuda'",
        ),
    ]:
        untouched(lambda: torch.ones(6, 4), lambda w, g, source=source: fill(w, **source(g)), error, match)


UNSUPPORTED = {
    "int64": (lambda: torch.ones(6, 4, dtype=torch.int64), "int64"),
    "bool": (lambda: torch.ones(6, 4, dtype=torch.bool), "bool"),
    "complex64": (lambda: torch.ones(6, 4, dtype=torch.complex64), "complex64"),
    "sparse": (lambda: torch.ones(6, 4).to_sparse(), "layout torch.sparse_coo"),
}
FILLS = {name: fill for name, fill in RANDOM.items() if "orthogonal" not in name}


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
@pytest.mark.parametrize("passed", [False, True], ids=["default generator", "generator"])
def test_an_unsupported_tensor(fill, passed):
    def call(tensor, generator):
        fill(tensor, **({"generator": generator} if passed else {}))

    for tensor_of, named in UNSUPPORTED.values():
        untouched(tensor_of, call, NotImplementedError, named)
        untouched(tensor_of, call, TypeError, named)
        untouched(tensor_of, lambda tensor, _: fill(tensor, key=KEY), TypeError, named)


@pytest.mark.parametrize("fill", [*RANDOM.values(), init.identity_], ids=[*RANDOM, "identity_"])
def test_overlapping_memory(fill):
    for make in (lambda: torch.ones(4).expand(6, 4), lambda: torch.ones(20).as_strided((6, 4), (2, 3))):
        untouched(make, lambda t, _: fill(t), RuntimeError, "single memory location")


BAD_ARGUMENTS = {
    "low > high": (lambda w: init.uniform_(w, 2.0, 1.0), "from=2.0 and to=1.0"),
    "NaN bound": (lambda w: init.uniform_(w, 0.0, math.nan), "to=nan"),
    "infinite bound": (lambda w: init.uniform_(w, 0.0, math.inf), "to=inf"),
    "negative std": (lambda w: init.normal_(w, 0.0, -1.0), "std -1.0"),
    "negative std, truncated": (lambda w: init.trunc_normal_(w, 0.0, -1.0), "std -1.0"),
    "negative std, sparse": (lambda w: init.sparse_(w, 0.1, -1.0), "std -1.0"),
    "bounds of truncation": (lambda w: init.trunc_normal_(w, a=1.0, b=-1.0), "a=1.0 and b=-1.0"),
    "negative gain": (lambda w: init.xavier_normal_(w, gain=-1.0), "std -"),
    "mode": (lambda w: init.kaiming_normal_(w, mode="fan_avg"), r"Mode fan_avg .*'fan_in', 'fan_out'"),
    "mode of variance scaling": (lambda w: init.variance_scaling_(w, mode="fan"), "Mode fan .*fan_geo_avg"),
    "nonlinearity, no text": (
        lambda w: init.kaiming_normal_(w, nonlinearity=["relu"]),
        r"nonlinearity \['relu'\], .*'relu'",
    ),
    "nonlinearity": (lambda w: init.kaiming_uniform_(w, nonlinearity="gelu"), "nonlinearity gelu, .*'relu'"),
    "distribution": (
        lambda w: init.variance_scaling_(w, distribution="cauchy"),
        "Distribution cauchy .*uniform",
    ),
    "scale": (lambda w: init.variance_scaling_(w, -2.0), "scale -2.0"),
    "groups": (lambda w: init.kaiming_normal_(w, groups=4), "divisible by groups, but found 6 and groups=4"),
    "groups, xavier": (lambda w: init.xavier_uniform_(w, groups=0), "groups=0"),
    "sparsity NaN": (lambda w: init.sparse_(w, math.nan), "finite number, but found nan"),
    "dimensions": (lambda w: init.lecun_normal_(w[0]), "fewer than 2 dimensions"),
    "dimensions, delta": (lambda w: init.delta_orthogonal_(w), "3, 4, or 5 dimensions"),
    "dimensions, identity": (lambda w: init.identity_(w[0]), "3, 4, or 5 dimensions"),
    "more inputs than outputs": (lambda w: init.delta_orthogonal_(w.T.unsqueeze(2)), r"dim 1 .* 6 > 4"),
}


@pytest.mark.parametrize(("call", "match"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_a_bad_argument(call, match):
    untouched(lambda: torch.ones(6, 4), lambda tensor, _: call(tensor), ValueError, match)


@pytest.mark.parametrize("fill", [init.orthogonal_, init.delta_orthogonal_])
@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_orthogonal_names_the_dtypes_it_has(fill, dtype):
    said = f"{dtype}.*accepted are float32"
    untouched(lambda: torch.ones(6, 4, 3, dtype=dtype), lambda w, _: fill(w), TypeError, said)
