"""Runs scripts' CASES, or main(), as every rank of a job: for each line "SIZE SCRIPT" that it reads.

The processes are forked after one import of PyTorch and of all that the scripts import, which takes longer
than what they do then. So a script starts no threads where it is imported. Each ends with a line of ENDED.
"""

import functools
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Iterable

import torch.distributed as dist

SECONDS = 300  # that a process may take
ENDED = "ranks.py: status "


def be_rank(main: Callable[[], object], rank: int, size: int, reads: int) -> int:
    """Run main() in this process as one rank; the exit status."""
    signal.alarm(SECONDS)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": os.read(reads, 5).decode(),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is the parent's
    }
    try:
        main()
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run_cases(cases: Iterable[Callable[[], object]]) -> None:
    """Run cases one after the other on every rank, and say which have held on all of them."""
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    for case in cases:
        case()
        dist.barrier()
        if dist.get_rank() == 0:
            print(f"held: {case.__name__}", flush=True)
    dist.destroy_process_group()


def run_ranks(script: str, size: int) -> int:
    """Fork the ranks, and wait for them; the exit status."""
    sys.argv[:] = [script]  # as the script would find it
    found = runpy.run_path(script, run_name="script")
    run = found.get("main") or functools.partial(run_cases, found["CASES"])
    reads, writes = os.pipe()
    children = set()
    for rank in range(size):
        if not (child := os.fork()):
            status = be_rank(run, rank, size, reads)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        children.add(child)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # on a free port
    os.write(writes, b"%05d" % store.port * size)
    failed = False
    while children:
        child, status = os.wait()
        children.remove(child)
        if status and not failed:
            failed = True
            for each in children:
                os.kill(each, signal.SIGTERM)
    os.close(reads)
    os.close(writes)
    return int(failed)


def main() -> None:
    for line in sys.stdin:
        size, _, script = line.rstrip("\n").partition(" ")
        try:
            status = run_ranks(script, int(size))
        except Exception:
            traceback.print_exc()
            status = 1
        print(f"{ENDED}{status}", flush=True)


if __name__ == "__main__":
    main()
