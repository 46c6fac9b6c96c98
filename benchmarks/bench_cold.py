"""Where the time of a cold model goes: SDXL's UNet from nothing to filled memory, step by step.

    python benchmarks/bench_cold.py --output benchmarks/results/cold.json [--repeats 5]

Needs diffusers, and 24 GiB of memory. Every repeat takes all steps one after the other in memory that is new
to the process (as benchmarks/against_torch.py has it); the figures are medians:

    usual       the model built on the CPU, as people build it
    meta        built on the meta device
    plan        plan_model
    fresh       plan.run: memory for all parameters, and their values
    warm        plan.run again, in the memory that is there
    fresh fill_ PyTorch's fill_ of new memory for all parameters, each in turn
    warm fill_  the same again
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from against_torch import build_on_meta, take_back_memory
from measure import command, environment, seconds
from models import sdxl_unet

from convinit_ext import plan_model


def fill(tensors: list[torch.Tensor]) -> None:
    for tensor in tensors:
        tensor.fill_(1.0)


def steps() -> dict[str, float]:
    """Seconds of each step, once."""
    taken = {}
    take_back_memory()
    taken["usual"] = seconds(sdxl_unet)
    take_back_memory()
    built: list[torch.nn.Module] = []
    taken["meta"] = seconds(lambda: built.append(build_on_meta(sdxl_unet)))
    plans = []
    taken["plan"] = seconds(lambda: plans.append(plan_model(built[0])))
    taken["fresh"] = seconds(plans[0].run)
    taken["warm"] = seconds(plans[0].run)
    shapes = [parameter.shape for parameter in built[0].parameters()]
    built.clear()
    plans.clear()
    take_back_memory()
    tensors: list[torch.Tensor] = []

    def fresh() -> None:
        tensors.extend(map(torch.empty, shapes))
        fill(tensors)

    taken["fresh fill_"] = seconds(fresh)
    taken["warm fill_"] = seconds(lambda: fill(tensors))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    runs = [steps() for _ in range(options.repeats)]
    rows = [
        {"step": step, "seconds": round(statistics.median(run[step] for run in runs), 4)} for step in runs[0]
    ]
    for row in rows:
        print(f"{row['step']:12} {row['seconds']:8.3f} s", flush=True)
    record = {"command": command(), "environment": environment(), "results": rows}
    options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
