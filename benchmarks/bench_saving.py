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
from measure import command, environment, seconds
from torch import nn

from convinit_ext import Normal, plan_model, save_model
from convinit_ext.recipes import Rule

RESULTS = Path(__file__).parent / "results" / "saving.json"
RECIPE = [Rule(Normal(0.0, 0.02))]
WIDTH = 8192  # a matrix of 134 MB in bfloat16
NUM_MATRICES, REPEATS = 30, 5  # 4 GB
NUM_BYTES = 2 * WIDTH * WIDTH * NUM_MATRICES
# The shapes of a Llama of 4 billion parameters, 8 GB in bfloat16, which are written; and of one of 70
# billion, 141 GB, of which every block is made and none is written: the disk need not have so much.
SAVE_LLAMA = """
import os, re, sys, torch
from torch import nn
from convinit_ext import save_model
from convinit_ext.checkpoint import _destination as destination
from convinit_ext.checkpoint import _writer as file_writer

width, hidden, num_layers = map(int, sys.argv[2:5])
shapes = [(width, width), (width, 1024), (width, 1024), (width, width), (width, hidden), (width, hidden)]

def layer():
    matrices = [nn.Linear(*shape, bias=False) for shape in [*shapes, (hidden, width)]]
    return nn.ModuleList([*matrices, nn.RMSNorm(width), nn.RMSNorm(width)])

def lengthen(descriptor, block):
    os.truncate(descriptor, os.lseek(descriptor, len(block), os.SEEK_CUR))
    return len(block)

with torch.device("meta"):
    ends = nn.Embedding(128256, width), nn.Linear(width, 128256, bias=False)
    model = nn.ModuleList([*ends, *(layer() for _ in range(num_layers))])
if sys.argv[5:] == ["nowhere"]:
    usage = destination.shutil.disk_usage
    destination.shutil.disk_usage = lambda path: usage(path)._replace(free=1 << 50)
    file_writer._write = lengthen
report = save_model(model, sys.argv[1], dtype=torch.bfloat16)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
print(report.num_bytes, int(peak) * 1024, report.seconds)
"""
LLAMA_4B, LLAMA_70B = (4096, 14336, 14), (8192, 28672, 80)  # width, hidden width, layers


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


def saved_llama(folder: Path, sizes: tuple[int, ...], *options: str) -> dict[str, float]:
    command = [sys.executable, "-c", SAVE_LLAMA, str(folder), *map(str, sizes), *options]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return {"bytes": int(printed[0]), "peak_bytes": int(printed[1]), "seconds": float(printed[2])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path.cwd())
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = speeds(Path(folder), options.repeats)
        llama_4b = saved_llama(Path(folder) / "llama", LLAMA_4B)
        llama_70b = saved_llama(Path(folder) / "nowhere", LLAMA_70B, "nowhere")
    medians = {name: statistics.median(values) for name, values in found.items()}
    llama_70b["seconds_at_the_speed_of_saving"] = llama_70b["bytes"] / medians["saving"]
    ratio = medians["saving"] / min(medians["dd"], medians["fill"])
    result = {
        "command": command(),
        "environment": environment(),
        "bytes": NUM_BYTES,
        "bytes_per_second": found,
        "medians": medians,
        "saving_to_the_slower_of_dd_and_fill": ratio,
        "llama_4b": llama_4b,
        "llama_70b_not_written": llama_70b,
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: result[name] for name in (*result,)[3:]}, indent=2))


if __name__ == "__main__":
    main()
