"""Runs a script's main() as every rank of a job: python ranks.py SCRIPT NUM_PROCESSES, as torchrun would.

The processes are forked after one import of PyTorch and of all that the script imports, which takes longer
than what they do then. So a script starts no threads before its main().
"""

import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable

import torch.distributed as dist

SECONDS = 300  # that a process may take


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


def main() -> int:
    script, size = sys.argv[1], int(sys.argv[2])
    sys.argv[:] = [script]  # as the script would find it
    run = runpy.run_path(script, run_name="ranks")["main"]
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
    while children:
        child, status = os.wait()
        children.remove(child)
        if status:
            for each in children:
                os.kill(each, signal.SIGTERM)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
