"""intercept: what a call costs more inside a block, and whole models' own init code inside and outside.

    python benchmarks/bench_intercept.py --output benchmarks/results/intercept.json [--repeats 100] [--models]

Calls are of 32 elements, their time that of this thread's processor. `--models` adds init code (needs
diffusers and transformers, about 4 GiB of memory): all of it, and its fills alone, by a clock around the
calls that a block takes. `make bench` times the calls one by one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from measure import command, environment, seconds
from models import convnextv2_huge, resnet50, run_init_code, small_llama, unet2d
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from convinit_ext import intercept
from convinit_ext.intercept import _patch

CALLS = 200
FUNCTIONS: dict[str, Callable[[Tensor], object]] = {
    "normal_": nn.init.normal_,
    "uniform_": nn.init.uniform_,
    "trunc_normal_": nn.init.trunc_normal_,
    "kaiming_normal_": nn.init.kaiming_normal_,
    "kaiming_uniform_": nn.init.kaiming_uniform_,
    "xavier_normal_": nn.init.xavier_normal_,
    "Tensor.normal_": torch.Tensor.normal_,
}
KINDS = ("parameter", "parameter again", "slice", "slice again", "columns", "columns again", "no model")
SIDES = ("torch", "intercept")
MODELS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-50": resnet50,
    "Llama": small_llama,
    "UNet2D": unet2d,
    "ConvNeXtV2-Huge": convnextv2_huge,
}
BAR_MICROSECONDS, BAR_RATIO = 15, 5


def loop(name: str, kind: str, side: str) -> tuple[AbstractContextManager[None], Callable[[], None]]:
    """CALLS fills of 4 x 8, and the block to run them in."""
    model = nn.ParameterList([torch.empty(8, 16) for _ in range(CALLS)])
    small = nn.ParameterList([torch.empty(4, 8) for _ in range(CALLS)])
    is_method = name.startswith("Tensor.")  # which PyTorch allows on data only, or without gradients
    whole = [weight.data if is_method else weight for weight in small]
    slices = [weight.data.view(16, 8)[4:8] for weight in model]
    tensors = {
        "parameter": whole,
        "slice": slices,
        "slice again": slices[:1] * CALLS,
        "columns": [weight.data[4:, 8:] for weight in model],
        "columns again": [model[0].data[4:, 8:]] * CALLS,
    }.get(kind, whole[:1] * CALLS)
    function = FUNCTIONS[name]
    block: AbstractContextManager[None] = contextlib.nullcontext()
    if side == "intercept":
        block = intercept(None if kind == "no model" else nn.ModuleList([model, small]), seed=0)

    def run() -> None:
        for tensor in tensors:
            function(tensor)

    return block, run


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_call(benchmark, name: str, kind: str, side: str) -> None:
    benchmark.group = f"{CALLS} times {name} of 4x8, {kind}"
    block, run = loop(name, kind, side)

    def setup() -> None:  # each round is in a new entry, which counts anew
        block.__enter__()

    def teardown() -> None:
        block.__exit__(None, None, None)

    benchmark.pedantic(run, setup=setup, teardown=teardown, rounds=50, warmup_rounds=1)


def processor_seconds(block: AbstractContextManager[None], run: Callable[[], None]) -> float:
    """Of this thread alone: other work on the machine does not count."""
    with block:
        start = time.thread_time()
        run()
        return time.thread_time() - start


def calls(repeats: int) -> Iterator[dict[str, object]]:
    """Microseconds of PyTorch's own call, and how many more it takes inside a block, by what it fills."""
    for name in FUNCTIONS:
        for kind in KINDS:
            taken: dict[str, list[float]] = {side: [] for side in SIDES}
            loops = {side: loop(name, kind, side) for side in SIDES}
            for _ in range(repeats):
                for side, (block, run) in loops.items():
                    taken[side].append(processor_seconds(block, run) / CALLS * 1e6)
            plain, inside = (statistics.median(taken[side]) for side in SIDES)
            yield {
                "case": f"{name}, {kind}",
                "torch_microseconds": round(plain, 1),
                "more_microseconds": round(inside - plain, 1),
            }


class FillClock(TorchFunctionMode, _patch.Handler):
    """Seconds inside the fills of a block: entered inside intercept, or alone for PyTorch's own."""

    METHODS = (torch.Tensor.normal_, torch.Tensor.uniform_)

    def __init__(self) -> None:
        TorchFunctionMode.__init__(self)
        _patch.Handler.__init__(self)
        self.seconds = 0.0
        self._is_running = False

    def __enter__(self) -> FillClock:
        _patch.push(self)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        _patch.pop(self)

    def timed(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What runs inside another fill is a part of that."""
        if self._is_running:
            return function(*args, **kwargs)
        self._is_running = True
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - start
            self._is_running = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.METHODS:
            _patch.pop(self)  # a method is for the innermost block
            try:
                return self.timed(func, *args, **(kwargs or {}))
            finally:
                _patch.push(self)
        return func(*args, **(kwargs or {}))

    def answer(self, name: str, args: tuple[Any, ...]) -> Tensor:
        return self.timed(self._below, name, args)

    def _below(self, name: str, args: tuple[Any, ...]) -> Tensor:
        """What the listener under this one answers, or PyTorch."""
        others = _patch.handlers()[:-1]
        answered = others[-1].answer(name, args) if others else None
        return _patch.originals[name](*args) if answered is None else answered


def fill_seconds(model: nn.Module) -> float:
    with FillClock() as clock:
        run_init_code(model)
    return clock.seconds


def init_code(name: str, repeats: int) -> dict[str, object]:
    """A warm model's own init code, all of it and its fills alone, PyTorch's and intercepted in turns."""
    model = MODELS[name]()

    def inside(run: Callable[[nn.Module], object]) -> None:
        with intercept(model, seed=0):
            fills.append(run(model))

    fills: list[Any] = []
    taken: dict[str, list[float]] = {
        side: [] for side in ("torch", "convinit", "torch fills", "convinit fills")
    }
    for _ in range(repeats + 1):  # the first is to warm up
        taken["torch"].append(seconds(lambda: run_init_code(model)))
        taken["convinit"].append(seconds(lambda: inside(run_init_code)))
        taken["torch fills"].append(fill_seconds(model))
        inside(fill_seconds)
        taken["convinit fills"].append(fills[-1])
    medians = {side: statistics.median(times[1:]) for side, times in taken.items()}
    return {
        "case": f"init code of {name}",
        "elements": sum(parameter.numel() for parameter in model.parameters()),
        "torch_seconds": medians["torch"],
        "convinit_seconds": medians["convinit"],
        "ratio": round(medians["torch"] / medians["convinit"], 2),
        "torch_fill_seconds": medians["torch fills"],
        "convinit_fill_seconds": medians["convinit fills"],
        "fill_ratio": round(medians["torch fills"] / medians["convinit fills"], 2),
    }


def judged(rows: list[dict[str, Any]]) -> list[dict[str, object]]:
    """Each row against its bar."""
    bars: list[dict[str, object]] = []
    for row in rows:
        measure, bar = (
            ("fill_ratio", BAR_RATIO) if "fill_ratio" in row else ("more_microseconds", BAR_MICROSECONDS)
        )
        measured = row[measure]
        met = measured >= bar if measure == "fill_ratio" else measured <= bar
        bars.append({"case": row["case"], "measure": measure, "measured": measured, "bar": bar, "met": met})
    return bars


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=100, help="of the calls")
    parser.add_argument("--models", action="store_true", help="whole models too")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for row in calls(options.repeats):
        rows.append(row)
        print(json.dumps(row), flush=True)
    for name in MODELS if options.models else ():
        rows.append(init_code(name, 5))
        print(json.dumps(rows[-1]), flush=True)
    record = {"command": command(), "environment": environment(), "results": rows}
    record["bars"] = judged(rows)
    if options.output:
        options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
