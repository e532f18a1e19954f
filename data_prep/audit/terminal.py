"""The audit in the terminal, and in a log file."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .facts import AuditInput
from .words import SIGNAL_COLUMNS, drop_rows, remarks, signal_rows, verdict

_LEAST_WIDTH = 110  # rich would squeeze the table into the 80 columns of a pipe
_KINDS = {"look": "look: ", "fine": "fine: ", "unknown": "open: "}


def print_summary(facts: AuditInput, console: Console | None = None) -> None:
    """Print the verdict, a table of signals, what was dropped and what needs a look, to stdout."""
    out = console or Console(highlight=False)
    if console is None and (not out.is_terminal or out.width < _LEAST_WIDTH):
        out = Console(highlight=False, width=_LEAST_WIDTH)
    out.print(Text(f"{' '.join(facts.name.split())}: {verdict(facts)}"), soft_wrap=True)
    rows = signal_rows(facts)
    if rows:
        grid = Table(box=box.SIMPLE_HEAD)
        for i, column in enumerate(SIGNAL_COLUMNS):
            grid.add_column(column, justify="right" if i else "left", no_wrap=True)
        for row in rows:
            grid.add_row(*(Text(cell) for cell in row))
        out.print(grid)
    dropped = ", ".join(f"{amount:,} {reason}" for reason, amount, _ in drop_rows(facts))
    if dropped:
        out.print(Text(f"dropped: {dropped}"), soft_wrap=True)
    for remark in remarks(facts):
        out.print(Text(_KINDS[remark.kind] + remark.text), soft_wrap=True)
