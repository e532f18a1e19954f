"""Several processes of one launch (torchrun, accelerate) that share work through files and wait for each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

# One process may have hours of work left when another has done its share.
_LONGEST_WAIT = timedelta(days=7)


def rank() -> int:
    """This process's number, from 0; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes share the work."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def together() -> Iterator[None]:
    """Within it `wait_for_all` works. Nothing happens where there is one process, or where they are joined already."""
    import torch.distributed as dist  # takes seconds, and most programs only ask for their rank

    if world_size() == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo", timeout=_LONGEST_WAIT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Come back when every process has come here."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()
