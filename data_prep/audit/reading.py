"""The examples to read, and the lists of queries that need a look."""

from __future__ import annotations

from collections.abc import Sequence

from bgetune.html.markup import passage, safe, short, table
from bgetune.html.words import count, number

from .facts import AuditExample, AuditInput, AuditPassage, missed_queries

LISTED = 50  # rows shown of a long list
_TEXT_CHARACTERS = 1500
_BYTES = 400_000  # of all the examples' texts together, so that the page stays below 1 MB
_HEADING = 200  # characters of a query that stand in its heading
_POSITIVES, _NEGATIVES = 5, 20  # shown of one example


def examples_html(examples: Sequence[AuditExample]) -> str:
    """Each example as an article: the query, its positives, its negatives with source, rank and scores."""
    if not examples:
        return "<p>None were chosen.</p>"
    texts = sum(min(len(e.positives), _POSITIVES) + min(len(e.negatives), _NEGATIVES) + 1 for e in examples)
    each = _BYTES // texts
    return "\n".join(_article(i, example, each) for i, example in enumerate(examples, start=1))


def _article(i: int, example: AuditExample, most_bytes: int) -> str:
    limit = max((p.teacher for p in example.positives if p.teacher is not None), default=None)
    query, named = short(example.query, _HEADING), f"example-{i}"
    whole = passage(example.query, _TEXT_CHARACTERS, most_bytes) if len(example.query) > _HEADING else ""
    return "\n".join(
        [
            f'<article aria-labelledby="{named}"><h3 id="{named}">{i}. <bdi>{query or "(empty)"}</bdi></h3>{whole}',
            f'<p class="meta">query <bdi>{short(example.query_id, 80)}</bdi></p>',
            f"<h4>{count(len(example.positives), 'positive', 'positives')}</h4>",
            _passages("positives", example.positives, _POSITIVES, most_bytes, None),
            f"<h4>{count(len(example.negatives), 'negative', 'negatives')}</h4>",
            _passages("negatives", example.negatives, _NEGATIVES, most_bytes, limit),
            "</article>",
        ]
    )


def _passages(kind: str, passages: Sequence[AuditPassage], most: int, most_bytes: int, limit: float | None) -> str:
    items = [
        f"<li>{_meta(one, limit)}{passage(one.text, _TEXT_CHARACTERS, most_bytes)}</li>" for one in passages[:most]
    ]
    left = len(passages) - most
    more = f'<p class="soft">And {left:,} more.</p>' if left > 0 else ""
    return f'<ol class="passages {kind}">' + "\n".join(items) + f"</ol>{more}" if items else ""


def _meta(one: AuditPassage, limit: float | None) -> str:
    """What is known of a passage; `limit` is the teacher's score of the best positive."""
    parts = []
    if one.source is not None:
        parts.append(safe(one.source))
    if one.rank is not None:
        parts.append(f"rank {one.rank:,}")
    if one.score is not None:
        parts.append(f"score {number(one.score)}")
    if one.teacher is not None:
        parts.append(f"teacher {number(one.teacher)}")
    parts.append(f"<bdi>{short(one.passage_id, 80)}</bdi>")
    if limit is not None and one.teacher is not None and one.teacher >= limit:
        parts.append('<span class="flag">teacher: as good as the positive</span>')
    return '<p class="meta">' + "".join(f"<span>{part}</span>" for part in parts) + "</p>"


def too_few_html(facts: AuditInput) -> str:
    rows = [
        [f"<bdi>{short(q.query_id, 80)}</bdi>", f"<bdi>{short(q.query, 200)}</bdi>", f"{q.negatives:,}"]
        for q in facts.too_few[:LISTED]
    ]
    if not rows:
        return "<p>None.</p>"
    caption = _first(len(rows), len(facts.too_few))
    return table(caption, ["id", "query", "negatives"], rows, numeric=1, name="text")


def missed_html(facts: AuditInput) -> str:
    total = len(missed_queries(facts.best_positive_rank, facts.searched_depth))
    rows = [
        [
            f"<bdi>{short(q.query_id, 80)}</bdi>",
            f"<bdi>{short(q.query, 200)}</bdi>",
            f'<bdi>{short(q.passage, 200)}</bdi> <span class="soft">(<bdi>{short(q.passage_id, 80)}</bdi>)</span>',
        ]
        for q in facts.missed[:LISTED]
    ]
    if not rows:
        return f"<p>{'None' if total == 0 else count(total, 'query', 'queries')}.</p>"
    return table(_first(len(rows), total), ["id", "query", "a positive of it"], rows, numeric=0, name="text")


def _first(shown: int, total: int) -> str:
    if shown >= total:
        return f"All {count(total, 'query', 'queries')}"
    return f"The first {shown:,} of {total:,} queries"
