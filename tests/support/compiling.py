"""The C++ compiler that tests run, and the sources that they give it."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from processes import ROOT

CSRC = ROOT / "csrc"
CXX = shutil.which(os.environ.get("CXX", "c++").split()[-1])
# Formulas are called, not copied into every caller (csrc/core/macros.h): a fraction of the time to compile.
CALLED = "-DCONVINIT_INLINE=__attribute__((unused))"


def compiled(cxx: str | None, folder: Path, source: str, *flags: str) -> Path:
    """Return a program made of a source of tests/native."""
    if cxx is None:
        pytest.skip("no compiler")
    built = folder / "built"
    flags += "-std=c++17", "-O2", "-ffp-contract=off", f"-I{CSRC}"
    subprocess.run([cxx, *flags, str(ROOT / "tests" / "native" / source), "-o", str(built)], check=True)
    return built


def compiled_library(folder: Path, source: str, *flags: str) -> ctypes.CDLL:
    """Return a library made of a source of tests/native."""
    return ctypes.CDLL(str(compiled(CXX, folder, source, "-fPIC", "-shared", *flags)))
