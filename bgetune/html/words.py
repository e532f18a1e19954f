"""Numbers and options as words, the same on every page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any


def count(number: int, noun: str, plural: str) -> str:
    """
    >>> count(1, "query", "queries"), count(1200, "query", "queries")
    ('1 query', '1,200 queries')
    """
    return f"{number:,} {noun if number == 1 else plural}"


def percent(part: float, whole: float) -> str:
    """A share; only none is 0 and only all is 100.

    >>> percent(1, 3), percent(1, 10_000), percent(9_999, 10_000), percent(0, 7), percent(0, 0)
    ('33.3 %', '< 0.1 %', '> 99.9 %', '0 %', '-')
    """
    if not whole:
        return "-"
    if part in (0, whole):
        return "100 %" if part else "0 %"
    share = 100 * part / whole
    if share < 0.05:
        return "< 0.1 %"
    return "> 99.9 %" if share > 99.95 else f"{share:.1f} %"


def number(value: float | None) -> str:
    """A score in few digits.

    >>> number(0.81249), number(-23.41), number(1.5e7), number(0.00001), number(None), number(float("nan"))
    ('0.812', '-23.4', '1.5e+07', '1e-05', '-', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    size = abs(value)
    if size >= 1e6 or 0 < size < 0.001:
        return f"{value:.3g}"
    return f"{value:.3f}" if size < 10 else f"{value:.1f}"


def flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Options by their dotted names, below `above`; values as JSON.

    >>> list(flat({"sources": {"dense": 1.0}, "margin": None}, "mine."))
    [('mine.sources.dense', '1.0'), ('mine.margin', 'null')]
    """
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{above}{key}.")
        else:
            yield above + key, json.dumps(value, ensure_ascii=False, default=str)
