"""The figures of a model card: gains set by set, and what a merge chose."""

from __future__ import annotations

from typing import Any


def gain_tables(report: dict[str, Any]) -> list[str]:
    """A heading and a table a set; the retriever that the set's verdict is about is in bold."""
    base, *_, ours = report["systems"]
    parts = []
    for name, found in report["sets"].items():
        lines = [f"| retriever | nDCG@10 {base} | {ours} | gain | 95 % interval | p |", "|---|---|---|---|---|---|"]
        for retriever, scores in found["retrievers"].items():
            decides = retriever == found["decided_by"] and len(found["retrievers"]) > 2
            before = scores.get(base, scores.get("any"))
            cells = [f"**{retriever}**" if decides else retriever, f"{before['ndcg@10']:.4f}"]
            if gain := found["gains"].get(retriever, {}).get(ours, {}).get("ndcg@10"):
                low, high = gain["ci95"]
                value = f"{scores[ours]['ndcg@10']:.4f}"
                cells += [value, f"{gain['abs']:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{gain['p_holm']:.4f}"]
            else:
                cells += [""] * 4
            lines.append(f"| {' | '.join(cells)} |")
        parts += [f"**{name}** ({found['role']}): {found['n_queries']:,} queries", "\n".join(lines)]
    return parts


def merged_words(merging: dict[str, Any]) -> str:
    """What the weights are, where base and tuned ones were merged."""
    share = next(point["share"] for point in merging["points"] if point["chosen"])
    limit = f"so that no guard loses more than {merging['allowed_loss']:g} of nDCG@10"
    if not share:
        return f"No share of the tuned weights would do, {limit}: these are the base model's."
    return f"The weights are {share:g} tuned and {1 - share:g} base, the best on dev {limit}."
