"""Sums over the ranks that share tensors: every element counts once, and replicas must agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from convinit_ext._engine import NUM_SUMS
from convinit_ext.sharding._dtensor import Sharding, sharding_of

Words = NDArray[np.uint64]

_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_FAILED, _FAILED_RANK = 1, 2  # of the flags: how many ranks could not read; the sum of their numbers


def added_up(sums: Words) -> Words:
    """Rows modulo 2^64."""
    total: Words = sums.sum(axis=0, dtype=np.uint64)
    return total


class Ranks:
    """The ranks over which the sums of some tensors have to be added up.

    Args:
        names: of the tensors.
        tensors: DTensors, or tensors that each rank has whole.

    Raises:
        RuntimeError: meshes that do not lie in one another; this rank is outside of the largest.

    Attributes:
        shared: whether there is anything to add up: a DTensor of which other ranks hold other parts.
    """

    def __init__(self, names: Sequence[str], tensors: Sequence[Tensor]) -> None:
        self._names = names
        self._error: Exception | None = None  # why this rank has no sums
        found = [sharding_of(tensor) for tensor in tensors]
        self.shared = any(each is not None and each.is_cut for each in found)
        # Copies of whole tensors are compared on the occasion, and cause none.
        shared = [(row, each) for row, each in enumerate(found) if each is not None and len(each.ranks) > 1]
        self._rows = [row for row, _ in shared] if self.shared else []
        self._shardings = [each for _, each in shared] if self.shared else []
        if self.shared:
            self._largest = max(self._shardings, key=lambda each: len(each.ranks))
            self._check_nested()
        if not self.shared or self._largest.is_outside:
            self._check_inside(found)

    def total(self, read: Callable[[], Words]) -> Words:
        """The sums of all tensors added up: (4,). Collective if `shared`.

        Args:
            read: gives the sums of what this rank holds, a row for each tensor: (n, 4).

        Raises:
            ValueError: replicas that are not equal; on all ranks.
            RuntimeError: a rank is outside of a DTensor's mesh; on all ranks. `read` raised on another one.
            Exception: what `read` raises here.
        """
        sums = self._read(read)
        if not self.shared:
            return added_up(sums)
        counted, balance, flags = self._added(self._outgoing(sums).sum(axis=1, dtype=np.uint64))
        if balance.any() or flags.any():
            self._each(sums)  # which names those that differ
            raise AssertionError("replicas differ together, and none of them does")
        whole: Words = counted + added_up(np.delete(sums, self._rows, axis=0))
        return whole

    def each(self, read: Callable[[], Words]) -> Words:
        """The sums of every tensor by itself: (n, 4). Collective if `shared`. As `total`."""
        sums = self._read(read)
        return self._each(sums) if self.shared else sums

    def _read(self, read: Callable[[], Words]) -> Words:
        """An error is for later where other ranks wait."""
        try:
            return read()
        except Exception as error:
            if not self.shared:
                raise
            self._error = error
            return np.zeros((len(self._names), NUM_SUMS), dtype=np.uint64)

    def _each(self, sums: Words) -> Words:
        whole: Words = sums.copy()
        counted, balance, flags = self._added(self._outgoing(sums))
        self._check_read(int(flags[0, _FAILED]), int(flags[0, _FAILED_RANK]))
        absent, differ = (self._names_where(plane) for plane in (flags[:, :_FAILED], balance))
        if absent:
            raise RuntimeError(
                f"DTensor {absent[0]!r} is not on all of the ranks {sorted(self._largest.ranks)}: some "
                "hold nothing of it; take the parts of the model one by one, each on its own ranks"
            )
        if differ:
            raise ValueError(
                f"replicas of {len(differ)} DTensor{'s' * (len(differ) > 1)} are not equal on all ranks: "
                + ", ".join(differ)
            )
        whole[self._rows] = counted
        return whole

    def _check_read(self, num_failed: int, total_of_ranks: int) -> None:
        if self._error is not None:
            raise self._error
        if num_failed:
            who = f"rank {total_of_ranks}" if num_failed == 1 else f"{num_failed} ranks"
            raise RuntimeError(f"{who} could not read what it holds of the tensors; the error there says why")

    def _names_where(self, plane: Words) -> list[str]:
        return [self._names[row] for row, each in zip(self._rows, plane, strict=True) if each.any()]

    def _outgoing(self, sums: Words) -> Words:
        """What this rank adds, (3, rows, 4): to sums, to what is zero if replicas are equal, and to flags.

        The flags are zero if each rank is in every tensor's mesh and could read what it holds.

        Of equal replicas the first counts, times one less than their number; each other one counts -1.
        """
        lowest = min(self._largest.ranks)
        counted, balance = [], []
        for each in self._shardings:
            copies = each.num_replicas * (len(self._largest.ranks) // len(each.ranks))
            counts = each.first and lowest in each.ranks
            counted.append(int(counts))
            balance.append(copies - 1 if counts else 2**64 - 1)
        factors = np.array([counted, balance], dtype=np.uint64)[:, :, None]
        flags = np.zeros((1, len(self._rows), NUM_SUMS), dtype=np.uint64)
        flags[0, :, 0] = [each.is_outside for each in self._shardings]
        if self._error is not None:
            flags[0, :, _FAILED], flags[0, :, _FAILED_RANK] = 1, dist.get_rank()
        outgoing: Words = np.concatenate([factors * sums[self._rows], flags])
        return outgoing

    def _added(self, own: Words) -> Words:
        """Over all ranks. In halves of 32 bits, of which no number of ranks makes too much for 64."""
        halves = np.stack([own & _LOW, own >> _HALF]).astype(np.int64)
        mesh = self._largest.mesh
        device = (
            torch.device("cpu")
            if mesh.device_type == "cpu"
            else torch.device(mesh.device_type, torch.get_device_module(mesh.device_type).current_device())
        )
        summed = torch.from_numpy(halves).to(device)
        for group in _groups(self._largest):
            dist.all_reduce(summed, group=group)
        low, high = summed.cpu().numpy().astype(np.uint64)
        total: Words = low + (high << _HALF)
        return total

    def _check_inside(self, found: Sequence[Sharding | None]) -> None:
        for name, each in zip(self._names, found, strict=True):
            if each is not None and each.is_outside:
                raise RuntimeError(
                    f"tensor {name!r}: this rank is not in the DTensor's mesh, and holds nothing of it"
                )

    def _check_nested(self) -> None:
        around = set(self._largest.ranks)
        for row, each in zip(self._rows, self._shardings, strict=True):
            if not around.issuperset(each.ranks):
                raise RuntimeError(
                    f"DTensor {self._names[row]!r} is on ranks {sorted(each.ranks)}, which are not among "
                    f"{sorted(around)}, those of the largest mesh; take the parts of the model one by one"
                )


def _groups(sharding: Sharding) -> list[Any]:
    """Process groups whose sums, one after the other, are the mesh's: one, if one has exactly its ranks."""
    if len(sharding.ranks) == dist.get_world_size():
        return [None]
    return [sharding.mesh.get_group(axis) for axis in range(sharding.mesh.ndim)]
