"""Whole models on meshes of processes, bit for bit those of one; the scripts sharded_*.py run there."""

from __future__ import annotations

import importlib.util

import pytest
from processes import SUPPORT, run_script


def cases(script: str, num_processes: int) -> list[str]:
    printed = run_script(SUPPORT / script, num_processes)
    return [line.removeprefix("held: ") for line in printed.splitlines() if line.startswith("held: ")]


@pytest.mark.parametrize("num_processes", [4, 8])
def test_models_on_meshes_of_processes(num_processes: int):
    held = cases("sharded_models.py", num_processes)
    assert len(held) == (17 if importlib.util.find_spec("transformers") else 14), held


def test_what_one_process_cannot_read():
    assert cases("fingerprinted_ranks.py", 4) == [
        f"{num_axes}: {case}"
        for num_axes in (1, 2)
        for case in (
            "a local tensor of another shape",
            "an empty local tensor",
            "a local tensor without values",
            "a plain tensor that cannot be read",
        )
    ]


def test_experts_on_a_mesh_of_processes():
    held = cases("sharded_experts.py", 4)
    assert len(held) == (12 if importlib.util.find_spec("transformers") else 10), held
