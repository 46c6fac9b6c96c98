"""The older FSDP: pieces of flat parameters are refused, and whole parameters filled."""

from __future__ import annotations

from processes import SUPPORT, run_script

from convinit_ext.sharding import _flat as flat_shards


def test_pieces_are_refused_and_whole_parameters_filled():
    printed = run_script(SUPPORT / "flat_ranks.py", 2)
    assert "held: pieces are refused on every rank, and whole parameters are filled" in printed


def test_only_pytorchs_own_wrapper_counts():
    assert not flat_shards._is_wrapper(type("FullyShardedDataParallel", (), {}))
