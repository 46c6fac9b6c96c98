"""Cases that run with another package on the processes of a job, each by its name; what they share."""

import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from processes import Ranks
from ranks import run_cases as run_cases
from torch import nn

Case = Callable[[], None]


def assert_all_hold(script: str, cases: Sequence[Case], num_processes: int = 2) -> None:
    """Run a script, whose main() is run_cases(cases), as the ranks of a job: every case holds there."""
    printed = Ranks().run(Path(script), num_processes)  # of its own: other frameworks change PyTorch
    assert re.findall("held: (.*)", printed) == [case.__name__ for case in cases], printed


def shared_folder() -> str:
    """Return a new folder, the same on every rank."""
    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(folder)
    return folder[0]


def assert_refused(said: str, *calls: Callable[[], object]) -> None:
    for call in calls:
        with pytest.raises(ValueError, match=f"(?s){said}"):
            call()


def assert_same_values(own: nn.Module, whole: nn.Module) -> None:
    """Parameters of one shape and dtype, with the same bits, in the same order."""
    pairs = zip(own.named_parameters(), whole.named_parameters(), strict=True)
    for (name, mine), (_, other) in pairs:
        assert mine.dtype == other.dtype and torch.equal(mine, other), name
