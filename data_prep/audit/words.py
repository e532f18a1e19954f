"""The audit's figures as words and rows: shared by the page and the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .facts import TOP, AuditInput, finite, found_within, missed_queries, wilson

SIGNAL_COLUMNS = ("signal", "negatives", "share", "median score", "median rank")


@dataclass(frozen=True)
class Remark:
    """A line under the verdict: something to look at, something that is fine, or something that is not known."""

    kind: Literal["look", "fine", "unknown"]
    text: str


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


def median(values: np.ndarray) -> float | None:
    known = finite(values)
    return float(np.median(known)) if len(known) else None


def verdict(facts: AuditInput) -> str:
    """One sentence: how many negatives for how many queries."""
    queries = count(facts.n_queries, "query", "queries")
    if not facts.n_negatives:
        return f"No negatives for {queries}: training will use in-batch negatives only."
    each = facts.n_negatives / facts.n_queries if facts.n_queries else 0.0
    return f"{count(facts.n_negatives, 'negative', 'negatives')} for {queries}, {each:.1f} a query."


def remarks(facts: AuditInput) -> list[Remark]:
    """What needs attention, each with its figure and what to do; what is fine says so."""
    about_negatives = [_too_few(facts), _false_negatives(facts)] if facts.n_negatives or facts.too_few else []
    found = [*about_negatives, _missed(facts)]
    if facts.queries_changed is not None:
        changed = count(facts.queries_changed, "query", "queries")
        share = percent(facts.queries_changed, facts.n_queries)
        verb = "has" if facts.queries_changed == 1 else "have"
        before = facts.round_number - 1
        found.append(
            Remark(
                "fine",
                f"Round {facts.round_number}: {changed} ({share}) {verb} other negatives than in round {before}.",
            )
        )
    return found


def _too_few(facts: AuditInput) -> Remark:
    few, wanted = len(facts.too_few), facts.negatives_wanted
    if not few:
        return Remark("fine", f"Every query has the {wanted} negatives that were asked for.")
    shown = f"{count(few, 'query has', 'queries have')} fewer than {wanted} negatives"
    return Remark(
        "look",
        f"{shown} ({percent(few, facts.n_queries)}); they train with what they have. "
        "A larger mine.rank_last or a looser filter gives more.",
    )


def _false_negatives(facts: AuditInput) -> Remark:
    estimate = facts.false_negatives
    if estimate is None or not estimate.judged:
        return Remark("unknown", "False negatives left: not known, nothing judged them (mine.teacher would).")
    share = percent(estimate.suspected, estimate.judged)
    shown = (
        f"False negatives suspected by {estimate.judge}: {share} of the negatives "
        f"(95 % interval {false_interval(facts)})"
    )
    if estimate.suspected:
        advice = "A lower mine.max_share_of_positive, or the teacher as a filter, drops more of them."
        return Remark("look", f"{shown}. {advice}")
    if facts.teacher is not None and facts.teacher.filtered:
        return Remark("unknown", f"{shown}; but it filtered them by the same score.")
    return Remark("fine", f"{shown}.")


def false_interval(facts: AuditInput) -> str:
    """The Wilson interval of the suspected share, in percent; "" without an estimate."""
    estimate = facts.false_negatives
    if estimate is None:
        return ""
    low, high = wilson(estimate.suspected, estimate.judged)
    places = 1 if high >= 0.01 else 3
    return f"{100 * low:.{places}f} to {100 * high:.{places}f} %"


def _missed(facts: AuditInput) -> Remark:
    if not facts.best_positive_rank or not facts.n_queries:
        return Remark("unknown", "Where the positives rank: not known, nothing was searched.")
    last = min(TOP, facts.searched_depth)
    lost = len(missed_queries(facts.best_positive_rank, facts.searched_depth))
    if not lost:
        return Remark("fine", f"Every query has a positive in the top {last}.")
    shown = f"{count(lost, 'query has', 'queries have')} no positive in the top {last}"
    return Remark(
        "look", f"{shown} ({percent(lost, facts.n_queries)}): wrong labels, or words that the model does not know."
    )


def signal_rows(facts: AuditInput) -> list[list[str]]:
    """One row a signal, cells in the order of SIGNAL_COLUMNS."""
    rows = []
    for signal, scores in facts.negative_scores.items():
        ranks = np.asarray(facts.negative_ranks.get(signal, ()))
        rank = median(ranks[ranks > 0])
        middle = "-" if rank is None else f"{rank:g}"
        rows.append(
            [signal, f"{len(scores):,}", percent(len(scores), facts.n_negatives), number(median(scores)), middle]
        )
    return rows


def rank_table(facts: AuditInput) -> tuple[list[str], list[list[str]]]:
    """Head and rows: a signal's share of queries with a positive in the top 1, 10 and 100, and how many have none."""
    last = min(TOP, facts.searched_depth)
    tops = sorted({top for top in (1, 10, last) if top <= last})
    head = ["signal", *(f"top {top}" for top in tops), f"not in the top {last}"]
    rows = []
    for signal, ranks in facts.best_positive_rank.items():
        shares = [percent(found_within(ranks, top), facts.n_queries) for top in tops]
        lost = facts.n_queries - found_within(ranks, last)
        rows.append([signal, *shares, f"{lost:,}"])
    return head, rows


def drop_rows(facts: AuditInput) -> list[tuple[str, int, dict[str, int]]]:
    """(reason, all, signal -> count), the most frequent reason first."""
    reasons: dict[str, dict[str, int]] = {}
    for signal, counts in facts.dropped.items():
        for reason, amount in counts.items():
            reasons.setdefault(reason, {})[signal] = amount
    rows = [(reason, sum(by_signal.values()), by_signal) for reason, by_signal in reasons.items()]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def flat(settings: Mapping[str, Any], above: str = "mine.") -> Iterator[tuple[str, str]]:
    """Options by their dotted names, values as JSON.

    >>> list(flat({"sources": {"dense": 1.0}, "margin": None}))
    [('mine.sources.dense', '1.0'), ('mine.margin', 'null')]
    """
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{above}{key}.")
        else:
            yield above + key, json.dumps(value, ensure_ascii=False, default=str)


def search_words(facts: AuditInput) -> str:
    """How the corpus was searched."""
    index = facts.index
    if not facts.best_positive_rank:
        return "Nothing was searched."
    if index is None:
        return "Search was exact."
    pace = "" if index.ms_per_query is None else f", at {index.ms_per_query:.2g} ms a query"
    return (
        f"Index {index.factory} with {index.parameter}: on a held sample of queries it finds "
        f"{100 * index.recall:.1f} % of what exact search finds{pace}."
    )
