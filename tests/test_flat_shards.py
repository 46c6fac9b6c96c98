"""The older FSDP: pieces of flat parameters are refused, and whole parameters filled."""

from __future__ import annotations

from pathlib import Path

from processes import run_script

from convinit_ext import flat_shards


def test_pieces_are_refused_and_whole_parameters_filled():
    printed = run_script(Path(__file__).parent / "flat_ranks.py", 2)
    assert "held: pieces are refused on every rank, and whole parameters are filled" in printed


def test_only_pytorchs_own_wrapper_counts():
    assert not flat_shards._is_wrapper(type("FullyShardedDataParallel", (), {}))
