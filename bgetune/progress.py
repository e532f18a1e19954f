"""One look for every progress bar: what, share done, rate, time left."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from bgetune.processes import rank

LINE_EVERY = 10.0
"""Seconds from one line of a bar in a log file to the next."""
_LINE = "{desc}: {percentage:.0f}% ({n_fmt}/{total_fmt} {unit}), {rate_fmt}, {elapsed} gone, {remaining} left{postfix}"


class BarHandler(logging.Handler):
    """Log lines above a running bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


@contextmanager
def without_logs(level: int) -> Iterator[None]:
    """No log record of this level or below, whoever writes it."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(before)


class _Lines(tqdm):
    """A bar for a log file: whole lines, one in `LINE_EVERY` seconds and the last; none is written over."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._last_line = time.monotonic()  # the first line comes when there is a rate to tell
        super().__init__(*args, **options)
        if not self.disable and self.n:
            self._write_line()  # where it goes on from

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if time.monotonic() - self._last_line >= LINE_EVERY:
            self._write_line()

    def clear(self, nolock: bool = False) -> None:
        """Nothing: a log line stands below the bar's lines."""

    def close(self) -> None:
        if self.disable:
            return
        if not self.pos:  # a bar inside another is told of by that one
            self._ema_dt = lambda: None  # the rate is that of the whole, as tqdm's own last line has it
            self._write_line()
        self.disable = True
        self._decr_instances(self)  # type: ignore[attr-defined]

    def _write_line(self) -> None:
        self._last_line = time.monotonic()
        self.fp.write(f"{self}\n")
        self.fp.flush()


def progress(total: int, label: str, unit: str, initial: int = 0) -> tqdm:
    """A bar on stderr; in a log file whole lines, one every ten seconds and the last."""
    in_terminal = sys.stderr.isatty()
    return (tqdm if in_terminal else _Lines)(
        total=total,
        desc=label,
        unit=unit,
        unit_scale=total >= 10_000,
        initial=initial,
        mininterval=0.2 if in_terminal else 1.0,
        disable=rank() != 0,  # of a launch with several processes, the first one tells
        leave=None,  # a bar inside another goes when it is done
        dynamic_ncols=in_terminal,
        bar_format=None if in_terminal else _LINE,
    )
