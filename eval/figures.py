"""The report's figures as words: shared by Markdown, terminal and headline. ASCII only, for any terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bgetune.html.words import count

_NAMES = {"ndcg": "nDCG", "mrr": "MRR", "map": "MAP"}


def metric_name(metric: str) -> str:
    """
    >>> metric_name("ndcg@10"), metric_name("map@100")
    ('nDCG@10', 'MAP@100')
    """
    name, _, depth = metric.partition("@")
    return f"{_NAMES.get(name, name.capitalize())}@{depth}"


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


def columns(report: Mapping[str, Any]) -> list[str]:
    """Names of the cells of `table`; of two systems each has a column of its own."""
    reference, *others = report["systems"]
    compared = others if len(others) == 1 else ["system", "value"]
    return ["retriever", "metric", reference, *compared, "gain", "95 % interval", "p (Holm)", "won/lost/tied"]


def table(
    report: Mapping[str, Any], measured: Mapping[str, Any], metrics: Sequence[str] | None = None
) -> list[list[str]]:
    """One row a retriever, metric and system, cells as `columns` names them, empty where nothing is compared.

    Args:
        metrics: of the report's; all where absent.
    """
    reference, *others = report["systems"]
    names = columns(report)
    rows = []
    for retriever, found in measured["retrievers"].items():
        for metric in metrics or report["metrics"]:
            start = [f"{retriever} (no model)" if "any" in found else retriever, metric_name(metric)]
            for name in others:
                row = [*start, _value(found.get(reference, found.get("any")), metric)]
                row += [name] if len(others) > 1 else []
                gain = measured["gains"].get(retriever, {}).get(name, {}).get(metric)
                row += [_value(found.get(name), metric), *(_compared(gain) if gain else [])]
                if gain or name == others[0] or name in found:
                    rows.append([*row, *[""] * (len(names) - len(row))])
    return rows


def _value(values: Mapping[str, float] | None, metric: str) -> str:
    return f"{values[metric]:.3f}" if values else ""


def _compared(gain: Mapping[str, Any]) -> list[str]:
    counts = f"{gain['won']}/{gain['lost']}/{gain['tied']}"
    return [signed(gain["abs"]), interval(gain["ci95"]), p_value(gain["p_holm"]), counts]


def headline(report: Mapping[str, Any]) -> list[str]:
    """One sentence a set and system, the domain's first: the verdict, and the figures that it rests on."""
    reference, *others = report["systems"]
    lines = [
        _sentence(name, measured, system, report)
        for name, measured in report["sets"].items()
        for system in others
        if system in measured["verdicts"]
    ]
    if (cut := _lengths(report)) is not None:
        lines.append(cut)
    weights = {name: told["weights"] for name, told in report["systems"].items()}
    for system in reversed(others):
        if weights[system] == weights[reference]:
            lines.insert(0, _same(system, reference))
    return lines


def _lengths(report: Mapping[str, Any]) -> str | None:
    """A warning where systems read different amounts of a text: that alone moves a figure."""
    limits = {
        name: (told["reads"]["query_max_length"], told["reads"]["passage_max_length"])
        for name, told in report["systems"].items()
        if "reads" in told
    }
    if len(set(limits.values())) < 2:
        return None
    each = "; ".join(f"{name} {query} and {passage}" for name, (query, passage) in limits.items())
    return f"Queries and passages are cut at different lengths, in tokens: {each}. That alone can make a difference."


def _same(system: str, reference: str) -> str:
    if system == "tuned":
        return "No checkpoint was better on dev than the base model, so `tuned` is the base model itself."
    return f"`{system}` has the very weights of `{reference}`."


def subject(system: str) -> str:
    """
    >>> subject("tuned"), subject("runs/a")
    ('the tuned model', 'runs/a')
    """
    return f"the {system} model" if system in ("base", "tuned", "merged") else system


def _sentence(name: str, measured: Mapping[str, Any], system: str, report: Mapping[str, Any]) -> str:
    retriever, metric, reference = measured["decided_by"], report["metric"], report["reference"]
    found, gain = measured["retrievers"][retriever], measured["gains"][retriever][system][metric]
    shown = measured["verdicts"][system]
    said = f"{subject(system)} is {shown}" if shown in ("better", "worse") else shown
    if len(report["systems"]) > 2:
        said = f"{said} than {reference}" if shown in ("better", "worse") else f"{subject(system)}: {said}"
    relative = "" if gain["rel"] is None else f", {100 * gain['rel']:+.1f} %"
    return (
        f"{measured['role'].capitalize()} {name}: {said}. "
        f"{retriever} {metric_name(metric)} from {found[reference][metric]:.3f} to {found[system][metric]:.3f} "
        f"({signed(gain['abs'])}{relative}; 95 % interval {interval(gain['ci95'])}, p {p_words(gain['p_holm'])}) "
        f"on {count(measured['n_queries'], 'query', 'queries')}.{_against_dense(measured, system, report)}"
    )


def _against_dense(measured: Mapping[str, Any], system: str, report: Mapping[str, Any]) -> str:
    """What all heads together gain on what one had before: the reference's dense vectors."""
    retrievers, metric, reference = measured["retrievers"], report["metric"], report["reference"]
    whole = retrievers.get("hybrid", {}).get(system)
    if whole is None or reference not in retrievers.get("dense", {}):
        return ""
    before, after = retrievers["dense"][reference][metric], whole[metric]
    owner = f"the {reference}" if reference == "base" else reference
    own = "" if measured["decided_by"] == "hybrid" else f" All its heads together: {after:.3f}."
    return f"{own} Against {owner}'s dense vectors ({before:.3f}): {signed(after - before)}."


def p_words(p: float) -> str:
    shown = p_value(p)
    return shown.replace("<", "< ") if shown.startswith("<") else f"= {shown}"
