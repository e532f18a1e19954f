"""report.md: the report for people."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bgetune.html.words import count

from .figures import columns, metric_name, signed, subject, table
from .more_tables import extra_tables
from .rounds import ROUND_COLUMNS, round_rows

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


def escape(text: str) -> str:
    """A text of the user's as literal words on one line: no table cell, tag, link or heading comes of it.

    >>> escape("a|b\\n<c> `d`")
    'a\\\\|b \\\\<c\\\\> \\\\`d\\\\`'
    """
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def to_markdown(report: Mapping[str, Any], config_file: Path | None = None) -> str:
    """The report as Markdown. `config_file` is named in the commands that make it again."""
    first, *others = report["headline"]
    parts = [f"# {escape(report['title'])}", f"**{escape(first)}**"]
    if others:
        parts.append("\n".join(f"- {escape(line)}" for line in others))
    parts += [f"**Failed:** {escape(line)}" for line in report.get("failed", [])]
    for name, measured in report["sets"].items():
        parts += _set_parts(name, measured, report)
    if report.get("rounds"):
        parts += ["## Rounds of mining and training", _grid(ROUND_COLUMNS, round_rows(report["rounds"]))]
    for title, header, rows in extra_tables(report):
        parts += [f"## {escape(title.capitalize())}", _grid(header, rows)]
    parts += _reproduction(report, config_file)
    return "\n\n".join(parts) + "\n"


def _set_parts(name: str, measured: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    sizes = f"{count(measured['n_queries'], 'query', 'queries')}, {count(measured['n_docs'], 'passage', 'passages')}"
    heading = f"## {escape(name)} ({measured['role']})"
    parts = [heading, f"Test split: {sizes}.", _grid(columns(report), table(report, measured))]
    for system, found in measured["examples"].items():
        of = f" ({escape(system)})" if len(measured["examples"]) > 1 else ""
        for side, said in (("won", "improved"), ("lost", "worsened")):
            rows = found[side]
            parts.append(f"### Queries {side}{of}")
            if not rows:
                parts.append("None.")
                continue
            whom = f"The {count(len(rows), 'query', 'queries')} that {escape(subject(system))} {said} most"
            parts.append(f"{whom}, by {metric_name(report['metric'])} of {measured['decided_by']}.")
            parts += [_example(n, row, report["reference"], system) for n, row in enumerate(rows, start=1)]
    return parts


def _grid(header: Sequence[str], rows: list[list[str]]) -> str:
    marks = ["---" if i < 2 else "---:" for i in range(len(header))]
    lines = [list(header), marks, *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _example(number: int, row: Mapping[str, Any], reference: str, system: str) -> str:
    before, after = row["value"][reference], row["value"][system]
    ranks = _rank(row["rank"][reference]), _rank(row["rank"][system])
    more = f", one of {row['n_positives']}" if row["n_positives"] > 1 else ""
    lines = [
        f"{number}. **{escape(row['query'])}** ({escape(row['query_id'])})",
        f"From {before:.3f} to {after:.3f} ({signed(after - before)}); rank of the best answer {ranks[0]} before, "
        f"{ranks[1]} after.",
        f"Answer ({escape(row['positive_id'])}{more}): {escape(row['positive'])}",
        f"First before: {_top(row['top'][reference])}",
        f"First after: {_top(row['top'][system])}",
    ]
    return "\n   - ".join(lines)


def _rank(rank: int | None) -> str:
    return "not found" if rank is None else str(rank)


def _top(top: Mapping[str, str] | None) -> str:
    return "nothing found" if top is None else f"({escape(top['id'])}) {escape(top['text'])}"


def _reproduction(report: Mapping[str, Any], config_file: Path | None) -> list[str]:
    facts = {
        **{f"system {escape(name)}": _system(told) for name, told in report["systems"].items()},
        "configuration": f"`{report['config_hash']}`",
        **{f"data of {escape(name)}": f"`{measured['data_hash']}`" for name, measured in report["sets"].items()},
        "settings": ", ".join(f"{key} {escape(str(value))}" for key, value in report["settings"].items()),
        "versions": ", ".join(f"{package} {number}" for package, number in report["versions"].items()),
    }
    parts = ["## How to reproduce"]
    if "command" in report:
        parts.append(f"```sh\n{report['command']}\n```")
    if config_file is not None:
        path = shlex.quote(str(config_file))
        parts.append(
            f"The whole job, then this report alone:\n\n```sh\nbgetune adapt --config {path}\n"
            f"python -m bgetune.eval --config {path} --force\n```"
        )
    return [
        *parts,
        "\n".join(f"- {key}: {value}" for key, value in facts.items()),
        "Every ranking is in `runs/`, in TREC's format; every query's values are in `per_query.parquet`, every figure "
        "in `report.json`, all of it to look at in `report.html`.",
        "## How it was measured",
        "\n".join(f"- {note}" for note in report["notes"]),
    ]


def _system(told: Mapping[str, Any]) -> str:
    name = escape(f"{told['model']} {told['revision'] or ''}".strip())
    heads = ", ".join(told["heads"])
    return f"{name}, {heads}, weights `{told['weights']}`, {told['device']}, {told['precision']}"
