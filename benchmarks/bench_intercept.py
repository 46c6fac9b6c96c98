"""intercept: what a call costs more inside a block, and whole models' own init code inside and outside.

`make bench`; `python benchmarks/bench_intercept.py` prints the overhead alone. ConvNeXt V2 Huge takes 3 GiB.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from models import convnextv2_huge
from torch import nn

from convinit_ext import init, intercept

FUNCTIONS = ("normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_")
CALLS = 200
REPEATS = 100
SIDES = ("convinit", "first fill", "later fill", "no model")


def resnet50() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.ResNetModel(transformers.ResNetConfig())


def llama_small() -> nn.Module:
    """0.13 G parameters."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
    )
    return transformers.LlamaForCausalLM(config)


def unet2d() -> nn.Module:
    """diffusers' default UNet, 0.27 G parameters."""
    diffusers = pytest.importorskip("diffusers")
    return diffusers.UNet2DModel(sample_size=64)


def huge_convnext() -> nn.Module:
    pytest.importorskip("transformers")
    return convnextv2_huge()


BUILDS: dict[str, Callable[[], nn.Module]] = {
    "resnet50": resnet50,
    "llama": llama_small,
    "unet2d": unet2d,
    "convnextv2_huge": huge_convnext,
}


def run_init_code(model: nn.Module) -> None:
    """The model's own; transformers remembers which modules it has done."""
    for module in model.modules():
        vars(module).pop("_is_hf_initialized", None)
    if hasattr(model, "init_weights"):
        model.init_weights()
        return
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


@pytest.mark.parametrize("side", ["torch", "intercept"])
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_init_code(benchmark, build: Callable[[], nn.Module], side: str) -> None:
    model = build()
    block = intercept(model, seed=0) if side == "intercept" else contextlib.nullcontext()

    def initialise() -> None:
        with block:
            run_init_code(model)

    benchmark.group = f"init code of {build.__name__}"
    benchmark.pedantic(initialise, rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_call(benchmark, name: str, side: str) -> None:
    benchmark.group = f"{CALLS} times {name} of 4x8"
    block, run = loop(name, side)

    def setup() -> None:  # each round is in a new entry, which counts anew
        block.__enter__()

    def teardown() -> None:
        block.__exit__(None, None, None)

    benchmark.pedantic(run, setup=setup, teardown=teardown, rounds=50, warmup_rounds=1)


def loop(name: str, side: str) -> tuple[AbstractContextManager[None], Callable[[], None]]:
    """CALLS fills, and the block to run them in."""
    model = nn.ParameterList([torch.empty(4, 8) for _ in range(CALLS)])
    weights = list(model) if side == "first fill" else [model[0]] * CALLS
    function = getattr(init if side == "convinit" else nn.init, name)
    blocks: dict[str, AbstractContextManager[None]] = {
        "convinit": contextlib.nullcontext(),
        "no model": intercept(seed=0),
    }

    def run() -> None:
        for weight in weights:
            function(weight)

    return blocks.get(side, intercept(model, seed=0)), run


def processor_seconds(block: AbstractContextManager[None], run: Callable[[], None]) -> float:
    """Of this thread alone: other work on the machine does not count."""
    with block:
        start = time.thread_time()
        run()
        return time.thread_time() - start


def main() -> None:
    for name in FUNCTIONS:
        loops = {side: loop(name, side) for side in SIDES}
        taken: dict[str, list[float]] = {side: [] for side in SIDES}
        for _ in range(REPEATS):
            for side, (block, run) in loops.items():
                taken[side].append(processor_seconds(block, run) / CALLS * 1e6)
        medians = {side: statistics.median(times) for side, times in taken.items()}
        base = medians.pop("convinit")
        more = ", ".join(f"{side} {time - base:+.1f}" for side, time in medians.items())
        print(f"{name:18} {base:.1f} us a call; inside a block: {more}")


if __name__ == "__main__":
    main()
