"""What the scripts of this folder share: which p-values are weak, and how a result file is written."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from measure import command, environment

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
WEAK = 0.005  # at either end: dieharder's own word for it
FRESH_SEEDS = 10**6, 2 * 10**6, 3 * 10**6  # a weak p-value is looked at again on these, and all are reported


def is_weak(p: float) -> bool:
    """Say whether a p-value is nearer to 0 or 1 than one in a hundred is."""
    return min(p, 1.0 - p) < WEAK


def processor_seconds() -> int:
    """Return what this process and those that it waited for have taken of the processor."""
    taken = os.times()
    return round(taken.user + taken.system + taken.children_user + taken.children_system)


def write(path: Path, versions: dict[str, str], **results: Any) -> None:
    """Write a result file with its command, its machine and what ran on it."""
    record = {"command": command(), "environment": environment() | versions, **results}
    path.write_text(json.dumps(record, indent=1) + "\n")
