"""Counts the instructions of the fill loops: machine code instructions an element, from the built extension.

    python benchmarks/instructions.py

Needs objdump. A fill loop is the shortest loop of its function that holds a whole Philox. The truncated
normal has one for each kind of interval and is left out.
"""

from __future__ import annotations

import re
import subprocess

import convinit_ext._C as _C

GROUP = {"avx512": 128, "avx2": 64}  # float32 elements a turn of the loop; half of it for float64
REGISTER = {"avx512": "zmm", "avx2": "ymm"}
FUNCTION = re.compile(
    r"<(?:void )?convinit::(avx512|avx2)::generate<convinit::\1::(\w+), (?:convinit::)?(\w+)>"
)


def disassembly() -> str:
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", str(_C.__file__)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def loops(body: str) -> list[list[str]]:
    """Instructions of every backward jump's span."""
    lines = [line.split("\t", 1) for line in body.splitlines() if "\t" in line]
    addresses = [int(address.strip(" :"), 16) for address, _ in lines]
    instructions = [text for _, text in lines]
    found = []
    for end, text in enumerate(instructions):
        jump = re.match(r"j\w+\s+([0-9a-f]+)", text)
        target = int(jump.group(1), 16) if jump else None
        if target in addresses and addresses.index(target) <= end:
            found.append(instructions[addresses.index(target) : end + 1])
    return found


def main() -> None:
    for function in re.split(r"\n(?=[0-9a-f]+ <)", disassembly()):
        match = FUNCTION.search(function.split("\n", 1)[0])
        if match is None:
            continue
        isa, sampler, dtype = match.groups()
        if sampler == "TruncatedNormal":
            continue
        group = GROUP[isa] // (2 if dtype == "double" else 1)
        multiplies = [loop for loop in loops(function) if sum("vpmuludq" in text for text in loop) >= 34]
        loop = min(multiplies, key=len, default=[])
        vector = sum(REGISTER[isa] in text for text in loop)
        print(f"{isa:7} {sampler:16} {dtype:9} {len(loop) / group:6.2f} instructions an element", end="")
        print(f", {vector} of {len(loop)} on {REGISTER[isa]}, {group} elements")


if __name__ == "__main__":
    main()
