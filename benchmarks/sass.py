"""Counts the GPU kernels' instructions: SASS instructions an element in the main loops, for sm_90.

    python benchmarks/sass.py [--output benchmarks/results/sass_sm90.json]

Compiles csrc/cuda/fill.cu, compare.cu and digest.cu with nvcc and disassembles them with nvdisasm or
cuobjdump (CUDA's, those of the packages nvidia-cuda-nvdisasm and nvidia-cuda-cuobjdump, or Triton's). Needs
no GPU. A main loop is an innermost loop with a store of 16 bytes, or for digests and comparisons a load;
what a fill makes is told by its instructions. All of them count, those that call the slow paths of square
root and division included. Exits with 1 where a loop is over its budget.
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
KERNELS = ("fill", "compare", "digest")
BUDGETS = {
    "uniform float32": 18,
    "uniform float16": 19,
    "uniform bfloat16": 19,
    "normal float32": 45,
    "normal float16": 46,
    "normal bfloat16": 46,
    "digest of words": 16,
}
VECTOR_BYTES = 16
WIDE_STORE = re.compile(r"\bSTG?\.E(\.\w+)*\.128\b")
WIDE_LOAD = re.compile(r"\bLDG\.E(\.\w+)*\.128\b")
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


def source(kernel: str) -> str:
    return f"csrc/cuda/{kernel}.cu"


def compiled(kernel: str, folder: Path) -> tuple[Path, dict[str, int]]:
    """The cubin, and what ptxas says of the kernel."""
    cubin = folder / f"{kernel}.cubin"
    command = [*COMPILE, source(kernel), "-o", str(cubin)]
    log = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stderr
    own = log[log.index("Function properties", log.index(f"{kernel}_kernel")) :]
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", own)
    registers = re.search(r"Used (\d+) registers", own)
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


def main_loops(function: list[tuple[str, str]], access: re.Pattern[str]) -> list[list[str]]:
    """Innermost loops that store, or load, vectors."""
    places = {place: number for number, (place, _) in enumerate(function)}
    spans = []
    for end, (_, text) in enumerate(function):
        branch = BRANCH.search(text)
        start = places.get((branch[1] or branch[2].lstrip("0")), end + 1) if branch else end + 1
        if start <= end and any(access.search(each) for _, each in function[start : end + 1]):
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


def row_of(name: str, loop: list[str], elements: int) -> dict[str, Any]:
    return {
        "instructions": len(loop),
        "elements": elements,
        "instructions_per_element": len(loop) / elements,
        "budget": BUDGETS.get(name),
        "local_memory_accesses": sum("LDL" in text or "STL" in text for text in loop),
    }


def fill_rows(listing: str, access: re.Pattern[str], prefix: str = "") -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for function in functions(listing):
        for loop in main_loops(function, access):
            made = describe(loop)
            if made is not None:
                name, elements = prefix + made[0], made[1]
                if name in rows and rows[name]["instructions"] <= len(loop):
                    continue  # the longer one is that for other layouts
                rows[name] = row_of(name, loop, elements)
    return rows


def digest_rows(listing: str) -> dict[str, dict[str, Any]]:
    """The loop over tensors whose words can be loaded four at a time."""
    rows = {}
    for function in functions(listing):
        for loop in main_loops(function, WIDE_LOAD):
            words = 4 * sum(bool(WIDE_LOAD.search(text)) for text in loop)
            rows["digest of words"] = row_of("digest of words", loop, words)
    return rows


def measure() -> dict[str, Any]:
    disassembler = find_disassembler()
    kernels, listings = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for kernel in KERNELS:
            cubin, kernels[kernel] = compiled(kernel, Path(folder))
            command = [*disassembler, str(cubin)]
            listings[kernel] = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = fill_rows(listings["fill"], WIDE_STORE) | digest_rows(listings["digest"])
    rows |= fill_rows(listings["compare"], WIDE_LOAD, "compare ")
    version = subprocess.run(["nvcc", "--version"], check=True, capture_output=True, text=True).stdout
    return {
        "architecture": ARCHITECTURE,
        "nvcc": re.findall(r"release .*", version)[0],
        "commands": [" ".join([*COMPILE, source(kernel)]) for kernel in KERNELS],
        "disassembler": Path(disassembler[0]).name,
        "kernels": kernels,
        "loops": dict(sorted(rows.items())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="SASS instructions an element in the GPU kernels' main loops."
    )
    parser.add_argument("--output", type=Path, help="write the counts as JSON")
    options = parser.parse_args()
    result = measure()
    loops = result["loops"]
    print(f"nvcc {result['nvcc']}, {ARCHITECTURE}, {result['kernels']}")
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
