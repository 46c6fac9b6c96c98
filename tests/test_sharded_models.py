"""Whole models on meshes of processes, bit for bit those of one; sharded_models.py is what runs there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.parametrize("num_processes", [4, 8])
def test_models_on_meshes_of_processes(num_processes: int):
    result = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"),
            *(str(num_processes), str(TESTS / "sharded_models.py")),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    held = [line.removeprefix("held: ") for line in result.stdout.splitlines() if line.startswith("held: ")]
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(held) == (13 if importlib.util.find_spec("transformers") else 10), held
