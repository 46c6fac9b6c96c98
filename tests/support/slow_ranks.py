"""Run as two ranks: one works for longer than the timeout of the process group, is stopped, or is silent."""

import datetime
import shutil
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from clients import shared_folder
from torch import nn

from convinit_ext import save_model, verify
from convinit_ext.checkpoint import _save as saving
from convinit_ext.sharding import together

SECONDS = 2  # of the timeout


def model() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(8, 4)


def one_is_slow(path: Path) -> None:
    write = saving.write_file

    def slow(*arguments: object) -> None:
        time.sleep(2.5 * SECONDS)
        write(*arguments)

    saving.write_file = slow
    save_model(model(), path, 1)
    saving.write_file = write
    assert verify(path, 1, model=model())


def one_is_slow_to_look(path: Path) -> None:
    assert together(lambda: time.sleep(1.5 * SECONDS * dist.get_rank())) is None


def one_is_interrupted(path: Path) -> None:
    def work() -> None:
        if dist.get_rank() == 1:
            raise KeyboardInterrupt

    with pytest.raises((RuntimeError, KeyboardInterrupt)) as raised:
        together(work)
    if dist.get_rank() == 0:
        assert str(raised.value) == "rank 1: KeyboardInterrupt"
    assert together(lambda: 7) == 7


def one_is_silent(path: Path) -> None:
    if dist.get_rank() == 0:
        with pytest.raises(RuntimeError, match=f"rank 1 did not come, and said nothing for {SECONDS} s"):
            together(lambda: None)
    else:
        time.sleep(2 * SECONDS)


def main() -> None:
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=SECONDS))
    folder = Path(shared_folder())
    for check in (one_is_slow, one_is_slow_to_look, one_is_interrupted, one_is_silent):
        check(folder / "new" / f"{check.__name__}.safetensors")
    if dist.get_rank() == 0:
        shutil.rmtree(folder)
