"""Whole models on meshes of processes, bit for bit those of one; scripts of tests/support run there."""

import pytest
from processes import SUPPORT, shared_ranks
from torch import nn

from convinit_ext.sharding import flat_pieces


@pytest.mark.parametrize(
    ("script", "num_processes"),
    [
        ("sharded_models.py", 4),
        ("sharded_models.py", 8),
        ("sharded_experts.py", 4),
        ("fingerprinted_ranks.py", 4),  # what one process cannot read
        ("flat_ranks.py", 2),  # the older FSDP
        ("foreign_ranks.py", 2),
        ("foreign_ranks.py", 3),
        ("alias_ranks.py", 2),
        ("saved_ranks.py", 2),
        ("saved_ranks.py", 4),
        ("slow_ranks.py", 2),
        ("verified_ranks.py", 4),
    ],
)
def test_on_processes(script: str, num_processes: int):
    shared_ranks().run(SUPPORT / script, num_processes)


def test_only_pytorchs_own_wrapper_keeps_pieces():
    assert not flat_pieces([("", type("FullyShardedDataParallel", (nn.Module,), {})())])
