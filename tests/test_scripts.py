"""scripts/compile.py and scripts/native_coverage.py: what they print, and how they end."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NINJA = "[1/2] c++ -MMD -MF a.o.d -I/tree/csrc -c -c /tree/csrc/cpu/fill.cpp -o /tree/build/fill.o -O3"


def run(name: str, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_build_says_how_far_it_is(tmp_path: Path):
    """Of a setup.py that stands in for ours: its files, what else it says, that it goes on, its status."""
    lines = ("import sys, time", f"print({NINJA!r}, flush=True)", "time.sleep(1)", "print('error: no')")
    (tmp_path / "setup.py").write_text("\n".join((*lines, "sys.exit(3)")))
    result = run("compile.py", tmp_path, 0.1)
    said = {line for line in result.stdout.splitlines() if not line.startswith("[0] ")}
    assert said == {"[1/2] csrc/cpu/fill.cpp", "[1/2] still compiling the next", "error: no"}
    assert result.returncode == 3


@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("gcov")), reason="there is no GCC")
@pytest.mark.parametrize(("least", "status"), [(50, 0), (90, 1)])
def test_lines_that_no_program_has_run_are_named(tmp_path: Path, least: int, status: int):
    """A header of csrc/core stands for them: a program that runs one of two functions of a line each."""
    header = (
        f'#line 1 "{ROOT}/csrc/core/philox.h"',
        "int ran() { return 1; }",
        "int not_ran() { return 2; }",
    )
    program = ('#line 1 "some.cpp"', "int main() { return ran() - 1; }", "")
    (tmp_path / "some.cpp").write_text("\n".join(header + program))
    subprocess.run(["g++", "--coverage", "some.cpp", "-o", "some"], cwd=tmp_path, check=True)
    subprocess.run([tmp_path / "some"], cwd=tmp_path, check=True)
    result = run("native_coverage.py", tmp_path, tmp_path, least)
    assert result.returncode == status, result.stderr
    assert result.stdout.splitlines() == [
        "csrc/core/philox.h: 1 of 2 lines 2",
        f"csrc/cpu and csrc/core: 50.0 % of 2 lines; accepted are {least} %",
    ]
