"""What the processes of a job must agree on. The one place that communicates, and only when asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch.distributed as dist

from convinit_ext.keys import checked_seed

T = TypeVar("T")


def place() -> tuple[int, int]:
    """This process's rank, and how many there are: (0, 1) without a process group.

    >>> place()
    (0, 1)
    """
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def gathered(value: T) -> list[T]:
    """The values of all processes, which must all call it, in the order of their ranks.

    >>> gathered("mine")
    ['mine']
    """
    num_ranks = place()[1]
    values = [value] * num_ranks
    if num_ranks > 1:
        dist.all_gather_object(values, value)
    return values


def together(work: Callable[[], T]) -> T:
    """What the work gives this process. All processes must call it, and an error of one is an error on all.

    Raises:
        RuntimeError: on every process; it says on which ranks what was raised.
        Exception: without other processes, what the work raises.

    >>> together(lambda: 7)
    7
    """
    if place()[1] == 1:
        return work()
    error: Exception | None = None
    try:
        result = work()
    except Exception as raised:
        error = raised
    texts = gathered(None if error is None else f"{type(error).__name__}: {error}")
    failed = [f"rank {rank}: {text}" for rank, text in enumerate(texts) if text is not None]
    if failed:
        raise RuntimeError("; ".join(failed)) from error
    return result


def check_same_seed(seed: int) -> None:
    """Compares the seeds of all processes of the default process group, if there is one.

    Every process must call it, also with a seed that is none: it is judged after all have been heard, so that
    nobody waits. One small object of each goes to all.

    Raises:
        TypeError, ValueError: on a process whose seed is none, as Key.
        ValueError: on every other, where a seed differs or is none; it says who has which.

    >>> check_same_seed(7)  # no process group: nobody to disagree with
    """
    said, wrong = _judged(seed)
    seeds = gathered(said)
    if wrong is not None:
        raise wrong
    if len(set(seeds)) == 1:
        return
    ranks = {
        each: [rank for rank, other in enumerate(seeds) if other == each] for each in dict.fromkeys(seeds)
    }
    listed = "; ".join(f"{each} on {text_of(who)}" for each, who in ranks.items())
    raise ValueError(f"the seed must be the same on all ranks, and it is {listed}")


def _judged(seed: int) -> tuple[str, Exception | None]:
    """What to tell the others of a seed, and the error that it is here.

    >>> _judged(3), _judged(2**64)[0]
    (('3', None), 'none (seed must be in [-2**63, 2**64), but found 18446744073709551616)')
    """
    try:
        return str(checked_seed(seed)), None
    except (TypeError, ValueError) as error:
        return f"none ({error})", error


def text_of(ranks: Sequence[int]) -> str:
    """The first few of them.

    >>> text_of([3]), text_of(range(12))
    ('rank 3', 'ranks 0, 1, 2, 3, 4, 5, 6, 7 and 4 more')
    """
    shown = 8
    more = f" and {len(ranks) - shown} more" if len(ranks) > shown else ""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks[:shown]))}{more}"
