"""A report's folder: JSON, Markdown, one HTML page, every ranking, every query's values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bgetune.explain import explain
from bgetune.files import atomic_folder, write_text
from bgetune.metrics import per_query_table
from bgetune.progress import progress
from bgetune.search import write_trec_run

from .examples import add_explanations
from .markdown import to_markdown
from .page.page import write_page
from .report import Values, to_json
from .sets import EvalSet
from .systems import System
from .terminal import print_report


def explain_examples(report: dict[str, Any], systems: Sequence[System], sets: Sequence[EvalSet]) -> None:
    """Each head's score, matched words and aligned tokens of the queries that are shown; one model at a time."""
    for system in systems if report["settings"]["examples"] else []:
        encoder = system.load()
        for test in sets:
            shown = report["sets"][test.name]["examples"]
            add_explanations(shown, system.name, test, partial(explain, encoder, system.config))
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
        _write_rankings(made / "runs", sets)
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


def _write_rankings(folder: Path, sets: Sequence[EvalSet]) -> None:
    taken: set[str] = set()
    with progress(sum(len(by_system) for test in sets for by_system in test.found.values()), "rankings", "file") as bar:
        for test in sets:
            for retriever, by_system in test.found.items():
                for system, results in by_system.items():
                    name = _unused(f"{_in_a_path(test.name)}.{retriever}.{_in_a_path(system)}", taken)
                    write_trec_run(folder / f"{name}.trec", results, f"{retriever}.{_in_a_path(system)}")
                    bar.update()


def _in_a_path(name: str) -> str:
    """
    >>> _in_a_path("/data/a b"), _in_a_path("../x")
    ('data-a-b', 'x')
    """
    return "".join(c if c.isalnum() or c in "._" else "-" for c in name).strip("-.") or "unnamed"


def _unused(name: str, taken: set[str]) -> str:
    """The name, or with a number where another has it; file systems may not tell large letters from small.

    >>> taken: set[str] = set()
    >>> _unused("a", taken), _unused("A", taken), _unused("a", taken)
    ('a', 'A-2', 'a-3')
    """
    number, free = 1, name
    while free.lower() in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free.lower())
    return free
