"""One set: every retriever's figures, each query's difference, slices, languages, and examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bgetune.html.markup import safe, short
from bgetune.html.words import count

from ..figures import metric_name
from .examples import Budget, examples_html
from .grid import Cell, Column, between, chance, change, difference, figure, grid, name, plain
from .section import Section, fold
from .verdicts import badge

Report = Mapping[str, Any]
Measured = Mapping[str, Any]

_ANY = "any"  # the system of a retriever that needs no model


def set_sections(report: Report) -> list[Section]:
    """A section for each set, in the report's order; the first set's table is open."""
    budget = Budget.of(report)
    return [
        _section(report, set_name, measured, at, budget)
        for at, (set_name, measured) in enumerate(report["sets"].items(), start=1)
    ]


def _section(report: Report, set_name: str, measured: Measured, at: int, budget: Budget) -> Section:
    sizes = f"{count(measured['n_queries'], 'query', 'queries')}, {count(measured['n_docs'], 'passage', 'passages')}"
    several = len(measured["verdicts"]) > 1
    shown = "".join(
        f"<span>{f'<bdi>{short(system, 60)}</bdi>: ' if several else ''}{badge(verdict)}</span>"
        for system, verdict in measured["verdicts"].items()
    )
    parts = [
        f'<p class="badges">{shown} <span class="soft">{sizes}; decided by {safe(measured["decided_by"])}</span></p>',
        fold("Every retriever", retrievers_table(report, set_name, measured), open_at_first=at == 1),
        *_differences(report, measured),
        *_slices(report, measured),
        *_matrix(report, measured),
        *(
            fold(f"Won and lost: <bdi>{short(system, 60)}</bdi>", examples_html(report, measured, system, budget))
            for system in measured["examples"]
        ),
    ]
    heading = f'<bdi>{short(set_name, 60)}</bdi> <span class="soft">{safe(measured["role"])}</span>'
    return Section(f"set-{at}", heading, "\n".join(parts))


def retrievers_table(report: Report, set_name: str, measured: Measured) -> str:
    """A row for each retriever, system and metric; gains are those over the reference with the same retriever."""
    reference = report["reference"]
    columns = [
        Column("retriever", numeric=False, choose=""),
        Column("system", numeric=False, choose=""),
        Column("metric", numeric=False, choose=metric_name(report["metric"])),
        *(Column(title) for title in ("value", f"gain over {reference}", "95 % interval", "gain in %")),
        *(Column(title) for title in ("p", "p (Holm)", "effect size", "won", "lost", "tied")),
    ]
    rows = [
        [plain(retriever), _system(system), plain(metric_name(metric)), figure(value), *_compared(gain)]
        for retriever, by_system in measured["retrievers"].items()
        for system, values in by_system.items()
        for metric, value in values.items()
        for gain in [measured["gains"].get(retriever, {}).get(system, {}).get(metric)]
    ]
    return grid(f"{set_name}: retrievers, systems and metrics", columns, rows)


def _system(system: str) -> Cell:
    return plain("no model") if system == _ANY else name(system)


def _compared(gain: Mapping[str, Any] | None) -> list[Cell]:
    if gain is None:
        return [Cell("")] * 9
    relative = None if gain["rel"] is None else 100 * gain["rel"]
    return [
        change(gain),
        between(gain),
        figure(relative, "+.1f"),
        chance(gain["p"]),
        chance(gain.get("p_holm")),
        figure(gain["effect_size"], "+.2f"),
        *(figure(gain[side], ",d") for side in ("won", "lost", "tied")),
    ]


def _differences(report: Report, measured: Measured) -> Iterator[str]:
    from .charts import Counts, differences

    if not any(measured["differences"].values()):
        return
    metric, gains = report["metric"], measured["gains"].get(measured["decided_by"], {})
    counts = {
        system: Counts(*(gains[system][metric][side] for side in ("won", "lost", "tied")))
        for system in measured["differences"]
        if metric in gains.get(system, {})
    }
    chart = differences(
        measured["differences"], title="Each query's difference", reference=report["reference"],
        metric=metric_name(metric), counts=counts, caption=f"{measured['decided_by']}, sorted.",
    )  # fmt: skip
    yield fold("Query by query", chart)


def _slices(report: Report, measured: Measured) -> Iterator[str]:
    from .charts import BarGroup, Gain, bars

    if not measured["slices"]:
        return
    parts = []
    label = f"{metric_name(report['metric'])} less {report['reference']}'s"
    for one in measured["slices"]:
        groups = [
            BarGroup(
                group["label"],
                group["n_queries"],
                {system: Gain(gain["abs"], *gain["ci95"]) for system, gain in group["gain"].items()},
            )
            for group in one["groups"]
        ]
        unit = f"In {one['unit']}." if one["unit"] else ""
        parts.append(bars(groups, title=f"Gain by {one['name']}", x_label=label, caption=unit))
    yield fold("Slices", f'<div class="charts">{"".join(parts)}</div>{_slice_table(report, measured)}')


def _slice_table(report: Report, measured: Measured) -> str:
    columns = [
        *(Column(title, numeric=False, choose="") for title in ("slice", "group", "system")),
        *(Column(title) for title in ("queries", metric_name(report["metric"]), "gain", "95 % interval")),
    ]
    rows = [
        [
            name(one["name"]),
            plain(f"{group['label']} {one['unit']}".strip()),
            name(system),
            figure(group["n_queries"], ",d"),
            figure(value),
            change(group["gain"].get(system)),
            between(group["gain"].get(system)),
        ]
        for one in measured["slices"]
        for group in one["groups"]
        for system, value in group["values"].items()
    ]
    return grid("Slices: groups of queries", columns, rows)


def _matrix(report: Report, measured: Measured) -> Iterator[str]:
    from .charts import heatmap, less

    matrix = measured.get("matrix")
    if not matrix:
        return
    reference, metric = report["reference"], metric_name(report["metric"])
    charts = []
    for system, values in matrix["values"].items():
        compared = system != reference
        charts.append(
            heatmap(
                matrix["rows"],
                matrix["columns"],
                less(values, matrix["values"][reference]) if compared else values,
                title=f"{system} less {reference}" if compared else system,
                row_label="query",
                column_label="passage",
                value_label=f"gain in {metric}" if compared else metric,
                diverging=compared,
                counts=matrix["n"],
            )
        )
    yield fold(
        f"By {safe(matrix['name'])}", f'<div class="charts">{"".join(charts)}</div>{_matrix_table(report, matrix)}'
    )


def _matrix_table(report: Report, matrix: Mapping[str, Any]) -> str:
    reference = matrix["values"].get(report["reference"])
    columns = [
        *(Column(title, numeric=False, choose="") for title in ("query in", "passage in", "system")),
        *(Column(title) for title in ("queries", metric_name(report["metric"]), "gain")),
    ]
    rows = []
    for i, row in enumerate(matrix["rows"]):
        for j, column in enumerate(matrix["columns"]):
            for system, values in matrix["values"].items():
                value, start = values[i][j], reference[i][j] if reference else None
                gain = None if value is None or start is None or system == report["reference"] else value - start
                cells = [figure(matrix["n"][i][j], ",d"), figure(value), difference(gain)]
                rows.append([plain(row), plain(column), name(system), *cells])
    return grid(f"{matrix['name']}: {metric_name(report['metric'])}", columns, rows)
