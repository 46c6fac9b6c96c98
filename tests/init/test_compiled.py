"""Compiled and exported code: the functions of init in one graph for all shapes; init_model_, plans,
fingerprint and verify between graphs.
"""

import copy
import io
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from filling import assert_same_bits
from reference import layer_key, reference
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim, export

from convinit_ext import (
    Key,
    Shard,
    fingerprint,
    fingerprints,
    init,
    init_model_,
    plan_model,
    save_model,
    verify,
)

SEED = 7
KEY = Key(3, "conv.weight")


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 3), nn.BatchNorm1d(3))


def check_values(model: nn.Module, seed: int = SEED) -> None:
    for name in ("weight", "bias"):
        tensor = model[0].get_parameter(name)
        key = layer_key(seed, f"0.{name}")
        assert_same_bits(tensor, reference(tuple(tensor.shape), *key, ("uniform", -0.25, 0.25), "float32"))
    assert_same_bits(model[1].weight, np.ones(3, dtype=np.float32))


def test_a_model_is_initialised_between_graphs():
    model = build()

    def step(x: Tensor) -> Tensor:
        y = x + 1
        report = init_model_(model, SEED)
        return model(y).sum() * 0 + report.num_elements

    compiled = torch.compile(step, backend="aot_eager")
    for _ in range(2):
        nn.init.zeros_(model[0].weight)
        assert compiled(torch.ones(2, 16)) == 16 * 3 + 3 + 6
        check_values(model)


def test_plans_between_graphs():
    model = build()
    plan, one_call = plan_model(model), plan_model(model[0], names=lambda name: f"0.{name}")

    def step(x: Tensor, seed: int, again: int) -> Tensor:
        y = x + 1
        plan.run(seed)
        one_call.run(seed=again)
        return y * plan_model(model).report.num_elements

    compiled = torch.compile(step, backend="aot_eager")
    for seed in (SEED, 8, 9):
        assert (compiled(torch.ones(2), seed, seed) == 2 * (16 * 3 + 3 + 6)).all()
        check_values(model, seed)
        compiled(torch.ones(2), 0, seed)
        check_values(model, seed)


def test_what_reads_values_between_graphs(tmp_path):
    model = build()
    init_model_(model, SEED)
    number = fingerprint(model)
    plan = plan_model(model, SEED)

    def step(x: Tensor) -> tuple[object, ...]:
        y = x + 1
        found = verify(model, SEED)
        saved = save_model(model, tmp_path, SEED)
        numbers = plan.fingerprint(), fingerprint(model)
        return (
            y * 2,
            bool(found),
            found.num_elements,
            len(saved.files),
            numbers,
            fingerprints(model),
            fingerprint(y),
        )

    y, *others = torch.compile(step, backend="aot_eager")(torch.ones(2))
    assert torch.equal(y, torch.full((2,), 4.0))
    assert others == [
        True,
        16 * 3 + 3 + 6 + 7,
        1,
        2 * (number,),
        fingerprints(model),
        fingerprint(torch.full((2,), 2.0)),
    ]


@pytest.mark.parametrize("name", ["init_model_", "run", "fingerprint", "verify"])
def test_in_one_graph_the_error_says_so(name):
    model = build()
    before, plan = copy.deepcopy(model.state_dict()), plan_model(model)
    call = {
        "init_model_": lambda: init_model_(model, SEED),
        "run": plan.run,
        "fingerprint": lambda: fingerprint(model),
        "verify": lambda: verify(model, SEED),
    }[name]

    def step(x: Tensor) -> Tensor:
        call()
        return x + 1

    with pytest.raises(RuntimeError, match=rf"convinit_ext\.(ModelPlan\.)?{name} runs between graphs"):
        torch.compile(step, fullgraph=True, backend="eager")(torch.ones(2))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_keys_of_changing_seeds_are_arguments_of_one_graph():
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x, key: init.normal_(x.clone(), key=key), backend=counter, fullgraph=True)
    for seed in range(12):
        key = Key(seed, "weight" if seed % 2 else "bias")
        assert torch.equal(compiled(torch.zeros(8), key), init.normal_(torch.zeros(8), key=key))
    assert counter.frame_count <= 2


# The functions of init, where sizes are symbols. Of two graphs the first may have been begun and thrown away.


def bound(weight: Tensor) -> float:
    return 1 / math.sqrt(weight.shape[1])


def several(weight: Tensor) -> Tensor:
    return init.kaiming_normal_(init.uniform_(weight.clone()) + init.xavier_uniform_(weight.clone()))


FILLS: dict[str, Callable[[Tensor], Tensor]] = {
    "kaiming_normal_": lambda w: init.kaiming_normal_(w, key=KEY),
    "drawn": init.kaiming_uniform_,
    "gain": lambda w: init.kaiming_uniform_(w, 0.3, "FAN_OUT", key=KEY),
    "groups": lambda w: init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu", key=KEY, groups=2),
    "a key of this graph": lambda w: init.kaiming_normal_(w, key=Key(4, "inside")),
    "a convolution": lambda w: init.xavier_normal_(w.view(2, -1, w.shape[1], 1), 1.7, key=KEY),
    "xavier_uniform_": lambda w: init.xavier_uniform_(w, 1.3, key=KEY, groups=2),
    "fan_avg": lambda w: init.variance_scaling_(w, 1.7, "fan_avg", "truncated_normal", key=KEY),
    "fan_geo_avg": lambda w: init.variance_scaling_(w, 1.7, "fan_geo_avg", "uniform", key=KEY),
    "lecun_normal_": lambda w: init.lecun_normal_(w, key=KEY),
    "axes": lambda w: init.kaiming_normal_(w, key=KEY, in_axis=0, out_axis=1),
    "blocks": lambda w: init.xavier_uniform_(w, key=KEY, blocks=2),
    "batch_axis": lambda w: init.lecun_uniform_(w.view(2, -1, w.shape[1]), key=KEY, batch_axis=0),
    "uniform_": lambda w: init.uniform_(w, -bound(w), bound(w), key=KEY),
    "normal_": lambda w: init.normal_(w, 0, w.shape[1] ** -0.5, key=KEY),
    "trunc_normal_": lambda w: init.trunc_normal_(w, 0.0, bound(w), -3 * bound(w), 3 * bound(w), key=KEY),
    "static": lambda w: init.trunc_normal_(w, std=0.02, key=KEY),
    "cut": lambda w: init.trunc_normal_(w, 0.0, bound(w), key=KEY, cut=2.0, corrected=True),
    "orthogonal_": lambda w: init.orthogonal_(w, 2.0, key=KEY),
    "orthogonal_ of axes": lambda w: init.orthogonal_(w[None], batch_axis=0, in_axis=1, key=KEY),
    "delta_orthogonal_": lambda w: init.delta_orthogonal_(w.t()[..., None], key=KEY),
    "several": several,
    "sparse_": lambda w: init.sparse_(w, 0.3, key=KEY),
    "all but some sparse_": lambda w: init.sparse_(w, -0.6, key=KEY),
    "eye_": init.eye_,
    "dirac_": lambda w: init.dirac_(w[..., None], 2),
    "identity_": lambda w: init.identity_(w[..., None, None], 2.0),
}


def check_all_shapes(fill: Callable[[Tensor], Tensor], backend: str) -> None:
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(lambda x: fill(x.clone()), backend=counter, fullgraph=True, dynamic=True)
    for rows in range(6, 26, 2):  # more shapes than PyTorch compiles one function for
        torch.manual_seed(rows)
        expected = fill(torch.zeros(rows, rows + 1))
        torch.manual_seed(rows)
        assert_same_bits(compiled(torch.zeros(rows, rows + 1)), expected, rows)
    assert counter.frame_count <= 2


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
def test_one_graph_serves_all_shapes(fill):
    check_all_shapes(fill, "aot_eager")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")  # inside inductor
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_one_graph_serves_all_shapes_with_other_backends(backend):
    check_all_shapes(FILLS["fan_avg"], backend)


def test_shards():
    def fill(weight: Tensor) -> Tensor:
        return init.kaiming_normal_(weight.clone(), key=KEY, shard=Shard((12, 5), (4, 0)))

    compiled = torch.compile(fill, backend="aot_eager", fullgraph=True)
    whole = init.kaiming_normal_(torch.empty(12, 5), key=KEY)
    assert_same_bits(compiled(torch.zeros(4, 5)), whole[4:8])


class Layer(nn.Module):
    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_out, num_in))
        self.bias = nn.Parameter(torch.zeros(num_out))

    def reset_parameters(self) -> None:
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
        init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))


@torch._dynamo.config.patch(force_parameter_static_shapes=False)
def test_parameters_of_many_shapes():
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(Layer.reset_parameters, backend=counter, fullgraph=True, dynamic=True)
    for size in range(3, 15):
        layer, expected = Layer(size, size + 1), Layer(size, size + 1)
        torch.manual_seed(size)
        compiled(layer)
        torch.manual_seed(size)
        expected.reset_parameters()
        for parameter, other in zip(layer.parameters(), expected.parameters(), strict=True):
            assert_same_bits(parameter, other)
            assert parameter.is_leaf and parameter.requires_grad and parameter._version == 1
    assert counter.frame_count <= 2


@pytest.mark.filterwarnings("ignore:Error detected in MulBackward0")
def test_autograd_sees_a_fill_of_what_it_has_saved():
    def loss(weight: Tensor) -> Tensor:
        squares = weight * weight
        init.kaiming_normal_(weight, key=KEY)
        return squares.sum()

    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        compiled(nn.Parameter(torch.ones(4, 4))).backward()


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "1-D": lambda w: init.kaiming_normal_(w.flatten(), key=KEY),
    "1-D, drawn": lambda w: init.xavier_normal_(w.flatten()),
    "mode": lambda w: init.kaiming_normal_(w, mode="fan_avg", key=KEY),
    "another mode": lambda w: init.variance_scaling_(w, mode="fan", key=KEY),
    "form": lambda w: init.variance_scaling_(w, distribution="cauchy", key=KEY),
    "nonlinearity": lambda w: init.kaiming_normal_(w, nonlinearity="gelu", key=KEY),
    "nonlinearities": lambda w: init.kaiming_normal_(w, nonlinearity=["relu"], key=KEY),
    "slope": lambda w: init.kaiming_normal_(w, a="0.1", key=KEY),
    "gain": lambda w: init.xavier_uniform_(w, -1.0),
    "scale": lambda w: init.variance_scaling_(w, math.nan),
    "groups": lambda w: init.xavier_normal_(w, groups=3, key=KEY),
    "key": lambda w: init.kaiming_normal_(w, key=3),
    "dtype": lambda w: init.kaiming_normal_(w.int(), key=KEY),
    "dtype, drawn": lambda w: init.normal_(w.int()),
    "dtype of a matrix": lambda w: init.orthogonal_(w.int()),
    "complex matrix": lambda w: init.orthogonal_(w.cfloat(), key=KEY),
    "complex kernel": lambda w: init.delta_orthogonal_(w.t()[..., None].cfloat()),
    "complex identity": lambda w: init.identity_(w.cfloat()),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("fill", WRONG.values(), ids=WRONG)
def test_errors_are_those_outside_of_compiled_code(fill, dynamic):
    with pytest.raises((ValueError, TypeError)) as expected:
        fill(torch.zeros(4, 5))
    compiled, drawn = torch.compile(fill, backend="aot_eager", dynamic=dynamic), torch.get_rng_state()
    with pytest.raises(type(expected.value)) as raised:
        compiled(torch.zeros(4, 5))
    assert str(raised.value) == str(expected.value)
    assert torch.equal(torch.get_rng_state(), drawn)


def test_groups_that_divide_some_shapes_only():
    compiled = torch.compile(lambda w: FILLS["groups"](w.clone()), backend="aot_eager", dynamic=True)
    for rows in (4, 6):
        assert_same_bits(compiled(torch.zeros(rows, 3)), FILLS["groups"](torch.zeros(rows, 3)))
    with pytest.raises(ValueError, match="dim 0 must be divisible by groups, but found 5 and groups=2"):
        compiled(torch.zeros(5, 3))


@pytest.mark.filterwarnings("ignore:Graph break")
@pytest.mark.parametrize("fill", [init.kaiming_normal_, init.xavier_uniform_, init.lecun_normal_])
def test_a_generator_breaks_the_graph(fill):
    compiled = torch.compile(fill, backend="aot_eager", dynamic=True)
    for rows in range(3, 6):
        filled = compiled(torch.zeros(rows, 7), generator=torch.Generator().manual_seed(rows))
        assert_same_bits(filled, fill(torch.zeros(rows, 7), generator=torch.Generator().manual_seed(rows)))


class Filled(nn.Module):
    def __init__(self, fill: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fill = fill

    def forward(self, x: Tensor) -> Tensor:
        return self.fill(x.clone())


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", ["kaiming_normal_", "fan_avg", "fan_geo_avg", "static", "drawn"])
def test_exported_programs(name, strict):
    shapes = {"x": (Dim("rows"), Dim("columns"))}
    program = export(Filled(FILLS[name]), (torch.zeros(4, 5),), dynamic_shapes=shapes, strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for again in (program, torch.export.load(file)):
        torch.manual_seed(0)
        expected = FILLS[name](torch.zeros(7, 9))
        torch.manual_seed(0)
        assert_same_bits(again.module()(torch.zeros(7, 9)), expected)


def test_opcheck_of_the_op_in_graphs():
    op = torch.ops.convinit_ext.fill_in_graph_.default
    numbers = (1.0, 0.0, 0.0, 0.0)
    for arguments in ((2, *numbers, "xavier_std", 3, 5, []), (1, 0.0, *numbers[:3], "", 0, 0, [7, 10, 1])):
        torch.library.opcheck(
            op,
            (torch.empty(5, 3), KEY.tensor(), *arguments),
            test_utils=["test_schema", "test_faketensor", "test_aot_dispatch_dynamic"],
        )
