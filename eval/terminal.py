"""The figures that decide, in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from bgetune.html.words import count

from .figures import columns, metric_name, table
from .more_tables import extra_tables
from .rounds import ROUND_COLUMNS, round_rows

_WIDEST = 1000


def print_report(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a table a set with the metric that decides, then the headline, to stdout; the other metrics are on file."""
    out = console or Console(highlight=False)
    for name, measured in report["sets"].items():
        sizes = (
            f"{count(measured['n_queries'], 'query', 'queries')}, {count(measured['n_docs'], 'passage', 'passages')}"
        )
        rows = table(report, measured, [report["metric"]])
        _print(out, _grid(f"{name} ({measured['role']}): {sizes}", columns(report), rows, left=2))
    for title, header, rows in extra_tables(report):
        _print(out, _grid(title, header, rows, left=3))
    if report.get("rounds"):
        _print(out, _grid("rounds of mining and training", ROUND_COLUMNS, round_rows(report["rounds"])))
    if len(report["metrics"]) > 1:
        out.print(Text(f"also measured: {', '.join(map(metric_name, report['metrics'][1:]))}; they are in the report"))
    for line in [*report["headline"], *report.get("failed", [])]:
        out.print(Text(line), soft_wrap=True)


def _print(out: Console, grid: Table) -> None:
    """As wide as it is: rich would squeeze it into a narrow window, or the 80 columns of a pipe, by cutting digits."""
    needed = Measurement.get(out, out.options.update(width=_WIDEST, max_width=_WIDEST), grid).maximum
    Console(file=out.file, width=max(out.width, needed), highlight=False).print(grid)


def _grid(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> Table:
    grid = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for i, column in enumerate(header):
        grid.add_column(column, justify="left" if i < left else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    return grid
