"""The report as one HTML file, made from report.json's tree alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bgetune.files import write_text
from bgetune.html.document import document
from bgetune.html.markup import short

from ..figures import metric_name
from .extras import extra_sections
from .made import made_html
from .script import SCRIPT
from .section import Section
from .sets import set_sections
from .style import CSS
from .verdicts import verdict_html

Report = Mapping[str, Any]


def write_page(path: Path, report: Report) -> None:
    """Write the page. The same report gives the same bytes; the page asks nothing of the network.

    Args:
        report: the tree of report.json, format 2.
    """
    write_text(path, page(report))


def page(report: Report) -> str:
    """The page as text. Without its script it is whole, but its tables neither sort nor filter."""
    sections = [
        *_gains(report),
        *set_sections(report),
        *extra_sections(report),
        Section("made", "How it was made", made_html(report)),
    ]
    title = short(report["title"], 150)
    body = "\n".join(section.to_html() for section in sections)
    return document(
        title,
        CSS,
        f"""<a class="skip" href="#main">Skip to the verdict</a>
<header><div><h1>{title}</h1>{_systems(report)}</div>
<button type="button" id="theme" hidden></button></header>
<main id="main" tabindex="-1">
{verdict_html(report)}
{_navigation(sections)}
<div class="content">
{body}
</div>
</main>
<footer><p class="soft">Made by bgetune from report.json, which has every figure in full.</p></footer>""",
        SCRIPT,
    )


def _systems(report: Report) -> str:
    """What is compared, in a line."""
    reference, *others = (f"<bdi>{short(system, 60)}</bdi>" for system in report["systems"])
    compared = f"{', '.join(others)} compared with {reference}" if others else reference
    return f'<p class="soft">{compared}; {metric_name(report["metric"])} decides</p>'


def _navigation(sections: Sequence[Section]) -> str:
    links = "".join(f'<li><a href="#{section.name}">{section.heading}</a></li>' for section in sections)
    return f'<nav aria-label="On this page"><ul>{links}</ul></nav>'


def _gains(report: Report) -> list[Section]:
    """Every set and system with the gain that decides; none where nothing is compared."""
    from .charts import Gain, GainRow, gains

    metric, rows = report["metric"], []
    for set_name, measured in report["sets"].items():
        found = measured["gains"].get(measured["decided_by"], {})
        for system, verdict in measured["verdicts"].items():
            if metric in found.get(system, {}):
                gain = found[system][metric]
                rows.append(GainRow(set_name, system, Gain(gain["abs"], *gain["ci95"]), verdict))
    if not rows:
        return []
    shown = metric_name(metric)
    label = f"{shown} less {report['reference']}'s"
    chart = gains(
        rows, title=f"Gain in {shown}", x_label=label, caption="Mean over the queries, with its 95 % interval."
    )
    return [Section("gains", "Gains", chart)]
