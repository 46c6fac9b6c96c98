"""Saving against the disk's own sequential write, by dd, and against the fill alone; and its peak memory.

python benchmarks/bench_saving.py [FOLDER]    # on the disk to measure; it needs 10 GB there for a while
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from measure import environment, seconds
from torch import nn

from convinit_ext import Normal, plan_model, save_model
from convinit_ext.rules import Rule

RESULTS = Path(__file__).parent / "results" / "saving.json"
RECIPE = [Rule(Normal(0.0, 0.02))]
WIDTH = 8192  # a matrix of 134 MB in bfloat16
NUM_MATRICES, REPEATS = 30, 5  # 4 GB
NUM_BYTES = 2 * WIDTH * WIDTH * NUM_MATRICES
# The shapes of a Llama of 4 billion parameters: 8 GB in bfloat16.
SAVE_LLAMA = """
import re, sys, torch
from torch import nn
from convinit_ext import save_model

SHAPES = [(4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), (4096, 14336), (4096, 14336), (14336, 4096)]

def layer():
    matrices = [nn.Linear(*shape, bias=False) for shape in SHAPES]
    return nn.ModuleList([*matrices, nn.RMSNorm(4096), nn.RMSNorm(4096)])

with torch.device("meta"):
    ends = nn.Embedding(128256, 4096), nn.Linear(4096, 128256, bias=False)
    model = nn.ModuleList([*ends, *(layer() for _ in range(14))])
report = save_model(model, sys.argv[1], dtype=torch.bfloat16)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
print(report.num_bytes, int(peak) * 1024)
"""


def matrices(device: str) -> nn.Module:
    layers = (
        nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16, device=device) for _ in range(NUM_MATRICES)
    )
    return nn.Sequential(*layers)


def speeds(folder: Path, repeats: int) -> dict[str, list[float]]:
    """Bytes a second of all three, in turns; every file is a new one."""
    model, plan = matrices("meta"), plan_model(matrices("meta").to_empty(device="cpu"), recipe=RECIPE)
    saved, written = folder / "saved.safetensors", folder / "written"
    dd = ["dd", "if=/dev/zero", f"of={written}", "bs=64M", f"count={NUM_BYTES >> 26}", "conv=fsync"]
    runs: dict[str, Callable[[], object]] = {
        "dd": lambda: subprocess.run(dd, check=True, capture_output=True),
        "fill": plan.run,
        "saving": lambda: save_model(model, saved, recipe=RECIPE),
    }
    plan.run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            found[name].append(NUM_BYTES / seconds(run))
            saved.unlink(missing_ok=True)
            written.unlink(missing_ok=True)
            os.sync()
    return found


def peak_memory(folder: Path) -> dict[str, int]:
    command = [sys.executable, "-c", SAVE_LLAMA, str(folder / "llama")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    saved, peak = map(int, printed.split())
    return {"saved_bytes": saved, "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path.cwd())
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = speeds(Path(folder), options.repeats)
        memory = peak_memory(Path(folder))
    medians = {name: statistics.median(values) for name, values in found.items()}
    ratio = medians["saving"] / min(medians["dd"], medians["fill"])
    result = {
        "command": " ".join(["python", *sys.argv]),
        "environment": environment(),
        "bytes": NUM_BYTES,
        "bytes_per_second": found,
        "medians": medians,
        "saving_to_the_slower_of_dd_and_fill": ratio,
        "memory": memory,
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: result[name] for name in (*result,)[3:]}, indent=2))


if __name__ == "__main__":
    main()
