"""Tables besides the sets' own, for Markdown and the terminal: merging, indexes, cheaper vectors, probes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .figures import interval, signed

Grid = tuple[str, list[str], list[list[str]]]
"""Title, names of the columns, rows."""


def extra_tables(report: Mapping[str, Any]) -> list[Grid]:
    """Those for which there is something to tell."""
    found = [_weights(report), _merging(report), _indexes(report), _compression(report), _probes(report)]
    return [(title, header, rows) for title, header, rows in found if rows]


def _weights(report: Mapping[str, Any]) -> Grid:
    weights = report.get("hybrid_weights", {})
    heads = list(dict.fromkeys(head for of_system in weights.values() for head in of_system))
    rows = [[system, *(f"{found.get(head, 0):.3g}" for head in heads)] for system, found in weights.items()]
    return "weights of hybrid_tuned, the best on dev", ["system", *heads], rows


def _merging(report: Mapping[str, Any]) -> Grid:
    merging = report.get("merging")
    if not merging:
        return "", [], []
    guards = list(merging["points"][0]["guards"])
    rows = [
        [
            f"{point['share']:g}",
            f"{point['dev']:.3f}",
            *(f"{point['guards'][name]['value']:.3f} ({signed(point['guards'][name]['gain'])})" for name in guards),
            "chosen" if point["chosen"] else "within" if point["within"] else "loses too much",
        ]
        for point in merging["points"]
    ]
    title = f"merging: a guard may lose {merging['allowed_loss']:g} of nDCG@10"
    return title, ["share of tuned", "dev", *guards, ""], rows


def _indexes(report: Mapping[str, Any]) -> Grid:
    header = [
        "set",
        "system",
        "index",
        "exact",
        "model's gain",
        "found",
        "index's loss",
        "top 10 kept",
        "MB",
        "build, s",
        "p50, ms",
        "p95, ms",
    ]
    exact = {(row["set"], row["index"], row["system"]): row["exact"] for row in report.get("indexes", [])}

    def gain(row: Mapping[str, Any]) -> str:
        before = exact.get((row["set"], row["index"], report["reference"]))
        return "" if before is None or row["system"] == report["reference"] else signed(row["exact"] - before)

    rows = [
        [
            *(row["set"], row["system"], row["index"], f"{row['exact']:.3f}", gain(row), f"{row['found']:.3f}"),
            *(
                f"{row['loss']:.4f}",
                f"{100 * row['recall']:.1f} %",
                f"{row['bytes'] / 1e6:.1f}",
                f"{row['build_s']:.1f}",
            ),
            *(f"{row['p50_ms']:.2f}", f"{row['p95_ms']:.2f}"),
        ]
        for row in report.get("indexes", [])
    ]
    return "production indexes", header, rows


def _compression(report: Mapping[str, Any]) -> Grid:
    header = ["set", "system", "head", "vectors", "bytes a passage", "nDCG@10", "kept", "processor ms a query"]
    rows = [
        [
            *(row["set"], row["system"], row["head"], f"{row['kind']} {row['setting']}".strip()),
            *(f"{row['bytes']:,.0f}", f"{row['value']:.3f}", f"{100 * row['share_kept']:.1f} %", f"{row['ms']:.2f}"),
        ]
        for row in report.get("compression", [])
    ]
    return "cheaper vectors", header, rows


def _probes(report: Mapping[str, Any]) -> Grid:
    reference, *others = report["systems"]
    rows = []
    for row in report.get("probes", []):
        for name in others:
            gain = row["gain"][name]
            values = f"{row['values'][reference]:.3f}", f"{row['values'][name]:.3f}"
            told = signed(gain["abs"]), interval(gain["ci95"]), row["verdict"][name]
            rows.append([row["name"], row["metric"], f"{row['n']:,}", values[0], name, values[1], *told])
    header = ["probe", "metric", "items", reference, "system", "value", "gain", "95 % interval", ""]
    return "probes", header, rows
