"""Ranks that wait for each other without a time limit, as long as those that are awaited are at work."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore

from convinit_ext._engine import listed

_SECONDS_OF_BEAT = 1.0  # or a fifth of the group's timeout, if that is less
_WITHOUT_STORE = ("fake", "mpi")  # backends, whose collectives wait as long as it takes


class Meeting:
    """A point that all ranks of a group reach, to be entered by `with` where the work before it begins.

    In a collective a rank would wait for the group's timeout at most, and what another one writes meanwhile
    may take longer. So they wait by the group's store, where each rank at work says every second that it is.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        group = group or dist.group.WORLD
        assert group is not None
        self._rank, self._ranks = dist.get_rank(), dist.get_process_group_ranks(group)
        self._here = dist.get_backend(group) in _WITHOUT_STORE  # nobody waits
        self._working = not self._here
        if self._here:
            return
        self._store = PrefixStore("convinit_ext", group.get_group_store())
        self._timeout: float = self._store.timeout.total_seconds()  # type: ignore[attr-defined]  # PyTorch's types have no timeout
        self._number = self._store.add(f"meetings of {self._rank}", 1)

    def __enter__(self) -> Meeting:
        if self._working:
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._working = False
        if kind is not None and not self._here:  # an interrupt: the others are not to wait
            self._store.set(self._key("left"), f"rank {self._rank}: {kind.__name__}")
            self._arrive()

    def wait(self) -> None:
        """Wait until all ranks are here; RuntimeError if one has left, or none that is missing is at work."""
        if self._here:
            return
        self._arrive()
        self._working = False
        pause, beats, heard = 0.001, -1, 0.0
        while not self._store.check([self._key("all")]):
            if (now_beats := self._store.add("beats", 0)) != beats:
                beats, heard = now_beats, time.monotonic()
            if time.monotonic() - heard > self._timeout:
                self._raise_silent()
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
        if self._store.check([self._key("left")]):
            raise RuntimeError(self._store.get(self._key("left")).decode())

    def _arrive(self) -> None:
        self._here = True
        self._store.set(self._key(self._rank), "")
        if self._store.add(self._key("arrived"), 1) == len(self._ranks):
            self._store.set(self._key("all"), "")

    def _key(self, what: object) -> str:
        return f"meeting {self._number}: {what}"

    def _raise_silent(self) -> None:
        missing = [rank for rank in self._ranks if not self._store.check([self._key(rank)])]
        raise RuntimeError(
            f"{text_of(missing)} did not come, and said nothing for {self._timeout:.0f} s, the timeout of "
            "torch.distributed.init_process_group"
        )

    def _beat(self) -> None:
        pause = min(_SECONDS_OF_BEAT, self._timeout / 5)
        while True:
            time.sleep(pause)
            if not self._working:
                return
            self._store.add("beats", 1)


def text_of(ranks: Sequence[int]) -> str:
    """Return the first of some ranks as text.

    >>> text_of([3]), text_of(range(22))[-17:]
    ('rank 3', '18, 19 and 2 more')
    """
    return f"rank{'s' * (len(ranks) > 1)} {listed(ranks)}"
