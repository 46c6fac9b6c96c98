"""What a call of PyTorch's asks for: which tensor, what distribution, whose generator.

The signatures are PyTorch's. Arguments of the tensors' own methods come as they were given, those of
torch.nn.init complete and in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from convinit_ext import init
from convinit_ext.distributions import Distribution, TruncatedNormal
from convinit_ext.init import (
    kaiming_distribution,
    normal_distribution,
    uniform_distribution,
    xavier_distribution,
)

Asked: TypeAlias = tuple[Tensor, Distribution, torch.Generator | None]


def _read_normal(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: torch.Generator | None = None
) -> Asked:
    return tensor, normal_distribution(float(mean), float(std)), generator


def _read_uniform(
    tensor: Tensor, *bounds: float, generator: torch.Generator | None = None, **named: float
) -> Asked:
    low, high = {"from": 0.0, "to": 1.0, **dict(zip(("from", "to"), bounds, strict=False)), **named}.values()
    return tensor, uniform_distribution(float(low), float(high)), generator


def _read_init_normal(tensor: Tensor, mean: float, std: float, generator: torch.Generator | None) -> Asked:
    return tensor, normal_distribution(float(mean), float(std)), generator


def _read_init_uniform(tensor: Tensor, a: float, b: float, generator: torch.Generator | None) -> Asked:
    return tensor, uniform_distribution(float(a), float(b)), generator


def _read_trunc_normal(
    tensor: Tensor, mean: float, std: float, a: float, b: float, generator: torch.Generator | None
) -> Asked:
    distribution = TruncatedNormal(float(mean), float(std), float(a), float(b))
    init.warn_of_one_tail(mean, std, a, b, stacklevel=6)
    return tensor, distribution, generator


def _read_xavier(form: str) -> Callable[..., Asked]:
    def read(tensor: Tensor, gain: float, generator: torch.Generator | None) -> Asked:
        return tensor, xavier_distribution(tensor.shape, gain, form), generator

    return read


def _read_kaiming(form: str) -> Callable[..., Asked]:
    def read(
        tensor: Tensor, a: float, mode: str, nonlinearity: str, generator: torch.Generator | None
    ) -> Asked:
        return tensor, kaiming_distribution(tensor.shape, a, mode, nonlinearity, form), generator

    return read


METHODS: dict[Callable[..., Any], Callable[..., Asked]] = {
    torch.Tensor.normal_: _read_normal,
    torch.ops.aten.normal_: _read_normal,
    torch.ops.aten.normal_.default: _read_normal,
    torch.Tensor.uniform_: _read_uniform,
    torch.ops.aten.uniform_: _read_uniform,
    torch.ops.aten.uniform_.default: _read_uniform,
}
INIT_FUNCTIONS: dict[str, Callable[..., Asked]] = {
    "normal_": _read_init_normal,
    "uniform_": _read_init_uniform,
    "trunc_normal_": _read_trunc_normal,
    "xavier_normal_": _read_xavier("normal"),
    "xavier_uniform_": _read_xavier("uniform"),
    "kaiming_normal_": _read_kaiming("normal"),
    "kaiming_uniform_": _read_kaiming("uniform"),
}
