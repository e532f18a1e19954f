"""The audit's figures as words and rows: shared by the page and the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bgetune.html.words import count, number, percent

from .facts import TOP, AuditInput, finite, found_within, missed_queries, wilson

SIGNAL_COLUMNS = ("signal", "negatives", "share", "median score", "median rank")


@dataclass(frozen=True)
class Remark:
    """A line under the verdict: something to look at, something that is fine, or something that is not known."""

    kind: Literal["look", "fine", "unknown"]
    text: str


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
    none = sum(query.negatives == 0 for query in facts.too_few)
    without = f", {none:,} of them none" if none else ""
    most = next((f"What dropped most: {reason}. " for reason, _, _ in drop_rows(facts) if "mine." in reason), "")
    return Remark(
        "look",
        f"{shown} ({percent(few, facts.n_queries)}){without}; they train with what they have. "
        f"{most}A larger mine.rank_last or a looser filter gives more.",
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
