"""verify against the fill of the same model, warm, and against reading the weights of a file.

    python benchmarks/bench_verify.py --output benchmarks/results/verify.json [--repeats 7]

Every case runs the alternatives in turns and takes medians: `fill` is a plan that runs again, `init_model`
plans too, as verify does. GOAL is what a speed should reach of the fill's. `make bench` times a small model.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from measure import Run, command, environment, in_turns
from models import resnet50_layers
from torch import nn

from convinit_ext import Constant, Normal, TruncatedNormal, Uniform, init_model_, plan_model, verify
from convinit_ext.checkpoint import open_weights
from convinit_ext.cli._unet import UNet
from convinit_ext.recipes import Recipe, Rule

GOAL = 0.8
MATRIX = 8192  # 67 M elements
SEED = 7
DISTRIBUTIONS = (
    Uniform(-0.1, 0.1),
    Normal(0.0, 0.02),
    TruncatedNormal(0.0, 0.02, -0.04, 0.04),
    Constant(1.0),
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn)


def matrix(dtype: torch.dtype) -> nn.Module:
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(MATRIX, MATRIX, dtype=dtype))
    return model


def llama_shaped(dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """Two layers of a 7 B-parameter Llama, 0.4 G parameters."""
    width, hidden = 4096, 11008
    shapes = [(width, width)] * 4 + [(hidden, width)] * 2 + [(width, hidden)]
    layers = [nn.Linear(inputs, outputs, bias=False, dtype=dtype) for outputs, inputs in shapes * 2]
    return nn.Sequential(*layers)


Case = tuple[str, Callable[[], nn.Module], str | Recipe | list[Rule]]


def cases() -> Iterator[Case]:
    for distribution in DISTRIBUTIONS:
        for dtype in DTYPES if isinstance(distribution, Normal) else DTYPES[:2]:
            name = f"{type(distribution).__name__} {str(dtype).removeprefix('torch.')}"
            yield name, lambda dtype=dtype: matrix(dtype), [Rule(distribution)]
    yield "Llama-shaped, bfloat16", llama_shaped, "trunc_normal"
    yield "bundled U-Net of width 192", lambda: UNet(192), "torch"
    yield "ResNet-50's layers", resnet50_layers, "he"


def compared(case: Case, repeats: int) -> dict[str, object]:
    name, build, recipe = case
    model = build()
    plan = plan_model(model, SEED, recipe)
    plan.run()
    assert verify(model, SEED, recipe)
    runs: dict[str, Run] = {
        "fill": plan.run,
        "init_model": lambda: init_model_(model, SEED, recipe),
        "verify": lambda: verify(model, SEED, recipe),
    }
    return row(name, model, in_turns(runs, repeats))


def row(name: str, model: nn.Module, taken: dict[str, float]) -> dict[str, object]:
    return {
        "case": name,
        "tensors": len(list(model.parameters())),
        "elements": sum(parameter.numel() for parameter in model.parameters()),
        **{f"{side}_seconds": each for side, each in taken.items()},
        **{
            f"of_{side}": round(each / taken["verify"], 3) for side, each in taken.items() if side != "verify"
        },
    }


def from_file(repeats: int) -> dict[str, object]:
    """A file that was just written: it is in memory, and `read` is the copy of its tensors alone."""
    from safetensors.torch import save_file

    model = llama_shaped()
    init_model_(model, SEED, "trunc_normal")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file(model.state_dict(), path)
        plan = plan_model(model, SEED, "trunc_normal")
        runs: dict[str, Run] = {
            "read": lambda: [each.clone() for each in open_weights(path).tensors.values()],
            "fill": plan.run,
            "verify": lambda: verify(path, SEED, "trunc_normal", model=model),
        }
        return row("Llama-shaped, bfloat16, from a file", model, in_turns(runs, repeats))


@pytest.mark.parametrize("side", ["init_model_", "verify"])
def test_small_model(benchmark, side: str) -> None:
    model = UNet(96)
    init_model_(model, SEED)
    benchmark.group = "U-Net of width 96"
    benchmark(verify if side == "verify" else init_model_, model, SEED)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, object]] = []
    for case in cases():
        rows.append(compared(case, options.repeats))
        print(f"{rows[-1]['case']:40} {rows[-1]['of_fill']:6.2f} of the fill", flush=True)
    rows.append(from_file(options.repeats))
    print(f"{rows[-1]['case']:40} {rows[-1]['of_fill']:6.2f} of the fill", flush=True)
    bars = [
        {"case": each["case"], "measure": "of_fill", "goal": GOAL, "value": each["of_fill"]}
        for each in rows
        if "file" not in str(each["case"])
    ]
    bars = [bar | {"met": bar["value"] >= GOAL} for bar in bars]
    record = {"command": command(), "environment": environment(), "results": rows}
    options.output.write_text(json.dumps(record | {"bars": bars}, indent=2) + "\n")


if __name__ == "__main__":
    main()
