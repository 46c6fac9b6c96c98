"""intercept: slices and other views of parameters, filled as parts of the whole."""

import numpy as np
import pytest
import torch
from filling import assert_same_bits
from intercepted import MODULE_FUNCTIONS, a_layer, assert_is, assert_values, expected, generator_of
from torch import nn
from torch.nn.init import orthogonal_ as captured_orthogonal_
from torch.utils._python_dispatch import TorchDispatchMode

from convinit_ext import Key, init, intercept


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("order", [iter, reversed])
def test_slices_are_parts_of_the_whole_in_any_order(order, dim):
    layer = nn.Linear(6, 12)
    with intercept(layer, seed=0):
        for part in order(layer.weight.data.chunk(3, dim)):
            nn.init.xavier_uniform_(part)
    bound = float(np.sqrt(3.0) * np.sqrt(2.0 / (10 if dim == 0 else 14)))
    assert_is(layer.weight, "weight", ("uniform", -bound, bound))


VIEWS = {
    "rows": lambda w: w[2:],
    "every other row": lambda w: w[1::2],
    "columns": lambda w: w[:, 1:3],
    "one element": lambda w: w[1, 2, 1],
    "kernel": lambda w: w[:, :, 1],
    "transposed": lambda w: w.transpose(0, 2),
    "heads": lambda w: w.unflatten(0, (2, 3))[1],
    "permuted slice": lambda w: w.permute(2, 0, 1)[1:, 3:],
    "extra dimension": lambda w: w[None, 2:4, None],
    "diagonal": lambda w: w.diagonal(dim1=0, dim2=1),
}

FORMATS = {
    "contiguous": lambda: torch.empty(6, 4, 3),
    "transposed": lambda: torch.empty(3, 4, 6).transpose(0, 2),
    "inner last": lambda: torch.empty(6, 3, 4).transpose(1, 2),
    "spaced": lambda: torch.empty(12, 8, 3)[::2, ::2],
}


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_every_view_has_the_values_of_its_own_elements(view, form):
    model, index = nn.ParameterDict({"w": form()}), torch.arange(72).reshape(6, 4, 3)
    with intercept(model, seed=0):
        view(model["w"].data).normal_()
    whole = torch.from_numpy(expected(torch.empty(6, 4, 3), "w"))
    assert_values(view(model["w"].data), whole.flatten()[view(index)].numpy())


@pytest.mark.parametrize("flat", [lambda w: w.flatten(2), lambda w: w.view(6, 4, 9)[2:, 1:, 1::2]])
def test_dimensions_that_follow_each_other_may_be_one_in_channels_last_too(flat):
    weight = torch.empty(6, 4, 3, 3).to(memory_format=torch.channels_last)
    model = nn.ParameterDict({"w": weight})
    with intercept(model, seed=0):
        flat(model["w"].data).normal_()
    assert_values(
        flat(model["w"].data), flat(torch.from_numpy(expected(torch.empty(6, 4, 3, 3), "w"))).numpy()
    )


@pytest.mark.parametrize(
    "form", [lambda: torch.empty(6, 4), lambda: torch.empty(4, 6).t()], ids=["rows", "columns"]
)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_real_and_imaginary_parts_are_slices_of_the_complex_parameter(dtype, form):
    model = nn.ParameterDict({"w": form().to(dtype)})
    weight = model["w"].data
    whole = torch.from_numpy(expected(torch.empty(6, 4, 2, dtype=weight.real.dtype), "w"))
    with intercept(model, seed=0):
        weight[2:].imag.normal_()
        weight.real.normal_()
        assert_values(torch.view_as_real(weight[2:]), whole[2:].numpy())
        nn.init.normal_(torch.view_as_real(weight))
    assert_is(torch.view_as_real(weight), "w#1")


def no_slice_of_transposed(model):
    return model["w"].data.transpose(1, 2).flatten(1)[:2]


@pytest.mark.parametrize("fill", [lambda w: w.normal_(), nn.init.trunc_normal_, nn.init.orthogonal_])
@pytest.mark.parametrize(
    ("view", "message"),
    [
        (
            no_slice_of_transposed,
            r"'w' inside intercept: torch.float32 of shape \[2, 12\], strides \[12, 1\]",
        ),
        (
            lambda model: model["raw"].data.view(torch.bfloat16),
            r"'raw' .*: torch.bfloat16 of shape \[4, 12\]",
        ),
    ],
)
def test_a_view_that_is_no_slice_is_refused_before_it_is_written(view, message, fill):
    model = nn.ParameterDict({"w": torch.zeros(6, 3, 4).transpose(1, 2), "raw": torch.zeros(4, 6)})
    with intercept(model, seed=0):
        with pytest.raises(RuntimeError, match=message) as refused:
            fill(view(model))
        assert "Fill the parameter itself, or slices" in str(refused.value)
        assert not any(parameter.any() for parameter in model.values())
        nn.init.normal_(model["w"])
    assert_is(model["w"], "w")  # the fill that was refused does not count


def test_parameters_between_whose_elements_are_those_of_another():
    fused = torch.empty(6, 8)
    model = nn.ParameterDict({"q": fused[:, :3], "k": fused[:, 3:6]})
    with intercept(model, seed=0):
        model["k"].data[:4].normal_()
        model["q"].data[1:].normal_()
        fused[1:3, 6:].normal_()  # nobody's
    assert_is(model["k"][:4], "k")
    assert_is(model["q"][1:], "q", start=3)
    assert_same_bits(fused[1:3, 6:], init.normal_(torch.empty(2, 2), generator=generator_of(0)))


@pytest.mark.parametrize("name", MODULE_FUNCTIONS)
@pytest.mark.parametrize("size", [4, 200])
def test_the_parts_that_chunk_gives_as_in_torch(name, size):
    """Autograd lets nobody change them in place but under no_grad."""
    for block in (intercept(seed=0), intercept(layer := nn.Linear(size, 3 * size), seed=0)):
        with block:
            for part in layer.weight.chunk(3):
                getattr(nn.init, name)(part, **MODULE_FUNCTIONS[name])


def test_numbers_of_slices():
    layer = a_layer()
    top, rest = layer.weight[:2], layer.weight[2:]
    with intercept(layer, seed=0):
        nn.init.normal_(top)
        nn.init.normal_(top)
        nn.init.normal_(rest)
        assert_is(top, "weight#1")
        assert_is(rest, "weight", start=16)
        nn.init.normal_(layer.weight)
        assert_is(layer.weight, "weight#2")
        nn.init.normal_(rest)
        assert_is(rest, "weight#3", start=16)
        assert_is(top, "weight#2")


def test_a_slice_counts_as_one_however_it_is_seen():
    """Of a contiguous parameter and of one that is not."""
    for transposed in (False, True):
        layer = a_layer()
        if transposed:
            layer.weight = nn.Parameter(layer.weight.detach().t().contiguous().t())
        weight = layer.weight.detach()
        views = [weight[1], weight[1:2], weight[1:2].t(), weight[1].unflatten(0, (2, -1)), weight[None, 1]]
        with intercept(layer, seed=0):
            for view in views:
                view.normal_()
            assert_is(weight[1], f"weight#{len(views) - 1}", start=weight.shape[1])
            weight[::2, :4].normal_()
            weight[::2, :4].t().normal_()
            weight[::2, :3].normal_()
            again = init.normal_(torch.empty(weight.shape), key=Key(0, "weight#1"))
            first = init.normal_(torch.empty(weight.shape), key=Key(0, "weight"))
            assert torch.equal(weight[::2, 3], again[::2, 3])
            assert torch.equal(weight[::2, :3], first[::2, :3])


@pytest.mark.parametrize("name", ["orthogonal_", "sparse_"])
def test_matrices_in_slices_are_different_ones(name):
    layer, arguments = nn.Linear(4, 8), MODULE_FUNCTIONS[name]
    with intercept(layer, seed=0):
        for part in layer.weight.chunk(2):
            (captured_orthogonal_ if name == "orthogonal_" else nn.init.sparse_)(part, **arguments)
    for start, part in ((0, layer.weight[:4]), (16, layer.weight[4:])):
        key = Key(0, f"weight[{start},(4, 4),(4, 1)]")
        assert_same_bits(part, getattr(init, name)(torch.empty(4, 4), **arguments, key=key))


def test_a_slice_whose_elements_overlap_is_refused():
    layer = a_layer()
    before = layer.weight.detach().clone()
    for size in (6, 60_000):
        with intercept(layer, seed=0), pytest.raises(RuntimeError, match="single memory location"):
            layer.weight.data[:1].expand(size, 8).normal_()
    assert_same_bits(layer.weight, before)


def test_what_watches_pytorch_s_operations_sees_the_fills():
    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.overloadpacket._qualified_op_name.removeprefix("convinit_ext::"))
            return func(*args, **(kwargs or {}))

    layer, seen = a_layer(), []
    view = layer.weight.data[2:4]
    with intercept(layer, seed=0), Watch():
        nn.init.normal_(layer.weight)
        nn.init.normal_(view)
    assert seen == ["fill_one_", "fill_part_"]
    assert_is(view, "weight#1", start=16)


def test_a_table_filled_row_by_row_and_large_slices():
    table = nn.Embedding(3000, 2)
    with intercept(table, seed=0):
        for row in table.weight.data:
            row.uniform_()
    assert_is(table.weight, "weight", ("uniform", 0.0, 1.0))
    model = nn.ParameterDict({"w": torch.empty(300, 400)})
    with intercept(model, seed=0):
        model["w"].data[10:200].uniform_()
        model["w"].data[210:, ::2].uniform_()
    assert_is(model["w"][10:200], "w", ("uniform", 0.0, 1.0), start=4000)
    assert_is(model["w"][210:, ::2], "w", ("uniform", 0.0, 1.0), start=84_000, strides=(400, 2))
