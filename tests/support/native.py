"""Compiles the programs and libraries of tests/native."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CXX = shutil.which(os.environ.get("CXX", "c++").split()[-1])


def compiled(cxx: str | None, folder: Path, source: str, *flags: str) -> Path:
    if cxx is None:
        pytest.skip("no compiler")
    built = folder / "built"
    flags += "-std=c++17", "-O2", "-ffp-contract=off", f"-I{ROOT / 'csrc'}"
    subprocess.run([cxx, *flags, str(ROOT / "tests" / "native" / source), "-o", str(built)], check=True)
    return built


def compiled_library(folder: Path, source: str, *flags: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(compiled(CXX, folder, source, "-fPIC", "-shared", *flags)))
