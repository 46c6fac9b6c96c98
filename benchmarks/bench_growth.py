"""How the cost grows with the work: one tensor of 10 to 4e9 elements, a model of 1 to 1e5 tensors.

    python benchmarks/bench_growth.py --output benchmarks/results/growth.json [--picture FILE] [--repeats 5]

Needs 10 GB of memory. A tensor is filled by normal_ in bfloat16, a model of layers of 1024 elements by a plan
that runs again and by init_model_; PyTorch's side is its own normal_, and every layer's reset_parameters.
Alternatives in turns, medians; of what takes more than a second, once each.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from measure import Run, command, environment, in_turns, seconds
from torch import nn

from convinit_ext import init, init_model_, plan_model

ELEMENTS = (10, 100, 1000, 10**4, 10**5, 10**6, 10**7, 10**8, 10**9, 4 * 10**9)
TENSORS = (1, 10, 100, 1000, 10**4, 10**5)
WIDTH = 32
TENSOR, MODEL = "normal_, one tensor of bfloat16", f"a model, {WIDTH**2} elements a tensor"
CALL_SECONDS = 2e-3  # short runs are timed many together
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "growth.svg"


def measured(runs: dict[str, Run], repeats: int) -> dict[str, float]:
    once = {name: seconds(run) for name, run in runs.items()}
    if max(once.values()) > 1.0:
        return {name: seconds(run) for name, run in runs.items()}
    return in_turns(runs, repeats, calls=max(1, min(1000, int(CALL_SECONDS / min(once.values())))))


def rows(repeats: int) -> Iterator[dict[str, Any]]:
    for count in ELEMENTS:
        tensor = torch.empty(count, dtype=torch.bfloat16)
        runs: dict[str, Run] = {
            "torch": lambda tensor=tensor: nn.init.normal_(tensor),
            "normal_": lambda tensor=tensor: init.normal_(tensor),
        }
        yield {"case": TENSOR, "elements": count, "seconds": measured(runs, repeats)}
    del tensor, runs
    for count in TENSORS:
        model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(count)))
        runs = {
            "torch": lambda model=model: [layer.reset_parameters() for layer in model],
            "plan.run": plan_model(model).run,
            "init_model_": lambda model=model: init_model_(model),
        }
        yield {"case": MODEL, "tensors": count, "seconds": measured(runs, repeats)}


def draw(found: list[dict[str, Any]], path: Path) -> None:
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.hashsalt": path.stem}):  # the same file from the same figures
        figure, (one, many) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
        for axes, key, case in ((one, "elements", TENSOR), (many, "tensors", MODEL)):
            of_case = [row for row in found if row["case"] == case]
            for side in of_case[0]["seconds"]:
                points = [(row[key], row["seconds"][side]) for row in of_case]
                axes.loglog(*zip(*points, strict=True), marker=".", label=side)
            axes.set(xlabel=key, title=case)
            axes.legend()
        one.set_ylabel("seconds")
        figure.savefig(text := io.StringIO(), format="svg", metadata={"Date": None})
    path.write_text("\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    found = []
    for row in rows(options.repeats):
        found.append(row)
        print(row, flush=True)
    record = {"command": command(), "environment": environment(), "results": found}
    options.output.write_text(json.dumps(record, indent=2) + "\n")
    draw(found, options.picture)


if __name__ == "__main__":
    main()
