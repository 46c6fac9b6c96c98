"""orthogonal_ against torch.nn.init.orthogonal_, on one thread and on all; and how orthogonal both are.

    python benchmarks/bench_orthogonal.py --output benchmarks/results/orthogonal.json [--repeats 7]

Every case runs the alternatives in turns and takes medians. GOALS is how many times as fast as PyTorch it
should be, at least, with all threads.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from measure import command, environment, in_turns
from torch import Tensor

from convinit_ext import init

GATES = 4
SHAPES = ((64, 64), (256, 256), (512, 512), (GATES * 512, 512), (1024, 1024), (1024, 4096), (4096, 4096))
GOALS = {"512x512": 1.0, "512x512, 4 gates": 1.0, "4096x4096": 0.5}
SMALL = 512 * 512  # elements, up to which more runs are taken


def cases() -> Iterator[tuple[str, tuple[int, int], int]]:
    for rows, columns in SHAPES:
        blocks = GATES if rows == GATES * columns else 1
        name = f"{rows // blocks}x{columns}"
        yield (name if blocks == 1 else f"{name}, {blocks} gates"), (rows, columns), blocks


def of_case(name: str, shape: tuple[int, int], blocks: int, repeats: int) -> dict[str, object]:
    theirs, ours = torch.empty(shape), torch.empty(shape)

    def by_torch() -> None:
        for block in theirs.chunk(blocks):
            torch.nn.init.orthogonal_(block)

    runs: dict[str, Callable[[], object]] = {
        "torch": by_torch,
        "convinit": lambda: init.orthogonal_(ours, blocks=blocks),
    }
    taken = in_turns(runs, repeats if ours.numel() > SMALL else 5 * repeats)
    return {
        "case": name,
        "threads": torch.get_num_threads(),
        **{f"{run}_seconds": value for run, value in taken.items()},
        "ratio": round(taken["torch"] / taken["convinit"], 2),
        "torch_error": error(theirs, blocks),
        "convinit_error": error(ours, blocks),
    }


def error(matrix: Tensor, blocks: int) -> float:
    """The largest element of Q' Q - I."""
    return max(_error(block.double()) for block in matrix.chunk(blocks))


def _error(block: Tensor) -> float:
    product = block.T @ block if block.shape[0] >= block.shape[1] else block @ block.T
    return float((product - torch.eye(len(product))).abs().max())


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
        for case in cases():
            each = of_case(*case, options.repeats)
            goal = GOALS.get(case[0]) if threads == num_threads else None
            aim = "" if goal is None else f" (goal {goal})"
            print(f"{each['case']:20} {each['threads']} threads: {each['ratio']:.2f} times PyTorch{aim}")
            rows.append(each)
    around = environment() | {"load_average": f"{os.getloadavg()[1]:.1f}"}  # of what else ran meanwhile
    record = {"command": command(), "environment": around, "results": rows}
    options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
