"""The figures of a model card: gains set by set, what they were measured on, and what a merge chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bgetune.config import HEADS
from bgetune.metrics import DECIDING

_SIGNIFICANT = 0.05


def kept_base(report: dict[str, Any]) -> bool:
    """Whether the model that the job ends with has the very weights of its base."""
    base, *_, ours = report["systems"].values()
    return base["weights"] == ours["weights"]


def lost_by_heads(report: dict[str, Any]) -> list[str]:
    """A sentence for each head that got worse on a set whose verdict, about another retriever, does not say so."""
    ours = list(report["systems"])[-1]
    lines = []
    for name, found in report["sets"].items():
        for head in (head for head in HEADS if head != found["decided_by"]):
            gain = found["gains"].get(head, {}).get(ours, {}).get(DECIDING)
            if gain and gain["ci95"][1] < 0 and gain["p_holm"] < _SIGNIFICANT:
                lines.append(f"{name}: the {head.replace('_', '-')} head by itself lost {-gain['abs']:.3f} nDCG@10")
    return lines


def gain_tables(report: dict[str, Any]) -> list[str]:
    """A heading and a table a set; the retriever that the set's verdict is about is in bold."""
    base, *_, ours = report["systems"]
    parts = []
    for name, found in report["sets"].items():
        head = ["retriever", f"nDCG@10 {base}", ours, "gain", "95 % interval", "p"]
        rows = []
        for retriever, scores in found["retrievers"].items():
            decides = retriever == found["decided_by"] and len(found["retrievers"]) > 2
            before = scores.get(base, scores.get("any", {}))
            cells = [f"**{retriever}**" if decides else retriever, _score(before.get(DECIDING))]
            if gain := found["gains"].get(retriever, {}).get(ours, {}).get(DECIDING):
                cells += [_score(scores[ours][DECIDING]), *_compared(gain), p_value(gain["p_holm"])]
            else:
                cells += ["", "", "", ""]
            rows.append(cells)
        parts += [f"**{name}** ({found['role']}): {found['n_queries']:,} queries", markdown_table(head, rows)]
    return [*parts, *_probes(report, base, ours)]


def _probes(report: dict[str, Any], base: str, ours: str) -> list[str]:
    """What else the model should not forget, where it was measured."""
    rows = [
        [
            probe["name"],
            probe["metric"],
            f"{probe['n']:,}",
            _score(probe["values"][base]),
            _score(probe["values"][ours]),
            *_compared(probe["gain"][ours]),
        ]
        for probe in report.get("probes", [])
    ]
    head = ["probe", "measure", "items", base, ours, "gain", "95 % interval"]
    return ["**Probes** of the dense vectors", markdown_table(head, rows)] if rows else []


def data_table(report: dict[str, Any], splits: Mapping[str, int]) -> str:
    """What was trained and measured on: counts, and the SHA-256 of each set's folder.

    Args:
        splits: queries of the domain's train and dev split.
    """
    head = ["set", "role", "passages", "train queries", "dev queries", "test queries", "SHA-256 of the data"]
    rows = []
    for name, found in report["sets"].items():
        own = splits if found["role"] == "domain" else {}
        counts = [f"{own[split]:,}" if split in own else "" for split in ("train", "dev")]
        test = f"{found['n_queries']:,}"
        rows.append([name, found["role"], f"{found['n_docs']:,}", *counts, test, f"`{found['data_hash']}`"])
    return markdown_table(head, rows)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    >>> print(markdown_table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _compared(gain: Mapping[str, Any]) -> list[str]:
    low, high = gain["ci95"]
    return [signed(gain["abs"]), f"{signed(low)} to {signed(high)}"]


def signed(value: float) -> str:
    """
    >>> signed(0.01234), signed(-0.5), signed(-1e-9)
    ('+0.0123', '-0.5000', '0.0000')
    """
    return f"{value:+.4f}" if abs(value) >= 0.00005 else "0.0000"


def p_value(p: float) -> str:
    """
    >>> p_value(0.0000123), p_value(0.25)
    ('< 0.0001', '0.2500')
    """
    return "< 0.0001" if p < 0.00005 else f"{p:.4f}"


def merged_share(report: dict[str, Any]) -> float:
    """The share of tuned weights; 1 where nothing was merged."""
    points = report.get("merging", {}).get("points", ())
    return next((point["share"] for point in points if point["chosen"]), 1.0)


def merged_words(report: dict[str, Any]) -> str:
    """What the weights are, where base and tuned ones were merged; else nothing."""
    if "merging" not in report:
        return ""
    share = merged_share(report)
    limit = f"so that no guard loses more than {report['merging']['allowed_loss']:g} of nDCG@10"
    if not share:
        return f"No share of the tuned weights would do, {limit}: these are the base model's."
    return f"The weights are {share:g} tuned and {1 - share:g} base, the best on dev {limit}."
