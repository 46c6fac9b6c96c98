"""Counts the GPU kernel's instructions: SASS instructions an element in the main loops, for sm_90.

    python benchmarks/sass.py [--output benchmarks/results/sass_sm90.json]

Compiles csrc/cuda/fill.cu with nvcc and disassembles it with nvdisasm or cuobjdump (CUDA's, those of the
packages nvidia-cuda-nvdisasm and nvidia-cuda-cuobjdump, or Triton's). Needs no GPU. A main loop is an
innermost loop with a store of 16 bytes; what it makes is told by its instructions. All of them count, those
that call the slow paths of square root and division included. Exits with 1 where a loop is over its budget.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
ARCHITECTURE = "sm_90"
COMPILE = ["nvcc", "-std=c++17", "--fmad=false", f"-arch={ARCHITECTURE}", "-Icsrc", "-Xptxas", "-v", "-cubin"]
SOURCE = "csrc/cuda/fill.cu"
BUDGETS = {
    "uniform float32": 18,
    "uniform float16": 19,
    "uniform bfloat16": 19,
    "normal float32": 45,
    "normal float16": 46,
    "normal bfloat16": 46,
}
VECTOR_BYTES = 16
WIDE_STORE = re.compile(r"\bSTG?\.E(\.\w+)*\.128\b")
LABEL = re.compile(r"^(\.L_x_\d+):")
INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]+)\*/\s+(.*?)\s*;")
BRANCH = re.compile(r"\bBRA\b.*?(?:`\((\.L_x_\d+)\)|0x([0-9a-f]+))")
CONVERSION = re.compile(r"F2FP\.(?:SATFINITE\.)?(\w+)\.")
FORMATS = {"F16": "float16", "BF16": "bfloat16", "E4M3": "float8_e4m3fn", "E5M2": "float8_e5m2"}


def find_disassembler() -> list[str]:
    """The command to which the cubin's name is added."""
    packages = Path(sysconfig.get_path("purelib"))
    for name, options in (("nvdisasm", ["-c"]), ("cuobjdump", ["-sass"])):
        found = shutil.which(name)
        inside = [
            *packages.glob(f"nvidia/*/bin/{name}"),
            *packages.glob(f"triton/backends/nvidia/bin/{name}"),
        ]
        if found or inside:
            return [found or str(inside[0]), *options]
    sys.exit("neither nvdisasm nor cuobjdump was found: pip install nvidia-cuda-nvdisasm")


def compiled(folder: Path) -> tuple[Path, dict[str, int]]:
    """The cubin, and what ptxas says of the fill kernel."""
    cubin = folder / "fill.cubin"
    command = [*COMPILE, SOURCE, "-o", str(cubin)]
    log = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stderr
    kernel = log[log.index("Compiling entry function", max(0, log.index("fill_kernel") - 200)) :]
    spills = re.search(
        r"(\d+) bytes spill stores, (\d+) bytes spill loads", kernel[kernel.index("fill_kernel") :]
    )
    registers = re.search(r"Used (\d+) registers", kernel[kernel.index("fill_kernel") :])
    assert spills is not None
    assert registers is not None
    numbers = {"registers": registers[1], "spill_store_bytes": spills[1], "spill_load_bytes": spills[2]}
    return cubin, {name: int(number) for name, number in numbers.items()}


def functions(listing: str) -> list[list[tuple[str, str]]]:
    """(address or label, instruction) of each function, labels with an empty one."""
    found: list[list[tuple[str, str]]] = [[]]
    for line in listing.splitlines():
        label, instruction = LABEL.match(line), INSTRUCTION.match(line)
        if instruction:
            address = instruction[1].lstrip("0") or "0"
            if address == "0":
                found.append([])
            found[-1].append((address, instruction[2]))
        elif label:
            found[-1].append((label[1], ""))
    return found


def main_loops(function: list[tuple[str, str]]) -> list[list[str]]:
    """Innermost loops that store vectors."""
    places = {place: number for number, (place, _) in enumerate(function)}
    spans = []
    for end, (_, text) in enumerate(function):
        branch = BRANCH.search(text)
        start = places.get((branch[1] or branch[2].lstrip("0")), end + 1) if branch else end + 1
        if start <= end and any(WIDE_STORE.search(each) for _, each in function[start : end + 1]):
            spans.append((start, end))
    innermost = [
        (start, end)
        for start, end in spans
        if not any(start <= s and e <= end and (s, e) != (start, end) for s, e in spans)
    ]
    return [[text for _, text in function[start : end + 1] if text] for start, end in innermost]


def describe(loop: list[str]) -> tuple[str, int] | None:
    """What the loop makes, and how many elements a turn."""
    text = "\n".join(loop)
    if "IMAD.WIDE.U32" not in text or text.count("-0x2daee0ad") < 5:  # no Philox: a constant
        return None
    conversion = CONVERSION.search(text)
    dtype = FORMATS[conversion[1]] if conversion else "float64" if "DFMA" in text else "float32"
    elements = VECTOR_BYTES // {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}.get(dtype, 1)
    roots = len(re.findall(r"MUFU\.RSQ", text))
    kind = {0: "uniform", elements // 2: "normal"}.get(roots, "truncated_normal")
    return f"{kind} {dtype}", elements


def measure() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        cubin, kernel = compiled(Path(folder))
        disassembler = find_disassembler()
        listing = subprocess.run(
            [*disassembler, str(cubin)], check=True, capture_output=True, text=True
        ).stdout
    rows: dict[str, dict[str, Any]] = {}
    for function in functions(listing):
        for loop in main_loops(function):
            made = describe(loop)
            if made is not None:
                name, elements = made
                if name in rows and rows[name]["instructions"] <= len(loop):
                    continue  # the longer one is that for other layouts
                rows[name] = {
                    "instructions": len(loop),
                    "elements": elements,
                    "instructions_per_element": len(loop) / elements,
                    "budget": BUDGETS.get(name),
                    "local_memory_accesses": sum("LDL" in text or "STL" in text for text in loop),
                }
    version = subprocess.run(["nvcc", "--version"], check=True, capture_output=True, text=True).stdout
    return {
        "architecture": ARCHITECTURE,
        "nvcc": re.findall(r"release .*", version)[0],
        "command": " ".join([*COMPILE, SOURCE]),
        "disassembler": Path(disassembler[0]).name,
        "kernel": kernel,
        "loops": dict(sorted(rows.items())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="SASS instructions an element in the GPU kernel's main loops."
    )
    parser.add_argument("--output", type=Path, help="write the counts as JSON")
    options = parser.parse_args()
    result = measure()
    loops = result["loops"]
    print(f"nvcc {result['nvcc']}, {ARCHITECTURE}, {result['kernel']}")
    for name, row in loops.items():
        budget = f", budget {row['budget']}" if row["budget"] else ""
        print(f"{name:32}{row['instructions_per_element']:8.2f} instructions an element{budget}")
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    missing = [name for name in BUDGETS if name not in loops]
    over = [
        name
        for name, row in loops.items()
        if row["budget"] and row["instructions_per_element"] > row["budget"]
    ]
    if missing or over:
        sys.exit(f"not found: {missing}; over budget: {over}")


if __name__ == "__main__":
    main()
