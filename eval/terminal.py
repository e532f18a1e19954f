"""The same table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .figures import COLUMNS, count, table
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
        grid = Table(title=Text(f"{name} ({measured['role']}): {sizes}"), title_justify="left", box=box.SIMPLE_HEAD)
        for i, column in enumerate(COLUMNS):
            grid.add_column(column, justify="left" if i < 2 else "right", no_wrap=True)
        for row in table(measured):
            grid.add_row(*(Text(cell) for cell in row))
        out.print(grid)
    if report.get("rounds"):
        out.print(_rounds(report["rounds"]))
    for line in report["headline"]:
        out.print(Text(line), soft_wrap=True)


def _rounds(rounds: list[dict[str, Any]]) -> Table:
    grid = Table(title=Text("rounds of mining and training"), title_justify="left", box=box.SIMPLE_HEAD)
    for column in ROUND_COLUMNS:
        grid.add_column(column, justify="right", no_wrap=True)
    for row in round_rows(rounds):
        grid.add_row(*(Text(cell) for cell in row))
    return grid
