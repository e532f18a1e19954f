"""The report's figures as words: shared by Markdown, terminal and headline. ASCII only, for any terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = ("retriever", "metric", "base", "tuned", "gain", "95 % interval", "p", "won/lost/tied")
NAMES = {
    "ndcg@10": "nDCG@10",
    "mrr@10": "MRR@10",
    "recall@10": "Recall@10",
    "recall@100": "Recall@100",
    "map@100": "MAP@100",
}


def p_value(p: float) -> str:
    """
    >>> p_value(0.00001), p_value(0.25)
    ('<0.0001', '0.2500')
    """
    return "<0.0001" if p < 0.00005 else f"{p:.4f}"


def signed(value: float) -> str:
    """
    >>> signed(0.0123), signed(-0.00001), signed(1e-17)
    ('+0.012', '-1e-05', '0.000')
    """
    if abs(value) < 5e-7:  # rounding of a mean that is 0
        return "0.000"
    # a change that three places would show as none keeps its first digit
    return f"{value:+.3f}" if abs(value) >= 0.0005 else f"{value:+.1g}"


def interval(ci95: list[float]) -> str:
    return f"{signed(ci95[0])} to {signed(ci95[1])}"


def table(measured: Mapping[str, Any]) -> list[list[str]]:
    """One row a retriever and metric, cells in the order of COLUMNS; empty cells where there is no tuned version."""
    rows = []
    for retriever, figures in measured["retrievers"].items():
        for metric, base in figures["base"].items():
            row = [retriever, NAMES.get(metric, metric), f"{base:.3f}"]
            gain = figures.get("gain", {}).get(metric)
            if gain is None:
                rows.append([*row, *[""] * (len(COLUMNS) - len(row))])
                continue
            counts = f"{gain['won']}/{gain['lost']}/{gain['tied']}"
            tuned = f"{figures['tuned'][metric]:.3f}"
            rows.append([*row, tuned, signed(gain["abs"]), interval(gain["ci95"]), p_value(gain["p"]), counts])
    return rows


def count(number: int, noun: str, plural: str) -> str:
    """
    >>> count(1, "query", "queries"), count(1200, "query", "queries")
    ('1 query', '1,200 queries')
    """
    return f"{number:,} {noun if number == 1 else plural}"


def headline(report: Mapping[str, Any], metric: str) -> list[str]:
    """One sentence a set, the domain's first: the verdict, and the figures that it rests on."""
    lines = [_sentence(name, measured, metric) for name, measured in report["sets"].items()]
    if report["model"]["base_weights"] == report["model"]["tuned_weights"]:
        lines.insert(0, "No checkpoint was better on dev than the base model, so `tuned` is the base model itself.")
    return lines


def _sentence(name: str, measured: Mapping[str, Any], metric: str) -> str:
    retriever = measured["decided_by"]
    figures = measured["retrievers"][retriever]
    gain = figures["gain"][metric]
    shown = measured["verdict"]
    said = shown if shown == "no difference shown" else f"the tuned model is {shown}"
    relative = "" if gain["rel"] is None else f", {100 * gain['rel']:+.1f} %"
    return (
        f"{measured['role'].capitalize()} {name}: {said}. "
        f"{retriever} {NAMES.get(metric, metric)} from {figures['base'][metric]:.3f} to {figures['tuned'][metric]:.3f} "
        f"({signed(gain['abs'])}{relative}; 95 % interval {interval(gain['ci95'])}, p {p_words(gain['p'])}) "
        f"on {count(measured['n_queries'], 'query', 'queries')}.{_against_dense(measured, metric)}"
    )


def _against_dense(measured: Mapping[str, Any], metric: str) -> str:
    """What all heads together gain on what one had before: the base model's dense vectors."""
    decided = measured["decided_by"]
    if decided == "dense":
        return ""
    retrievers = measured["retrievers"]
    before, after = retrievers["dense"]["base"][metric], retrievers[decided]["tuned"][metric]
    return f" Against the base's dense vectors ({before:.3f}): {signed(after - before)}."


def p_words(p: float) -> str:
    shown = p_value(p)
    return shown.replace("<", "< ") if shown.startswith("<") else f"= {shown}"
