"""How the report was made: systems, weights of the hybrid, settings, hashes, versions, notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bgetune.html.markup import breakable, sentence, short
from bgetune.html.words import flat

from .grid import Cell, Column, figure, grid, name, plain
from .section import fold

Report = Mapping[str, Any]


def made_html(report: Report) -> str:
    parts = [_systems(report), _weights(report), fold("Hashes", _hashes(report)), fold("Settings", _settings(report))]
    parts.append(fold("Versions", _pairs("Versions", "package", report["versions"])))
    notes = "".join(f"<li>{sentence(note)}</li>" for note in report["notes"])
    parts.append(f'<h3>Notes</h3><ul class="notes">{notes}</ul>')
    return "\n".join(part for part in parts if part)


def _systems(report: Report) -> str:
    words = [Column(title, numeric=False) for title in ("system", "model", "revision", "heads")]
    columns = [*words, Column("parameters"), *(Column(title, numeric=False) for title in ("device", "precision"))]
    rows = [
        [
            name(system),
            name(told["model"]),
            Cell(_code(told["revision"] or "")),
            plain(", ".join(told["heads"])),
            figure(told["parameters"], ",d"),
            plain(told["device"]),
            plain(told["precision"]),
        ]
        for system, told in report["systems"].items()
    ]
    return grid("Systems; the first is what the others are compared with", columns, rows)


def _weights(report: Report) -> str:
    weights = report.get("hybrid_weights")
    if not weights:
        return ""
    heads = list(dict.fromkeys(head for by_head in weights.values() for head in by_head))
    rows = [
        [name(system), *(figure(by_head.get(head), ".3g") for head in heads)] for system, by_head in weights.items()
    ]
    columns = [Column("system", numeric=False), *(Column(head) for head in heads)]
    return grid("Weights of hybrid_tuned, the best on the domain's dev split", columns, rows)


def _hashes(report: Report) -> str:
    found = {f"weights of {system}": told["weights"] for system, told in report["systems"].items()}
    found |= {f"data of {set_name}": measured["data_hash"] for set_name, measured in report["sets"].items()}
    return _pairs("SHA-256", "of what", {**found, "configuration": report["config_hash"]})


def _pairs(caption: str, title: str, values: Mapping[str, str]) -> str:
    rows = [[name(key), Cell(_code(value))] for key, value in values.items()]
    return grid(caption, [Column(title, numeric=False), Column("value", numeric=False)], rows)


def _settings(report: Report) -> str:
    rows = [[Cell(breakable(key)), Cell(_code(value))] for key, value in flat(report["settings"])]
    return grid("Options of eval", [Column("option", numeric=False), Column("value", numeric=False)], rows)


def _code(text: str) -> str:
    return f"<code>{short(text, 300)}</code>" if text else ""
