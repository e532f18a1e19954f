"""Why a passage scored as it did: each head's score, the tokens that the sparse head matched, the alignment of the
multi-vector head."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from bgetune.html.markup import clip, safe, short, table
from bgetune.html.words import number

Explained = Mapping[str, Any]
"""`scores`, and where the head is there `matches` and `alignment`."""

_PIECE = "##"  # before a token that goes on inside a word, whatever the tokenizer
_CONTEXT = 90  # characters around an aligned token
_SHORT = 3  # characters; a shorter token is highlighted only where it is a word of its own


def tokens_of(explained: Explained | None) -> list[str]:
    """What the sparse head matched in a passage, the strongest first."""
    return [match["token"] for match in (explained or {}).get("matches", ())]


def highlighter(tokens: Collection[str]) -> Callable[[str], str]:
    """What makes a text HTML with those tokens marked, at the starts of words unless a token goes on inside one.

    >>> highlighter(["eye", "##ion", "a"])("Eyes: a vision <an eye>")
    '<mark>Eye</mark>s: <mark>a</mark> vis<mark>ion</mark> &lt;an <mark>eye</mark>&gt;'
    """
    patterns = [_pattern(token) for token in sorted(set(tokens), key=lambda token: (-len(token), token))]
    wanted = "|".join(pattern for pattern in patterns if pattern)
    if not wanted:
        return safe
    found = re.compile(f"({wanted})", re.IGNORECASE)

    def to_html(text: str) -> str:
        pieces = found.split(text)  # the odd ones are tokens
        return "".join(f"<mark>{safe(piece)}</mark>" if at % 2 else safe(piece) for at, piece in enumerate(pieces))

    return to_html


def _pattern(token: str) -> str:
    inside = token.startswith(_PIECE)
    word = token.removeprefix(_PIECE).strip()
    if not word:
        return ""
    if unicodedata.east_asian_width(word[0]) in "WF":  # no spaces between words
        return re.escape(word)
    ends = r"(?!\w)" if len(word) < _SHORT and not inside else ""
    return (r"(?<=\w)" if inside else r"(?<!\w)") + re.escape(word) + ends


def explained_html(explained: Mapping[str, Any], reference: str, system: str, tokens: int) -> str:
    """Scores of all heads, then of each passage the matched tokens and the alignment, reference beside system.

    Args:
        explained: system -> "positive" and "top" -> Explained, None where nothing was found.
        tokens: rows of an alignment that are shown.
    """
    both = [which for which in (reference, system) if which in explained]
    parts = [_scores(explained, both)]
    for passage, heading in (("positive", "The answer"), ("top", "What each puts first")):
        sides = [_side(which, explained[which].get(passage), tokens) for which in both]
        if any(sides):
            parts.append(f'<p class="part">{heading}</p><div class="sides two">{"".join(sides)}</div>')
    return "\n".join(parts)


def _scores(explained: Mapping[str, Any], both: Sequence[str]) -> str:
    columns = [(passage, which) for passage in ("positive", "top") for which in both]
    found = [(explained[which].get(passage) or {}).get("scores", {}) for passage, which in columns]
    heads = list(dict.fromkeys(head for scores in found for head in scores))
    if not heads:
        return ""
    words = {"positive": "answer", "top": "first"}
    titles = ["head", *(f"{words[passage]}, <bdi>{short(which, 40)}</bdi>" for passage, which in columns)]
    rows = [[safe(head), *(number(scores[head]) if head in scores else "" for scores in found)] for head in heads]
    return table("Score of each head", titles, rows, numeric=len(columns))


def _side(which: str, explained: Explained | None, tokens: int) -> str:
    """One system's view of one passage; "" where there is nothing but scores."""
    if not explained or not ("matches" in explained or "alignment" in explained):
        return ""
    parts = [f"<p><bdi>{short(which, 60)}</bdi></p>"]
    if "matches" in explained:
        parts.append(_chips(explained["matches"]))
    if explained.get("alignment"):
        parts.append(_alignment(which, explained["alignment"], tokens))
    return f"<div>{''.join(parts)}</div>"


def _chips(matches: Sequence[Mapping[str, Any]]) -> str:
    """Tokens with their products, and the two weights; the stronger, the fuller the bar below."""
    if not matches:
        return '<p class="soft">Sparse: no token in common.</p>'
    most = max(match["product"] for match in matches) or 1.0
    items = "".join(
        f'<li style="--v:{100 * max(0.0, match["product"]) / most:.0f}%"><bdi>{short(match["token"], 40)}</bdi> '
        f"<b>{number(match['product'])}</b> <span>{number(match['query'])} × {number(match['passage'])}</span></li>"
        for match in matches
    )
    return f'<p class="soft">Sparse: tokens in both, query weight × passage weight</p><ul class="chips">{items}</ul>'


def _alignment(which: str, rows: Sequence[Mapping[str, Any]], most: int) -> str:
    """Each query token with the passage token that is nearest to it."""
    shown = rows[:most]
    body = "\n".join(
        f'<tr><th scope="row" dir="auto">{short(row["query"], 40)}</th>'
        f"<td>{_in_context(row['passage'], row['context'])}</td>"
        f'<td class="n" style="--v:{100 * min(1.0, max(0.0, row["score"])):.0f}%">{number(row["score"])}</td></tr>'
        for row in shown
    )
    caption = "Multi-vector: each query token's nearest passage token"
    if len(shown) < len(rows):
        caption += f", the first {len(shown)} of {len(rows)}"
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="Token alignment, {safe(which)}">'
        f'<table class="align"><caption>{caption}</caption><thead><tr><th scope="col">query</th>'
        f'<th scope="col">passage</th><th scope="col" class="n">score</th></tr></thead>\n<tbody>\n{body}\n'
        "</tbody></table></div>"
    )


def _in_context(token: str, context: str) -> str:
    """The token, marked in the words around it: of several places the middle one, whole words before parts of words.

    >>> _in_context("to", "doctors go to"), _in_context("##ion", "a vision"), _in_context("x", "none")
    ('doctors go <mark>to</mark>', 'a vis<mark>ion</mark>', '<mark>x</mark> none')
    """
    word = token.removeprefix(_PIECE).strip() or token
    around = clip(" ".join(context.split()), _CONTEXT)
    for pattern in (rf"(?<!\w){re.escape(word)}(?!\w)", rf"(?<!\w){re.escape(word)}", re.escape(word)):
        places = list(re.finditer(pattern, around, re.IGNORECASE))
        if places:
            at = min(places, key=lambda place: abs(place.start() + place.end() - len(around)))
            return f"{safe(around[: at.start()])}<mark>{safe(at[0])}</mark>{safe(around[at.end() :])}"
    return f"<mark>{safe(word)}</mark> {safe(around)}".rstrip()
