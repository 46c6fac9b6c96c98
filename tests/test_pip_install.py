"""scripts/pip_install.sh: one sentence where pip finds nothing, pip's own words and status otherwise."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "pip_install.sh"
RETRY = "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError'"
NONE = "ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: none)"
OTHER = (
    "ERROR: Could not find a version that satisfies the requirement torch==9 (from versions: 2.12.0, 2.13.0)"
)


def run_with(folder: Path, says: str, status: int) -> subprocess.CompletedProcess[str]:
    """A script stands in for Python: its pip prints and ends so."""
    python = folder / "python"
    (folder / "says").write_text(says)
    python.write_text(f'#!/bin/sh\necho "$@"\ncat {folder / "says"} >&2\nexit {status}\n')
    python.chmod(0o755)
    command = ["sh", str(SCRIPT), str(python), "torch==2.13.0", "--group", "build"]
    return subprocess.run(command, capture_output=True, text=True)


def test_an_index_that_cannot_be_reached_is_one_sentence(tmp_path: Path):
    result = run_with(tmp_path, f"{RETRY}\n{RETRY}\n{NONE}\nERROR: No matching distribution\n", 1)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("pip finds no torch==2.13.0: the package index cannot be reached, or has none")
    assert "PIP_INDEX_URL" in line


@pytest.mark.parametrize(
    ("says", "status"), [(f"{OTHER}\n", 1), ("error: no compiler\n", 2), (f"{RETRY}\n", 0)]
)
def test_everything_else_is_what_pip_says(tmp_path: Path, says: str, status: int):
    result = run_with(tmp_path, says, status)
    assert (result.returncode, result.stderr) == (status, says)
    assert result.stdout == "-m pip install --quiet --quiet torch==2.13.0 --group build\n"
