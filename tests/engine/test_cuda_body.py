"""The GPU kernels' bodies, and what launches them, compiled for the CPU: programs in tests/cuda compare them
with the CPU engine, and look for what remains of an error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
CXX = shutil.which(os.environ.get("CXX", "c++").split()[-1])
FLAGS = ["-std=c++17", "-O2", "-ffp-contract=off", "-pthread", f"-I{CSRC}", f"-I{ROOT / 'tests/fake_cuda'}"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> list[str]:
    """Object files of csrc/cpu."""
    folder = tmp_path_factory.mktemp("engine")
    sources = [str(source) for source in sorted((CSRC / "cpu").glob("*.cpp"))]
    subprocess.run([CXX, *FLAGS, "-c", *sources], cwd=folder, check=True)
    return [str(path) for path in folder.glob("*.o")]


@pytest.mark.skipif(CXX is None, reason="no compiler")
@pytest.mark.parametrize("program", ["body_on_cpu", "compare_on_cpu", "digest_on_cpu", "launcher_on_cpu"])
def test_programs_find_no_error(tmp_path: Path, engine, program: str):
    source, path = ROOT / "tests" / "cuda" / f"{program}.cpp", tmp_path / program
    subprocess.run([CXX, *FLAGS, str(source), *engine, "-o", str(path)], check=True)
    result = subprocess.run([str(path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "no error" in result.stdout
