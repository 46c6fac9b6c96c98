"""Writes a result file's table into docs/performance.md, and the CPU's chosen rows of it into README.md.

python benchmarks/table.py benchmarks/results/cpu.json    # or gpu.json; a table stands between two markers
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
README, PERFORMANCE = ROOT / "README.md", ROOT / "docs" / "performance.md"
# The rows of the README: a large fill of each distribution, a small one, and a model.
CHOSEN = (
    "kaiming_uniform_ float32",
    "kaiming_normal_ bfloat16",
    "trunc_normal_ float32",
    "kaiming_normal_ float32 64x64x3x3",
    "SDXL UNet, cold",
)
# What a file says of the machine tells its kind.
MARKERS = {
    "cpu": ("<!-- benchmarks: begin (made by benchmarks/table.py) -->", "<!-- benchmarks: end -->"),
    "gpu": ("<!-- GPU benchmarks: begin (made by benchmarks/table.py) -->", "<!-- GPU benchmarks: end -->"),
}


def time_text(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def table(record: dict, chosen: Collection[str] | None = None) -> str:
    """Return the rows of these cases alone, or all of them, with the ratios of our own speeds below."""
    rows = [row for row in record["results"] if chosen is None or row["case"] in chosen]
    where = record["environment"]
    machine = f"{where['processor']}, {where['threads']} threads, {where['instruction_set']}"
    versions = f"torch {where['torch']}, Python {where['python']}"
    return "\n".join(
        [
            "| case | torch.nn.init | convinit_ext | ratio | elements/s |",
            "|---|---|---|---|---|",
            *(case_line(row) for row in rows if "torch_seconds" in row),
            "",
            *(f"{row['case']}: {row['ratio']:.2f}x." for row in rows if "torch_seconds" not in row),
            *([""] if chosen is None else []),
            f"{machine}; {versions}; medians of runs in turns; `{record['command']}`.",
        ]
    )


def case_line(row: dict) -> str:
    return (
        f"| {row['case']} | {time_text(row['torch_seconds'])} | {time_text(row['convinit_seconds'])} "
        f"| **{row['ratio']:.1f}x** | {row['elements_per_second'] / 1e9:.2f} G |"
    )


def gpu_table(record: dict) -> str:
    """Single tensors, then models, then the goals that were missed."""
    rows, where = record["results"], record["environment"]
    missed = [
        f"{each['case']}: {each['measure']} {each['measured']}, not {each['bar']}"
        for each in record["bars"]
        if each["met"] is False
    ]
    machine = f"{where['gpu']}, driver {where['driver']}, {where['processor']}"
    versions = f"torch {where['torch']}, Python {where['python']}, built with CUDA {where['convinit_cuda']}"
    return "\n".join(
        [
            "| fill | elements | torch.nn.init | convinit_ext | ratio | GB/s | of fill_ | cuRAND | Triton |",
            "|---|---|---|---|---|---|---|---|---|",
            *(fill_line(row) for row in rows if "of_fill_bandwidth" in row),
            "",
            *(reading_line(row) for row in rows if "of_sum_speed" in row or "of_convinit_speed" in row),
            "",
            "| model, warm | tensors | torch.nn.init | init_model_ | ratio | host | plan | graph | kernels |",
            "|---|---|---|---|---|---|---|---|---|",
            *(model_line(row) for row in rows if "tensors" in row),
            "",
            f"Goals missed: {'; '.join(missed)}." if missed else "No goal that was measured is missed.",
            "",
            f"{machine}; {versions}; medians of runs in turns; `{record['command']}`.",
        ]
    )


def fill_line(row: dict) -> str:
    times = [row.get(f"{name}_seconds") for name in ("torch", "convinit", "curand", "triton")]
    theirs, ours, curand, triton = (optional(seconds, time_text) for seconds in times)
    ratio = optional(row["ratio"], "**{:.1f}x**".format)
    ceiling = optional(row["of_fill_bandwidth"], "{:.2f}".format)
    size = f"2^{row['elements'].bit_length() - 1}"
    speed = f"{row['bytes_per_second'] / 1e9:.0f}"
    cells = (row["case"], size, theirs, ours, ratio, speed, ceiling, curand, triton)
    return f"| {' | '.join(cells)} |"


def reading_line(row: dict) -> str:
    size = f"2^{row['elements'].bit_length() - 1}"
    of, what = ("of_sum_speed", "`sum`") if "of_sum_speed" in row else ("of_convinit_speed", "the fill")
    speed = f"{row['bytes_per_second'] / 1e9:.0f} GB/s, {row[of]:.2f} of the speed of {what}"
    return f"- {row['case']}, {size} elements: {speed}"


def model_line(row: dict) -> str:
    theirs, ours, host, planned, replay = (
        time_text(row[f"{name}_seconds"]) for name in ("torch", "convinit", "convinit_host", "plan", "replay")
    )
    launches = f"{row['launches']} for {optional(row['torch_kernels'], str)}"
    cells = (
        row["case"],
        str(row["tensors"]),
        theirs,
        ours,
        f"**{row['ratio']:.1f}x**",
        host,
        planned,
        replay,
        launches,
    )
    return f"| {' | '.join(cells)} |"


def optional(value: Any, text: Callable[[Any], str]) -> str:
    return "-" if value is None else text(value)


def with_table(text: str, record: dict, chosen: Collection[str] | None = None) -> str:
    """Return a page's text with the record's table in its place; of these cases of a CPU alone."""
    kind = "gpu" if "gpu" in record["environment"] else "cpu"
    begin, end = MARKERS[kind]
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{gpu_table(record) if kind == 'gpu' else table(record, chosen)}\n{end}{after}"


def main() -> None:
    record = json.loads(Path(sys.argv[1]).read_text())
    PERFORMANCE.write_text(with_table(PERFORMANCE.read_text(), record))
    if "gpu" not in record["environment"]:
        README.write_text(with_table(README.read_text(), record, CHOSEN))


if __name__ == "__main__":
    main()
