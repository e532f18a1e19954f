"""The same table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bgetune.html.words import count

from .figures import columns, table
from .more_tables import extra_tables
from .rounds import ROUND_COLUMNS, round_rows

# rich would squeeze the table into a narrow window, or the 80 columns of a pipe, by cutting digits.
_LEAST_WIDTH = 110


def print_report(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a table a set, then the headline, to stdout."""
    out = console or Console(highlight=False)
    if console is None and (not out.is_terminal or out.width < _LEAST_WIDTH):
        out = Console(highlight=False, width=_LEAST_WIDTH)
    for name, measured in report["sets"].items():
        sizes = (
            f"{count(measured['n_queries'], 'query', 'queries')}, {count(measured['n_docs'], 'passage', 'passages')}"
        )
        out.print(_grid(f"{name} ({measured['role']}): {sizes}", columns(report), table(report, measured), left=2))
    for title, header, rows in extra_tables(report):
        out.print(_grid(title, header, rows, left=3))
    if report.get("rounds"):
        out.print(_grid("rounds of mining and training", ROUND_COLUMNS, round_rows(report["rounds"])))
    for line in [*report["headline"], *report.get("failed", [])]:
        out.print(Text(line), soft_wrap=True)


def _grid(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> Table:
    grid = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for i, column in enumerate(header):
        grid.add_column(column, justify="left" if i < left else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    return grid
