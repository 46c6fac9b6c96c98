"""How to time: alternatives in turns, medians, and the machine they ran on. A speed is a ratio in one run."""

from __future__ import annotations

import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import convinit_ext
from convinit_ext import _C

Run = Callable[[], object]


def seconds(run: Run, calls: int = 1) -> float:
    """Seconds a call, over `calls` of them."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def in_turns(runs: dict[str, Run], repeats: int, calls: int = 1) -> dict[str, float]:
    """Median seconds a call of each, after one warm-up, one after the other in every repeat."""
    for run in runs.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            taken[name].append(seconds(run, calls))
    return {name: statistics.median(times) for name, times in taken.items()}


def processor() -> str:
    """The processor's name as the system tells it, with its family and the number of cores."""
    facts = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        facts = {name.strip(): fact.strip() for name, _, fact in (line.partition(":") for line in lines)}
    name = facts.get("model name") or platform.processor() or platform.machine()
    family = f" family {facts['cpu family']}" if "cpu family" in facts else ""
    return f"{name}{family}, {os.cpu_count()} cores"


def command() -> str:
    """What was typed, after the variables that choose instruction sets and threads."""
    chosen = ("ATEN_CPU_CAPABILITY", "CONVINIT_ISA", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    said = [f"{name}={os.environ[name]}" for name in chosen if name in os.environ]
    return shlex.join([*said, "python", *sys.argv])


def environment() -> dict[str, str]:
    """Machine and versions, to stand beside every figure."""
    return {
        "processor": processor(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "convinit_ext": convinit_ext.__version__,
        "instruction_set": _C.isa(),
        "compiler": _C.build_info()["compiler"],
        "threads": str(torch.get_num_threads()),
    }
