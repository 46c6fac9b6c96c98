"""fingerprint against tensor.sum() of the same memory, on one thread and on all; whole models and files too.

    python benchmarks/bench_fingerprint.py --output benchmarks/results/fingerprint.json [--repeats 7]

Every case runs the alternatives in turns and takes medians. GOAL is what a speed should reach of the sum's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from measure import Run, command, environment, in_turns
from models import resnet50_layers
from safetensors.torch import save_file
from torch import nn

from convinit_ext import fingerprint, init_model_, plan_model
from convinit_ext.checkpoint import open_weights
from convinit_ext.cli._unet import UNet

GOAL = 0.5
NUM_BYTES = 1 << 28
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SEED = 7


def tensors() -> Iterator[tuple[str, torch.Tensor]]:
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        yield name, torch.ones(NUM_BYTES // dtype.itemsize, dtype=dtype)
    for shape in ((1024, 1024, 8, 8), (4096, 1024, 3, 3)):
        name = f"float32 {shape[2]}x{shape[3]} channels_last"
        yield name, torch.ones(shape).to(memory_format=torch.channels_last)
    yield "float32 transposed", torch.ones(8192, 8192).t()


def models() -> Iterator[tuple[str, nn.Module]]:
    yield "bundled U-Net of width 192", UNet(192)
    yield "ResNet-50's layers", resnet50_layers()


def of_tensor(name: str, tensor: torch.Tensor, repeats: int) -> dict[str, object]:
    taken = in_turns({"sum": tensor.sum, "fingerprint": lambda: fingerprint(tensor)}, repeats)
    return row(name, tensor.numel() * tensor.itemsize, taken)


def of_model(name: str, model: nn.Module, repeats: int) -> dict[str, object]:
    plan = plan_model(model, SEED)
    plan.run()
    values = list(model.state_dict().values())
    runs: dict[str, Run] = {
        "sum": lambda: [value.sum() for value in values],
        "fingerprint": lambda: fingerprint(model),
        "fill": plan.run,
        "planned": plan.fingerprint,
    }
    return row(name, sum(value.numel() * value.itemsize for value in values), in_turns(runs, repeats))


def of_file(repeats: int) -> dict[str, object]:
    """A file that was just written: it is in memory, and `read` is the copy of its tensors alone."""
    model = nn.Linear(8192, 8192, bias=False)
    init_model_(model, SEED)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file(model.state_dict(), path)
        runs: dict[str, Run] = {
            "sum": lambda: model.weight.sum(),
            "read": lambda: [each.clone() for each in open_weights(path).tensors.values()],
            "fingerprint": lambda: fingerprint(path),
        }
        return row("float32, from a file", model.weight.numel() * 4, in_turns(runs, repeats))


def row(name: str, num_bytes: int, taken: dict[str, float]) -> dict[str, object]:
    return {
        "case": name,
        "threads": torch.get_num_threads(),
        "bytes": num_bytes,
        **{f"{side}_seconds": each for side, each in taken.items()},
        "of_sum": round(taken["sum"] / taken["fingerprint"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    num_threads = torch.get_num_threads()
    rows = []
    for threads in sorted({1, num_threads}):
        torch.set_num_threads(threads)
        rows += [of_tensor(name, tensor, options.repeats) for name, tensor in tensors()]
    rows += [of_model(name, model, options.repeats) for name, model in models()]
    rows.append(of_file(options.repeats))
    for each in rows:
        print(f"{each['case']:28} {each['threads']} threads: {each['of_sum']:.2f} of sum")
    record = {"command": command(), "environment": environment(), "results": rows}
    options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
