"""Which tensors the engine goes straight to: all that it may, and none that something would have to see."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from convinit_ext._engine import MARKS, SUPPORTED_DTYPES, is_plain


def _negated() -> torch.Tensor:
    return torch.zeros(3, dtype=torch.complex64).conj().imag


def _cut() -> torch.Tensor:
    tensor = torch.zeros(8)
    tensor.untyped_storage().resize_(16)
    return tensor


def _marked() -> torch.Tensor:
    tensor = torch.zeros(3)
    tensor.other = 1
    setattr(tensor, sorted(MARKS)[0], 1)
    return tensor


def _chunk_of_changed() -> torch.Tensor:
    weight = nn.Parameter(torch.zeros(4, 3))
    with torch.no_grad():
        _first, second = weight.chunk(2)
        second.zero_()
    weight.requires_grad_()
    return weight.chunk(2)[0]


def _inference() -> torch.Tensor:
    with torch.inference_mode():
        return torch.zeros(3)


def _fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.zeros(3)


class Own(torch.Tensor):
    pass


@pytest.mark.parametrize("dtype", SUPPORTED_DTYPES, ids=str)
@pytest.mark.parametrize("kind", [torch.zeros, lambda *a, **k: nn.Parameter(torch.zeros(*a, **k))])
def test_tensors_and_parameters_are_plain(dtype, kind):
    tensor = kind(2, 3, dtype=dtype)
    assert is_plain(tensor)
    tensor.own_attribute = 1
    assert is_plain(tensor)
    assert is_plain(tensor.detach()[1])


NOT_PLAIN = {
    "int": lambda: torch.zeros(3, dtype=torch.int32),
    "complex": lambda: torch.zeros(3, dtype=torch.complex64),
    "transposed": lambda: torch.zeros(2, 3).t(),
    "expanded": lambda: torch.zeros(1).expand(3),
    "empty": lambda: torch.zeros(0, 3),
    "cut": _cut,
    "negated": _negated,
    "negated data": lambda: _negated().data,
    "negated parameter": lambda: nn.Parameter(_negated()),
    "inference": _inference,
    "sparse": lambda: torch.zeros(3).to_sparse(),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    "meta": lambda: torch.zeros(3, device="meta"),
    "fake": _fake,
    "subclass": lambda: torch.zeros(3).as_subclass(Own),
    "marked": _marked,
    "computed": lambda: nn.Parameter(torch.zeros(3)) * 2,
    "recorded view": lambda: nn.Parameter(torch.zeros(3, 2))[0],
    "chunk": _chunk_of_changed,
    "module": lambda: nn.Linear(2, 2),
    "none": lambda: None,
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_something_would_have_to_see_is_not(name, capfd):
    assert not is_plain(NOT_PLAIN[name]())
    assert capfd.readouterr().err == ""  # PyTorch's own code prints what it is asked in vain


def test_any_dtype_and_any_strides():
    assert is_plain(torch.zeros(3, dtype=torch.int32), any_dtype=True)
    assert not is_plain(torch.zeros(2, 3, dtype=torch.int32).t(), any_dtype=True)
    assert is_plain(torch.zeros(2, 3).t(), any_strides=True)
    assert not is_plain(torch.zeros(2, 3, dtype=torch.int32).t(), any_strides=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_nothing_is_plain_where_something_watches():
    tensor = torch.zeros(3)
    seen = []
    with FakeTensorMode():
        seen.append(is_plain(tensor))
    torch.func.vmap(lambda member: (seen.append(is_plain(member) or is_plain(tensor)), member)[1])(tensor)
    torch.jit.trace(lambda traced: (seen.append(is_plain(tensor)), traced + 1)[1], tensor, check_trace=False)
    assert seen == [False] * 3
    with torch.inference_mode():
        assert not is_plain(torch.zeros(3))
    assert is_plain(tensor)
