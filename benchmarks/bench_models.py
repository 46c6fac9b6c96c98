"""Whole models in one call against every module's reset_parameters: `make bench`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from against_torch import build_on_meta, reset_parameters
from torch import nn

from convinit_ext import init_model_
from convinit_ext.cli._unet import UNet

WIDTH = 96  # a tenth of the full model


def small_tensors() -> nn.Module:
    return nn.Sequential(*[nn.Linear(8, 8) for _ in range(500)])


BUILDS: dict[str, Callable[[], nn.Module]] = {"unet": lambda: UNet(WIDTH), "small tensors": small_tensors}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
@pytest.mark.parametrize("side", ["torch", "convinit"])
def test_warm(benchmark, side: str, build: Callable[[], nn.Module]) -> None:
    model = build()
    benchmark.group = f"warm {build}"
    if side == "torch":
        benchmark(reset_parameters, model)
    else:
        benchmark(init_model_, model, seed=0)


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
@pytest.mark.parametrize("side", ["torch", "convinit"])
def test_cold(benchmark, side: str, build: Callable[[], nn.Module]) -> None:
    benchmark.group = f"cold {build}"
    if side == "torch":
        benchmark(build)
    else:
        benchmark(lambda: init_model_(build_on_meta(build), seed=0, dtype=torch.float32))
