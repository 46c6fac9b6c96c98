"""What the processes of a job must agree on. The one place that communicates, and only when asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from convinit_ext.keys import Key

Result = TypeVar("Result")


def check_same_seed(seed: int) -> None:
    """Compares the seeds of all processes of the default process group, if there is one.

    Every process must call it, also with a seed that is none: it is judged after all have been heard, so that
    nobody waits. One small object of each goes to all.

    Raises:
        TypeError, ValueError: on a process whose seed is none, as Key.
        ValueError: on every other, where a seed differs or is none; it says who has which.

    >>> check_same_seed(7)  # no process group: nobody to disagree with
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    said, wrong = _judged(seed)
    seeds: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(seeds, said)
    if wrong is not None:
        raise wrong
    if len(set(seeds)) == 1:
        return
    ranks = {
        each: [rank for rank, other in enumerate(seeds) if other == each] for each in dict.fromkeys(seeds)
    }
    listed = "; ".join(f"{each} on rank{'s' * (len(who) > 1)} {_listed(who)}" for each, who in ranks.items())
    raise ValueError(f"the seed must be the same on all ranks, and it is {listed}")


def gathered(work: Callable[[], Result]) -> list[Result]:
    """What each process of the default process group made of its work, by rank, on every one of them.

    Every process must call it; without a process group there is this one alone.

    Raises:
        RuntimeError: on every process, where the work of one raised; it says whose.
        Exception: on the process itself what its work raised.

    >>> gathered(lambda: 7)
    [7]
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [work()]
    result: Result | None = None
    error: Exception | None = None
    try:
        result = work()
    except Exception as raised:  # the others wait: they have to hear of it, whatever it is
        error = raised
    outcomes: list[tuple[Result, str | None]] = [None] * dist.get_world_size()  # type: ignore[list-item]
    dist.all_gather_object(outcomes, (result, None if error is None else f"{type(error).__name__}: {error}"))
    if error is not None:
        raise error
    failed = [(rank, said) for rank, (_, said) in enumerate(outcomes) if said is not None]
    if failed:
        who = _listed([rank for rank, _ in failed])
        raise RuntimeError(f"failed on rank{'s' * (len(failed) > 1)} {who}: {failed[0][1]}")
    return [outcome for outcome, _ in outcomes]


def _judged(seed: int) -> tuple[str, Exception | None]:
    """What to tell the others of a seed, and the error that it is here.

    >>> _judged(3), _judged(2**64)[0]
    (('3', None), 'none (seed must be in [-2**63, 2**64), but found 18446744073709551616)')
    """
    try:
        return str(Key(seed, "seed").seed), None
    except (TypeError, ValueError) as error:
        return f"none ({error})", error


def _listed(ranks: list[int]) -> str:
    """The first few of them.

    >>> _listed(list(range(12)))
    '0, 1, 2, 3, 4, 5, 6, 7 and 4 more'
    """
    shown = 8
    more = f" and {len(ranks) - shown} more" if len(ranks) > shown else ""
    return ", ".join(map(str, ranks[:shown])) + more
