"""Puts the figures of a result file into README.md, between the two marker lines.

python benchmarks/table.py benchmarks/results/cpu.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- benchmarks: begin (made by benchmarks/table.py) -->"
END = "<!-- benchmarks: end -->"


def time_text(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def table(record: dict) -> str:
    lines = ["| case | torch.nn.init | convinit_ext | ratio | elements/s |", "|---|---|---|---|---|"]
    for row in record["results"]:
        if "torch_seconds" not in row:
            continue
        lines.append(
            f"| {row['case']} | {time_text(row['torch_seconds'])} | {time_text(row['convinit_seconds'])} "
            f"| **{row['ratio']:.1f}x** | {row['elements_per_second'] / 1e9:.2f} G |"
        )
    scaling = [
        f"{row['case']}: {row['ratio']:.2f}x" for row in record["results"] if "torch_seconds" not in row
    ]
    where = record["environment"]
    machine = f"{where['processor']}, {where['threads']} threads, {where['instruction_set']}"
    versions = f"torch {where['torch']}, Python {where['python']}"
    notes = f"{machine}; {versions}; medians of runs in turns; `{record['command']}`."
    return "\n".join([*lines, "", *(f"{line}." for line in scaling), "", notes])


def main() -> None:
    path = Path(sys.argv[1])
    record = json.loads(path.read_text())
    text = README.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    README.write_text(f"{before}{BEGIN}\n{table(record)}\n{END}{after}")


if __name__ == "__main__":
    main()
