"""A report's folder: JSON, Markdown, one HTML page, every ranking, every query's values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bgetune.config import JobConfig
from bgetune.explain import explain
from bgetune.files import atomic_folder, write_text
from bgetune.metrics import per_query_table
from bgetune.search import write_trec_run

from .examples import add_explanations
from .markdown import to_markdown
from .page.page import write_page
from .report import Values, to_json
from .sets import EvalSet
from .systems import System
from .terminal import print_report


def explain_examples(
    report: dict[str, Any], systems: Sequence[System], sets: Sequence[EvalSet], config: JobConfig
) -> None:
    """Each head's score, matched words and aligned tokens of the queries that are shown; one model at a time."""
    if not config.eval.examples:
        return
    for system in systems:
        encoder = system.load()
        for test in sets:
            shown = report["sets"][test.name]["examples"]
            add_explanations(shown, system.name, test, partial(explain, encoder, config))
        del encoder


def write_report(
    folder: Path,
    report: dict[str, Any],
    sets: Sequence[EvalSet],
    values: Sequence[Values],
    config_file: Path | None = None,
) -> None:
    """Write all of `folder`, or nothing; print the tables and the path of the page."""
    with atomic_folder(folder) as made:
        for test in sets:
            for retriever, by_system in test.found.items():
                for system, results in by_system.items():
                    path = made / "runs" / f"{test.name}.{retriever}.{_in_a_path(system)}.trec"
                    write_trec_run(path, results, f"{retriever}.{_in_a_path(system)}")
        _write_values(made / "per_query.parquet", sets, values)
        write_text(made / "report.json", to_json(report))
        write_text(made / "report.md", to_markdown(report, config_file))
        write_page(made / "report.html", report)
    print_report(report)
    print(f"report: {folder / 'report.html'}", flush=True)


def _write_values(path: Path, sets: Sequence[EvalSet], values: Sequence[Values]) -> None:
    named = {
        (test.name, retriever, system): metrics
        for test, of_set in zip(sets, values, strict=True)
        for retriever, by_system in of_set.items()
        for system, metrics in by_system.items()
    }
    per_query_table(path, {test.name: list(test.qrels) for test in sets}, named)


def _in_a_path(name: str) -> str:
    """
    >>> _in_a_path("runs/a b")
    'runs-a-b'
    """
    return "".join(c if c.isalnum() or c in "._" else "-" for c in name)
