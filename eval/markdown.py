"""report.md: the report for people."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .figures import COLUMNS, count, signed, table
from .rounds import ROUND_COLUMNS, round_rows

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


def escape(text: str) -> str:
    """A text of the user's as literal words on one line: no table cell, tag, link or heading comes of it.

    >>> escape("a|b\\n<c> `d`")
    'a\\\\|b \\\\<c\\\\> \\\\`d\\\\`'
    """
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def to_markdown(report: Mapping[str, Any], config_file: Path) -> str:
    """The report as Markdown. `config_file` is named in the commands that make it again."""
    first, *others = report["headline"]
    parts = [f"# {escape(str(report['model']['name']))}: base against tuned", f"**{escape(first)}**"]
    if others:
        parts.append("\n".join(f"- {escape(line)}" for line in others))
    for name, measured in report["sets"].items():
        parts += _set_parts(name, measured)
    if report.get("rounds"):
        parts += ["## Rounds of mining and training", _grid(ROUND_COLUMNS, round_rows(report["rounds"]))]
    parts += _reproduction(report, config_file)
    return "\n\n".join(parts) + "\n"


def _set_parts(name: str, measured: Mapping[str, Any]) -> list[str]:
    sizes = f"{count(measured['n_queries'], 'query', 'queries')}, {count(measured['n_docs'], 'passage', 'passages')}"
    parts = [f"## {escape(name)} ({measured['role']})", f"Test split: {sizes}.", _grid(COLUMNS, table(measured))]
    for side, versions in (("won", "tuned model improved"), ("lost", "tuned model worsened")):
        rows = measured["examples"][side]
        parts.append(f"### Queries {side}")
        if not rows:
            parts.append("None.")
            continue
        parts.append(f"The {count(len(rows), 'query', 'queries')} that the {versions} most, by nDCG@10.")
        parts += [_example(number, row) for number, row in enumerate(rows, start=1)]
    return parts


def _grid(header: Sequence[str], rows: list[list[str]]) -> str:
    marks = ["---" if i < 2 else "---:" for i in range(len(header))]
    lines = [list(header), marks, *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _example(number: int, row: Mapping[str, Any]) -> str:
    values, ranks = row["value"], row["rank"]
    change = f"{values['base']:.3f} to {values['tuned']:.3f} ({signed(values['tuned'] - values['base'])})"
    before, after = _rank(ranks["base"]), _rank(ranks["tuned"])
    more = f", one of {row['n_positives']}" if row["n_positives"] > 1 else ""
    lines = [
        f"{number}. **{escape(row['query'])}** ({escape(row['query_id'])})",
        f"nDCG@10 from {change}; rank of the best answer {before} before, {after} after.",
        f"Answer ({escape(row['positive_id'])}{more}): {escape(row['positive'])}",
        *(f"First {when}: {_top(row['top'][version])}" for version, when in (("base", "before"), ("tuned", "after"))),
    ]
    return "\n   - ".join(lines)


def _rank(rank: int | None) -> str:
    return "not found" if rank is None else str(rank)


def _top(top: Mapping[str, str] | None) -> str:
    return "nothing found" if top is None else f"({escape(top['id'])}) {escape(top['text'])}"


def _reproduction(report: Mapping[str, Any], config_file: Path) -> list[str]:
    model = report["model"]
    path = shlex.quote(str(config_file))
    facts = {
        "base model": escape(f"{model['name']} {model['revision'] or ''}".strip()),
        "base weights": f"`{model['base_weights']}`",
        "tuned weights": f"`{model['tuned_weights']}`",
        "configuration": f"`{report['config_hash']}`",
        **{f"data of {escape(name)}": f"`{measured['data_hash']}`" for name, measured in report["sets"].items()},
        "device, precision": f"{model['device']}, {model['precision']}",
        "settings": ", ".join(f"{key} {escape(str(value))}" for key, value in report["settings"].items()),
        "versions": ", ".join(f"{package} {number}" for package, number in report["versions"].items()),
    }
    return [
        "## How to reproduce",
        f"The whole job, then this report alone:\n\n```sh\nbgetune adapt --config {path}\n"
        f"python -m bgetune.eval --config {path} --force\n```",
        "\n".join(f"- {key}: {value}" for key, value in facts.items()),
        "Every ranking is in `runs/`, in TREC's format; every figure is in `report.json`.",
        "## How it was measured",
        "\n".join(f"- {note}" for note in report["notes"]),
    ]
