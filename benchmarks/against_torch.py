"""Compares this package with torch.nn.init on the CPU and writes a result file.

    python benchmarks/against_torch.py --output benchmarks/results/cpu.json [--repeats 7] [--models]

Every case runs the alternatives in turns and takes medians; a speed is their ratio. `fill_` (a constant,
as PyTorch writes it) stands beside the single tensors as the ceiling that memory sets. `--models` adds whole
models (needs diffusers and transformers, about 24 GiB of memory, some minutes). benchmarks/table.py puts the
file into docs/performance.md and README.md.

    ATEN_CPU_CAPABILITY=default python benchmarks/against_torch.py --isa sse2 --output mine.json

times one instruction set, on single tensors, and as here against a PyTorch that uses no other either.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from measure import command, environment, in_turns, seconds
from models import bundled_unet, convnextv2_huge, sdxl_unet
from torch import Tensor, nn

from convinit_ext import _C, Key, Shard, init, init_model_
from convinit_ext.model import available_memory
from convinit_ext.recipes import TORCH, ZEROS, Recipe, Rule

LARGE = (1024, 1024, 3, 3)  # 9.4 M elements
MATRIX = (3072, 3072)
MOST_MEMORY = 32 * 2**30  # bytes, that are used before a cold model: three times the largest one's
MODELS: dict[str, Callable[[], nn.Module]] = {
    "bundled U-Net": bundled_unet,
    "ConvNeXtV2-Huge": convnextv2_huge,
    "SDXL UNet": sdxl_unet,
}


@dataclass(frozen=True)
class Result:
    """One row: seconds of each alternative, and what follows from them."""

    case: str
    elements: int
    torch_seconds: float
    convinit_seconds: float
    fill_seconds: float | None = None

    def row(self) -> dict[str, object]:
        row: dict[str, object] = asdict(self)
        row["ratio"] = round(self.torch_seconds / self.convinit_seconds, 2)
        row["elements_per_second"] = round(self.elements / self.convinit_seconds)
        if self.fill_seconds is not None:
            row["of_fill_bandwidth"] = round(self.fill_seconds / self.convinit_seconds, 3)
        return row


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    before = _C.isa()
    _C.force_isa(name)
    yield
    _C.force_isa(before)


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


def one_tensor(case: str, tensor: Tensor, function: str, repeats: int, calls: int = 1) -> Result:
    """The function of both modules on one warm tensor."""
    taken = in_turns(
        {
            "torch": lambda: getattr(nn.init, function)(tensor),
            "convinit": lambda: getattr(init, function)(tensor),
            "fill": lambda: tensor.fill_(1.0),
        },
        repeats,
        calls,
    )
    return Result(case, tensor.numel(), taken["torch"], taken["convinit"], taken["fill"])


def tensors(repeats: int) -> Iterator[Result]:
    """Large tensors of every dtype and distribution, then small ones."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        name = str(dtype).removeprefix("torch.")
        for function in ("kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_"):
            yield one_tensor(f"{function} {name}", torch.empty(LARGE, dtype=dtype), function, repeats)
    yield one_tensor("trunc_normal_ float32", torch.empty(MATRIX), "trunc_normal_", repeats)
    yield one_tensor(
        "trunc_normal_ bfloat16", torch.empty(MATRIX, dtype=torch.bfloat16), "trunc_normal_", repeats
    )
    channels_last = torch.empty(LARGE).to(memory_format=torch.channels_last)
    for function in ("kaiming_uniform_", "kaiming_normal_"):
        yield one_tensor(f"{function} float32 channels_last", channels_last, function, repeats)
    yield one_tensor(
        "kaiming_normal_ float32 transposed", torch.empty(MATRIX).t(), "kaiming_normal_", repeats
    )
    for isa in _C.available_isas()[:-1]:
        with instruction_set(isa):
            for function in ("kaiming_uniform_", "kaiming_normal_"):
                yield one_tensor(f"{function} float32, {isa}", torch.empty(LARGE), function, repeats)
    for shape in ((64, 64, 3, 3), (16, 3, 3, 3)):
        case = f"kaiming_normal_ float32 {'x'.join(map(str, shape))}"
        yield one_tensor(case, torch.empty(shape), "kaiming_normal_", 3 * repeats, calls=1000)


def every_dtype(isa: str, repeats: int) -> Iterator[Result]:
    """Each distribution, by the instruction set that is in force."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        for function in ("kaiming_uniform_", "kaiming_normal_", "trunc_normal_"):
            case = f"{function} {str(dtype).removeprefix('torch.')}, {isa}"
            yield one_tensor(case, torch.empty(1024, 1024, dtype=dtype), function, repeats)


def thread_scaling(repeats: int) -> list[dict[str, object]]:
    """One thread and two, in turns. PyTorch's `fill_` stands beside: it shows where memory is the limit."""
    rows: list[dict[str, object]] = []
    for dtype in (torch.float32, torch.bfloat16):
        tensor = torch.empty(LARGE, dtype=dtype)

        def with_threads(number: int, function: Callable[[Tensor], object], tensor: Tensor = tensor) -> float:
            with threads(number):
                function(tensor)
                return seconds(lambda: function(tensor), calls=10)

        functions: dict[str, Callable[[Tensor], object]] = {
            "kaiming_uniform_": init.kaiming_uniform_,
            "kaiming_normal_": init.kaiming_normal_,
            "fill_": lambda tensor: tensor.fill_(1.0),
        }
        for name, function in functions.items():
            pairs = [(with_threads(1, function), with_threads(2, function)) for _ in range(repeats)]
            one, two = (statistics.median(column) for column in zip(*pairs, strict=True))
            case = f"{name} {str(dtype).removeprefix('torch.')}, one thread to two"
            rows.append({"case": case, "ratio": round(one / two, 2)})
    return rows


def sharding(repeats: int) -> list[dict[str, object]]:
    """A quarter of a matrix's columns, as Shard(1) of four ranks has it, against a matrix of that size."""
    rows: list[dict[str, object]] = []
    tensor, shard = torch.empty(4096, 2048), Shard.split((4096, 8192), dim=1, rank=1, num_ranks=4)
    key = Key(0, "weight")
    for function in (init.uniform_, init.normal_):
        taken = in_turns(
            {
                "whole": lambda function=function: function(tensor, key=key),
                "shard": lambda function=function: function(tensor, key=key, shard=shard),
            },
            repeats,
        )
        ratio = round(taken["whole"] / taken["shard"], 2)
        rows.append({"case": f"{function.__name__} float32, contiguous to Shard(1)", "ratio": ratio})
    return rows


def float8(repeats: int) -> list[dict[str, object]]:
    """Elements a second of the float8 types, which PyTorch cannot fill, against our own of bfloat16."""
    rows: list[dict[str, object]] = []
    wide = torch.empty(MATRIX, dtype=torch.bfloat16)
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        narrow = torch.empty(MATRIX, dtype=dtype)
        name = str(dtype).removeprefix("torch.")
        for function in (init.kaiming_uniform_, init.kaiming_normal_, init.trunc_normal_):
            taken = in_turns(
                {
                    "bfloat16": lambda function=function: function(wide),
                    "float8": lambda function=function, narrow=narrow: function(narrow),
                },
                repeats,
            )
            ratio = round(taken["bfloat16"] / taken["float8"], 2)
            rows.append({"case": f"{function.__name__} bfloat16 to {name}", "ratio": ratio})
    return rows


def reset_parameters(model: nn.Module) -> None:
    """What PyTorch's users do to initialise again: every module's own reset_parameters."""
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()


def build_on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


def take_back_memory() -> None:
    """Uses most of the memory that is free, once. A virtual machine's host may have taken it back, and then
    it comes again at 1 GB/s, whoever asks for it: that is not what is compared.
    """
    gc.collect()
    free = available_memory() or 0
    init.zeros_(torch.empty(min(free * 7 // 8, MOST_MEMORY) // 4))


def whole_model(name: str, build: Callable[[], nn.Module], repeats: int) -> Iterator[Result]:
    """Warm: every module's reset_parameters against one call. Cold: building it against meta and one call, in
    memory that is new to the process.
    """
    elements = sum(parameter.numel() for parameter in build_on_meta(build).parameters())
    usual, ours = [], []
    for _ in range(repeats):
        take_back_memory()
        usual.append(seconds(build))
        take_back_memory()
        ours.append(seconds(lambda: init_model_(build_on_meta(build), seed=0, recipe=recipe_of(name))))
    gc.collect()
    model = build()
    taken = in_turns(
        {
            "torch": lambda: reset_parameters(model),
            "convinit": lambda: init_model_(model, seed=0, recipe=recipe_of(name)),
        },
        repeats,
    )
    yield Result(f"{name}, warm", elements, taken["torch"], taken["convinit"])
    yield Result(f"{name}, cold", elements, statistics.median(usual), statistics.median(ours))


def recipe_of(name: str) -> Recipe | list[Rule]:
    """PyTorch's own defaults; ConvNeXtV2 has parameters of no torch.nn module, which start at zero."""
    return [*TORCH, Rule(ZEROS)] if name == "ConvNeXtV2-Huge" else TORCH


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--models", action="store_true", help="whole models too")
    parser.add_argument("--isa", choices=_C.available_isas(), help="this instruction set alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    rows: list[dict[str, object]] = []
    isa, repeats = options.isa, options.repeats
    if isa:
        _C.force_isa(isa)
    for result in every_dtype(isa, repeats) if isa else tensors(repeats):
        rows.append(result.row())
        print(f"{result.case:50} {rows[-1]['ratio']:8.2f}x", flush=True)
    if not isa:
        rows += thread_scaling(repeats) + sharding(repeats) + float8(repeats)
    if options.models:
        for name, build in MODELS.items():
            for result in whole_model(name, build, min(3, repeats)):
                rows.append(result.row())
                print(f"{result.case:50} {rows[-1]['ratio']:8.2f}x", flush=True)
    record = {"command": command(), "environment": environment(), "results": rows}
    options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
