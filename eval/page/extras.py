"""What lies beyond the sets: rounds, training, merging, production indexes, cheaper vectors, probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bgetune.html.markup import safe, short

from ..figures import metric_name
from .grid import Cell, Column, between, change, difference, figure, grid, name, plain, size
from .section import Section, fold
from .verdicts import badge

Report = Mapping[str, Any]


def extra_sections(report: Report) -> list[Section]:
    """Those for which there is something to tell."""
    makers: list[tuple[str, str, Callable[[Report], str]]] = [
        ("rounds", "Rounds of mining and training", _rounds),
        ("training", "Training", _training),
        ("merging", "Merging", _merging),
        ("indexes", "Production indexes", _indexes),
        ("compression", "Cheaper vectors", _compression),
        ("probes", "Probes", _probes),
    ]
    return [Section(key, heading, make(report)) for key, heading, make in makers if report.get(key)]


def _words(*titles: str, choose: bool = False) -> list[Column]:
    return [Column(title, numeric=False, choose="" if choose else None) for title in titles]


def _figures(*titles: str) -> list[Column]:
    return [Column(title) for title in titles]


def _rounds(report: Report) -> str:
    rows = [
        [
            plain(str(row["round"])),
            figure(row["negatives"], ",d"),
            figure(row["queries_changed"], ",d"),
            figure(row["dev_ndcg@10"]),
            figure(row["test_ndcg@10"]),
        ]
        for row in report["rounds"]
    ]
    titles = ("negatives", "queries with other negatives", "dev nDCG@10", "test nDCG@10")
    return grid("Each round's negatives and what its model reached", _words("round") + _figures(*titles), rows)


def _training(report: Report) -> str:
    from .charts import lines

    training = report["training"]
    steps, charts = training["steps"], []
    losses = {key: list(zip(steps, values, strict=True)) for key, values in training["losses"].items()}
    if losses:
        charts.append(lines(losses, title="Loss", x_label="step", y_label="loss"))
    measured = training["dev"]
    names = dict.fromkeys(key for row in measured for key in row if key != "step")
    if names:
        curves = {metric_or_head(key): [(row["step"], row.get(key)) for row in measured] for key in names}
        charts.append(lines(curves, title="On dev", x_label="step", y_label="value on dev"))
    return f'<div class="charts">{"".join(charts)}</div>'


def metric_or_head(key: str) -> str:
    """
    >>> metric_or_head("ndcg@10"), metric_or_head("dense")
    ('nDCG@10', 'dense')
    """
    return metric_name(key) if "@" in key else key


def _merging(report: Report) -> str:
    from .charts import Mark, lines

    merging = report["merging"]
    points, allowed = merging["points"], merging["allowed_loss"]
    guards = list(dict.fromkeys(guard for point in points for guard in point["guards"]))
    metric = metric_name(merging["dev_metric"])
    chosen = [Mark("chosen", x=point["share"]) for point in points if point["chosen"]]
    on_dev = {"dev": [(point["share"], point["dev"]) for point in points]}
    charts = [
        lines(on_dev, title="The domain's dev split", x_label="share of tuned weights", y_label=metric, marks=chosen)
    ]
    if guards:
        lost = {guard: [(p["share"], p["guards"].get(guard, {}).get("gain")) for p in points] for guard in guards}
        limit = [*chosen, Mark("allowed loss", y=-allowed)]
        charts.append(
            lines(lost, title="Guards", x_label="share of tuned weights", y_label=f"{metric} less base's", marks=limit)
        )
    columns = [
        Column("share of tuned"),
        Column("dev"),
        *_figures(*(part for guard in guards for part in (guard, f"{guard}, gain"))),
    ]
    rows = [
        [
            figure(point["share"], "g"),
            figure(point["dev"]),
            *(
                cell
                for guard in guards
                for found in [point["guards"].get(guard, {})]
                for cell in (figure(found.get("value")), difference(found.get("gain")))
            ),
            _choice(point),
        ]
        for point in points
    ]
    told = f"Of the shares at which no guard loses more than {allowed:g}, the best on dev is taken."
    table = grid("Shares of the tuned weights", [*columns, *_words("outcome")], rows)
    return f'<p>{told}</p><div class="charts">{"".join(charts)}</div>{table}'


def _choice(point: Mapping[str, Any]) -> Cell:
    if point["chosen"]:
        return Cell("<b>chosen</b>")
    return plain("" if point["within"] else "loses too much")


def _indexes(report: Report) -> str:
    """The model's gain and the index's loss, side by side: one is bought with training, the other with memory."""
    reference, metric = report["reference"], report["metric"]
    columns = [
        *_words("index", "set", "system", choose=True),
        *_figures(f"exact {metric_name(metric)}", "with this index", f"model's gain over {reference}, exact"),
        *_figures("index's loss", "share of exact top 10", "size", "build, s", "p50, ms", "p95, ms", "queries"),
    ]
    exact = {(row["set"], row["index"], row["system"]): row["exact"] for row in report["indexes"]}
    rows = []
    for row in report["indexes"]:
        start = None if row["system"] == reference else exact.get((row["set"], row["index"], reference))
        rows.append(
            [
                *(name(row[key]) for key in ("index", "set", "system")),
                figure(row["exact"]),
                figure(row["found"]),
                difference(None if start is None else row["exact"] - start),
                figure(row["loss"]),
                figure(100 * row["recall"], ".1f", "\u00a0%"),
                Cell(size(row["bytes"]), row["bytes"]),
                *(figure(row[key], ".2f") for key in ("build_s", "p50_ms", "p95_ms")),
                figure(row["n_queries"], ",d"),
            ]
        )
    told = (
        "Exact search gives the model's quality; the index's loss is what an approximate index takes from it. "
        "Times are by the wall clock of this machine, one query after another; a server's include the network."
    )
    return f'<p class="soft">{told}</p>{grid("Quality, size and time of each index", columns, rows)}'


def _compression(report: Report) -> str:
    from .charts import Dot, scatter

    found, metric = report["compression"], metric_name(report["metric"])
    parts, last = [], list(report["systems"])[-1]
    for key in dict.fromkeys((row["set"], row["system"]) for row in found):
        charts, rows = [], [row for row in found if (row["set"], row["system"]) == key]
        for field, label in (("bytes", "bytes a passage"), ("ms", "processor ms a query")):
            dots = [
                Dot(row[field], row["value"], row["head"], f"{row['kind']} {row['setting']}".strip()) for row in rows
            ]
            charts.append(scatter(dots, title=f"Quality against {label}", x_label=label, y_label=metric))
        heading = f"<bdi>{short(key[1], 60)}</bdi> on <bdi>{short(key[0], 60)}</bdi>"
        parts.append(fold(heading, f'<div class="charts">{"".join(charts)}</div>', open_at_first=key[1] == last))
    columns = [
        *_words("head", "vectors", "set", "system", choose=True),
        *_figures("bytes a passage", metric, "kept", "processor ms a query"),
    ]
    cells = [
        [
            plain(row["head"]),
            name(f"{row['kind']} {row['setting']}".strip()),
            name(row["set"]),
            name(row["system"]),
            figure(row["bytes"], ",.0f"),
            figure(row["value"]),
            figure(None if row["share_kept"] is None else 100 * row["share_kept"], ".1f", "\u00a0%"),
            figure(row["ms"], ".2f"),
        ]
        for row in found
    ]
    return f"{''.join(parts)}{grid('Quality, size and time of cheaper vectors', columns, cells)}"


def _probes(report: Report) -> str:
    columns = [
        *_words("probe", "kind", "metric"),
        *_figures("items"),
        *_words("system", choose=True),
        *_figures("value", f"gain over {report['reference']}", "95 % interval"),
        *_words("verdict"),
    ]
    rows = [
        [
            name(probe["name"]),
            plain(probe["kind"]),
            plain(probe["metric"]),
            figure(probe["n"], ",d"),
            name(system),
            figure(value),
            change(probe["gain"].get(system)),
            between(probe["gain"].get(system)),
            Cell(badge(probe["verdict"][system])) if system in probe["verdict"] else Cell(""),
        ]
        for probe in report["probes"]
        for system, value in probe["values"].items()
    ]
    told = "What a model that learned the domain should not have forgotten: similarity of sentences, topics of texts."
    return f'<p class="soft">{safe(told)}</p>{grid("Probes", columns, rows)}'
