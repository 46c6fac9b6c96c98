"""Whole models on meshes of processes, bit for bit those of one; sharded_models.py is what runs there."""

from __future__ import annotations

import importlib.util

import pytest
from processes import TESTS, run_script


@pytest.mark.parametrize("num_processes", [4, 8])
def test_models_on_meshes_of_processes(num_processes: int):
    printed = run_script(TESTS / "sharded_models.py", num_processes)
    held = [line.removeprefix("held: ") for line in printed.splitlines() if line.startswith("held: ")]
    assert len(held) == (17 if importlib.util.find_spec("transformers") else 14), held
