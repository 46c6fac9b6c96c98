"""The GPU kernel's body, compiled for the CPU: tests/cuda/body_on_cpu.cpp compares it with the CPU engine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "csrc"
CXX = shutil.which(os.environ.get("CXX", "c++").split()[-1])
FLAGS = ["-std=c++17", "-O2", "-ffp-contract=off", "-pthread", f"-I{CSRC}"]


@pytest.mark.skipif(CXX is None, reason="no compiler")
def test_every_thread_of_several_grids_writes_what_the_cpu_writes(tmp_path: Path):
    sources = [*sorted((CSRC / "cpu").glob("*.cpp")), ROOT / "tests" / "cuda" / "body_on_cpu.cpp"]
    program = tmp_path / "body_on_cpu"
    subprocess.run([CXX, *FLAGS, *map(str, sources), "-o", str(program)], check=True)
    result = subprocess.run([str(program)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "no error" in result.stdout
