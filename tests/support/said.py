"""What the ranks of a job say when something has held; run_script returns it."""

import torch.distributed as dist


def say(text: str) -> None:
    if dist.get_rank() == 0:
        print(f"held: {text}", flush=True)


def say_together(text: str) -> None:
    """Say it once it has held on every rank."""
    dist.barrier()
    say(text)
