"""How to time a GPU: CUDA events, buffers that together exceed its L2 cache, turns, medians."""

from __future__ import annotations

import itertools
import math
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence

import torch
from measure import environment

from convinit_ext import _C

Fill = Callable[[torch.Tensor], object]
LEAST_SECONDS = 2e-3  # between two events, whose own resolution is half a microsecond
TIMES_L2 = 4


def gpu_environment() -> dict[str, str]:
    """The GPU, its driver and the versions, beside those of the machine."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return environment() | {
        "gpu": properties.name,
        "gpu_memory_bytes": str(properties.total_memory),
        "l2_bytes": str(properties.L2_cache_size),
        "multiprocessors": str(properties.multi_processor_count),
        "capability": f"{properties.major}.{properties.minor}",
        "driver": _driver(),
        "torch_cuda": str(torch.version.cuda),
        "convinit_cuda": _C.build_info()["cuda"],
    }


def _driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True).stdout.split("\n")[0].strip()
    except OSError:
        return "unknown"


def buffers(size: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """As many as exceed the L2 cache together, so that no write finds its place cached."""
    l2 = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    number = max(1, math.ceil(TIMES_L2 * l2 / (size * dtype.itemsize)))
    return [torch.zeros(size, dtype=dtype, device="cuda") for _ in range(number)]


def in_turns(
    fills: dict[str, Fill], rotating: Sequence[torch.Tensor], repeats: int
) -> dict[str, float | None]:
    """Median seconds of a fill as the GPU sees it; None for one that lacks memory or knows no such dtype."""
    calls = {name: _calls(fill, rotating) for name, fill in fills.items()}
    taken: dict[str, list[float]] = {name: [] for name in fills}
    for _ in range(repeats):
        for name, fill in fills.items():
            if calls[name]:
                taken[name].append(_seconds(fill, rotating, calls[name]))
    return {name: statistics.median(times) if times else None for name, times in taken.items()}


def _calls(fill: Fill, rotating: Sequence[torch.Tensor]) -> int:
    """Warms up; how many fills to put between two events. 0 if there is none to time."""
    try:
        fill(rotating[0])
        once = _seconds(fill, rotating, len(rotating)) or 1e-6
    except (torch.cuda.OutOfMemoryError, NotImplementedError):
        torch.cuda.empty_cache()
        return 0
    return len(rotating) * max(1, math.ceil(LEAST_SECONDS / (once * len(rotating))))


def _seconds(fill: Fill, rotating: Sequence[torch.Tensor], calls: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for tensor in itertools.islice(itertools.cycle(rotating), calls):
        fill(tensor)
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls


def host_and_all(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds until the call returns, and until the GPU is done."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    returned = time.perf_counter()
    torch.cuda.synchronize()
    return returned - started, time.perf_counter() - started


def kernels(run: Callable[[], object]) -> int | None:
    """Kernels that a call starts, by PyTorch's profiler; None where it sees none."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        run()
        torch.cuda.synchronize()
    names = [event.name for event in profiled.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return len([name for name in names if not name.startswith(("Memcpy", "Memset"))]) or None
