"""One look for every progress bar: what, share done, rate, time left."""

from __future__ import annotations

import logging
import sys

from tqdm import tqdm

from bgetune.processes import rank


class BarHandler(logging.Handler):
    """Log lines above a running bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def progress(total: int, label: str, unit: str, initial: int = 0) -> tqdm:
    """A bar on stderr; in a log file it prints a line every ten seconds instead of many a second."""
    return tqdm(
        total=total,
        desc=label,
        unit=unit,
        unit_scale=total >= 10_000,
        initial=initial,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
        disable=rank() != 0,  # of a launch with several processes, the first one tells
        leave=None,  # a bar inside another goes when it is done
        dynamic_ncols=True,
    )
