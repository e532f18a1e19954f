"""One process at a time: a lock file with the number of the process that holds it."""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_BETWEEN_TRIES = 0.1  # seconds


@contextmanager
def held(lock: Path, patience: float = 0.0) -> Iterator[str | None]:
    """Hold `lock` within the block, and until the process ends at the latest.

    Args:
        patience: seconds to wait for another process that holds it; infinite: as long as it takes.

    Yields:
        None where it is ours, else the number of the process that still holds it.
    """
    with open(lock, "a+", encoding="utf-8") as file:
        if not _taken(file, patience):
            file.seek(0)
            yield file.read().strip()
            return
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield None
        finally:
            file.truncate(0)


def _taken(file: IO[str], patience: float) -> bool:
    if math.isinf(patience):
        fcntl.flock(file, fcntl.LOCK_EX)
        return True
    last_try = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= last_try:
                return False
            time.sleep(_BETWEEN_TRIES)
