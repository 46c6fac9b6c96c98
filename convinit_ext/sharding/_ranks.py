"""What the processes of a job agree on, wait for, and add up. The one place that communicates, when asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore

from convinit_ext._engine import NUM_SUMS, UnsupportedTensorError, listed
from convinit_ext.sharding._dtensor import Sharding, sharding_of

T = TypeVar("T")
Words = NDArray[np.uint64]

_SHOWN = 20  # errors of ranks
_SECONDS_OF_BEAT = 1.0  # or a fifth of the group's timeout, if that is less
_WITHOUT_STORE = ("fake", "mpi")  # backends, whose collectives wait as long as it takes
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


def place(group: dist.ProcessGroup | None = None) -> tuple[int, int]:
    """Return this process's rank in a group, by default of all, and how many there are: (0, 1) without any.

    Raises TypeError for no group, and ValueError where this process is not in it.

    >>> place()
    (0, 1)
    """
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    if not (group is None or isinstance(group, dist.ProcessGroup | int)):  # a number is others' group
        raise TypeError(f"group must be a torch.distributed.ProcessGroup, not {type(group).__name__}")
    rank = dist.get_rank(group)
    if rank < 0:
        raise ValueError(
            f"rank {dist.get_rank()} is not in the group of group=; only its ranks may call this"
        )
    return rank, dist.get_world_size(group)


def members(group: dist.ProcessGroup | None = None) -> list[int]:
    """Return the ranks of a group among all, in its own order.

    >>> members()
    [0]
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [0]
    return dist.get_process_group_ranks(group)


def text_of(ranks: Sequence[int]) -> str:
    """Return the first of some ranks as text.

    >>> text_of([3]), text_of(range(22))[-17:]
    ('rank 3', '18, 19 and 2 more')
    """
    return f"rank{'s' * (len(ranks) > 1)} {listed(ranks)}"


def gathered(value: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """Return the values of all processes, which must all call it, in the order of their ranks.

    >>> gathered("mine")
    ['mine']
    """
    num_ranks = place(group)[1]
    values = [value] * num_ranks
    if num_ranks > 1:
        dist.all_gather_object(values, value, group=group)
    return values


def together(work: Callable[[], T], group: dist.ProcessGroup | None = None) -> T:
    """Do some work on all processes, which must all call it: an error of one is an error on all.

    They wait for each other as long as one of them is at work; the timeout is for those that are silent.

    Raises:
        RuntimeError: on every process; it says on which ranks what was raised, or which are silent.
        Exception: without other processes, what the work raises.

    >>> together(lambda: 7)
    7
    """
    if place(group)[1] == 1:
        return work()
    error: Exception | None = None
    with _Meeting(group) as meeting:
        try:
            result = work()
        except Exception as raised:
            error = raised
        meeting.wait()
    texts = gathered(None if error is None else f"{type(error).__name__}: {error}", group)
    ranks: dict[str, list[int]] = {}
    for rank, text in zip(members(group), texts, strict=True):
        if text is not None:
            ranks.setdefault(text, []).append(rank)
    if ranks:
        said = [f"{text_of(those)}: {text}" for text, those in ranks.items()]
        more = [f"and {len(said) - _SHOWN} more"] * (len(said) > _SHOWN)
        raise RuntimeError("; ".join(said[:_SHOWN] + more)) from error
    return result


class _Meeting:
    """A point that all ranks of a group reach, to be entered by `with` where the work before it begins.

    In a collective a rank would wait for the group's timeout at most, and what another one writes meanwhile
    may take longer. So they wait by the group's store, where each rank at work says every second that it is.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        group = group or dist.group.WORLD
        assert group is not None
        self._rank, self._ranks = dist.get_rank(), dist.get_process_group_ranks(group)
        store: Any = None if dist.get_backend(group) in _WITHOUT_STORE else group.get_group_store()
        self._here = store is None  # nobody waits
        self._working = not self._here
        if self._here:
            return
        self._store = PrefixStore("convinit_ext", store)
        self._timeout: float = self._store.timeout.total_seconds()  # type: ignore[attr-defined]  # PyTorch's types have no timeout
        self._number = self._store.add(f"meetings of {self._rank}", 1)

    def __enter__(self) -> _Meeting:
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


def check_same(facts: Callable[[], Mapping[str, str]]) -> None:
    """Compare some facts, texts by their names, of all processes of the default group, if there is one.

    Every process must call it, also with facts that cannot be had: they are judged after all have been heard,
    so that nobody waits. One small object of each goes to all.

    Raises:
        Exception: on a process where `facts` raised it.
        ValueError: on every other, where a fact differs or is none; it says who has which.

    >>> check_same(lambda: {"seed": "7"})  # no process group: nobody to disagree with
    """
    wrong: Exception | None = None
    found: Mapping[str, str] | str
    try:
        found = facts()
    except Exception as error:
        found, wrong = f"none ({error})", error
    everyone = gathered(found)
    if wrong is not None:
        raise wrong
    for name in found:
        ranks: dict[str, list[int]] = {}
        for rank, each in enumerate(everyone):
            ranks.setdefault(each if isinstance(each, str) else each[name], []).append(rank)
        if len(ranks) > 1:
            said = "; ".join(f"{each} on {text_of(those)}" for each, those in ranks.items())
            raise ValueError(f"the {name} must be the same on all ranks, and it is {said}")


def added_up(sums: Words) -> Words:
    """Add rows up modulo 2^64."""
    total: Words = sums.sum(axis=0, dtype=np.uint64)
    return total


class Ranks:
    """The ranks over which the sums of some tensors are added up, so that every element counts once.

    Of the replicas of a shard the first one counts; what is whole counts on each rank by itself. `shared`
    says whether there is anything to add up: a DTensor of which other ranks hold other parts. Raises
    RuntimeError for meshes that do not lie in one another, or if this rank is outside of the largest.
    """

    def __init__(self, names: Sequence[str], tensors: Sequence[Tensor]) -> None:
        found = []
        for name, tensor in zip(names, tensors, strict=True):
            try:
                found.append(sharding_of(tensor))
            except UnsupportedTensorError as error:
                about = f"tensor {name!r}" if name else "the tensor"
                raise UnsupportedTensorError(f"{about}: {error}") from error
        self._is_cut = np.array([each is not None and each.is_cut for each in found], dtype=bool)
        self.shared = bool(self._is_cut.any())
        self._error: Exception | None = None  # why this rank has no sums
        on_meshes = [(name, each) for name, each in zip(names, found, strict=True) if each is not None]
        if on_meshes:
            self._check_meshes(on_meshes)
        if self.shared:
            lowest = min(self._largest.ranks)
            counts = [each is not None and each.first and lowest in each.ranks for each in found]
            self._counts = np.array(counts, dtype=bool) & self._is_cut

    def _check_meshes(self, on_meshes: Sequence[tuple[str, Sharding]]) -> None:
        self._largest = max((each for _, each in on_meshes), key=lambda each: len(each.ranks))
        for name, each in on_meshes:
            if self.shared and not set(each.ranks) <= set(self._largest.ranks):
                raise RuntimeError(
                    f"DTensor {name!r} is on ranks {sorted(each.ranks)}, which are not among "
                    f"{sorted(self._largest.ranks)}, those of the largest mesh; take the parts of the model "
                    "one by one"
                )
            if each.is_outside:
                self._error = self._error or RuntimeError(
                    f"DTensor {name!r} is on ranks {sorted(each.ranks)}, and this rank is none of them, and "
                    "holds nothing of it; take the parts of the model one by one, each on its own ranks"
                )
        if self._error is not None and (self._largest.is_outside or not self.shared):  # nobody waits for it
            raise self._error

    def total(self, read: Callable[[], Words]) -> Words:
        """Return the sums of all tensors added up: (4,). Collective if `shared`.

        What `read` gives, of what this rank holds, has a row for each tensor: (n, 4).

        Raises:
            RuntimeError: a rank is outside of a DTensor's mesh, or `read` raised there; on all ranks.
            Exception: what `read` raises here.
        """
        sums = self._read(read)
        if not self.shared:
            return added_up(sums)
        total: Words = added_up(sums[~self._is_cut]) + self._over_ranks(added_up(sums[self._counts])[None])[0]
        return total

    def each(self, read: Callable[[], Words]) -> Words:
        """Return the sums of every tensor by itself: (n, 4). Collective if `shared`. As `total`."""
        sums = self._read(read)
        if self.shared:
            own = sums * self._counts[:, None]
            sums[self._is_cut] = self._over_ranks(own[self._is_cut])
        return sums

    def _read(self, read: Callable[[], Words]) -> Words:
        """Where other ranks wait, an error here is for later, when they have heard of it."""
        try:
            return read()
        except Exception as error:
            if not self.shared:
                raise
            self._error = self._error or error
            return np.zeros((len(self._is_cut), NUM_SUMS), dtype=np.uint64)

    def _over_ranks(self, own: Words) -> Words:
        """Add rows up over all ranks, and beside them how many ranks have no sums, and their numbers."""
        failed = [0, 0] if self._error is None else [1, dist.get_rank()]
        flags = np.array([failed + [0] * (NUM_SUMS - len(failed))], dtype=np.uint64)
        added = self._added(np.concatenate([own, flags]))
        if self._error is not None:
            raise self._error
        num_failed, rank = added[-1, :2]
        if num_failed:
            who = f"rank {rank}" if num_failed == 1 else f"{num_failed} ranks"
            raise RuntimeError(f"{who} could not read what it holds of the tensors; the error there says why")
        return added[:-1]

    def _added(self, own: Words) -> Words:
        """Add words up over all ranks, in halves of 32 bits, whose sums 64 bits can hold."""
        halves = np.stack([own & _LOW, own >> _HALF]).astype(np.int64)
        summed = torch.from_numpy(halves).to(self._largest.device_type)  # the current one of that kind
        # The whole job's group, if the mesh is of all its ranks; else those of the axes, one after the other.
        is_world = len(self._largest.ranks) == dist.get_world_size()
        for group in [None] if is_world else self._largest.groups():
            dist.all_reduce(summed, group=group)
        low, high = summed.cpu().numpy().astype(np.uint64)
        total: Words = low + (high << _HALF)
        return total
