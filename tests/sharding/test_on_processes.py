"""Whole models on meshes of processes, bit for bit those of one; scripts of tests/support run there."""

import importlib.util

import pytest
from processes import SUPPORT, shared_ranks
from torch import nn

from convinit_ext.sharding import flat_pieces

HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None


def cases(script: str, num_processes: int) -> list[str]:
    printed = shared_ranks().run(SUPPORT / script, num_processes)
    return [line.removeprefix("held: ") for line in printed.splitlines() if line.startswith("held: ")]


@pytest.mark.parametrize(
    ("script", "num_processes", "num_cases"),
    [
        ("sharded_models.py", 4, 18 if HAS_TRANSFORMERS else 15),
        ("sharded_models.py", 8, 18 if HAS_TRANSFORMERS else 15),
        ("sharded_experts.py", 4, 12 if HAS_TRANSFORMERS else 10),
        ("fingerprinted_ranks.py", 4, 8),  # what one process cannot read
        ("flat_ranks.py", 2, 1),  # the older FSDP
        ("foreign_ranks.py", 2, 8),
        ("foreign_ranks.py", 3, 8),
        ("alias_ranks.py", 2, 3),
    ],
)
def test_on_processes(script: str, num_processes: int, num_cases: int):
    held = cases(script, num_processes)
    assert len(held) == num_cases, held


def test_only_pytorchs_own_wrapper_keeps_pieces():
    assert not flat_pieces([("", type("FullyShardedDataParallel", (nn.Module,), {})())])
