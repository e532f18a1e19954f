"""Queries won and lost, with their texts side by side."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bgetune.html.markup import passage, safe, short

from ..figures import metric_name, signed
from .explained import explained_html, highlighter, tokens_of
from .grid import minus
from .section import fold

Example = Mapping[str, Any]

_CHARACTERS = 1500  # of one text
_TEXT_BYTES = 1_200_000  # of all texts together
_TOKENS = 9_000  # rows of all alignments together; one takes about 200 bytes
_HEADING = 160  # characters of a query in its heading


@dataclass(frozen=True)
class Budget:
    """What each example may take, so that the page opens at once however many there are."""

    text_bytes: int
    tokens: int

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Budget:
        found = list(_all(report))
        texts = sum(3 + (len(example["query"]) > _HEADING) for example in found)
        tables = sum("alignment" in one for example in found for one in _passages(example))
        return cls(_TEXT_BYTES // max(1, texts), max(4, _TOKENS // max(1, tables)))


def _all(report: Mapping[str, Any]) -> Iterator[Example]:
    for measured in report["sets"].values():
        for sides in measured["examples"].values():
            for rows in sides.values():
                yield from rows


def _passages(example: Example) -> Iterator[Mapping[str, Any]]:
    for of_system in example.get("explained", {}).values():
        yield from (one for one in of_system.values() if one)


def examples_html(report: Mapping[str, Any], measured: Mapping[str, Any], system: str, budget: Budget) -> str:
    """The queries that a system won most, then those that it lost most."""
    metric, parts = metric_name(report["metric"]), []
    for side, words in (("won", "better"), ("lost", "worse")):
        rows = measured["examples"][system][side]
        parts.append(
            f"<h4>{side.capitalize()}: {len(rows)} shown</h4>" if rows else f"<h4>{side.capitalize()}: none</h4>"
        )
        if rows:
            parts.append(f'<p class="soft">Those that became {words} by most in {metric}.</p>')
        parts += [
            _article(at, row, report["reference"], system, metric, budget) for at, row in enumerate(rows, start=1)
        ]
    return "\n".join(parts)


def _article(at: int, row: Example, reference: str, system: str, metric: str, budget: Budget) -> str:
    query = row["query"]
    whole = passage(query, _CHARACTERS, budget.text_bytes) if len(query) > _HEADING else ""
    return "\n".join(
        [
            f"<article><h5>{at}. <bdi>{short(query, _HEADING) or '(empty)'}</bdi></h5>{whole}",
            _meta(row, reference, system, metric),
            f'<div class="sides">{"".join(_texts(row, reference, system, budget))}</div>',
            _why(row, reference, system, budget),
            "</article>",
        ]
    )


def _meta(row: Example, reference: str, system: str, metric: str) -> str:
    before, after = row["value"][reference], row["value"][system]
    gain = after - before
    looks = "good" if gain > 0 else "bad"
    parts = [
        f"query <bdi>{short(row['query_id'], 80)}</bdi>",
        f'{metric} {before:.3f} → {after:.3f} <b class="{looks}">{minus(signed(gain))}</b>',
        f"best answer at rank {_rank(row['rank'][reference])} → {_rank(row['rank'][system])}",
    ]
    return '<p class="meta">' + "".join(f"<span>{part}</span>" for part in parts) + "</p>"


def _rank(rank: int | None) -> str:
    return "not found" if rank is None else f"{rank:,}"


def _texts(row: Example, reference: str, system: str, budget: Budget) -> Iterator[str]:
    """The answer, and what each of the two puts first; what the sparse head matched is highlighted."""
    explained = row.get("explained", {})
    more = f", one of {row['n_positives']:,}" if row["n_positives"] > 1 else ""
    said = f'Answer <span class="soft">(<bdi>{short(row["positive_id"], 60)}</bdi>{more})</span>'
    yield _text("answer", said, row["positive"], tokens_of(explained.get(system, {}).get("positive")), budget)
    for which in (reference, system):
        top, heading = row["top"][which], f"First with <bdi>{short(which, 60)}</bdi>"
        if top is None:
            yield f'<div><h6>{heading}</h6><p class="soft">Nothing was found.</p></div>'
            continue
        same = " the answer" if top["id"] == row["positive_id"] else ""
        known = f'{heading} <span class="soft">(<bdi>{short(top["id"], 60)}</bdi>{"," if same else ""}{same})</span>'
        looks = "answer" if same else "other"
        yield _text(looks, known, top["text"], tokens_of(explained.get(which, {}).get("top")), budget)


def _text(looks: str, heading: str, text: str, tokens: Collection[str], budget: Budget) -> str:
    body = passage(text, _CHARACTERS, budget.text_bytes, highlighter(tokens))
    return f'<div class="{looks}"><h6>{heading}</h6>{body}</div>'


def _why(row: Example, reference: str, system: str, budget: Budget) -> str:
    explained = row.get("explained")
    if not explained:
        return ""
    return fold(
        safe("Why: scores of each head, tokens"), explained_html(explained, reference, system, budget.tokens), level=6
    )
