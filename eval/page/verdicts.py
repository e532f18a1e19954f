"""What the reader came for: the limits that were broken, and one line for each set and system."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bgetune.html.markup import safe, sentence, short
from bgetune.html.words import count

from ..figures import interval, metric_name, p_words, signed
from .grid import minus
from .section import fold

Report = Mapping[str, Any]

_BADGES = {"better": ("good", "▲"), "worse": ("bad", "▼"), "no difference shown": ("same", "=")}


def verdict_html(report: Report) -> str:
    """The block at the top of the page."""
    parts = ['<section id="verdict" aria-labelledby="verdict-h"><h2 id="verdict-h">Verdict</h2>']
    parts.append(_failed(report))
    if report["headline"]:
        parts.append(f'<p class="verdict">{sentence(minus(report["headline"][0]))}</p>')
    lines = list(_lines(report))
    if lines:
        parts.append(f'<ul class="verdicts">{"".join(lines)}</ul>')
    if len(report["headline"]) > 1:
        said = "".join(f"<li>{sentence(minus(line))}</li>" for line in report["headline"])
        parts.append(fold("In sentences", f"<ul>{said}</ul>"))
    return "\n".join(part for part in [*parts, "</section>"] if part)


def _failed(report: Report) -> str:
    """Broken limits, so that nobody can miss them."""
    if not report.get("failed"):
        return ""
    heading = f"Failed: {count(len(report['failed']), 'limit is', 'limits are')} broken"
    items = "".join(f"<li>{sentence(line)}</li>" for line in report["failed"])
    return f'<div class="failed"><h3><span aria-hidden="true">✖ </span>{heading}</h3><ul>{items}</ul></div>'


def _lines(report: Report) -> Iterator[str]:
    reference, metric = report["reference"], report["metric"]
    several = len(report["systems"]) > 2
    for at, (name, measured) in enumerate(report["sets"].items(), start=1):
        retriever = measured["decided_by"]
        for system, verdict in measured["verdicts"].items():
            gain = measured["gains"].get(retriever, {}).get(system, {}).get(metric)
            values = measured["retrievers"][retriever]
            who = f"<bdi>{short(system, 60)}</bdi> on " if several else ""
            figures = ""
            if gain is not None:
                before, after = values[reference][metric], values[system][metric]
                figures = (
                    f"{retriever} {metric_name(metric)} {before:.3f} → {after:.3f}, {minus(signed(gain['abs']))} "
                    f"({minus(interval(gain['ci95']))}; p {p_words(gain['p_holm'])})"
                )
            about = f"{measured['role']}, {count(measured['n_queries'], 'query', 'queries')}"
            yield (
                f'<li>{badge(verdict)}<span>{who}<a href="#set-{at}"><bdi>{short(name, 60)}</bdi></a> '
                f'<span class="soft">{safe(about)}</span></span><span class="figures">{safe(figures)}</span></li>'
            )


def badge(verdict: str) -> str:
    """A verdict with a sign, so that its colour says nothing alone."""
    kind, sign = _BADGES.get(verdict, ("same", "?"))
    return f'<span class="badge {kind}"><span aria-hidden="true">{sign}</span> {safe(verdict)}</span>'
