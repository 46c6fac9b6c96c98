"""Wrong arguments of the functions of init, no tensors and no numbers are named, and nothing is touched."""

import math
import re

import pytest
import torch
from init_functions import KEY, RANDOM, random_function, untouched
from torch import nn

from convinit_ext import init

pytestmark = pytest.mark.usefixtures("seeded")


class CudaGenerator(torch.Generator):
    """As far as a CPU fill looks at it, a generator on a GPU."""

    device = torch.device("cuda", 0)


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


STRUCTURED = {
    "identity_": init.identity_,
    "eye_": init.eye_,
    "dirac_": lambda tensor: init.dirac_(tensor[..., None]),
}


@pytest.mark.parametrize("fill", [*RANDOM.values(), *STRUCTURED.values()], ids=[*RANDOM, *STRUCTURED])
def test_overlapping_memory(fill):
    for make in (lambda: torch.ones(4).expand(6, 4), lambda: torch.ones(20).as_strided((6, 4), (2, 3))):
        untouched(make, lambda t, _: fill(t), RuntimeError, "single memory location")


def test_a_constant_with_other_arguments_than_pytorch_s():
    for call in (
        lambda m, w: m.constant_(w),
        lambda m, w: m.constant_(w, 1.0, 2.0),
        lambda m, w: m.ones_(w, 1.0),
        lambda m, w: m.zeros_(w, 1.0),
    ):
        with pytest.raises(TypeError) as theirs:
            call(nn.init, torch.ones(3))
        said = re.escape(str(theirs.value))
        untouched(lambda: torch.ones(3), lambda w, _, call=call: call(init, w), TypeError, said)


BAD_ARGUMENTS = {
    "low > high": (lambda w: init.uniform_(w, 2.0, 1.0), "from=2.0 and to=1.0"),
    "NaN bound": (lambda w: init.uniform_(w, 0.0, math.nan), "to=nan"),
    "infinite bound": (lambda w: init.uniform_(w, 0.0, math.inf), "to=inf"),
    "negative std": (lambda w: init.normal_(w, 0.0, -1.0), "std -1.0"),
    "negative std, truncated": (lambda w: init.trunc_normal_(w, 0.0, -1.0), "std -1.0"),
    "negative std, sparse": (lambda w: init.sparse_(w, 0.1, -1.0), "std -1.0"),
    "bounds of truncation": (lambda w: init.trunc_normal_(w, a=1.0, b=-1.0), "a=1.0 and b=-1.0"),
    "negative gain": (lambda w: init.xavier_normal_(w, gain=-1.0), "gain >= 0.0 and finite, .* gain -1.0"),
    "negative gain, uniform": (lambda w: init.xavier_uniform_(w, gain=-1.0), "gain -1.0"),
    "gain NaN": (lambda w: init.xavier_uniform_(w, gain=math.nan), "gain nan"),
    "slope NaN": (lambda w: init.kaiming_uniform_(w, math.nan), "a, the negative slope, .* nan"),
    "gain beyond the dtype": (lambda w: init.identity_(w, 1e39), r"gain .* torch\.float32, but found 1e\+39"),
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


@pytest.mark.parametrize("name", [name for name in init.__all__ if name.endswith("_")])
def test_what_is_no_tensor_is_named(name):
    """An AttributeError, as of torch.nn.init."""
    for given in [nn.Linear(2, 2), 3.0, None, int, [1]]:
        more = {"constant_": (1.0,), "sparse_": (0.5,)}.get(name, ())
        before = torch.get_rng_state()
        said = f"must be a torch.Tensor, not a {type(given).__name__}; of a layer pass a parameter, such as"
        with pytest.raises(AttributeError, match=said):
            getattr(init, name)(given, *more)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda w: init.kaiming_normal_(w, mode={}), AttributeError, "mode must be 'fan_in' or 'fan_out'"),
        (lambda w: init.kaiming_normal_(w, groups=1.5), TypeError, "groups must be an int, not 1.5"),
        (lambda w: init.kaiming_normal_(w, groups=[]), TypeError, r"groups must be an int, not \[\]"),
        (lambda w: init.kaiming_uniform_(w, 10**400), OverflowError, "negative_slope 10+ is beyond float64"),
        (lambda w: init.xavier_normal_(w, "2"), TypeError, "gain must be a number, not '2'"),
        (lambda w: init.xavier_normal_(w, torch.ones(2)), RuntimeError, "gain must be a number, not"),
        (lambda w: init.uniform_(w, "2"), TypeError, "Uniform: low must be a number, not '2'"),
        (lambda w: init.normal_(w, 0, None), TypeError, "Normal: std must be a number, not None"),
        (lambda w: init.variance_scaling_(w, "2"), TypeError, "scale must be a number of float64, not '2'"),
        (lambda w: init.orthogonal_(w, 10**400), OverflowError, "gain must be a number, not 10+"),
        (lambda w: init.orthogonal_(w, math.nan), ValueError, "gain must be finite, but found nan"),
        (
            lambda w: init.delta_orthogonal_(w[:, :, None], -math.inf),
            ValueError,
            "gain must be .* found -inf",
        ),
        (
            lambda w: init.orthogonal_(w, torch.ones(2)),
            (RuntimeError, ValueError),
            "gain must be a number, not",
        ),
        (lambda w: init.identity_(w, math.inf), ValueError, "gain must be finite, but found inf"),
        (lambda w: init.identity_(w, "2"), TypeError, "gain must be a number.* not '2'"),
        (lambda w: init.identity_(w, None), TypeError, "gain must be a number.* not None"),
        (lambda w: init.sparse_(w, "2"), TypeError, "sparsity must be a finite number, but found '2'"),
    ],
)
def test_arguments_that_are_no_numbers_are_named(call, error, said):
    untouched(lambda: torch.full((4, 4), 7.0), lambda w, _: call(w), error, said)
