"""The audit as one HTML file that needs nothing but itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bgetune.files import write_text
from bgetune.html.document import document
from bgetune.html.markup import breakable, safe, sentence, short, table
from bgetune.html.words import count, flat, percent

from .draw import bin_name, histogram_svg, make_bins
from .facts import AuditInput, finite
from .reading import examples_html, missed_html, too_few_html
from .style import CSS
from .words import (
    SIGNAL_COLUMNS,
    drop_rows,
    false_interval,
    rank_table,
    remarks,
    search_words,
    signal_rows,
    verdict,
)

_KINDS = {"look": "! look", "fine": "✓ fine", "unknown": "? open"}


def write_page(path: Path, facts: AuditInput) -> None:
    """Write the page. The same facts give the same bytes; it holds no date, no script and no address."""
    write_text(path, page(facts))


def page(facts: AuditInput) -> str:
    """The page as text."""
    sections = [
        ("signals", "Negatives by signal", _signals(facts)),
        ("scores", "Scores of positives and negatives", _scores(facts)),
        ("dropped", "Dropped by which filter", _dropped(facts)),
        ("false-negatives", "False negatives left", _false_negatives(facts)),
        ("settings", "Settings", _settings(facts)),
        ("examples", f"{count(len(facts.examples), 'example', 'examples')} to read", examples_html(facts.examples)),
        ("too-few", f"Queries with fewer than {facts.negatives_wanted} negatives", too_few_html(facts)),
        ("missed", "Queries whose positive is not near the top", missed_html(facts)),
    ]
    title = f"Mined negatives: {short(facts.name, 100)}"
    links = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading, _ in sections)
    body = "\n".join(
        f'<section id="{name}" aria-labelledby="{name}-h"><h2 id="{name}-h">{heading}</h2>\n{html}\n</section>'
        for name, heading, html in sections
    )
    return document(
        title,
        CSS,
        f"""<main>
<h1>{title}</h1>
<p class="soft">{_sizes(facts)}</p>
{_head(facts)}
<nav aria-label="On this page"><ul>{links}</ul></nav>
{body}
</main>""",
    )


def _sizes(facts: AuditInput) -> str:
    queries, passages = count(facts.n_queries, "query", "queries"), count(facts.corpus_size, "passage", "passages")
    return f"{queries}, {passages}, round {facts.round_number}"


def _head(facts: AuditInput) -> str:
    items = "".join(
        f'<li class="{one.kind}"><span class="kind">{_KINDS[one.kind]}</span><span>{sentence(one.text)}</span></li>'
        for one in remarks(facts)
    )
    return f'<p class="verdict">{safe(verdict(facts))}</p>\n<ul class="remarks">{items}</ul>'


def _signals(facts: AuditInput) -> str:
    parts = []
    rows = [[safe(cell) for cell in row] for row in signal_rows(facts)]
    if rows:
        parts.append(table("What each signal found, of the negatives that were kept", SIGNAL_COLUMNS, rows, numeric=4))
    else:
        parts.append("<p>No signal was searched.</p>")
    head, ranks = rank_table(facts)
    if ranks:
        cells = [[safe(cell) for cell in row] for row in ranks]
        parts.append(table("Where each signal ranks a query's best positive", head, cells, numeric=len(head) - 1))
    return "\n".join(parts)


def _scores(facts: AuditInput) -> str:
    nothing = np.zeros(0)
    names = [*facts.negative_scores, *(name for name in facts.positive_scores if name not in facts.negative_scores)]
    found = [
        _figure(safe(name), facts.positive_scores.get(name, nothing), facts.negative_scores.get(name, nothing))
        for name in names
    ]
    if facts.teacher is not None:
        sides = [np.concatenate([nothing, *side]) for side in (facts.teacher.positives, facts.teacher.negatives)]
        found.append(_figure(f"teacher: {safe(facts.teacher.name)}", sides[0], sides[1]))
    shown = [figure for figure in found if figure]
    if not shown:
        return "<p>There are no scores.</p>"
    return (
        '<p class="soft">Each picture has one axis of scores; positives and negatives each have their own scale of '
        "counts. The dashed line is the median.</p>\n" + f'<div class="figures">{"".join(shown)}</div>'
    )


def _figure(name: str, positives: np.ndarray, negatives: np.ndarray) -> str:
    """A histogram with its numbers as a table; "" where there is no score. `name` is HTML."""
    bins = make_bins(positives, negatives)
    if bins is None:
        return ""
    said = f"<strong>{name}</strong>"
    known, scored = finite(positives), finite(negatives)
    if len(known) and len(scored):
        above = percent(int((scored >= np.median(known)).sum()), len(scored))
        said += f"<br>{above} of the negatives score at least as high as the median positive."
    if len(scored) < len(negatives):
        said += f"<br>Negatives without a score: {len(negatives) - len(scored):,}."
    rows = [
        [bin_name(bins.edges, i), f"{bins.positives[i]:,}", f"{bins.negatives[i]:,}"]
        for i in np.flatnonzero(bins.positives + bins.negatives).tolist()
    ]
    numbers = table(f"Counts by score, {name}", ["score", "positives", "negatives"], rows, numeric=2)
    return (
        f"<figure><figcaption>{said}</figcaption>{histogram_svg(bins, positives, negatives)}"
        f'<details><summary class="soft">The numbers</summary>{numbers}</details></figure>'
    )


def _dropped(facts: AuditInput) -> str:
    rows = drop_rows(facts)
    total = sum(amount for _, amount, _ in rows)
    if not total:
        return "<p>Nothing was dropped.</p>"
    signals = list(facts.dropped) if len(facts.dropped) > 1 else []
    head = ["reason", *(safe(signal) for signal in signals), "all" if signals else "candidates", "share"]
    most = rows[0][1]
    cells = []
    for reason, amount, by_signal in rows:
        bar = f'<span class="bar" style="width:{100 * amount / most:.1f}%"></span>' if amount else ""
        each = [f"{by_signal.get(signal, 0):,}" for signal in signals]
        cells.append([safe(reason) + bar, *each, f"{amount:,}", percent(amount, total)])
    caption = f"{total:,} candidates that were not taken, by the first filter that refused them"
    return table(caption, head, cells, numeric=len(signals) + 2, name="bars")


def _false_negatives(facts: AuditInput) -> str:
    estimate = facts.false_negatives
    if estimate is None or not estimate.judged:
        return (
            "<p>No estimate: nothing but the search itself scored these negatives. With <code>mine.teacher</code> a "
            "reranker judges them.</p>"
        )
    share = percent(estimate.suspected, estimate.judged)
    words = (
        f"{share} of the negatives that {estimate.judge} judged look like positives: {estimate.suspected:,} of "
        f"{estimate.judged:,}, scored at least as high as the query's best positive. The 95 % interval (Wilson) is "
        f"{false_interval(facts)}; it takes every negative as drawn by itself."
    )
    if facts.teacher is not None and facts.teacher.filtered:
        words += (
            " The teacher also filtered the candidates by this score, so that the figure says what its filter let "
            "through: it is no independent judgement."
        )
    return f"<p>{sentence(words)}</p>"


def _settings(facts: AuditInput) -> str:
    rows = [[breakable(key), f"<code>{short(value, 300)}</code>"] for key, value in flat(facts.settings, "mine.")]
    made = table("Options of mine", ["option", "value"], rows, numeric=0, name="settings") if rows else ""
    return f"<p>{safe(search_words(facts))}</p>\n{made}"
